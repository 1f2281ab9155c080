"""Reads a file's bytes as a table. The ending of its name says how; each declared column keeps its values exactly.

Nights, side tables, files to score and the day files of a FileSource are all read here. A CSV is first proved to have
the shape that its header promises (ml/data/csv_fields.py). A file that can be read in two ways is refused. A column
whose values are not of the declared type stays as it is written, so that `derive` may mend it; if nothing mends it,
`refuse_other_columns` refuses it by name.
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
from ml.data.dataset import NUMBERS, Reading
from ml.data.disk import reading_from
from ml.data.source_kinds import CsvForm, RowSource
from ml.errors import is_passing, printable
from ml.serving.columns import EXACT, NOT_COUNTED, TOO_WIDE, Column, WrongType, cast_texts, typed, wrong_type

MISSING = ["", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>", "n/a"]  # unless text is declared
NEAR = 0.75  # from this likeness on (difflib), one name may be the other one mistyped
TRUE, FALSE = ["True", "true", "TRUE"], ["False", "false", "FALSE"]
FIELDS = b"retrain.fields"  # marks a Parquet file of ours whose texts are the fields of a CSV, not yet typed


class UnusablePartition(ValueError):
    """A partition cannot be read as declared; the message is the reason."""


@dataclass(frozen=True)
class Declared:
    """What a use case says of a source's files: its columns, its time zone, and how a CSV is written."""

    columns: tuple[Column, ...]
    time_zone: str
    form: CsvForm

    @classmethod
    def of(cls, use_case: Reading, source: RowSource) -> "Declared":
        """What the use case says of this source, which is its own or that of a side table."""
        form = source if isinstance(source, CsvForm) else CsvForm()
        return cls(use_case.columns, use_case.time_zone, form)


def together(tables: list[pd.DataFrame], name: str) -> pd.DataFrame:
    """A day's parts as one table.

    Raises UnusablePartition if there is no part, or if parts differ in columns or types.
    """
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
    """The tables one below the other, with their row numbers.

    pandas makes floats of a column with integers in one table and fractions or missing values in another. Raises
    UnusablePartition if that would round an integer.
    """
    whole = pd.concat(tables)
    for column in whole.columns:
        if whole[column].dtype.kind == "f" and any(is_wide(table[column]) for table in tables if column in table):
            raise UnusablePartition(
                f"column {printable(str(column))[:100]} of {name} has integers over 2**53 in one part, and fractions "
                "or missing values in another (declare it text)"
            )
    return whole


def is_wide(series: pd.Series) -> bool:
    """Whether the column holds integers that are too large for float64 to tell apart."""
    return series.dtype.kind in "iu" and bool(((series > EXACT) | (series < -EXACT)).any())


def _refuse_other_types(tables: list[pd.DataFrame], name: str) -> None:
    """Raises UnusablePartition if a column is numbers in one part and texts in another.

    Otherwise 007 in a CSV would be a number in some rows and a text in others.
    """
    for column in tables[0].columns:
        present = [table[column] for table in tables if table[column].notna().any()]
        kinds = [isinstance(series.dtype, pd.StringDtype) for series in present]
        if any(kinds) and not all(kinds):
            first, other = present[0].dtype, present[kinds.index(not kinds[0])].dtype
            raise UnusablePartition(
                f"the parts of {name} must have the same types, but {printable(str(column))} is {first} in one and "
                f"{other} in another (declare the column)"
            )


# Messages of libraries about a whole file, or about a place in it. Any other message may quote a row.
FREE_OF_VALUES = re.compile(
    r"'[\w-]+' codec can't decode bytes? (0x[0-9a-f]+ )?in position \d+(-\d+)?: [a-z ]+"
    r"|Compressed file ended before the end-of-stream marker was reached"
    r"|CRC check failed 0x[0-9a-f]+ != 0x[0-9a-f]+"
    r"|(Could not open Parquet input source '<Buffer>': )?Parquet [\w ,.]+"
)


def read_table(path: Path, declared: Declared) -> pd.DataFrame:
    """The rows of a Parquet or CSV file.

    Raises UnusablePartition if the file is not what its name says, SourceUnavailable if the disk does not answer.
    """
    return parse_table(path.name, _bytes_of(path), declared)


def read_with_columns_as_written(
    path: Path, declared: Declared, names: tuple[str, ...]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows as `read_table` reads them, and the columns of these names as they are written in the file.

    The second frame holds the fields of a CSV as text, and the values of a Parquet file in their own type. It leaves
    out names that the file lacks.
    """
    table = _table_of(path.name, _bytes_of(path), declared)
    written = {name: _as_arrow(table[name]) for name in names if name in table.column_names}
    return _typed_rows(path.name, table, declared), pd.DataFrame(written, index=pd.RangeIndex(len(table)))


def _bytes_of(path: Path) -> bytes:
    """The file's bytes. Raises UnusablePartition if it is no file, SourceUnavailable if the disk does not answer."""
    if not path.is_file():
        seen = "it is a folder" if path.is_dir() else "there is no such file"
        raise UnusablePartition(f"{path.name} cannot be read ({seen})")
    with reading_from(path):
        return path.read_bytes()


def parse_table(name: str, data: bytes, declared: Declared) -> pd.DataFrame:
    """The rows of a file; the ending of its name says how to read them. Raises UnusablePartition if that fails."""
    return _typed_rows(name, _table_of(name, data, declared), declared)


def _table_of(name: str, data: bytes, declared: Declared) -> pa.Table:
    """What the file holds, before any column gets its declared type."""
    try:
        return _read_parquet(data) if name.endswith(".parquet") else read_fields(data, name, declared.form)
    except BrokenCsv as error:
        raise UnusablePartition(f"{name} cannot be read ({error})") from None
    except (OSError, ValueError, OverflowError, EOFError, zlib.error, pa.ArrowException) as error:
        if is_passing(error):
            raise
        raise UnusablePartition(f"{name} cannot be read ({short(error)})") from error


def _typed_rows(file: str, table: pa.Table, declared: Declared) -> pd.DataFrame:
    """The rows with their columns in the declared types, where the values allow it."""
    are_fields = not file.endswith(".parquet") or FIELDS in (table.schema.metadata or {})
    names = table.column_names
    _refuse_near_names(file, names, declared.columns)
    if are_fields:
        _refuse_swallowed(file, table, declared)
    to_series = of_fields if are_fields else of_values
    types = {column.name: column for column in declared.columns}
    series = {name: to_series(table[name], types.get(name), declared) for name in names}
    return pd.DataFrame(series, index=pd.RangeIndex(len(table)))


def short(error: Exception) -> str:
    """The first line of the error's message if it is proved to hold no value of a row, else the kind of the error."""
    if isinstance(error, BadGzipFile):
        return "it is no gzip file, or other bytes follow its end"
    first = (str(error) or type(error).__name__).splitlines()[0]
    return first if FREE_OF_VALUES.fullmatch(first) else type(error).__name__


def _named(names: list[str]) -> str:
    """At most five of the names, in words; a table may have thousands."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(printable(name)[:100] for name in names[:5]) + more


# Parquet


def open_parquet(source: Any, **options: Any) -> pq.ParquetFile:
    """Opens a Parquet file or its bytes. Pages that have a checksum are verified.

    INT96 times are read in microseconds: in nanoseconds they would wrap around after the year 2262.
    """
    return pq.ParquetFile(source, coerce_int96_timestamp_unit="us", page_checksum_verification=True, **options)


def _read_parquet(data: bytes) -> pa.Table:
    """All columns in Arrow's types; an index of pandas becomes a column like others."""
    with open_parquet(pa.BufferReader(data)) as file:
        refuse_twice(file.schema_arrow.names)
        table = file.read()
    _refuse_other_encodings(table)
    for name, numbers in index_columns(table.schema, len(table)).items():
        table = table.append_column(name, pa.array(numbers, pa.int64()))
    return table


def index_columns(schema: pa.Schema, rows: int) -> dict[str, range]:
    """The columns that a file of so many rows has in pandas' notes alone: evenly spaced integers, by name."""
    noted = _named_ranges((schema.metadata or {}).get(b"pandas", b""))
    return {name: numbers for name, numbers in noted if name not in schema.names and len(numbers) == rows}


def _refuse_other_encodings(table: pa.Table) -> None:
    """Raises BrokenCsv if a text is not in UTF-8. Parquet demands UTF-8, but some writers do not check it."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type  # Arrow itself checks the texts of a dictionary
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                raise BrokenCsv(f"column {printable(name)} has a text that is not in UTF-8") from None


def _named_ranges(noted: bytes) -> Iterator[tuple[str, range]]:
    """The indexes of evenly spaced integers, which pandas writes into its notes and nowhere else.

    Nothing else in the notes is used, because it may be false.
    """
    try:
        indexes = json.loads(noted)["index_columns"]
        for index in indexes:
            if isinstance(index, dict) and isinstance(index["name"], str):
                yield index["name"], range(index["start"], index["stop"], index["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return


def of_values(values: pa.ChunkedArray, column: Column | None, declared: Declared) -> pd.Series:
    """A column of a Parquet file. A declared one gets its declared type if that holds all of its values exactly."""
    series = _as_pandas(values) if column is None or _is_exact_in_pandas(values) else _as_arrow(values)
    if column is None or (column.type in NUMBERS and series.dtype.kind in "iuf"):
        return series
    try:
        return typed(column, series, declared.time_zone)
    except WrongType:
        return series


def _is_exact_in_pandas(values: pa.ChunkedArray) -> bool:
    """Whether pandas' own types hold the values without rounding."""
    kind = values.type
    whole = pa.types.is_integer(kind) and not values.null_count
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return whole or texts or pa.types.is_floating(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)


def _as_arrow(values: pa.ChunkedArray) -> pd.Series:
    return pd.Series(pd.arrays.ArrowExtensionArray(values))


def _as_pandas(values: pa.ChunkedArray) -> pd.Series:
    """The values in pandas' own type, or in Arrow's if pandas has none for them."""
    try:
        return values.to_pandas()
    except (pa.ArrowException, ValueError, OverflowError, KeyError):  # a year or time zone that Python does not know
        return _as_arrow(values)


# CSV


def of_fields(fields: pa.ChunkedArray, column: Column | None, declared: Declared) -> pd.Series:
    """A column of a CSV.

    In a declared text only an empty field is missing, so NA and null stay words. A column that nobody declared becomes
    numbers, or else booleans, if all of its fields can be read so.
    """
    if column is not None and column.type == "text":
        return _texts(fields, [""])
    if column is not None and column.type == "timestamp":
        return _times(fields, column, declared)
    numbers = numbers_of(fields, declared.form)
    if numbers is None:
        numbers = _truths(fields)
    return _texts(fields, MISSING) if numbers is None else numbers


def _present(fields: pa.ChunkedArray, missing: list[str]) -> pa.ChunkedArray:
    """The fields, with null in place of each text in `missing`."""
    absent = pc.is_in(fields, pa.array(missing))
    return pc.if_else(absent, pa.scalar(None, pa.string()), fields) if pc.any(absent).as_py() else fields


def _texts(fields: pa.ChunkedArray, missing: list[str]) -> pd.Series:
    """The fields as texts, with nulls in place of those in `missing`."""
    return pd.Series(_present(fields, missing).cast(pa.large_string()), dtype="str")


def _times(fields: pa.ChunkedArray, column: Column, declared: Declared) -> pd.Series:
    """The fields as times, or as texts if one of them is no time."""
    present = _present(pc.ascii_trim_whitespace(fields), [*MISSING, "NaT"])
    counted = numbers_of(fields, declared.form) if column.unit else None
    texts = pd.Series(present.cast(pa.large_string()), dtype="str")
    try:
        return typed(column, texts if counted is None else counted, declared.time_zone)
    except WrongType:
        return texts


def numbers_of(fields: pa.ChunkedArray, form: CsvForm) -> pd.Series | None:
    """The fields as numbers: int64 if all are whole and none is missing, else float64, each rounded once.

    It is None if a field is not a number, or is an integer that float64 cannot hold.
    """
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
    """The numbers in the form that computers write; None if one of them is not written in the declared form."""
    if form.thousands:
        sign, point = (f"\\x{ord(letter):02x}" for letter in (form.thousands, form.decimal))
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
    """The fields as booleans, or as 1.0 and 0.0 if some are missing; None if a field is no word for true or false."""
    present = _present(fields, MISSING).drop_null()
    if not len(present) or not _all(pc.is_in(present, pa.array([*TRUE, *FALSE]))):
        return None
    truths = pc.is_in(_present(fields, MISSING), pa.array(TRUE))
    if len(present) == len(fields):
        return pd.Series(truths.to_numpy())
    numbers = pc.if_else(pc.is_in(fields, pa.array(MISSING)), None, truths.cast(pa.uint8())).cast(pa.float64())
    return pd.Series(numbers.to_numpy())


def _all(mask: pa.ChunkedArray) -> bool:
    """Whether the mask is true everywhere; also if it is empty."""
    return bool(pc.all(mask, min_count=0).as_py())


def _first_too_wide(texts: pa.ChunkedArray, numbers: pa.ChunkedArray) -> int | None:
    """The position of the first integer that float64 cannot hold.

    A number with an exponent counts as rounded already.
    """
    values = numbers.to_numpy()
    for position in map(int, np.flatnonzero(np.abs(values) >= EXACT)):
        text, value = texts[position].as_py(), values[position]
        if re.fullmatch(r"[+-]?[\d.]+", text) and (np.isinf(value) or Decimal(text) != Decimal(value)):
            return position
    return None


# Names


def _plain_name(name: str) -> str:
    """A name as people see it: blanks, invisible signs and the case of letters do not count."""
    visible = (sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign)[0] not in "ZC")
    return "".join(visible).casefold()


def _refuse_near_names(file: str, names: list[str], columns: tuple[Column, ...]) -> None:
    """Raises UnusablePartition if another column has a name that people cannot tell from that of a declared one."""
    declared = {_plain_name(column.name): column.name for column in columns if column.name in names}
    for name in names:
        twin = declared.get(_plain_name(name))
        if twin is not None and twin != name:
            raise UnusablePartition(
                f"{file} has the columns {twin!r} and {name!a}, which differ only in blanks, unseen signs or "
                "large letters; remove or rename one"
            )


def refuse_missing(rows: pd.DataFrame, names: tuple[str, ...], others: Collection[str] = ()) -> None:
    """Raises UnusablePartition if a column of these names is missing. The message names a column that may be meant.

    `others`: names of further columns, which are not taken for the missing one.
    """
    missing = [name for name in names if name not in rows.columns]
    if missing:
        why = _nearest_words(rows, missing[0], {*names, *others}) or _delimiter_words(rows)
        raise UnusablePartition(f"column {', '.join(missing)} is missing{why}")


def _nearest_words(rows: pd.DataFrame, name: str, taken: Collection[str]) -> str:
    """The column whose name differs only in what people do not see, or else the one that is spelt most like it."""
    free = [column for column in map(str, rows.columns) if column not in taken]
    same = [column for column in free if _plain_name(column) == _plain_name(name)]
    if same:
        return f" (there is {same[0]!a}; rename it to {name!r})"
    near = difflib.get_close_matches(name, free, n=1, cutoff=NEAR)
    return f" (there is {near[0]!a}; rename it if it is mistyped)" if near else ""


def _delimiter_words(rows: pd.DataFrame) -> str:
    """The likely cause if a CSV's header reads as one column; empty if it does not."""
    separator = likely_separator([*map(str, rows.columns)])
    if separator is None:
        return ""
    return (
        f" (the header reads as one column: likely separated by {DELIMITERS[separator]}; declare "
        f"separator={separator!r} of its source)"
    )


# What a quote swallowed


def _refuse_swallowed(file: str, table: pa.Table, declared: Declared) -> None:
    """Raises UnusablePartition if the header is repeated among the rows, or if a quoted field holds further rows."""
    _refuse_repeated_header(file, table)
    for position, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        if not _has_line_ends(column):
            continue
        has_lines = pc.match_substring_regex(column, "[\r\n]")
        for row in np.flatnonzero(has_lines.to_numpy()):
            if _holds_rows(column[int(row)].as_py(), position, table.column_names, declared):
                raise UnusablePartition(
                    f"{file} cannot be read (column {printable(name)} of row {row + 1} holds what looks like further "
                    "rows, which a quote too many has swallowed; write a quote inside a quoted field twice)"
                )


def _has_line_ends(fields: pa.ChunkedArray) -> bool:
    """Whether some field may hold a line end.

    This is quick, because it looks at the bytes of all fields at once. In a slice these include rows outside of it.
    """
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


def _holds_rows(field: str, position: int, names: list[str], declared: Declared) -> bool:
    """Whether a field with several lines, in the column at `position`, holds rows that a quote has swallowed.

    Its first line must then be the end of a row, its last line the beginning of one, and every line between a whole
    row: each with as many fields as the row needs there, of the types that are declared for their columns.
    """
    first, *middle, last = [line.split(declared.form.separator) for line in re.split(r"\r\n|\r|\n", field)]
    expected = [len(names) - position, position + 1, *([len(names)] * len(middle))]
    if [len(first), len(last), *map(len, middle)] != expected:
        return False
    types = {column.name: column for column in declared.columns if column.type != "text"}
    ends = [*zip(names[position + 1 :], first[1:], strict=True), *zip(names[:position], last[:-1], strict=True)]
    fields = [*ends, *(pair for line in middle for pair in zip(names, line, strict=True))]
    judged = [(types[name], text) for name, text in fields if name in types]
    if not judged:
        return len(names) >= 6
    return all(
        wrong_type(column, of_fields(pa.chunked_array([[text]]), column, declared)) is None for column, text in judged
    )


# Types


def refuse_other_columns(use_case: Reading, rows: pd.DataFrame, columns: tuple[Column, ...]) -> None:
    """Raises UnusablePartition if one of these columns is missing or is not of its declared type."""
    refuse_missing(rows, tuple(column.name for column in columns))
    for column in columns:
        other_type = wrong_type(column, rows[column.name])
        if other_type:
            with suppress(TypeError, ValueError, ArithmeticError, NotImplementedError):  # a dtype without texts
                other_type += _first_wrong(use_case, column, rows[column.name])
            raise UnusablePartition(f"column {column.name} must be {column.type}, but it is {other_type}")


def _first_wrong(use_case: Reading, column: Column, series: pd.Series) -> str:
    """The first value that makes the type wrong, and its row in the day's file; empty if no single value does.

    The value is not quoted if any column is sensitive: in a row whose fields are shifted, it may be that column's.
    """
    numbered = series if pd.api.types.is_integer_dtype(series.index.dtype) else series.reset_index(drop=True)
    present = numbered.dropna()
    position = _position_of_wrong(use_case, column, present)
    if position is None:
        return ""
    row, value = f"row {present.index[position] + 1}", present.iloc[position]
    quoted = repr(str(value)[:40]).replace(": ", ":")  # ": " separates the parts of an error
    is_secret = any(declared.sensitive for declared in use_case.columns)
    first = f"the first in {row}" if is_secret else f"the first, {quoted}, in {row}"
    return f" ({first}{_why(column, value)})"


def _position_of_wrong(use_case: Reading, column: Column, present: pd.Series) -> int | None:
    """The position of the first value that cannot be of the column's type as it is written; None if every value can."""
    if column.type == "text":
        return next((position for position, value in enumerate(present) if not isinstance(value, str)), None)
    is_text = isinstance(present.dtype, pd.StringDtype)
    declared = Declared.of(use_case, use_case.source) if is_text else Declared(use_case.columns, "UTC", CsvForm())
    texts = pa.array(present.astype("str"), pa.string())

    def is_wrong_up_to(position: int) -> bool:
        fields = pa.chunked_array([texts[: position + 1]])
        return wrong_type(column, of_fields(fields, column, declared)) is not None

    position = bisect.bisect_left(range(len(texts)), True, key=is_wrong_up_to)
    return position if position < len(texts) else None


def _why(column: Column, value: object) -> str:
    """Why a value that looks right is refused: a number without a unit as a time, or an integer that is too large."""
    digits = re.fullmatch(r"[+-]?\d+", str(value)) is not None
    if digits and column.type == "timestamp":
        return f"; {NOT_COUNTED}"
    is_wide = digits and column.type in NUMBERS and len(str(value)) >= len(str(EXACT))
    return f"; an integer {TOO_WIDE}" if is_wide and isinstance(value, str) else ""
