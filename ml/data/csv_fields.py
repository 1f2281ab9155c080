"""Reads a CSV's bytes as a table of its fields, and refuses a file without the shape that its header promises.

Every record must have as many fields as the header has names, quotes must stand where RFC 4180 allows them, the text
must be in the declared encoding, and the last record must have its end. Fields get no type here: each stays as it is
written.
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

from ml.data.source_kinds import CsvForm
from ml.errors import printable

QUOTE, NEWLINES = ord('"'), (ord("\n"), ord("\r"))
BOM = codecs.BOM_UTF8
BOMS_OF_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
OTHERS = {  # files that are no CSV, by their first bytes: what they are, and what to do
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
CHUNK = 1 << 20  # bytes that are read at once
LONGEST_RECORD = 1 << 26  # bytes
CUT = "its last line has no end, so nobody can tell whether the file is whole"


class BrokenCsv(ValueError):
    """The bytes are no CSV of the declared form: `seen` says what is wrong, `next_step` what to do."""

    def __init__(self, seen: str, next_step: str = "write it again") -> None:
        super().__init__(f"{seen}; {next_step}")
        self.seen, self.next_step = seen, next_step


def read_fields(data: bytes, name: str, form: CsvForm) -> pa.Table:
    """The fields of a file in memory: one column of texts per name. Raises BrokenCsv, or gzip's own errors."""
    with open_fields(io.BytesIO(data), name, form) as (names, batches):
        parts = list(batches)
    return pa.Table.from_batches(parts, _schema(names))


class open_fields:  # noqa: N801 - it is used as the function `open` is
    """Opens a file; gives the names in its header, and its rows batch by batch.

    Raises BrokenCsv, or gzip's own errors.
    """

    def __init__(self, raw: BinaryIO, name: str, form: CsvForm, block_size: int = LONGEST_RECORD) -> None:
        unpacked = gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw
        self.text = _CheckedText(unpacked, form)
        self.form, self.block_size = form, block_size

    def __enter__(self) -> tuple[list[str], Iterator[pa.RecordBatch]]:
        names = self.text.header()
        _refuse_names(names)
        return names, self._batches(names)

    def __exit__(self, *error: object) -> None:
        self.text.close()

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        invalid_rows: list[pyarrow.csv.InvalidRow] = []

        def refuse(row: pyarrow.csv.InvalidRow) -> str:
            invalid_rows.append(row)
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
                    invalid_row_handler=refuse,
                ),
                pyarrow.csv.ConvertOptions(
                    column_types=texts, null_values=[""], strings_can_be_null=len(names) == 1,
                    quoted_strings_can_be_null=False,
                ),
            )  # fmt: skip
            header_rows = 1  # to Arrow, the header is the first row
            for batch in reader:
                if batch.column(0).null_count:  # with one column, a blank line is null and nothing else is
                    raise BrokenCsv(
                        "a line is blank, and with one column nobody can tell whether that is a row",
                        'remove it, or write "" for a missing value',
                    )
                yield pa.record_batch(batch.columns, schema=_schema(names)).slice(header_rows)
                header_rows = 0
        except pa.ArrowInvalid as error:
            reason = _wrong_field_count(invalid_rows[0], names, self.form) if invalid_rows else self._unreadable(error)
            raise reason from None

    def _unreadable(self, error: Exception) -> BrokenCsv:
        """What is wrong, without Arrow's own words: they may quote a row."""
        if "straddling" in str(error):
            return BrokenCsv(f"a row is longer than {self.block_size:,} bytes", "shorten it")
        return BrokenCsv("a row cannot be told from the next one")


def _schema(names: list[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def likely_separator(names: list[str]) -> str | None:
    """The sign that separates the names of a header that reads as one column; None if there is none."""
    return next((sign for sign in DELIMITERS if sign in names[0]), None) if len(names) == 1 else None


def _wrong_field_count(row: "pyarrow.csv.InvalidRow", names: list[str], form: CsvForm) -> BrokenCsv:
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
    """Raises BrokenCsv if two columns have the same name: nobody knows which one is meant."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BrokenCsv(f"the name {printable(twice[0])[:100]!r} is there twice", "rename or remove one of the columns")


class _CheckedText(io.RawIOBase):
    """A stream of the text in UTF-8. Every part is checked before it is handed on; a wrong one raises BrokenCsv.

    `ahead` holds what is checked and not yet read, `lines` counts line ends and `size` bytes, all in checked text.
    """

    def __init__(self, raw: BinaryIO | gzip.GzipFile, form: CsvForm) -> None:
        self.raw, self.form = raw, form
        self.decoder = codecs.getincrementaldecoder(form.encoding)()
        self.quotes = _Quotes(ord(form.separator))
        self.ahead, self.lines, self.ended, self.size = b"", 0, False, 0

    def header(self) -> list[str]:
        """The names in the first record that is not blank. That record is still there to be read."""
        self.ahead = self._checked()
        text = io.StringIO(self.ahead.decode(errors="ignore"), newline="")  # the part may end within a letter
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
            self.ahead = self._checked()
        part, self.ahead = self.ahead[: len(buffer)], self.ahead[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _checked(self) -> bytes:
        """The next part, in UTF-8."""
        data = self.raw.read(CHUNK)
        self.ended = not data
        for first_bytes, (seen, next_step) in OTHERS.items():
            if not self.size and data.startswith(first_bytes):
                raise BrokenCsv(seen, next_step)
        part = self._in_utf_8(data)
        if not self.size:
            part = part.removeprefix(BOM)
        if b"\0" in part:
            raise BrokenCsv(f"line {self._line(part, part.index(0))} has a null byte", self._encoding_words(part))
        wrong_quote = self.quotes.first_wrong(np.frombuffer(part, np.uint8))
        if wrong_quote is not None:
            raise BrokenCsv(
                f"a quote in line {self._line(part, wrong_quote)} neither opens nor closes a field",
                "quote the field, and write a quote inside it twice",
            )
        self._require_end(part)
        self.lines += _lines(part)
        self.size += len(part)
        return part

    def _in_utf_8(self, data: bytes) -> bytes:
        """The bytes, from the declared encoding. Raises BrokenCsv if they are not in it."""
        try:
            text = self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            seen = f"line {self._line(data, error.start)} is not in {self.form.encoding}"
            raise BrokenCsv(f"{seen} (byte 0x{error.object[error.start]:02x})", self._encoding_words(data)) from None
        return text.encode("utf-8", "surrogatepass")

    def _encoding_words(self, data: bytes) -> str:
        """The next step: declare an encoding, with the likely one as the example."""
        likely = "utf-16" if data.startswith(BOMS_OF_UTF_16) or b"\0" in data[:CHUNK] else "cp1252"
        return f"declare the encoding of its source, like encoding={likely!r}"

    def _line(self, part: bytes, position: int) -> int:
        """The number of the line in which a byte of the part stands."""
        return self.lines + _lines(part[:position]) + 1

    def _require_end(self, part: bytes) -> None:
        """Raises BrokenCsv if this is the last part and the file is empty or not whole."""
        if self.ended and self.quotes.is_open:
            raise BrokenCsv("a quote is opened and never closed, or the file is cut")
        if self.ended and not self.size and not part:
            raise BrokenCsv("it is empty")
        if self.ended and self.quotes.last not in (*NEWLINES, QUOTE):
            raise BrokenCsv(CUT, "end that line, or quote its last field")


def _lines(part: bytes) -> int:
    """How many line ends the text has. It has one kind of them."""
    return max(part.count(b"\n"), part.count(b"\r"))


class _Quotes:
    """Whether quotes stand where RFC 4180 allows them; it is asked part by part.

    Quotes open and close a quoted field in turn. A quote that opens must stand at the beginning of a field, or behind
    another quote: the two then mean one quote within the text. A quote that closes must stand at the end of a field, or
    before another quote.
    """

    def __init__(self, separator: int) -> None:
        self.ends = np.array([separator, *NEWLINES, QUOTE], np.uint8)
        self.is_open, self.last = False, NEWLINES[0]

    def first_wrong(self, part: NDArray[np.uint8]) -> int | None:
        """The position of the first quote that stands elsewhere; None if there is none.

        It is 0 too if that quote is the last byte of the part before, whose neighbour only shows now.
        """
        if not len(part):
            return None
        if self.last == QUOTE and not self.is_open and part[0] not in self.ends:
            return 0
        quotes = np.flatnonzero(part == QUOTE)
        opening, closing = quotes[int(self.is_open) :: 2], quotes[int(not self.is_open) :: 2]
        before = np.where(opening > 0, part[opening - 1], self.last)
        inner = closing[closing < len(part) - 1]
        first_wrong = [*opening[~np.isin(before, self.ends)][:1], *inner[~np.isin(part[inner + 1], self.ends)][:1]]
        self.is_open ^= bool(len(quotes) % 2)
        self.last = int(part[-1])
        return int(min(first_wrong)) if first_wrong else None
