"""Blocks: what is dropped, and the label of what is kept."""

import numpy as np
import pandas as pd
import pytest

from ml.cleaning import LABEL, clean, from_parquet, to_parquet
from ml.config import Target
from ml.serving.columns import conform
from tests.tiny import FIRST_DAY, parcel_rows, parcels, sales, tills

LABELS = [
    ("over a limit", Target(column="y", above=1.0), [0.0, 1.0, 1.5, np.nan], [0, 0, 1, np.nan]),
    ("equal to a text", Target(column="y", positive="b", classes=("a", "b")), ["a", "b", None], [0, 1, np.nan]),
    (
        "one of several",
        Target(column="y", kind="multiclass", classes=("c", "a")),
        ["a", "x", None],
        [1, np.nan, np.nan],
    ),
    ("a value", Target(column="y", kind="regression"), [2.5, np.nan], [2.5, np.nan]),
]


@pytest.mark.parametrize(("target", "values", "labels"), [c[1:] for c in LABELS], ids=[c[0] for c in LABELS])
def test_a_label_follows_the_target_and_is_nan_where_there_is_none(
    target: Target, values: list[float], labels: list[float]
) -> None:
    assert target.labels(pd.Series(values)).tolist() == pytest.approx(labels, nan_ok=True)


def test_rows_set_aside_and_rows_without_a_label_are_left_out() -> None:
    rows = conform(sales(FIRST_DAY), tills().columns)
    block = clean(tills(), rows, pd.Series([1, 2, 15]))
    assert len(block) == len(rows) - 4  # 1, 2, and the unlabelled 0 and 15
    assert "returned_after" not in block
    assert set(block[LABEL]) == {0.0, 1.0}
    kept = rows.drop(index=[0, 1, 2, 15])
    assert block["sale"].tolist() == kept["sale"].tolist()
    assert block[LABEL].tolist() == (kept["returned_after"] > 0).astype(float).tolist()


def test_a_block_comes_back_from_parquet_as_it_was() -> None:
    block = clean(parcels(), conform(parcel_rows(), parcels().columns), pd.Series(dtype="int64"))
    pd.testing.assert_frame_equal(from_parquet(to_parquet(block)), block)
    assert to_parquet(block) == to_parquet(from_parquet(to_parquet(block)))
