"""Runs a use case's `derive` on source rows, and refuses a result without every row exactly once.

Every row gets a number before and is put back in its place by that number, never by position. So a derive may sort,
group or merge.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.dataset import ROW, Reading, Table
from ml.data.reading import UnusablePartition, refuse_missing, refuse_other_columns
from ml.errors import ConfigError, RetrainError, is_passing, printable
from ml.serving.columns import Column, conform, wrong_type
from ml.serving.refusal import failure

KEEP_ROWS = (
    f"return every row once with its {ROW} as it came; a row that nobody shall learn from gets a null label or breaks "
    "a rule"
)


def derived(use_case: Table, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as `derive` returns them, in the order of `rows`, which stay unchanged.

    Raises UnusablePartition if derive fails, or if it leaves out, repeats or adds rows, or rows can no longer be told
    apart; ConfigError if it fails because of something else than the rows.
    """
    if use_case.derive is None:
        return rows
    numbered = rows.copy().assign(**{ROW: np.arange(len(rows))})
    result = _returned(use_case, rows, numbered)
    _refuse_other_shape(use_case, result)
    numbers = _row_numbers(result[ROW])
    _refuse_other_rows(use_case, numbers, len(rows))
    in_order = result.drop(columns=ROW).iloc[np.argsort(numbers)].set_axis(rows.index)
    _refuse_swapped_numbers(use_case, rows, in_order)
    return in_order


def _returned(use_case: Table, rows: pd.DataFrame, numbered: pd.DataFrame) -> Any:
    """What derive returns, whatever it is. If it fails, the rows' columns are checked first: they may be the cause."""
    assert use_case.derive is not None
    try:
        return use_case.derive(numbered)
    except (RetrainError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a company's own code; its message may quote a row
        if isinstance(error, OSError) or is_passing(error):  # this says nothing about the day's rows
            raise ConfigError(
                f"derive of {use_case.name} must run on the rows alone", failure(error), "mend it, then run it again"
            ) from None
        _blame_columns(use_case, rows, error)
        raise UnusablePartition(
            f"derive of {use_case.name} {failure(error)} (mend derive, or the day's file)"
        ) from None


def _blame_columns(use_case: Reading, rows: pd.DataFrame, error: BaseException) -> None:
    """Raises UnusablePartition if a declared column is not of its type, or is missing and derive looked for it."""
    refuse_other_columns(use_case, rows, tuple(column for column in use_case.columns if column.name in rows.columns))
    wanted = error.args[:1] if isinstance(error, KeyError) else [getattr(error, "name", None)]
    names = tuple(column.name for column in use_case.columns)
    refuse_missing(rows, tuple(name for name in names if name in wanted), names)


def _refuse_other_shape(use_case: Table, result: Any) -> None:
    """Raises UnusablePartition if the result is no frame with the row numbers and with each column once."""
    who = f"derive of {use_case.name}"
    if not isinstance(result, pd.DataFrame):
        if hasattr(result, "close"):
            result.close()  # a coroutine that nobody waits for would warn
        raise UnusablePartition(f"{who} returns {_kind_of(result)} (return a pandas DataFrame of the rows)")
    if result.columns.nlevels > 1:
        raise UnusablePartition(f"{who} returns columns of several levels (give each column one name)")
    twice = result.columns[result.columns.duplicated()]
    if len(twice):
        raise UnusablePartition(f"{who} returns the column {printable(str(twice[0]))[:80]} twice (return it once)")
    if ROW not in result.columns:
        raise UnusablePartition(f"{who} returns no column {ROW}, by which rows are told apart ({KEEP_ROWS})")


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


def _refuse_other_rows(use_case: Table, numbers: NDArray[np.float64], rows: int) -> None:
    """Raises UnusablePartition unless every number from 0 to `rows` - 1 is there once, and no other."""
    known = (numbers >= 0) & (numbers < rows) & (numbers % 1 == 0)
    times = np.bincount(numbers[known].astype(np.int64), minlength=rows)
    counts = {
        "leaves out": int((times == 0).sum()),
        "repeats": int((times[times > 1] - 1).sum()),
        f"adds, under another {ROW},": int((~known).sum()),
    }
    faults = " and ".join(f"{what} {count:,}" for what, count in counts.items() if count)
    if faults:
        raise UnusablePartition(f"derive of {use_case.name} {faults} of {rows:,} rows ({KEEP_ROWS})")


def _refuse_swapped_numbers(use_case: Table, rows: pd.DataFrame, result: pd.DataFrame) -> None:
    """Raises UnusablePartition if derive numbered the rows anew: each number is there once, but names another row.

    That shows in a column that tells rows apart: it has the same values as before, but in other rows.
    """
    key = [name for name in use_case.key if name in rows.columns]  # a file to score may have none
    for name in key or [column.name for column in use_case.columns if column.name in rows.columns]:
        if name in result.columns and _is_permuted(rows[name], result[name]):
            raise UnusablePartition(
                f"derive of {use_case.name} gives rows another {ROW} than they had, as {name} shows ({KEEP_ROWS})"
            )


def _is_permuted(before: pd.Series, after: pd.Series) -> bool:
    """Whether both have the same values, in another order."""
    if before.equals(after):
        return False
    try:
        old, new = (pd.util.hash_array(series.to_numpy(), categorize=False) for series in (before, after))
    except TypeError:  # values that have no hash, like lists
        return False
    return not np.array_equal(old, new) and np.array_equal(np.sort(old), np.sort(new))


def is_rewritten(use_case: Table, rows: pd.DataFrame, column: Column) -> bool:
    """Whether derive reads this column of the rows and returns it with other values.

    A column that derive makes without reading it does not count: it is made again with the same values.
    """
    if use_case.derive is None or column.name not in rows.columns:
        return False
    if _is_unchanged(use_case, _derived_or_none(use_case, rows), rows, column):
        return False
    return _derived_or_none(use_case, rows.drop(columns=column.name)) is None


def _derived_or_none(use_case: Table, rows: pd.DataFrame) -> pd.DataFrame | None:
    try:
        return derived(use_case, rows)
    except UnusablePartition:
        return None


def _is_unchanged(use_case: Reading, result: pd.DataFrame | None, rows: pd.DataFrame, column: Column) -> bool:
    """Whether derive's result has the column as it was; also if there is no result, or it lacks the column."""
    if result is None or column.name not in result.columns:
        return True
    if wrong_type(column, rows[column.name]) or wrong_type(column, result[column.name]):
        return bool(result[column.name].equals(rows[column.name]))
    after, before = (conform(table, (column,), use_case.time_zone) for table in (result, rows))
    return bool(after.equals(before))
