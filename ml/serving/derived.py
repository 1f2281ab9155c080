"""A use case's `derive`: rows of the source in, the same rows with more columns out.

Every row gets a number before and is put back in its place by that number, never by position. So a derive may sort,
group or merge. A result without every row exactly once is refused.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .columns import Column, conform, wrong_type
from .refusal import UnusableRows, failure

ROW = "row__"  # the column with the row numbers that `derive` must return
KEEP_ROWS = (
    f"return every row once with its {ROW} as it came; a row that nobody shall learn from gets a null label or breaks "
    "a rule"
)
Derive = Callable[[pd.DataFrame], pd.DataFrame]


def derived(derive: Derive | None, rows: pd.DataFrame, telling: Iterable[str] = ()) -> pd.DataFrame:
    """The rows as derive returns them, in the order of `rows`, which stay unchanged.

    Raises UnusableRows if derive fails, or does not return every row once; see `in_order`.
    """
    if derive is None:
        return rows
    if ROW in rows.columns:
        raise UnusableRows(f"the source has a column {ROW}, where derive gets the numbers of rows (rename it)")
    try:
        result = derive(numbered(rows))
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a company's own code; its message may quote a row
        raise UnusableRows(f"derive {failure(error)}") from None
    return in_order("derive", rows, result, telling)


def numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """A copy of the rows with their numbers."""
    return rows.copy().assign(**{ROW: np.arange(len(rows))})


def in_order(who: str, rows: pd.DataFrame, result: Any, telling: Iterable[str]) -> pd.DataFrame:
    """What derive returned for the rows, in their order and without their numbers.

    `who` is what sentences call it. `telling` are columns that tell rows apart. Raises UnusableRows if rows are left
    out, repeated or added, or can no longer be told apart.
    """
    _refuse_other_shape(who, result)
    numbers = _row_numbers(result[ROW])
    _refuse_other_rows(who, numbers, len(rows))
    ordered = result.drop(columns=ROW).iloc[np.argsort(numbers)].set_axis(rows.index)
    _refuse_swapped_numbers(who, rows, ordered, telling)
    return ordered


def _refuse_other_shape(who: str, result: Any) -> None:
    """Raises UnusableRows if the result is no frame with the row numbers and with each column once."""
    if not isinstance(result, pd.DataFrame):
        if hasattr(result, "close"):
            result.close()  # a coroutine that nobody waits for would warn
        raise UnusableRows(f"{who} returns {_kind_of(result)} (return a pandas DataFrame of the rows)")
    if result.columns.nlevels > 1:
        raise UnusableRows(f"{who} returns columns of several levels (give each column one name)")
    twice = result.columns[result.columns.duplicated()]
    if len(twice):
        raise UnusableRows(f"{who} returns the column {_printable(str(twice[0]))[:80]} twice (return it once)")
    if ROW not in result.columns:
        raise UnusableRows(f"{who} returns no column {ROW}, by which rows are told apart ({KEEP_ROWS})")


def _kind_of(result: Any) -> str:
    """The type of the result in words, like `a coroutine` or `a polars.DataFrame`."""
    library = type(result).__module__.partition(".")[0]
    return f"a {type(result).__name__}" if library == "builtins" else f"a {library}.{type(result).__name__}"


def _row_numbers(column: pd.Series) -> NDArray[np.float64]:
    """(rows,) float64: the number of each row; NaN if it has none."""
    try:
        return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return np.full(len(column), np.nan)


def _refuse_other_rows(who: str, numbers: NDArray[np.float64], rows: int) -> None:
    """Raises UnusableRows unless every number from 0 to `rows` - 1 is there once, and no other."""
    known = (numbers >= 0) & (numbers < rows) & (numbers % 1 == 0)
    times = np.bincount(numbers[known].astype(np.int64), minlength=rows)
    counts = {
        "leaves out": int((times == 0).sum()),
        "repeats": int((times[times > 1] - 1).sum()),
        f"adds, under another {ROW},": int((~known).sum()),
    }
    faults = " and ".join(f"{what} {count:,}" for what, count in counts.items() if count)
    if faults:
        raise UnusableRows(f"{who} {faults} of {rows:,} rows ({KEEP_ROWS})")


def _refuse_swapped_numbers(who: str, rows: pd.DataFrame, result: pd.DataFrame, telling: Iterable[str]) -> None:
    """Raises UnusableRows if derive numbered the rows anew: each number is there once, but names another row.

    That shows in a column that tells rows apart: it has the same values as before, but in other rows.
    """
    for name in telling:
        if name in result.columns and _is_permuted(rows[name], result[name]):
            raise UnusableRows(f"{who} gives rows another {ROW} than they had, as {name} shows ({KEEP_ROWS})")


def _is_permuted(before: pd.Series, after: pd.Series) -> bool:
    """Whether both have the same values, in another order."""
    if before.equals(after):
        return False
    try:
        old, new = (pd.util.hash_array(series.to_numpy(), categorize=False) for series in (before, after))
    except TypeError:  # values that have no hash, like lists
        return False
    return not np.array_equal(old, new) and np.array_equal(np.sort(old), np.sort(new))


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def rewritten(derive: Derive | None, rows: pd.DataFrame, columns: Iterable[Column], time_zone: str) -> str | None:
    """The name of a column of the rows that derive reads and returns with other values; None if there is none.

    A column that derive makes without reading it does not count: it is made again with the same values.
    """
    if derive is None:
        return None
    changed = changed_by(derive, rows, columns, time_zone)
    return next((name for name in changed if _derived_or_none(derive, rows.drop(columns=name)) is None), None)


def changed_by(derive: Derive, rows: pd.DataFrame, columns: Iterable[Column], time_zone: str) -> list[str]:
    """The names of the columns of the rows that derive returns with other values, read or not."""
    result = _derived_or_none(derive, rows)
    present = (column for column in columns if column.name in rows.columns)
    return [column.name for column in present if not _is_unchanged(result, rows, column, time_zone)]


def _derived_or_none(derive: Derive, rows: pd.DataFrame) -> pd.DataFrame | None:
    try:
        return derived(derive, rows)
    except UnusableRows:
        return None


def _is_unchanged(result: pd.DataFrame | None, rows: pd.DataFrame, column: Column, time_zone: str) -> bool:
    """Whether derive's result has the column as it was; also if there is no result, or it lacks the column."""
    if result is None or column.name not in result.columns:
        return True
    if wrong_type(column, rows[column.name]) or wrong_type(column, result[column.name]):
        return bool(result[column.name].equals(rows[column.name]))
    after, before = (conform(table, (column,), time_zone) for table in (result, rows))
    return bool(after.equals(before))
