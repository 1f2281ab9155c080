"""Joins a side table to rows, which keep their order and their number.

A row without a key, on either side, matches nothing. Keys that have another type on each side, and keys that stand
twice in the side table with different values, are refused by name: they would match by chance, or not at all.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pandas.api import types

from .columns import EXACT, is_wide
from .refusal import UnusableRows

OBJECTS = {  # how values of a column without a type are compared, by what pandas calls them
    "string": "text",
    "integer": "number",
    "floating": "number",
    "mixed-integer-float": "number",
    "boolean": "boolean",
}
UNREADABLE = (TypeError, ValueError, KeyError, ArithmeticError, NotImplementedError, pa.ArrowException)


@dataclass(frozen=True)
class Key:
    """One column of a key: its values without nulls, in the form that is compared, and what kind of values they are."""

    kind: str
    values: pd.Series


class SideTable(Protocol):
    """What is said of a side table: its name, the columns that it is joined on, and those that it gives."""

    @property
    def name(self) -> str: ...

    @property
    def on(self) -> tuple[str, ...]: ...

    @property
    def take(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Counts:
    """Rows without a key, rows whose key the table lacks, and rows of the table without a key."""

    null_keys: int
    unmatched: int
    side_null_keys: int


def join(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> tuple[pd.DataFrame, Counts]:
    """The rows with the columns that the table gives (null where it matches nothing), and how many rows it matches.

    Raises UnusableRows if a column is missing, if the rows have one of the table's columns already, or if keys
    cannot be compared or stand twice in the table.
    """
    try:
        joined, counts = _joined(rows.reset_index(drop=True), table, side.reset_index(drop=True))
        return joined.set_axis(rows.index), counts
    except UnusableRows:
        raise
    except UNREADABLE as error:  # values of a type that we do not know; the message may quote them
        raise UnusableRows(
            f"{table.name} cannot be joined on {', '.join(table.on)} ({type(error).__name__}; write texts, numbers or "
            "timestamps)"
        ) from None


def _joined(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> tuple[pd.DataFrame, Counts]:
    """The same for rows of both sides that are numbered from 0."""
    _refuse_columns(rows, table, side)
    left, right = _keys(rows, table, side)
    positions = _positions(len(rows), left, _without_repeats(table, side, right))
    taken = _nullable(side[[*table.take]]).reindex(positions)
    counts = Counts(
        null_keys=len(rows) - len(left),
        unmatched=len(left) - int((positions >= 0).sum()),
        side_null_keys=len(side) - len(right),
    )
    return pd.concat([rows, taken.set_axis(rows.index)], axis=1), counts


def _nullable(taken: pd.DataFrame) -> pd.DataFrame:
    """The columns, with integers too large for float64 in a type that has nulls.

    Otherwise a row without a match would make pandas turn them into floats, which rounds them.
    """
    wide = [name for name in taken.columns if is_wide(taken[name]) and isinstance(taken[name].dtype, np.dtype)]
    return taken.astype({name: "UInt64" if taken[name].dtype.kind == "u" else "Int64" for name in wide})


def _refuse_columns(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> None:
    """Raises UnusableRows if a column is missing on a side, or the rows have one that the table would add."""
    lacking = [name for name in table.on if name not in rows.columns]
    if lacking:
        raise UnusableRows(f"column {', '.join(lacking)} is missing")
    absent = [name for name in (*table.on, *table.take) if name not in side.columns]
    if absent:
        raise UnusableRows(f"{table.name} lacks the columns {', '.join(absent)}")
    twice = [name for name in table.take if name in rows.columns]
    if twice:
        raise UnusableRows(f"{table.name} gives {', '.join(twice)}, which the rows have already (rename one)")


def _keys(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The keys of both sides in types that can be compared, without rows in which a part of the key is null."""
    pairs = [_comparable(table, name, rows[name], side[name]) for name in table.on]
    return _whole([left for left, _ in pairs]), _whole([right for _, right in pairs])


def _whole(columns: list[pd.Series]) -> pd.DataFrame:
    """The rows in which every one of these columns is present, under their row numbers."""
    indexes = (column.index for column in columns)
    present = reduce(lambda first, second: first.intersection(second, sort=False), indexes)
    return pd.DataFrame({position: column.loc[present] for position, column in enumerate(columns)}, index=present)


def _comparable(table: SideTable, name: str, rows: pd.Series, side: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The values of both sides, without nulls, in one type. Raises UnusableRows if they are of two kinds."""
    left, right = _key(rows), _key(side)
    if left.values.empty or right.values.empty:
        return left.values, right.values
    mixed = left.kind.startswith("mixed")
    if left.kind != right.kind or mixed or (left.kind == "number" and not _is_exact(left.values, right.values)):
        seen = f"{left.kind} ({rows.dtype}) in the rows and {right.kind} ({side.dtype}) in {table.name}"
        raise UnusableRows(
            f"{table.name} cannot be joined on {name}, which is {seen} (write both alike; in CSV, a declared column "
            "has its type)"
        )
    if left.values.dtype == right.values.dtype:
        return left.values, right.values
    shared = _shared_dtype(left, right)
    return left.values.astype(shared), right.values.astype(shared)


def _key(series: pd.Series) -> Key:
    """The column as a part of a key: without nulls and blanks, times in UTC, each kind in one form."""
    present = series[series.notna()]
    if isinstance(present.dtype, pd.CategoricalDtype):
        present = present.astype(present.cat.categories.dtype)
    if types.is_object_dtype(present.dtype) or types.is_string_dtype(present.dtype):
        present = present[~_is_blank(present)]
    if types.is_object_dtype(present.dtype) and types.infer_dtype(present).startswith("datetime"):
        present = pd.to_datetime(present)
    kind = _kind(present)
    if kind == "text":
        return Key(kind, present.astype("str"))
    if kind == "timestamp with a zone":
        return Key(kind, present.dt.tz_convert("UTC").dt.tz_localize(None))
    if kind in {"number", "boolean"}:
        numbers = pd.to_numeric(present)
        return Key(kind, numbers.astype(getattr(numbers.dtype, "numpy_dtype", numbers.dtype)))
    return Key(kind, present)


def _is_blank(present: pd.Series) -> pd.Series:
    """(rows,) bool: whether the value is an empty text, which is how a CSV writes null, or has blanks only."""
    if isinstance(present.dtype, pd.StringDtype):
        return (present.str.strip() == "").astype(bool)
    return pd.Series([isinstance(value, str) and not value.strip() for value in present], present.index, dtype=bool)


def _kind(present: pd.Series) -> str:
    """What the values are, in words. A kind that is not known here can only be compared with itself."""
    dtype = present.dtype
    if types.is_object_dtype(dtype):
        inferred = types.infer_dtype(present)
        return OBJECTS.get(inferred, inferred)
    if types.is_bool_dtype(dtype):
        return "boolean"
    if types.is_numeric_dtype(dtype):
        return "number"
    if types.is_string_dtype(dtype):
        return "text"
    if types.is_datetime64_dtype(dtype):
        return "timestamp"
    return "timestamp with a zone" if isinstance(dtype, pd.DatetimeTZDtype) else str(dtype)


def _is_exact(left: pd.Series, right: pd.Series) -> bool:
    """Whether numbers can be compared without rounding.

    They can if both sides have one type or are integers, or if all are whole and small enough for float64.
    """
    if left.dtype == right.dtype or (types.is_integer_dtype(left) and types.is_integer_dtype(right)):
        return True
    numbers = [side.to_numpy(np.float64) for side in (left, right)]
    return all(bool((np.abs(side) < EXACT).all() and (side % 1 == 0).all()) for side in numbers)


def _shared_dtype(left: Key, right: Key) -> object:
    """A type that holds the values of both sides exactly."""
    if left.kind == "timestamp" or left.kind == "timestamp with a zone":
        return np.promote_types(left.values.dtype, right.values.dtype)
    if left.kind != "number":
        return np.dtype(object)
    largest = max(int(left.values.max()), int(right.values.max()))
    return np.dtype(np.int64) if largest <= np.iinfo(np.int64).max else np.dtype(object)


def _without_repeats(table: SideTable, side: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    """The side table's keys, each once. Raises UnusableRows if rows with the same key give different values."""
    repeated = keys.duplicated(keep=False)
    if not repeated.any():
        return keys
    rows = side.loc[keys.index[repeated], [*table.take]]
    same = pd.concat([keys[repeated], rows.set_axis(range(-len(table.take), 0), axis=1)], axis=1).duplicated()
    unique = keys.drop(index=same.index[same])
    clashing = unique.duplicated(keep=False)
    if clashing.any():
        first_key = unique.loc[unique.index[clashing][0]]
        others = unique.index[(unique == first_key).all(axis=1)]
        raise UnusableRows(
            f"{table.name} cannot be joined on {', '.join(table.on)}, which {int(clashing.sum()):,} of its rows share "
            f"with another one (the first are its rows {others[0] + 1} and {others[1] + 1}; leave one of each)"
        )
    return unique


def _positions(rows: int, left: pd.DataFrame, right: pd.DataFrame) -> NDArray[np.int64]:
    """(rows,) int64: the position of each row's match in the side table; -1 if it has none."""
    positions = np.full(rows, -1)
    if len(left) and len(right):
        rows_by_key, matches_by_key = left.assign(row=left.index), right.assign(match=right.index)
        pairs = rows_by_key.merge(matches_by_key, on=list(left.columns), how="inner")
        positions[pairs["row"]] = pairs["match"]
    return positions
