"""A file's bytes as a table: by its name's ending, each declared column in a form that holds its values exactly.

Nights, side tables, files to score and the day files of a FileSource are all read here. A CSV is first proved to have
the shape that its header promises (ml/csv_fields.py). A column whose values are not of the declared type stays as it
is written, so that `derive` may mend it; `refuse_other_columns` names it where nothing did.
"""

import bisect
import difflib
import json
import re
import unicodedata
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml.data.csv_fields import DELIMITERS, NEWLINES, BrokenCsv, likely_separator, read_fields, refuse_twice
from ml.data.dataset import Reading
from ml.data.declared_sources import CsvForm, DatabaseSource, FileSource, Source
from ml.data.disk import reading_from
from ml.errors import is_passing, printable
from ml.serving.columns import EXACT, NOT_COUNTED, TOO_WIDE, Column, WrongType, cast_texts, typed, wrong_type

MISSING = ["", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>", "n/a"]  # where no text is declared
NEAR = 0.75  # how alike two names are (difflib) of which one may be the other, mistyped
TRUE, FALSE = ["True", "true", "TRUE"], ["False", "false", "FALSE"]
NUMBERS = {"number", "integer"}
FIELDS = b"retrain.fields"  # marks a Parquet file of ours whose texts are the fields of a CSV, not yet typed


class UnusablePartition(ValueError):
    """A partition that cannot be read as declared; its message is the reason."""


@dataclass(frozen=True)
class Declared:
    """What a use case says of a source's files: its columns, its time zone, and how a CSV is written."""

    columns: tuple[Column, ...]
    time_zone: str
    form: CsvForm

    @classmethod
    def of(cls, use_case: Reading, source: Source | FileSource | DatabaseSource) -> "Declared":
        form = source if isinstance(source, CsvForm) else CsvForm()
        return cls(use_case.columns, use_case.time_zone, form)


def together(tables: list[pd.DataFrame], name: str) -> pd.DataFrame:
    """A day's parts as one table. Raises UnusablePartition where there is none, or they have different columns."""
    if not tables:
        raise UnusablePartition(f"{name} has no file")
    for number, table in enumerate(tables[1:], start=2):
        differing = sorted(map(str, set(tables[0].columns) ^ set(table.columns)))
        if differing:
            raise UnusablePartition(
                f"the parts of {name} must have the same columns, but {_named(differing)} is not in both its first and "
                f"its part {number}"
            )
    if len(tables) == 1:
        return tables[0]
    _refuse_other_types(tables, name)
    return stacked(tables, name).reset_index(drop=True)


def stacked(tables: list[pd.DataFrame], name: str) -> pd.DataFrame:
    """Tables one below the other. Raises UnusablePartition where integers would be rounded, because pandas makes floats
    of integers in one table and fractions, or missing values, in another."""
    whole = pd.concat(tables)
    for column in whole.columns:
        if whole[column].dtype.kind == "f" and any(is_wide(table[column]) for table in tables if column in table):
            raise UnusablePartition(
                f"column {printable(str(column))[:100]} of {name} has integers over 2**53 in one part, and fractions "
                "or missing values in another (declare it text)"
            )
    return whole


def is_wide(series: pd.Series) -> bool:
    """Whether it has integers that float64 does not tell apart."""
    return series.dtype.kind in "iu" and bool(((series > EXACT) | (series < -EXACT)).any())


def _refuse_other_types(tables: list[pd.DataFrame], name: str) -> None:
    """Raises UnusablePartition for a column that is numbers in one part and texts in another: put together, 007 of a
    CSV would be a number in some rows and a text in others."""
    for column in tables[0].columns:
        present = [table[column] for table in tables if table[column].notna().any()]
        kinds = [isinstance(series.dtype, pd.StringDtype) for series in present]
        if any(kinds) and not all(kinds):
            first, other = present[0].dtype, present[kinds.index(not kinds[0])].dtype
            raise UnusablePartition(
                f"the parts of {name} must have the same types, but {printable(str(column))} is {first} in one and "
                f"{other} in another (declare the column)"
            )


# What libraries say of a whole file, or of a place in it. All else may quote a row.
FREE_OF_VALUES = re.compile(
    r"'[\w-]+' codec can't decode bytes? (0x[0-9a-f]+ )?in position \d+(-\d+)?: [a-z ]+"
    r"|Compressed file ended before the end-of-stream marker was reached"
    r"|CRC check failed 0x[0-9a-f]+ != 0x[0-9a-f]+"
    r"|(Could not open Parquet input source '<Buffer>': )?Parquet [\w ,.]+"
)


def read_table(path: Path, declared: Declared) -> pd.DataFrame:
    """A Parquet or CSV file. Raises UnusablePartition if it is not what it is named, SourceUnavailable if the disk does
    not give it."""
    return parse_table(path.name, _bytes_of(path), declared)


def read_with_columns_as_written(
    path: Path, declared: Declared, names: tuple[str, ...]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A file as `read_table` reads it, and those of its columns that have these names as they stand in it: the fields
    of a CSV as text, the values of a Parquet file in their own type."""
    table = _table_of(path.name, _bytes_of(path), declared)
    written = {name: _as_arrow(table[name]) for name in names if name in table.column_names}
    return _typed_rows(path.name, table, declared), pd.DataFrame(written, index=pd.RangeIndex(len(table)))


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        seen = "it is a folder" if path.is_dir() else "there is no such file"
        raise UnusablePartition(f"{path.name} cannot be read ({seen})")
    with reading_from(path):
        return path.read_bytes()


def parse_table(name: str, data: bytes, declared: Declared) -> pd.DataFrame:
    """The rows of a file by its name's ending. Raises UnusablePartition if they cannot be read."""
    return _typed_rows(name, _table_of(name, data, declared), declared)


def _table_of(name: str, data: bytes, declared: Declared) -> pa.Table:
    """What the file holds, nothing typed yet."""
    try:
        return _read_parquet(data) if name.endswith(".parquet") else read_fields(data, name, declared.form)
    except BrokenCsv as error:
        raise UnusablePartition(f"{name} cannot be read ({error})") from None
    except (OSError, ValueError, OverflowError, EOFError, zlib.error, pa.ArrowException) as error:
        if is_passing(error):
            raise
        raise UnusablePartition(f"{name} cannot be read ({short(error)})") from error


def _typed_rows(name: str, table: pa.Table, declared: Declared) -> pd.DataFrame:
    are_fields = not name.endswith(".parquet") or FIELDS in (table.schema.metadata or {})
    names = table.column_names
    _refuse_near_names(name, names, declared.columns)
    if are_fields:
        _refuse_swallowed(name, table, declared)
    to_series = of_fields if are_fields else of_values
    types = {column.name: column for column in declared.columns}
    series = {each: to_series(table[each], types.get(each), declared) for each in names}
    return pd.DataFrame(series, index=pd.RangeIndex(len(table)))


def short(error: Exception) -> str:
    """The first line of the error's message where it cannot hold a value of a row, else the error's kind."""
    if isinstance(error, BadGzipFile):
        return "it is no gzip file, or other bytes follow its end"
    first = (str(error) or type(error).__name__).splitlines()[0]
    return first if FREE_OF_VALUES.fullmatch(first) else type(error).__name__


def _named(names: list[str]) -> str:
    """At most five names; a table may have thousands."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(printable(name)[:100] for name in names[:5]) + more


# Parquet


def open_parquet(source: Any, **options: Any) -> pq.ParquetFile:
    """Pages that have a checksum are verified by it. INT96 is read in microseconds, because nanoseconds end in the year
    2262 and then begin again."""
    return pq.ParquetFile(source, coerce_int96_timestamp_unit="us", page_checksum_verification=True, **options)


def _read_parquet(data: bytes) -> pa.Table:
    """All columns as Arrow has them; an index of pandas is a column like others."""
    with open_parquet(pa.BufferReader(data)) as file:
        refuse_twice(file.schema_arrow.names)
        table = file.read()
    _refuse_other_encodings(table)
    for name, numbers in index_columns(table.schema, len(table)).items():
        table = table.append_column(name, pa.array(numbers, pa.int64()))
    return table


def index_columns(schema: pa.Schema, rows: int) -> dict[str, range]:
    """What a file of so many rows has in pandas' notes alone, by name."""
    noted = _named_ranges((schema.metadata or {}).get(b"pandas", b""))
    return {name: numbers for name, numbers in noted if name not in schema.names and len(numbers) == rows}


def _refuse_other_encodings(table: pa.Table) -> None:
    """Texts of a Parquet file are in UTF-8; writers that wrote other bytes were not stopped."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type  # of a dictionary Arrow looks at the texts itself
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                raise BrokenCsv(f"column {printable(name)} has a text that is not in UTF-8") from None


def _named_ranges(noted: bytes) -> Iterator[tuple[str, range]]:
    """Indexes of evenly spaced integers, which pandas writes into its notes alone; whatever else they say is not read,
    for it may be false."""
    try:
        indexes = json.loads(noted)["index_columns"]
        for index in indexes:
            if isinstance(index, dict) and isinstance(index["name"], str):
                yield index["name"], range(index["start"], index["stop"], index["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return


def of_values(values: pa.ChunkedArray, column: Column | None, declared: Declared) -> pd.Series:
    """A column of a Parquet file; of a declared one, the type that was declared where that is exact."""
    series = _as_pandas(values) if column is None or _is_exact_in_pandas(values) else _as_arrow(values)
    if column is None or (column.type in NUMBERS and series.dtype.kind in "iuf"):
        return series
    try:
        return typed(column, series, declared.time_zone)
    except WrongType:
        return series


def _is_exact_in_pandas(values: pa.ChunkedArray) -> bool:
    kind = values.type
    whole = pa.types.is_integer(kind) and not values.null_count
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return whole or texts or pa.types.is_floating(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)


def _as_arrow(values: pa.ChunkedArray) -> pd.Series:
    return pd.Series(pd.arrays.ArrowExtensionArray(values))


def _as_pandas(values: pa.ChunkedArray) -> pd.Series:
    try:
        return values.to_pandas()
    except (pa.ArrowException, ValueError, OverflowError, KeyError):  # years and time zones that Python does not know
        return _as_arrow(values)


# CSV


def of_fields(fields: pa.ChunkedArray, column: Column | None, declared: Declared) -> pd.Series:
    """A column of a CSV. In a declared text only the empty field is missing, so that NA and null stay words; what
    nobody declared is a number where all of it could be one."""
    if column is not None and column.type == "text":
        return _texts(fields, [""])
    if column is not None and column.type == "timestamp":
        return _times(fields, column, declared)
    numbers = numbers_of(fields, declared.form)
    if numbers is None:
        numbers = _truths(fields)
    return _texts(fields, MISSING) if numbers is None else numbers


def _present(fields: pa.ChunkedArray, missing: list[str]) -> pa.ChunkedArray:
    """The fields without what stands for a missing one, which becomes null."""
    absent = pc.is_in(fields, pa.array(missing))
    return pc.if_else(absent, pa.scalar(None, pa.string()), fields) if pc.any(absent).as_py() else fields


def _texts(fields: pa.ChunkedArray, missing: list[str]) -> pd.Series:
    return pd.Series(_present(fields, missing).cast(pa.large_string()), dtype="str")


def _times(fields: pa.ChunkedArray, column: Column, declared: Declared) -> pd.Series:
    present = _present(pc.ascii_trim_whitespace(fields), [*MISSING, "NaT"])
    counted = numbers_of(fields, declared.form) if column.unit else None
    texts = pd.Series(present.cast(pa.large_string()), dtype="str")
    try:
        return typed(column, texts if counted is None else counted, declared.time_zone)
    except WrongType:
        return texts


def numbers_of(fields: pa.ChunkedArray, form: CsvForm) -> pd.Series | None:
    """int64 where all are whole and none is missing, else float64, each rounded once; None where some are no numbers,
    or integers that float64 does not hold."""
    present = _in_points(_present(pc.ascii_trim_whitespace(fields), MISSING), form)
    numbers = None if present is None else cast_texts(present, pa.float64())
    if present is None or numbers is None:
        return None
    whole = None if present.null_count or not len(present) else cast_texts(present, pa.int64())
    if whole is not None:
        return pd.Series(whole.to_numpy())
    if pc.any(pc.is_nan(numbers)).as_py() or _first_too_wide(present, numbers) is not None:
        return None
    return pd.Series(numbers.to_numpy())


def _in_points(fields: pa.ChunkedArray, form: CsvForm) -> pa.ChunkedArray | None:
    """The numbers as computers write them; None where one has other signs than the declared ones."""
    if form.thousands:
        sign, point = (f"\\x{ord(each):02x}" for each in (form.thousands, form.decimal))
        groups = rf"^[+-]?(\d+|\d{{1,3}}({sign}\d{{3}})+)({point}\d*)?([eE][+-]?\d+)?$"
        if not _all(pc.match_substring_regex(fields, groups)):
            return None
        fields = pc.replace_substring(fields, form.thousands, "")
    if form.decimal != ".":
        if pc.any(pc.match_substring(fields, ".")).as_py():
            return None
        fields = pc.replace_substring(fields, form.decimal, ".")
    return fields


def _truths(fields: pa.ChunkedArray) -> pd.Series | None:
    """Booleans, or None where some field is no word for one."""
    present = _present(fields, MISSING).drop_null()
    if not len(present) or not _all(pc.is_in(present, pa.array([*TRUE, *FALSE]))):
        return None
    truths = pc.is_in(_present(fields, MISSING), pa.array(TRUE))
    if len(present) == len(fields):
        return pd.Series(truths.to_numpy())
    numbers = pc.if_else(pc.is_in(fields, pa.array(MISSING)), None, truths.cast(pa.uint8())).cast(pa.float64())
    return pd.Series(numbers.to_numpy())


def _all(mask: pa.ChunkedArray) -> bool:
    return bool(pc.all(mask, min_count=0).as_py())


def _first_too_wide(texts: pa.ChunkedArray, numbers: pa.ChunkedArray) -> int | None:
    """The place of the first integer that float64 does not hold. A number with an exponent is a rounded one already."""
    found = numbers.to_numpy()
    for place in map(int, np.flatnonzero(np.abs(found) >= EXACT)):
        text = texts[place].as_py()
        if re.fullmatch(r"[+-]?[\d.]+", text) and (np.isinf(found[place]) or Decimal(text) != Decimal(found[place])):
            return place
    return None


# Names


def _plain_name(name: str) -> str:
    """A name as people see it: without blanks, signs of no width, and the difference of large and small letters."""
    seen = (sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign)[0] not in "ZC")
    return "".join(seen).casefold()


def _refuse_near_names(file: str, names: list[str], columns: tuple[Column, ...]) -> None:
    """Raises UnusablePartition where a declared column has a twin that people cannot tell from it."""
    declared = {_plain_name(column.name): column.name for column in columns if column.name in names}
    for name in names:
        twin = declared.get(_plain_name(name))
        if twin is not None and twin != name:
            raise UnusablePartition(
                f"{file} has the columns {twin!r} and {name!a}, which differ only in blanks, unseen signs or "
                "large letters; remove or rename one"
            )


def refuse_missing(rows: pd.DataFrame, names: tuple[str, ...], others: Collection[str] = ()) -> None:
    """Raises UnusablePartition where a column is not there, with a name that could stand for it. The `others` are
    names that stand for something else."""
    missing = [name for name in names if name not in rows.columns]
    if missing:
        why = _nearest_words(rows, missing[0], {*names, *others}) or _delimiter_words(rows)
        raise UnusablePartition(f"column {', '.join(missing)} is missing{why}")


def _nearest_words(rows: pd.DataFrame, name: str, taken: Collection[str]) -> str:
    """The name that differs only in what people do not see, or else the one that is spelt most like it."""
    free = [str(each) for each in rows.columns if str(each) not in taken]
    same = [each for each in free if _plain_name(each) == _plain_name(name)]
    if same:
        return f" (there is {same[0]!a}; rename it to {name!r})"
    near = difflib.get_close_matches(name, free, n=1, cutoff=NEAR)
    return f" (there is {near[0]!a}; rename it if it is mistyped)" if near else ""


def _delimiter_words(rows: pd.DataFrame) -> str:
    """The likely cause where a CSV's header reads as one column."""
    found = likely_separator([*map(str, rows.columns)])
    if found is None:
        return ""
    return (
        f" (the header reads as one column: likely separated by {DELIMITERS[found]}; declare separator={found!r} of "
        "its source)"
    )


# What a quote swallowed


def _refuse_swallowed(file: str, table: pa.Table, declared: Declared) -> None:
    """Raises UnusablePartition for a header that is repeated among the rows, and for a quoted field that holds rows."""
    _refuse_repeated_header(file, table)
    for at, name in enumerate(table.column_names):
        if not _has_line_ends(table.column(at)):
            continue
        lines = pc.match_substring_regex(table.column(at), "[\r\n]")
        for row in np.flatnonzero(lines.to_numpy()):
            if _holds_rows(table.column(at)[int(row)].as_py(), at, table.column_names, declared):
                raise UnusablePartition(
                    f"{file} cannot be read (column {printable(name)} of row {row + 1} holds what looks like further "
                    "rows, which a quote too many has swallowed; write a quote inside a quoted field twice)"
                )


def _has_line_ends(fields: pa.ChunkedArray) -> bool:
    """Seen from the bytes of all fields at once, which is fast; a slice may have bytes that it does not show."""
    held = [np.frombuffer(chunk.buffers()[2] or b"", np.uint8) for chunk in fields.chunks]
    return any(bool((part == end).any()) for part in held for end in NEWLINES)


def _refuse_repeated_header(file: str, table: pa.Table) -> None:
    names = table.column_names
    rows = np.flatnonzero(pc.equal(table.column(0), names[0]).to_numpy()) if names else ()
    for row in map(int, rows):
        if [column[row].as_py() for column in table.columns] == names:
            raise UnusablePartition(
                f"{file} cannot be read (row {row + 1} is the header again; join files without their headers)"
            )


def _holds_rows(field: str, at: int, names: list[str], declared: Declared) -> bool:
    """Whether it is the end of a row, maybe whole rows, and the beginning of one: as many fields as are missing, each
    of the type that is declared for its place."""
    first, *middle, last = [line.split(declared.form.separator) for line in re.split(r"\r\n|\r|\n", field)]
    if [len(first), len(last), *map(len, middle)] != [len(names) - at, at + 1, *([len(names)] * len(middle))]:
        return False
    types = {column.name: column for column in declared.columns if column.type != "text"}
    ends = [*zip(names[at + 1 :], first[1:], strict=True), *zip(names[:at], last[:-1], strict=True)]
    fields = [*ends, *(pair for line in middle for pair in zip(names, line, strict=True))]
    judged = [(types[name], text) for name, text in fields if name in types]
    if not judged:
        return len(names) >= 6
    return all(
        wrong_type(column, of_fields(pa.chunked_array([[text]]), column, declared)) is None for column, text in judged
    )


# Types


def refuse_other_columns(use_case: Reading, rows: pd.DataFrame, columns: tuple[Column, ...]) -> None:
    """Raises UnusablePartition where one of these columns is missing or of another type."""
    refuse_missing(rows, tuple(column.name for column in columns))
    for column in columns:
        seen = wrong_type(column, rows[column.name])
        if seen:
            with suppress(TypeError, ValueError, ArithmeticError, NotImplementedError):  # of a dtype that has no texts
                seen += _first_wrong(use_case, column, rows[column.name])
            raise UnusablePartition(f"column {column.name} must be {column.type}, but it is {seen}")


def _first_wrong(use_case: Reading, column: Column, series: pd.Series) -> str:
    """Where the type is wrong for the sake of some values: the first, and its row in the day's file.

    It is not quoted where any column is sensitive: in a row that is shifted it may be that one's.
    """
    numbered = series if pd.api.types.is_integer_dtype(series.index.dtype) else series.reset_index(drop=True)
    present = numbered.dropna()
    place = _place_of_wrong(use_case, column, present)
    if place is None:
        return ""
    row = f"row {present.index[place] + 1}"
    value = repr(str(present.iloc[place])[:40]).replace(": ", ":")  # which ends a part of an error's sentence
    first = (
        f"the first in {row}" if any(each.sensitive for each in use_case.columns) else f"the first, {value}, in {row}"
    )
    return f" ({first}{_why(column, present.iloc[place])})"


def _place_of_wrong(use_case: Reading, column: Column, present: pd.Series) -> int | None:
    """The place of the first value that is none of the column's type as it is written; None where each could be one."""
    if column.type == "text":
        return next((place for place, value in enumerate(present) if not isinstance(value, str)), None)
    is_text = isinstance(present.dtype, pd.StringDtype)
    declared = Declared.of(use_case, use_case.source) if is_text else Declared(use_case.columns, "UTC", CsvForm())
    texts = pa.array(present.astype("str"), pa.string())

    def is_wrong_up_to(place: int) -> bool:
        fields = pa.chunked_array([texts[: place + 1]])
        return wrong_type(column, of_fields(fields, column, declared)) is not None

    place = bisect.bisect_left(range(len(texts)), True, key=is_wrong_up_to)
    return place if place < len(texts) else None


def _why(column: Column, value: object) -> str:
    """What else there is to say of a value that looks like one of the type."""
    digits = re.fullmatch(r"[+-]?\d+", str(value)) is not None
    if digits and column.type == "timestamp":
        return f"; {NOT_COUNTED}"
    is_wide = digits and column.type in NUMBERS and len(str(value)) >= len(str(EXACT))
    return f"; an integer {TOO_WIDE}" if is_wide and isinstance(value, str) else ""
