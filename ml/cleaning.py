"""A partition's cleaned block: accepted, labelled rows with declared columns and types, and the label.

What needs the statistics of a window (imputation, outliers, scaling, categories) is fitted in `ml.features` and applied
inside the model.
"""

import io

import numpy as np
import pandas as pd

from ml.config import UseCase

LABEL = "label__"
DAY = "day__"


def clean(use_case: UseCase, rows: pd.DataFrame, set_aside: pd.Series) -> pd.DataFrame:
    """Rows that are not set aside (row numbers) and have a label, with that label as float64 in `label__`."""
    accepted = rows.drop(index=set_aside)
    labels = use_case.target.labels(accepted[use_case.target.column])
    labelled = accepted.drop(columns=use_case.target.column).assign(**{LABEL: labels})
    return labelled[np.isfinite(labels)].reset_index(drop=True)


def to_parquet(frame: pd.DataFrame) -> bytes:
    return frame.to_parquet(index=False)


def from_parquet(data: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(data))
