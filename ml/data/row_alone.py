"""Refuses a `derive` that computes a row from other rows. It is tried on parts of a partition and on the whole of it.

A night gives derive the rows of a day, `retrain score` those of a file, a service a single row. A mean over the rows, a
rank, the row before or a random number is different each time. The model would then learn from other values than it is
asked about, and nobody would notice.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.dataset import Reading, Table
from ml.data.derived import derived
from ml.data.reading import UnusablePartition
from ml.data.sources.folder import ALL
from ml.errors import ConfigError
from ml.serving.columns import WrongType, typed

PARTS = 8  # two rows that depend on each other lie in different parts in 7 of 8 cases
ROUNDING, ROUNDING_OF_SHORT = 1e-9, 1e-4  # for float64 and for shorter floats: a part may be summed in another order
NEXT_STEP = (
    "compute what depends on other rows in the source's query, or in a side table, so that a row to score has it too"
)


def refuse_other_values(use_case: Table, rows: pd.DataFrame, day: str) -> None:
    """Raises ConfigError if derive gives a row other values in a part of the partition than in the whole of it.

    It compares the columns that scoring needs: the model's features, and the columns that side tables are joined on.
    Raises UnusablePartition if derive cannot run on the whole partition either.
    """
    if use_case.derive is None or not len(rows):
        return
    rows = rows.reset_index(drop=True)
    whole = derived(use_case, rows)
    one, *parts = _parts(len(rows))
    for positions in ([one], parts):
        of_parts = [_of_part(use_case, rows.iloc[part], _words_of(len(rows), day)) for part in positions]
        _refuse_differing(use_case, rows, whole, of_parts, day)


def _parts(rows: int) -> Iterator[NDArray[np.intp]]:
    """Positions of rows: first a single row, then all rows in parts, in reverse order.

    They are the same in every run.
    """
    numbers = pd.util.hash_array(np.arange(rows))
    yield np.array([numbers.argmin()])
    part_of_row = numbers % PARTS
    yield from (np.flatnonzero(part_of_row == part)[::-1] for part in range(PARTS) if (part_of_row == part).any())


def _words_of(rows: int, day: str) -> str:
    return f"{rows:,} rows" if day == ALL else f"{rows:,} rows of {day}"


def _of_part(use_case: Table, part: pd.DataFrame, of_all: str) -> pd.DataFrame:
    """What derive gives for these rows, with the row numbers that they have among all rows.

    Raises ConfigError if it fails on them.
    """
    try:
        return derived(use_case, part.reset_index(drop=True)).set_axis(part.index)
    except UnusablePartition as error:
        why = str(error).removeprefix(f"derive of {use_case.name} ").partition(" (")[0]
        seen = f"it takes {of_all} together, but of {len(part):,} of them it {why}"
        raise ConfigError(_rule(use_case), seen, NEXT_STEP) from None


def _rule(use_case: Table) -> str:
    return f"derive of {use_case.name} must compute each row from that row alone"


def _refuse_differing(
    use_case: Table, rows: pd.DataFrame, whole: pd.DataFrame, parts: list[pd.DataFrame], day: str
) -> None:
    """Raises ConfigError if a compared column has other values in the parts than in the whole."""
    for name in _compared(use_case):
        differing = _differing(use_case, name, whole, parts)
        if differing:
            how = "derived alone" if sum(map(len, parts)) == 1 else "derived without the others or in another order"
            seen = f"{differing:,} of {_words_of(len(rows), day)} gets another {name} when {how}"
            raise ConfigError(_rule(use_case), _of_chance(use_case, rows, name) or seen, NEXT_STEP)


def _compared(use_case: Reading) -> list[str]:
    """The columns that scoring needs."""
    names = [column.name for column in use_case.features]
    return list(dict.fromkeys([*names, *(name for table in use_case.side_tables for name in table.on)]))


def _of_chance(use_case: Table, rows: pd.DataFrame, name: str) -> str | None:
    """What to say if derive gives the same rows other values when it runs again; None if it does not."""
    first, second = derived(use_case, rows), derived(use_case, rows)
    if not _differing(use_case, name, first, [second]):
        return None
    return f"{name} is another one each time that derive runs on the same rows, as a random number is"


def _differing(use_case: Reading, name: str, whole: pd.DataFrame, parts: list[pd.DataFrame]) -> int:
    """How many rows of the parts have other values than in the whole. The index says which rows are the same."""
    if any((name in whole) != (name in part) for part in parts):
        return sum(map(len, parts))
    if name not in whole:
        return 0
    in_parts = pd.concat([part[name] for part in parts])
    in_whole = whole[name].loc[in_parts.index]
    if in_whole.equals(in_parts):
        return 0
    left, right = _typed(use_case, in_whole), _typed(use_case, in_parts)
    if left is None or right is None:  # a type that is wrong in the whole is refused when the partition is read
        return 0 if left is None else len(in_parts)
    left_null, right_null = left.isna().to_numpy(bool), right.isna().to_numpy(bool)
    return int(((left_null != right_null) | (_is_other(use_case, whole[name], left, right) & ~left_null)).sum())


def _typed(use_case: Reading, series: pd.Series) -> pd.Series | None:
    """The column as a night reads it; None if it is not of its declared type."""
    column = next((declared for declared in use_case.columns if declared.name == series.name), None)
    try:
        return series if column is None else typed(column, series, use_case.time_zone)
    except WrongType:
        return None


def _is_other(use_case: Reading, whole: pd.Series, left: pd.Series, right: pd.Series) -> NDArray[np.bool_]:
    """(rows,) bool: whether the values differ; it means something only where neither is null."""
    if left.dtype == right.dtype == "float64":
        numbers, others = left.to_numpy(), right.to_numpy()
        with np.errstate(invalid="ignore"):  # the difference of two infinities
            near = np.abs(numbers - others) <= _rounding(use_case, whole, numbers)
        return (numbers != others) & ~near
    if left.dtype != right.dtype:
        left, right = left.astype("object"), right.astype("object")
    return (left.reset_index(drop=True) != right.reset_index(drop=True)).to_numpy(bool, na_value=True)


def _rounding(use_case: Reading, whole: pd.Series, numbers: NDArray[np.float64]) -> Any:
    """(rows,) how far apart two floats may lie and still count as equal.

    It grows with the column's usual size too, because a small difference of two large numbers is rounded as they are.
    """
    integers = {column.name for column in use_case.columns if column.type == "integer"}
    if whole.name in integers or whole.dtype.kind in "iub":
        return 0.0
    finite = np.abs(numbers[np.isfinite(numbers)])
    usual = float(finite.mean()) if len(finite) else 0.0
    share = ROUNDING_OF_SHORT if whole.dtype in ("float32", "float16") else ROUNDING
    return share * (np.abs(numbers) + usual)
