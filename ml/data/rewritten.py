"""In how many rows each column differs between two cleanings of a day: by other code, or of a day that came anew."""

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

    @property
    def share(self) -> float:
        return self.rows / max(1, self.of)


def cleaned_rows(data: bytes, by: tuple[str, ...] = (ROW_NUMBER,)) -> pd.DataFrame:
    """All cleaned rows of a partition, by their row number, or by a key. Rows with the same key are left out."""
    rows = pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pandas()
    texts = {name: "str" for name in by if isinstance(rows[name].dtype, pd.CategoricalDtype)}
    return (
        rows.astype(texts)
        .drop_duplicates(list(by), keep=False)
        .set_index(list(by))
        .drop(columns=ROW_NUMBER, errors="ignore")
    )


def rewritten_columns(before: pd.DataFrame, after: pd.DataFrame, target: str) -> dict[str, Rewritten]:
    """Every column that both have, by name, with the rows in which it differs, among the rows that both have."""
    rows = before.index.intersection(after.index)
    one, other = before.loc[rows], after.loc[rows]
    return {
        target if name == LABEL else str(name): _difference(one[name], other[name])
        for name in one.columns.intersection(other.columns)
    }


def _difference(one: pd.Series, other: pd.Series) -> Rewritten:
    if pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(other):
        return _of_numbers(one.to_numpy(np.float64), other.to_numpy(np.float64))
    texts = one.astype("object"), other.astype("object")
    same = (texts[0] == texts[1]) | (texts[0].isna() & texts[1].isna())
    return Rewritten(rows=int((~same).sum()), of=len(one))


def _of_numbers(one: NDArray[np.float64], other: NDArray[np.float64]) -> Rewritten:
    differs = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    by = (other - one)[differs & np.isfinite(one) & np.isfinite(other)]
    return Rewritten(rows=int(differs.sum()), of=len(one), by=tuple(by.tolist()))


def together(days: Iterable[dict[str, Rewritten]]) -> dict[str, Rewritten]:
    """The columns that differ on any of these days, those that differ in most rows first."""
    found: dict[str, Rewritten] = {}
    for day in days:
        for name, one in day.items():
            so_far = found.get(name, Rewritten(rows=0, of=0))
            found[name] = Rewritten(rows=so_far.rows + one.rows, of=so_far.of + one.of, by=so_far.by + one.by)
    return {name: one for name, one in sorted(found.items(), key=lambda item: -item[1].rows) if one.rows}
