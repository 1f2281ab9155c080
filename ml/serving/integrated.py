"""Integrated gradients (Sundararajan et al. 2017): what kinds of networks share when they tell contributions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(32)
# (share of the way from the mean row to the row, weight in the integral), for each point of the path
PATH = tuple(zip(((_POINTS + 1) / 2).tolist(), (_WEIGHTS / 2).tolist(), strict=True))


def of_columns(inputs: Floats, columns: Sequence[str], whole: Floats, index: pd.Index) -> pd.DataFrame:
    """The contributions of raw columns, which add up to `whole` (rows,), from those of a network's inputs (rows,
    inputs). `columns` names the column that each input is made of."""
    told = pd.DataFrame(inputs, columns=list(columns)).T.groupby(level=0, sort=False).sum().T
    return pd.DataFrame(_with_the_rest(told.to_numpy(), whole), index=index, columns=told.columns)


def _with_the_rest(told: Floats, whole: Floats) -> Floats:
    """The contributions (rows, columns), which then add up to `whole` (rows,).

    What the integral misses is spread over the columns in proportion to what they add.
    """
    sizes = np.abs(told)
    total = sizes.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, sizes / np.where(total > 0, total, 1.0), 1.0 / max(told.shape[1], 1))
    return told + (whole - told.sum(axis=1))[:, None] * shares
