"""What a use case says about its data."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.declared_sources import DatabaseSource, FileSource, Source
from ml.digests import digest_value
from ml.serving.output import TaskKind
from ml.use_case.definition import _fields

ROW = "row__"  # the column by which `derive` tells rows apart


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is predicted, by constants that no window changes.

    Binary: the second of `classes` holds where the column is over `above`, or equals `positive`. Multiclass: the column
    holds a class name. Regression: the column's value in `unit`; `log=True` learns its logarithm.
    """

    column: str
    kind: TaskKind = "binary"
    above: float | None = None
    positive: str | None = None
    classes: tuple[str, ...] = ()
    log: bool = False
    unit: str = ""

    def labels(self, series: pd.Series) -> NDArray[np.float64]:
        """(rows,) float64: class index or value; NaN where the row has no label."""
        if self.kind == "regression":
            return series.to_numpy(np.float64)
        if self.kind == "multiclass":
            codes = pd.Index(self.classes).get_indexer(pd.Index(series.astype("object"))).astype(np.float64)
            return np.where(codes < 0, np.nan, codes)
        holds = series > self.above if self.above is not None else series == self.positive
        return np.where(series.isna(), np.nan, holds.astype(np.float64))

    @property
    def digest(self) -> str:
        return digest_value(_fields(self))


@dataclass(frozen=True, kw_only=True)
class SideTable:
    """A table joined to the rows on `on`, `take` being added to them; a dated one is joined day by day."""

    name: str
    source: Source | FileSource | DatabaseSource
    on: tuple[str, ...]
    take: tuple[str, ...]
