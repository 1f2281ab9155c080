"""Statistics of days and their exact sums, and the constants and codes that they fit."""

import dataclasses
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.data.cleaning import LABEL, clean, from_arrow, to_arrow
from ml.data.statistics import DayStatistics, Moments, Statistics
from ml.errors import DataRejected
from ml.models.encoding import fit_encoder
from ml.serving import features
from ml.serving.columns import Column, conform
from ml.serving.features import (
    MISSING,
    ROWS_FOR_THREADS,
    UNKNOWN,
    CategoryFeature,
    Encoder,
    NumberFeature,
    category_counts,
    distinct_texts,
    on_all_cores,
)
from ml.storage.json_form import from_json, to_json
from tests.tiny import FIRST_DAY, cleaned, parcel_rows, parcels, sales, tills

numbers = st.floats(-1e100, 1e100, allow_subnormal=True) | st.sampled_from([np.nan, 0.1, 1e9, 1e9 + 1e-6, -0.0])
texts = st.sampled_from(["north", "south", "007", None])
rows_of_a_day = st.lists(st.tuples(numbers, texts, st.integers(0, 1)), max_size=8)


def whole_of(values: list[float]) -> tuple[Fraction, Fraction]:
    """Mean and sum of squared deviations, exactly."""
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    return mean, sum(((value - mean) ** 2 for value in exact), Fraction(0))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.lists(numbers, max_size=8), min_size=1, max_size=6))
def test_merged_moments_are_those_of_all_values(days: list[list[float]]) -> None:
    """To 1e-12 of what is exact, however badly conditioned the values are."""
    merged = sum((Moments.of(np.array(day, np.float64)) for day in days), Moments())
    present = [value for day in days for value in day if not np.isnan(value)]
    assert (merged.count, merged.missing) == (len(present), sum(map(len, days)) - len(present))
    if present:
        mean, deviations = whole_of(present)
        size = float(sum(abs(Fraction(value)) for value in present) / len(present))
        assert merged.mean == pytest.approx(float(mean), rel=1e-12, abs=1e-15 * size)
        assert merged.deviations == pytest.approx(float(deviations), rel=1e-12, abs=1e-29 * size**2)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(numbers, max_size=8))
def test_a_day_without_values_changes_nothing_but_the_count_of_missing_ones(day: list[float]) -> None:
    moments = Moments.of(np.array(day, np.float64))
    assert moments + Moments() == moments == Moments() + moments
    more = moments + Moments.of(np.array([np.nan, np.nan]))
    assert more == dataclasses.replace(moments, missing=moments.missing + 2)


def test_numbers_whose_squares_leave_float64_are_refused() -> None:
    with pytest.raises(DataRejected, match="within 1e150"):
        Moments.of(np.array([1e200, 0.0]))


def frame_of(rows: list[tuple[float, str | None, int]]) -> pd.DataFrame:
    amount, shop, label = zip(*rows, strict=True) if rows else ((), (), ())
    at = pd.to_datetime(["2024-01-01"] * len(rows)) + pd.to_timedelta(range(len(rows)), unit="h")
    columns = {
        "amount": np.array(amount, np.float64),
        "items": np.array(amount, np.float64)[::-1],
        "shop": pd.Series(shop, dtype="str"),
        "at": at.astype("datetime64[us]"),
        LABEL: np.array(label, np.float64),
    }
    return pd.DataFrame(columns)


def exact_parts(state: DayStatistics) -> tuple[Any, ...]:
    moments = {name: (m.count, m.missing) for name, m in state.statistics.moments.items()}
    return state.statistics.rows, state.statistics.labels, state.statistics.texts, state.extremes, moments


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rows_of_a_day, rows_of_a_day)
def test_two_days_merged_are_one_day_of_both(a: list[Any], b: list[Any]) -> None:
    """Counts, classes, extremes and categories exactly, moments to 1e-12."""
    use_case = tills()
    first, second = (frame_of(rows) for rows in (a, b))
    together = DayStatistics.of(use_case, pd.concat([first, second], ignore_index=True))
    merged = DayStatistics.of(use_case, first).merge(DayStatistics.of(use_case, second))
    assert exact_parts(merged) == exact_parts(together)
    for name, moments in merged.statistics.moments.items():
        direct = together.statistics.moments[name]
        size = max(abs(direct.mean), direct.std)
        assert moments.mean == pytest.approx(direct.mean, rel=1e-12, abs=1e-15 * size)
        assert moments.deviations == pytest.approx(direct.deviations, rel=1e-12, abs=1e-29 * size**2)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(rows_of_a_day, min_size=2, max_size=5))
def test_a_day_that_comes_or_goes_gives_the_bits_of_a_sum_from_scratch(days: list[list[Any]]) -> None:
    states = [Statistics.of(tills(), frame_of(rows)) for rows in days]
    whole = sum(states, Statistics.none(tills()))
    assert whole - states[0] == sum(states[1:], Statistics.none(tills()))
    assert sum(reversed(states), Statistics.none(tills())) == whole
    assert from_json(Statistics, to_json(whole)) == whole


def test_extremes_are_those_of_finite_values() -> None:
    rows = frame_of([(3.0, "north", 1), (np.inf, "north", 1), (-np.inf, None, 0), (np.nan, None, 0), (-2.0, "x", 1)])
    assert DayStatistics.of(tills(), rows).extremes["amount"] == (-2.0, 3.0)
    assert DayStatistics.of(tills(), rows.iloc[1:4]).extremes == {}


def days() -> list[pd.DataFrame]:
    return [cleaned(tills(), sales(FIRST_DAY + pd.Timedelta(days=n), rows=20 + n)) for n in range(12)]


def test_the_sum_of_days_equals_direct_statistics() -> None:
    frames = days()
    window = pd.concat(frames)
    encoder = fit_encoder(tills(), sum((Statistics.of(tills(), f) for f in frames), Statistics.none(tills())))
    for feature in encoder.numbers:
        direct = window[feature.column].dropna()
        assert feature.mean == pytest.approx(direct.mean(), rel=1e-12)
        assert feature.std == pytest.approx(direct.std(ddof=0), rel=1e-12)
    known = {(feature.column, feature.part): feature.values for feature in encoder.categories}
    assert known == {
        ("shop", None): tuple(sorted(window["shop"].unique())),
        ("at", "hour"): tuple(sorted(str(hour) for hour in window["at"].dt.hour.unique())),
    }


@pytest.mark.parametrize("value", [0.1, 0.7, -3.3, 1e9 + 0.1, 0.0])
def test_a_constant_column_keeps_its_scale_however_its_days_are_cut(value: float) -> None:
    """Rounding leaves a trace of spread that would blow up every later deviation."""
    merged = sum((Moments.of(np.array([value] * n)) for n in (1, 3, 7, 11, 13, 101)), Moments())
    assert merged.std == 1.0


def test_a_small_spread_around_a_large_mean_stays_a_spread() -> None:
    assert Moments.of(np.array([1e6 + 0.001, 1e6 - 0.001])).std == pytest.approx(0.001, rel=1e-3)


def test_rare_values_are_unknown() -> None:
    use_case = parcels(rare_below=3)
    rows = cleaned(use_case, parcel_rows(9).assign(carrier=["ant"] * 3 + ["bee"] * 2 + ["cat"] * 3 + [None]))
    (carrier, _) = fit_encoder(use_case, Statistics.of(use_case, rows)).categories
    assert carrier.values == ("ant", "cat")
    codes = carrier.transform(pd.DataFrame({"carrier": ["cat", "ant", "bee", "dog", None]}))
    assert codes.tolist() == [3, 2, UNKNOWN, UNKNOWN, MISSING]


def test_rarity_is_counted_over_the_whole_window() -> None:
    use_case = parcels(rare_below=5)
    halves = [cleaned(use_case, parcel_rows(2, seed).assign(carrier="ant")) for seed in (0, 1)]
    states = [Statistics.of(use_case, half) for half in halves]
    for times, values in ((1, ()), (2, ("ant",))):
        (carrier, _) = fit_encoder(use_case, sum(states * times, Statistics.none(use_case))).categories
        assert carrier.values == values


TEXTS = [
    ("a text", pd.Series(["b", None, "a"]), None, ["b", None, "a"]),
    ("a whole number", pd.Series([2.0, np.nan, 10.0]), None, ["2", None, "10"]),
    ("long numbers stay apart", pd.Series([1234567.0, 1234568.0, 2.0**53]), None, ["1234567", "1234568", str(2**53)]),
    ("zero has one sign", pd.Series([-0.0, 0.0]), None, ["0", "0"]),
    ("a fraction", pd.Series([0.1, 2.5]), None, ["0.1", "2.5"]),
    ("an hour", pd.Series(pd.to_datetime(["2024-01-01 23:59", None])), "hour", ["23", None]),
    ("a weekday", pd.Series(pd.to_datetime(["2024-01-01", "2024-01-07"])), "weekday", ["0", "6"]),
    ("a month", pd.Series(pd.to_datetime(["2024-12-31"])), "month", ["12"]),
]


@pytest.mark.parametrize(("series", "part", "texts"), [case[1:] for case in TEXTS], ids=[case[0] for case in TEXTS])
def test_a_category_is_counted_under_its_text(series: pd.Series, part: str | None, texts: list[str | None]) -> None:
    for same in (series, series.astype("category") if series.dtype == "str" else series):
        positions, found = distinct_texts(same, part)
        assert [found[position] if position >= 0 else None for position in positions] == texts
    assert category_counts(series, part) == {text: texts.count(text) for text in texts if text is not None}


def test_a_number_is_scaled_clipped_imputed_and_marked() -> None:
    feature = NumberFeature(column="x", mean=10.0, std=2.0, clip=3.0, indicator=True)
    frame = pd.DataFrame({"x": [10.0, 12.0, np.nan, 1e9, -np.inf]})
    scaled, missing = Encoder((feature,), ()).transform(frame).T
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


def test_many_rows_are_done_side_by_side_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = cleaned(tills(), sales(FIRST_DAY, rows=1000))

    def done() -> tuple[Statistics, bytes]:
        statistics = Statistics.of(tills(), rows)
        return statistics, fit_encoder(tills(), statistics).transform(rows).tobytes()

    alone = done()
    monkeypatch.setattr(features, "ROWS_IN_CACHE", 64)
    monkeypatch.setattr(features, "ROWS_FOR_THREADS", 64)
    assert done() == alone


def test_what_is_made_on_all_cores_keeps_its_order() -> None:
    here = threading.get_ident()
    few = on_all_cores(lambda item: (item, threading.get_ident()), range(9), ROWS_FOR_THREADS - 1)
    many = on_all_cores(lambda item: (item, threading.get_ident()), range(9), ROWS_FOR_THREADS)
    assert [item for item, _ in many] == [item for item, _ in few] == list(range(9))
    assert {thread for _, thread in few} == {here}
    assert here not in {thread for _, thread in many}


def test_only_features_are_encoded() -> None:
    use_case = tills()
    encoder = fit_encoder(use_case, Statistics.of(use_case, days()[0]))
    assert {feature.column for feature in (*encoder.numbers, *encoder.categories)} == {"amount", "items", "at", "shop"}
    assert [feature.indicator for feature in encoder.numbers] == [False, True]
    assert all(feature.clip == use_case.outlier_std for feature in encoder.numbers)


def test_a_number_declared_as_category_has_no_moments() -> None:
    columns = (Column(name="zone", type="integer", category=True), *(c for c in parcels().columns if not c.feature))
    use_case = parcels(columns=columns)
    encoder = fit_encoder(use_case, Statistics.of(use_case, cleaned(use_case, parcel_rows(50))))
    assert encoder.numbers == ()
    assert encoder.categories[0].values == ("1", "2", "3")


def test_stored_columns_are_encoded_as_raw_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is fitted on blocks and asked with raw rows: texts in categories and narrow numbers give equal bits."""
    use_case = parcels()
    rows = clean(use_case, conform(parcel_rows(), use_case.columns))
    encoder = fit_encoder(use_case, Statistics.of(use_case, rows))
    stored = from_arrow(to_arrow(rows))
    assert encoder.transform(stored).tobytes() == encoder.transform(rows).tobytes()
    assert Statistics.of(use_case, stored) == Statistics.of(use_case, rows)
    whole = encoder.transform(rows)
    monkeypatch.setattr("ml.serving.features.ROWS_IN_CACHE", 7)
    assert encoder.transform(rows).tobytes() == whole.tobytes()
