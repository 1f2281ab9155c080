"""Cleaned rows: what is dropped, and the label of what is kept."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from ml import Target
from ml.data.cleaning import LABEL, ROW_NUMBER, clean, from_arrow, to_arrow, whole_from
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


def block_of(rows: int = 30) -> pd.DataFrame:
    return clean(tills(), conform(sales(FIRST_DAY, rows), tills().columns))


def test_rows_without_a_label_are_left_out_and_the_others_keep_their_numbers() -> None:
    rows, block = conform(sales(FIRST_DAY), tills().columns), block_of()
    assert block[ROW_NUMBER].tolist() == [n for n in range(30) if n not in (0, 15)]
    assert "returned_after" not in block
    kept = rows.drop(index=[0, 15])
    assert block["sale"].tolist() == kept["sale"].tolist()
    assert block[LABEL].tolist() == (kept["returned_after"] > 0).astype(float).tolist()


def test_rows_set_aside_are_left_out_as_they_are_read() -> None:
    read = from_arrow(to_arrow(block_of()), pd.Series([1, 2, 15]))
    expected = block_of().query(f"{ROW_NUMBER} not in (1, 2, 15)")
    assert read["sale"].tolist() == expected["sale"].tolist()
    assert ROW_NUMBER not in read


VALUES = [
    ("whole numbers", [1.0, 2.0**24, -0.0], np.float32),
    ("a half", [0.5, np.nan, np.inf], np.float32),
    ("a tenth", [0.1], np.float64),
    ("one more than float32 can count", [2.0**24 + 1], np.float64),
    ("too large for float32", [1e300], np.float64),
    ("nothing", [np.nan], np.float32),
]


@pytest.mark.parametrize(("values", "stored"), [c[1:] for c in VALUES], ids=[c[0] for c in VALUES])
def test_a_number_is_stored_as_narrow_as_loses_nothing(values: list[float], stored: type) -> None:
    block = pd.DataFrame({"x": np.array(values), ROW_NUMBER: np.arange(len(values))})
    read = from_arrow(to_arrow(block))["x"]
    assert read.dtype == stored
    assert read.to_numpy(np.float64).tobytes() == block["x"].to_numpy().tobytes()


def test_a_block_comes_back_as_it_was_and_twice_gives_the_same_bytes() -> None:
    block = clean(parcels(), conform(parcel_rows(), parcels().columns))
    read = from_arrow(to_arrow(block))
    columns = tuple(column for column in parcels().columns if column.name != "outcome")
    pd.testing.assert_frame_equal(conform(read, columns), block[[column.name for column in columns]])
    assert list(read.columns) == [name for name in block.columns if name != ROW_NUMBER]
    assert to_arrow(block) == to_arrow(block.copy())


def test_the_pieces_that_a_column_lies_in_leave_no_trace() -> None:
    """Rows that were judged in a batch and rows that are read again make the same bytes."""
    whole = block_of()
    pieces = pd.concat([whole.iloc[:9], whole.iloc[9:]], ignore_index=True)
    assert to_arrow(pieces) == to_arrow(whole) == to_arrow(pd.concat([whole, whole]).iloc[: len(whole)])


def test_an_empty_block_is_one() -> None:
    assert len(from_arrow(to_arrow(block_of().iloc[:0]))) == 0


@pytest.mark.parametrize(
    ("known_at", "day"),
    [
        (["2024-01-01 00:00", "2024-01-01 23:59:59.999999"], date(2024, 1, 2)),
        (["2024-01-02 00:00"], date(2024, 1, 3)),
        (["2024-01-01", None], date.max),
        ([], date.min),
    ],
)
def test_a_block_says_from_when_on_all_its_rows_are_known(known_at: list[str], day: date) -> None:
    rows = pd.DataFrame({"at": pd.to_datetime(known_at, format="ISO8601").astype("datetime64[us]")})
    assert whole_from(tills(known_at_column="at"), rows) == day
    assert whole_from(tills(), rows) == date.min
    if rows["at"].notna().all():
        assert (rows["at"] < pd.Timestamp(day)).all()


@pytest.mark.parametrize(
    ("latest", "known"),
    [
        ("2024-02-05T23:59:59", date(2024, 2, 6)),
        ("2262-04-11", date(2262, 4, 12)),
        ("9999-12-30", date(9999, 12, 31)),
        ("9999-12-31", date.max),
        ("9999-12-31T23:59:59.999999", date.max),
        (None, date.max),
    ],
)
def test_a_row_that_is_known_at_the_end_of_all_years_is_not_known_yet(latest: str | None, known: date) -> None:
    times = pd.to_datetime(pd.Series(["2024-01-01", latest]), format="ISO8601")
    assert whole_from(tills(known_at_column="at"), pd.DataFrame({"at": times})) == known
