"""A CSV's bytes as a table of its fields, proved to have the shape that its header promises.

Each record has as many fields as the header has names, quotes stand where RFC 4180 allows them, the text is of the
declared encoding, and the last record has its end. Nothing is typed here: every field stays as it is written.
"""

import codecs
import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from ml.data.declared_sources import CsvForm
from ml.errors import printable

QUOTE, NEWLINES = ord('"'), (ord("\n"), ord("\r"))
BOM = codecs.BOM_UTF8
BOMS_OF_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
OTHERS = {  # what else a file may be, by its first bytes
    b"\x1f\x8b": ("it is packed by gzip", "name it .csv.gz"),
    b"PAR1": ("it is Parquet", "name it .parquet"),
    b"PK\x03\x04": ("it is an archive or an Excel file", "save it as CSV"),
    b"\xd0\xcf\x11\xe0": ("it is an Excel file", "save it as CSV"),
    b"BZh": ("it is packed by bzip2", "pack it by gzip, and name it .csv.gz"),
    b"\xfd7zXZ\x00": ("it is packed by xz", "pack it by gzip, and name it .csv.gz"),
    b"\x28\xb5\x2f\xfd": ("it is packed by zstd", "pack it by gzip, and name it .csv.gz"),
    b"ARROW1": ("it is an Arrow file", "save it as Parquet, and name it .parquet"),
    b"SQLite format 3": ("it is an SQLite database", "use a DatabaseSource"),
    b'{"': ("it is JSON", "save it as CSV or Parquet"),
    b"[{": ("it is JSON", "save it as CSV or Parquet"),
}
CHUNK = 1 << 20
LONGEST_RECORD = 1 << 26
CUT = "its last line has no end, so nobody can tell whether the file is whole"


class BrokenCsv(ValueError):
    """Bytes that are no CSV of the declared form: what was seen, and what to do."""

    def __init__(self, seen: str, next_step: str = "write it again") -> None:
        super().__init__(f"{seen}; {next_step}")
        self.seen, self.next_step = seen, next_step


def read_fields(data: bytes, name: str, form: CsvForm) -> pa.Table:
    """The fields of a file in memory, one text column a name. Raises BrokenCsv, or gzip's own errors."""
    with open_fields(io.BytesIO(data), name, form) as (names, batches):
        parts = list(batches)
    return pa.Table.from_batches(parts, _schema(names))


class open_fields:  # noqa: N801 - it is used as the function `open` is
    """The header's names of a file, and its rows batch by batch."""

    def __init__(self, raw: BinaryIO, name: str, form: CsvForm, block_size: int = LONGEST_RECORD) -> None:
        unpacked = gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw
        self.text = _ProvedText(unpacked, form)
        self.form, self.block_size = form, block_size

    def __enter__(self) -> tuple[list[str], Iterator[pa.RecordBatch]]:
        names = self.text.header()
        _refuse_names(names)
        return names, self._batches(names)

    def __exit__(self, *error: object) -> None:
        self.text.close()

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        odd: list[pyarrow.csv.InvalidRow] = []

        def refused(row: pyarrow.csv.InvalidRow) -> str:
            odd.append(row)
            return "error"

        texts = {f"f{number}": pa.string() for number in range(len(names))}
        try:
            reader = pyarrow.csv.open_csv(
                io.BufferedReader(self.text, CHUNK),
                pyarrow.csv.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=self.block_size),
                pyarrow.csv.ParseOptions(
                    delimiter=self.form.separator,
                    newlines_in_values=True,
                    ignore_empty_lines=len(names) > 1,
                    invalid_row_handler=refused,
                ),
                pyarrow.csv.ConvertOptions(
                    column_types=texts, null_values=[""], strings_can_be_null=len(names) == 1,
                    quoted_strings_can_be_null=False,
                ),
            )  # fmt: skip
            above = 1  # the header is a row to Arrow
            for batch in reader:
                if batch.column(0).null_count:  # only a blank line of one column is null
                    raise BrokenCsv(
                        "a line is blank, and with one column nobody can tell whether that is a row",
                        'remove it, or write "" for a missing value',
                    )
                yield pa.record_batch(batch.columns, schema=_schema(names)).slice(above)
                above = 0
        except pa.ArrowInvalid as error:
            raise (_other_count(odd[0], names, self.form) if odd else self._unreadable(error)) from None

    def _unreadable(self, error: Exception) -> BrokenCsv:
        """Arrow's own words are left out: they may quote a row."""
        if "straddling" in str(error):
            return BrokenCsv(f"a row is longer than {self.block_size:,} bytes", "shorten it")
        return BrokenCsv("a row cannot be told from the next one")


def _schema(names: list[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def likely_separator(names: list[str]) -> str | None:
    """The sign that parts the names where a header reads as one column."""
    return next((sign for sign in DELIMITERS if sign in names[0]), None) if len(names) == 1 else None


def _other_count(row: "pyarrow.csv.InvalidRow", names: list[str], form: CsvForm) -> BrokenCsv:
    seen = f"row {row.number - 1} has {row.actual_columns} fields where the header has {row.expected_columns} names"
    if row.actual_columns == row.expected_columns + 1 and row.text.endswith(form.separator):
        return BrokenCsv(seen, f"remove the {form.separator!r} at its end")
    likely = likely_separator(names)
    if likely is not None:
        seen = f"its header reads as one column, likely separated by {DELIMITERS[likely]}, and {seen}"
        return BrokenCsv(seen, f"declare separator={likely!r} of its source")
    return BrokenCsv(seen)


def _refuse_names(names: list[str]) -> None:
    if len(names) > 1 and not names[-1]:
        raise BrokenCsv("its last name is empty", "remove the separator at the end of the header and of the rows")
    refuse_twice(names)


def refuse_twice(names: list[str]) -> None:
    """Raises BrokenCsv where two columns have one name: nobody knows which one is meant."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BrokenCsv(f"the name {printable(twice[0])[:100]!r} is there twice", "rename or remove one of the columns")


class _ProvedText(io.RawIOBase):
    """The text in UTF-8, of which each part is proved before it is given away."""

    def __init__(self, raw: BinaryIO | gzip.GzipFile, form: CsvForm) -> None:
        self.raw, self.form = raw, form
        self.decoder = codecs.getincrementaldecoder(form.encoding)()
        self.quotes = _Quotes(ord(form.separator))
        self.ahead, self.lines, self.ended, self.size = b"", 0, False, 0

    def header(self) -> list[str]:
        """The names in the first record that is not blank; they stay there to be read."""
        self.ahead = self._proved()
        text = io.StringIO(self.ahead.decode(errors="ignore"), newline="")  # the end may be half a letter
        try:
            names = next((row for row in csv.reader(text, delimiter=self.form.separator, strict=True) if row), None)
        except csv.Error as error:
            raise BrokenCsv(f"its header cannot be read: {error}") from None
        if names is None:
            raise BrokenCsv("it has no header")
        if names[0].startswith("sep=") and len(names) <= 2:
            raise BrokenCsv("its first line is Excel's `sep=`", "remove it, and declare the separator of its source")
        return names

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        while not self.ahead and not self.ended:
            self.ahead = self._proved()
        part, self.ahead = self.ahead[: len(buffer)], self.ahead[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _proved(self) -> bytes:
        """The next part in UTF-8."""
        data = self.raw.read(CHUNK)
        self.ended = not data
        for sign, (seen, next_step) in OTHERS.items():
            if not self.size and data.startswith(sign):
                raise BrokenCsv(seen, next_step)
        part = self._in_utf_8(data)
        if not self.size:
            part = part.removeprefix(BOM)
        if b"\0" in part:
            raise BrokenCsv(f"line {self._line(part, part.index(0))} has a null byte", self._encoding_words(part))
        wrong = self.quotes.first_wrong(np.frombuffer(part, np.uint8))
        if wrong is not None:
            raise BrokenCsv(
                f"a quote in line {self._line(part, wrong)} neither opens nor closes a field",
                "quote the field, and write a quote inside it twice",
            )
        self._require_end(part)
        self.lines += _lines(part)
        self.size += len(part)
        return part

    def _in_utf_8(self, data: bytes) -> bytes:
        try:
            text = self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            seen = f"line {self._line(data, error.start)} is not in {self.form.encoding}"
            raise BrokenCsv(f"{seen} (byte 0x{error.object[error.start]:02x})", self._encoding_words(data)) from None
        return text.encode("utf-8", "surrogatepass")

    def _encoding_words(self, data: bytes) -> str:
        likely = "utf-16" if data.startswith(BOMS_OF_UTF_16) or b"\0" in data[:CHUNK] else "cp1252"
        return f"declare the encoding of its source, like encoding={likely!r}"

    def _line(self, part: bytes, place: int) -> int:
        return self.lines + _lines(part[:place]) + 1

    def _require_end(self, part: bytes) -> None:
        if self.ended and self.quotes.is_open:
            raise BrokenCsv("a quote is opened and never closed, or the file is cut")
        if self.ended and not self.size and not part:
            raise BrokenCsv("it is empty")
        if self.ended and self.quotes.last not in (*NEWLINES, QUOTE):
            raise BrokenCsv(CUT, "end that line, or quote its last field")


def _lines(part: bytes) -> int:
    """Line ends in a text, which has one kind of them."""
    return max(part.count(b"\n"), part.count(b"\r"))


class _Quotes:
    """Whether quotes stand where RFC 4180 allows them, part by part.

    Every quote turns "inside a quoted field" on or off. One that turns it on stands at the beginning of a field, or
    behind another quote, which is then a quote in the text; one that turns it off stands at a field's end or before
    another.
    """

    def __init__(self, separator: int) -> None:
        self.ends = np.array([separator, *NEWLINES, QUOTE], np.uint8)
        self.is_open, self.last = False, NEWLINES[0]

    def first_wrong(self, part: NDArray[np.uint8]) -> int | None:
        """The place of the first quote that stands elsewhere; 0 also for one at the end of the part before."""
        if not len(part):
            return None
        if self.last == QUOTE and not self.is_open and part[0] not in self.ends:
            return 0
        quotes = np.flatnonzero(part == QUOTE)
        opening, closing = quotes[int(self.is_open) :: 2], quotes[int(not self.is_open) :: 2]
        before = np.where(opening > 0, part[opening - 1], self.last)
        inner = closing[closing < len(part) - 1]
        wrong = [*opening[~np.isin(before, self.ends)][:1], *inner[~np.isin(part[inner + 1], self.ends)][:1]]
        self.is_open ^= bool(len(quotes) % 2)
        self.last = int(part[-1])
        return int(min(wrong)) if wrong else None
