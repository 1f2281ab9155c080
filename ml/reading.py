"""A file's bytes as a table: by its name's ending, each column by its declared type."""

import io
import re
import zlib
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ml.config import UseCase
from ml.serving.columns import Column, wrong_type
from ml.sources import reading

MISSING = ["", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>", "n/a"]  # where no text is declared
DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class UnusablePartition(ValueError):
    """A partition that cannot be read as declared; its message is the reason."""


def together(tables: list[pd.DataFrame], name: str) -> pd.DataFrame:
    if not tables:
        raise UnusablePartition(f"{name} has no file")
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


# What libraries say of a whole file, or of a place in it. All else may quote a row.
FREE_OF_VALUES = re.compile(
    r"Error tokenizing data\. C error: (Expected \d+ fields in line \d+, saw \d+|EOF inside string starting at row \d+)"
    r"|'[\w-]+' codec can't decode bytes? (0x[0-9a-f]+ )?in position \d+(-\d+)?: [a-z ]+"
    r"|No columns to parse from file|Compressed file ended before the end-of-stream marker was reached"
    r"|CRC check failed 0x[0-9a-f]+ != 0x[0-9a-f]+"
    r"|Could not open Parquet input source '<Buffer>': Parquet [\w ,.]+"
)


def read_table(path: Path, columns: tuple[Column, ...]) -> pd.DataFrame:
    """A Parquet or CSV file. Raises UnusablePartition if it is not what it is named, SourceUnavailable if the disk does
    not give it."""
    if not path.is_file():
        raise UnusablePartition(f"{path.name} cannot be read (there is no such file)")
    with reading(path):
        data = path.read_bytes()
    return parse_table(path.name, data, columns)


def parse_table(name: str, data: bytes, columns: tuple[Column, ...]) -> pd.DataFrame:
    """The rows of a file by its name's ending. Raises UnusablePartition if they cannot be read."""
    try:
        return pd.read_parquet(pa.BufferReader(data)) if name.endswith(".parquet") else _parse_csv(name, data, columns)
    except (OSError, ValueError, EOFError, zlib.error, pa.ArrowException) as error:
        raise UnusablePartition(f"{name} cannot be read ({short(error)})") from error


def _parse_csv(name: str, data: bytes, columns: tuple[Column, ...]) -> pd.DataFrame:
    """Parsed by the declared types: in a text only the empty field is missing, so that NA and null stay words."""
    packed = "gzip" if name.endswith(".gz") else None
    header = pd.read_csv(io.BytesIO(data), compression=packed, nrows=0).columns
    types = {column.name: column.type for column in columns}
    texts = [name for name in header if types.get(name) == "text"]
    return pd.read_csv(
        io.BytesIO(data),
        compression=packed,
        dtype=dict.fromkeys(texts, "str"),
        parse_dates=[name for name in header if types.get(name) == "timestamp"],
        date_format="ISO8601",  # else pandas guesses
        keep_default_na=False,
        na_values={name: [""] if name in texts else MISSING for name in header},
    )


def short(error: Exception) -> str:
    """The first line of the error's message where it cannot hold a value of a row, else the error's kind."""
    first = (str(error) or type(error).__name__).splitlines()[0]
    return first if FREE_OF_VALUES.fullmatch(first) else type(error).__name__


def refuse_other_columns(use_case: UseCase, rows: pd.DataFrame, columns: tuple[Column, ...]) -> None:
    """Raises UnusablePartition where one of these columns is missing or of another type."""
    refuse_missing(rows, tuple(column.name for column in columns))
    for column in columns:
        seen = wrong_type(column, rows[column.name])
        if seen:
            with suppress(TypeError, ValueError, ArithmeticError, NotImplementedError):  # of a dtype that has no texts
                seen += _first_wrong(use_case, column, rows[column.name])
            raise UnusablePartition(f"column {column.name} must be {column.type}, but it is {seen}")


def _first_wrong(use_case: UseCase, column: Column, series: pd.Series) -> str:
    """Where the type is wrong for the sake of some values: the first, and its row in the day's file.

    It is not quoted where any column is sensitive: in a row that is shifted it may be that one's.
    """
    numbered = series if pd.api.types.is_integer_dtype(series.index.dtype) else series.reset_index(drop=True)
    present = numbered.dropna()
    wrong = present[~_could_be(column, present)]
    if wrong.empty:
        return ""
    row = f"row {wrong.index[0] + 1}"
    if any(each.sensitive for each in use_case.columns):
        return f" (the first in {row})"
    value = repr(str(wrong.iloc[0])[:40]).replace(": ", ":")  # which ends a part of an error's sentence
    return f" (the first, {value}, in {row})"


def _could_be(column: Column, present: pd.Series) -> pd.Series:
    """(rows,) bool: whether a value, as it is written, is one of the column's type."""
    if column.type == "text":
        return pd.Series([isinstance(value, str) for value in present], present.index, dtype=bool)
    texts = present.astype("str")
    if column.type == "timestamp":
        return pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True).notna()
    numbers = pd.to_numeric(texts, errors="coerce")
    return numbers.notna() & ((numbers % 1 == 0) | (column.type == "number"))


def refuse_missing(rows: pd.DataFrame, names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in rows.columns]
    if missing:
        raise UnusablePartition(f"column {', '.join(missing)} is missing{_delimiter_words(rows)}")


def _delimiter_words(rows: pd.DataFrame) -> str:
    """The likely cause where a CSV's header reads as one column."""
    only = str(rows.columns[0]) if len(rows.columns) == 1 else ""
    found = next((name for sign, name in DELIMITERS.items() if sign in only), None)
    return f" (the header reads as one column: likely separated by {found}, not by commas)" if found else ""
