"""Statistics as a fold of day states, and the constants and codes that they fit."""

from functools import reduce

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.features import DayState, Moments, fit_encoder
from ml.serving.columns import Column
from ml.serving.features import MISSING, UNKNOWN, CategoryFeature, Encoder, NumberFeature, category_texts
from tests.tiny import FIRST_DAY, cleaned, parcel_rows, parcels, sales, tills

numbers = st.floats(-1e6, 1e6) | st.just(np.nan)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.lists(numbers, max_size=8), min_size=1, max_size=6))
def test_merged_moments_are_those_of_all_values(days: list[list[float]]) -> None:
    merged = reduce(Moments.merge, (Moments.of(pd.Series(day, dtype="float64")) for day in days))
    whole = np.array([value for day in days for value in day], np.float64)
    present = whole[~np.isnan(whole)]
    assert (merged.count, merged.missing) == (len(present), len(whole) - len(present))
    if len(present):
        assert merged.mean == pytest.approx(present.mean(), rel=1e-9, abs=1e-6)
        assert merged.squares == pytest.approx(np.square(present - present.mean()).sum(), rel=1e-6, abs=1e-3)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(numbers, max_size=8))
def test_a_day_without_values_changes_nothing_but_the_count_of_missing_ones(day: list[float]) -> None:
    moments = Moments.of(pd.Series(day, dtype="float64"))
    empty = Moments.of(pd.Series([np.nan, np.nan]))
    assert moments.merge(Moments()) == moments == Moments().merge(moments)
    assert moments.merge(empty) == Moments(moments.count, moments.mean, moments.squares, moments.missing + 2)


def days() -> list[pd.DataFrame]:
    return [cleaned(tills(), sales(FIRST_DAY + pd.Timedelta(days=n), rows=20 + n)) for n in range(12)]


def test_the_fold_of_day_states_equals_direct_statistics() -> None:
    frames = days()
    window = pd.concat(frames)
    encoder = fit_encoder(tills(), [DayState.of(tills(), frame) for frame in frames])
    for feature in encoder.numbers:
        direct = window[feature.column].dropna()
        assert feature.mean == pytest.approx(direct.mean(), rel=1e-12)
        assert feature.std == pytest.approx(direct.std(ddof=0), rel=1e-12)
    known = {(feature.column, feature.part): feature.values for feature in encoder.categories}
    assert known == {
        ("shop", None): tuple(sorted(window["shop"].unique())),
        ("at", "hour"): tuple(sorted(str(hour) for hour in window["at"].dt.hour.unique())),
    }


def test_an_incremental_fold_and_one_from_scratch_agree_bit_for_bit() -> None:
    states = [DayState.of(tills(), frame) for frame in days()]
    up_to_yesterday = reduce(DayState.merge, states[:-1])
    assert fit_encoder(tills(), [up_to_yesterday, states[-1]]) == fit_encoder(tills(), states)
    again = [DayState.of(tills(), frame) for frame in days()]
    assert fit_encoder(tills(), iter(again)) == fit_encoder(tills(), states)


@pytest.mark.parametrize("value", [0.1, 0.7, -3.3, 1e9 + 0.1, 0.0])
def test_a_constant_column_keeps_its_scale_however_its_days_are_cut(value: float) -> None:
    """Rounding leaves a trace of spread that would blow up every later deviation."""
    merged = reduce(Moments.merge, (Moments.of(pd.Series([value] * n)) for n in (1, 3, 7, 11, 13, 101)))
    assert merged.std == 1.0


def test_a_small_spread_around_a_large_mean_stays_a_spread() -> None:
    assert Moments.of(pd.Series([1e6 + 0.001, 1e6 - 0.001])).std == pytest.approx(0.001, rel=1e-3)


def test_rare_values_are_unknown() -> None:
    use_case = parcels(rare_below=3)
    rows = cleaned(use_case, parcel_rows(9).assign(carrier=["ant"] * 3 + ["bee"] * 2 + ["cat"] * 3 + [None]))
    (carrier, _) = fit_encoder(use_case, [DayState.of(use_case, rows)]).categories
    assert carrier.values == ("ant", "cat")
    codes = carrier.transform(pd.DataFrame({"carrier": ["cat", "ant", "bee", "dog", None]}))
    assert codes.tolist() == [3, 2, UNKNOWN, UNKNOWN, MISSING]


def test_rarity_is_counted_over_the_whole_window() -> None:
    use_case = parcels(rare_below=5)
    halves = [cleaned(use_case, parcel_rows(2, seed).assign(carrier="ant")) for seed in (0, 1)]
    (carrier, _) = fit_encoder(use_case, [DayState.of(use_case, half) for half in halves]).categories
    assert carrier.values == ()
    (carrier, _) = fit_encoder(use_case, [DayState.of(use_case, half) for half in halves * 2]).categories
    assert carrier.values == ("ant",)


TEXTS = [
    ("a text", pd.Series(["b", None, "a"]), None, ["b", None, "a"]),
    ("a whole number", pd.Series([2.0, np.nan, 10.0]), None, ["2", None, "10"]),
    ("long numbers stay apart", pd.Series([1234567.0, 1234568.0, 2.0**53]), None, ["1234567", "1234568", str(2**53)]),
    ("a fraction", pd.Series([0.1, 2.5]), None, ["0.1", "2.5"]),
    ("an hour", pd.Series(pd.to_datetime(["2024-01-01 23:59", None])), "hour", ["23", None]),
    ("a weekday", pd.Series(pd.to_datetime(["2024-01-01", "2024-01-07"])), "weekday", ["0", "6"]),
    ("a month", pd.Series(pd.to_datetime(["2024-12-31"])), "month", ["12"]),
]


@pytest.mark.parametrize(("series", "part", "texts"), [case[1:] for case in TEXTS], ids=[case[0] for case in TEXTS])
def test_a_category_is_counted_under_its_text(series: pd.Series, part: str | None, texts: list[str | None]) -> None:
    assert [None if pd.isna(text) else text for text in category_texts(series, part)] == texts


def test_a_number_is_scaled_clipped_imputed_and_marked() -> None:
    feature = NumberFeature(column="x", mean=10.0, std=2.0, clip=3.0, indicator=True)
    scaled, missing = feature.transform(pd.DataFrame({"x": [10.0, 12.0, np.nan, 1e9, -np.inf]}))
    assert scaled.tolist() == [0, 1, 0, 3, -3]
    assert missing.tolist() == [0, 0, 1, 0, 0]
    assert (feature.width, NumberFeature(column="x", mean=0, std=1, clip=3, indicator=False).width) == (2, 1)


def test_numbers_and_their_indicators_come_first_then_codes() -> None:
    encoder = Encoder(
        (NumberFeature(column="x", mean=0, std=1, clip=9, indicator=True),),
        (CategoryFeature(column="c", part=None, values=("a", "b")),),
    )
    encoded = encoder.transform(pd.DataFrame({"c": ["b", "a"], "x": [1.5, np.nan]}))
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[1.5, 0, 3], [0, 1, 2]]
    assert (encoder.number_width, encoder.category_sizes) == (2, (4,))
    assert encoder.transform(pd.DataFrame({"c": [], "x": []})).shape == (0, 3)


def test_only_features_are_encoded() -> None:
    use_case = tills()
    encoder = fit_encoder(use_case, [DayState.of(use_case, days()[0])])
    assert {feature.column for feature in (*encoder.numbers, *encoder.categories)} == {"amount", "items", "at", "shop"}
    assert [feature.indicator for feature in encoder.numbers] == [False, True]
    assert all(feature.clip == use_case.outlier_std for feature in encoder.numbers)


def test_a_number_declared_as_category_has_no_moments() -> None:
    columns = (Column(name="zone", type="integer", category=True), *(c for c in parcels().columns if not c.feature))
    use_case = parcels(columns=columns)
    encoder = fit_encoder(use_case, [DayState.of(use_case, cleaned(use_case, parcel_rows(50)))])
    assert encoder.numbers == ()
    assert encoder.categories[0].values == ("1", "2", "3")


def test_a_window_without_train_rows_has_no_encoder() -> None:
    with pytest.raises(TypeError):
        fit_encoder(tills(), [])
