"""What other code made of the same bytes: in how many rows each column differs between two cleanings of a day."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ml.data.cleaning import LABEL, ROW_NUMBER


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A column that differs in `rows` of `of` rows. `by`: the differences of a number, where both have one."""

    rows: int
    of: int
    by: tuple[float, ...] = ()


def cleaned_rows(data: bytes) -> pd.DataFrame:
    """All cleaned rows of a partition, by their row number."""
    return pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pandas().set_index(ROW_NUMBER)


def rewritten_columns(before: pd.DataFrame, after: pd.DataFrame, target: str) -> dict[str, Rewritten]:
    """The columns that differ, by name, of the rows that both have; a column that only one has differs in all."""
    rows = before.index.intersection(after.index)
    one, other = before.loc[rows], after.loc[rows]
    columns = dict.fromkeys([*one.columns, *other.columns])
    found = {target if name == LABEL else name: _difference(one, other, name) for name in columns}
    return {name: difference for name, difference in found.items() if difference.rows}


def _difference(before: pd.DataFrame, after: pd.DataFrame, name: str) -> Rewritten:
    if name not in before or name not in after:
        return Rewritten(rows=len(before), of=len(before))
    one, other = before[name], after[name]
    if pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(other):
        return _of_numbers(one.to_numpy(np.float64), other.to_numpy(np.float64))
    texts = one.astype("object"), other.astype("object")
    same = (texts[0] == texts[1]) | (texts[0].isna() & texts[1].isna())
    return Rewritten(rows=int((~same).sum()), of=len(before))


def _of_numbers(one: NDArray[np.float64], other: NDArray[np.float64]) -> Rewritten:
    differs = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    by = (other - one)[differs & np.isfinite(one) & np.isfinite(other)]
    return Rewritten(rows=int(differs.sum()), of=len(one), by=tuple(by.tolist()))


def together(days: Iterable[dict[str, Rewritten]], rows: int) -> dict[str, Rewritten]:
    """The differences of several days, which have `rows` rows in all, those that differ most first."""
    found: dict[str, Rewritten] = {}
    for day in days:
        for name, difference in day.items():
            so_far = found.get(name, Rewritten(rows=0, of=rows))
            found[name] = Rewritten(rows=so_far.rows + difference.rows, of=rows, by=so_far.by + difference.by)
    return dict(sorted(found.items(), key=lambda item: -item[1].rows))
