"""A side table joined to rows, which keep their order and number.

A row without a key, on either side, meets nothing. Keys that are written in two types, or stand twice in the side
table with other values, are refused by name: they would match by chance, or not at all.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pandas.api import types

from ml.data.dataset import SideTable
from ml.data.handles import JoinCounts
from ml.data.reading import UnusablePartition, is_wide, refuse_missing
from ml.serving.columns import EXACT

OBJECTS = {
    "string": "text",
    "integer": "number",
    "floating": "number",
    "mixed-integer-float": "number",
    "boolean": "boolean",
}  # what pandas calls the values of a column without a type, by the kind that they can be compared as
UNREADABLE = (TypeError, ValueError, KeyError, ArithmeticError, NotImplementedError, pa.ArrowException)


@dataclass(frozen=True)
class Key:
    """One column of a key: its present values as they are compared, and of which kind they are."""

    kind: str
    values: pd.Series


def join(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> tuple[pd.DataFrame, JoinCounts]:
    """The rows with the columns that the table gives, and how many met a row of it.

    Raises UnusablePartition where a column is missing or there already, or keys cannot be compared or stand twice.
    """
    try:
        return _joined(rows.reset_index(drop=True), table, side.reset_index(drop=True), rows.index)
    except UnusablePartition:
        raise
    except UNREADABLE as error:  # of values that no type of ours has; the message may quote them
        raise UnusablePartition(
            f"{table.name} cannot be joined on {', '.join(table.on)} ({type(error).__name__}; write texts, numbers or "
            "timestamps)"
        ) from None


def _joined(
    rows: pd.DataFrame, table: SideTable, side: pd.DataFrame, index: pd.Index
) -> tuple[pd.DataFrame, JoinCounts]:
    _refuse_columns(rows, table, side)
    left, right = _keys(rows, table, side)
    places = _places(len(rows), left, _without_repeats(table, side, right))
    taken = _nullable(side[[*table.take]]).reindex(places)
    counts = JoinCounts(
        rows=len(rows),
        null_keys=len(rows) - len(left),
        unmatched=len(left) - int((places >= 0).sum()),
        side_null_keys=len(side) - len(right),
    )
    return pd.concat([rows.set_axis(index), taken.set_axis(index)], axis=1), counts


def _nullable(taken: pd.DataFrame) -> pd.DataFrame:
    """Integers that float64 does not hold in a type that has nulls: else a row without a match would make floats of
    them, and round them."""
    wide = [name for name in taken.columns if is_wide(taken[name]) and isinstance(taken[name].dtype, np.dtype)]
    return taken.astype({name: "UInt64" if taken[name].dtype.kind == "u" else "Int64" for name in wide})


def _refuse_columns(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> None:
    refuse_missing(rows, table.on)
    absent = [name for name in (*table.on, *table.take) if name not in side.columns]
    if absent:
        raise UnusablePartition(f"{table.name} lacks the columns {', '.join(absent)}")
    twice = [name for name in table.take if name in rows.columns]
    if twice:
        raise UnusablePartition(f"{table.name} gives {', '.join(twice)}, which the rows have already (rename one)")


def _keys(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The keys of both sides in types that can be compared, without rows in which a column of them is null."""
    pairs = [_comparable(table, name, rows[name], side[name]) for name in table.on]
    left, right = ([pair[place] for pair in pairs] for place in (0, 1))
    return _whole(left), _whole(right)


def _whole(columns: list[pd.Series]) -> pd.DataFrame:
    """(rows with every column present, columns) under the rows' numbers."""
    present = reduce(lambda first, second: first.intersection(second, sort=False), (each.index for each in columns))
    return pd.DataFrame({position: each.loc[present] for position, each in enumerate(columns)}, index=present)


def _comparable(table: SideTable, name: str, rows: pd.Series, side: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The present values of both sides in one type. Raises UnusablePartition where they are of two kinds."""
    left, right = _key(rows), _key(side)
    if left.values.empty or right.values.empty:
        return left.values, right.values
    mixed = left.kind.startswith("mixed")
    if left.kind != right.kind or mixed or (left.kind == "number" and not _is_exact(left.values, right.values)):
        seen = f"{left.kind} ({rows.dtype}) in the rows and {right.kind} ({side.dtype}) in {table.name}"
        raise UnusablePartition(
            f"{table.name} cannot be joined on {name}, which is {seen} (write both alike; in CSV, a declared column "
            "has its type)"
        )
    if left.values.dtype == right.values.dtype:
        return left.values, right.values
    shared = _shared_dtype(left, right)
    return left.values.astype(shared), right.values.astype(shared)


def _key(series: pd.Series) -> Key:
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
    """(rows,) bool: an empty text, which is how CSV writes null, or one of blanks."""
    if isinstance(present.dtype, pd.StringDtype):
        return (present.str.strip() == "").astype(bool)
    return pd.Series([isinstance(value, str) and not value.strip() for value in present], present.index, dtype=bool)


def _kind(present: pd.Series) -> str:
    """What the values are, in words; a kind that is not known here is compared with its like only."""
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
    """Whether equal numbers are equal as they are held: of one width, or whole ones that float64 tells apart."""
    if left.dtype == right.dtype or (types.is_integer_dtype(left) and types.is_integer_dtype(right)):
        return True
    numbers = [side.to_numpy(np.float64) for side in (left, right)]
    return all(bool((np.abs(side) < EXACT).all() and (side % 1 == 0).all()) for side in numbers)


def _shared_dtype(left: Key, right: Key) -> object:
    """A type that holds the values of both exactly."""
    if left.kind == "timestamp" or left.kind == "timestamp with a zone":
        return np.promote_types(left.values.dtype, right.values.dtype)
    if left.kind != "number":
        return np.dtype(object)
    largest = max(int(left.values.max()), int(right.values.max()))
    return np.dtype(np.int64) if largest <= np.iinfo(np.int64).max else np.dtype(object)


def _without_repeats(table: SideTable, side: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    """The side's keys, each once. Raises UnusablePartition where rows of one key give different values."""
    repeated = keys.duplicated(keep=False)
    if not repeated.any():
        return keys
    rows = side.loc[keys.index[repeated], [*table.take]]
    same = pd.concat([keys[repeated], rows.set_axis(range(-len(table.take), 0), axis=1)], axis=1).duplicated()
    left = keys.drop(index=same.index[same])
    clashing = left.duplicated(keep=False)
    if clashing.any():
        first = left.index[clashing][0]
        others = left.index[(left == left.loc[first]).all(axis=1)]
        raise UnusablePartition(
            f"{table.name} cannot be joined on {', '.join(table.on)}, which {int(clashing.sum()):,} of its rows share "
            f"with another one (the first are its rows {others[0] + 1} and {others[1] + 1}; leave one of each)"
        )
    return left


def _places(rows: int, left: pd.DataFrame, right: pd.DataFrame) -> NDArray[np.int64]:
    """(rows,) the position of each row's match in the side table, -1 where it has none."""
    places = np.full(rows, -1)
    if len(left) and len(right):
        numbered = [side.assign(**{name: side.index}) for side, name in ((left, "row"), (right, "place"))]
        found = numbered[0].merge(numbered[1], on=list(left.columns), how="inner")
        places[found["row"]] = found["place"]
    return places
