"""Permutation importance of the columns that a model is given."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml.data.cleaning import DAY, LABEL
from ml.evaluation import explanation
from ml.evaluation.explanation import SHUFFLES, Explanation, Size, alike_columns, explain, sizes
from ml.metrics.scores import Answers
from ml.serving.columns import Column
from ml.serving.output import TaskKind
from tests.tiny import KINDS, parcels, tills

DIGEST = "0123456789abcdef" * 4


def rows_of(count: int = 300, seed: int = 0) -> pd.DataFrame:
    """Parcels whose label follows from the weight, and a little from the distance."""
    generator = np.random.default_rng(seed)
    weight, distance = generator.uniform(0, 30, count), generator.uniform(0, 900, count)
    return pd.DataFrame(
        {
            "parcel": np.arange(count, dtype=np.float64),
            "weight": weight,
            "distance": distance,
            "carrier": pd.Series(generator.choice(["post", "bike"], count), dtype="str"),
            "zone": generator.integers(0, 4, count).astype(np.float64),
            LABEL: (weight + distance / 300 + generator.normal(0, 1, count) > 16).astype(np.float64),
            DAY: "2024-01-01",
        }
    )


def answers_of(kind: TaskKind) -> Any:
    """A model that looks at the weight, and a little at the distance."""

    def answer(rows: pd.DataFrame) -> Answers:
        sum_of = rows["weight"].to_numpy() + rows["distance"].to_numpy() / 300
        if kind == "regression":
            return Answers(sum_of)
        second = 1 / (1 + np.exp(16 - sum_of))
        shares = np.column_stack([1 - second, second, *([np.zeros(len(rows))] if kind == "multiclass" else [])])
        return Answers(shares.argmax(axis=1).astype(np.float64), shares)

    return answer


def explained(kind: TaskKind = "binary", rows: pd.DataFrame | None = None, **changes: Any) -> Explanation:
    rows = rows_of() if rows is None else rows
    if kind == "regression":
        rows = rows.assign(**{LABEL: rows["weight"] + rows["distance"] / 300 + rows[LABEL] - 0.5})
    if kind == "multiclass":  # a class of which there are few rows
        rows = rows.assign(**{LABEL: rows[LABEL].where(rows.index % 10 != 0, 2.0)})
    return explain(parcels(kind, **changes), answers_of(kind), rows, "trees", DIGEST)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_stand_in_the_order_in_which_the_model_needs_them(kind: TaskKind) -> None:
    told = explained(kind)
    assert [one.columns for one in told.singles[:2]] == [("weight",), ("distance",)]
    assert told.metrics == (("rmse",) if kind == "regression" else ("f1", "log_loss"))
    for metric in told.metrics:
        most, least = (
            next(one.costs[metric] for one in told.singles if one.columns == (name,)) for name in ("weight", "zone")
        )
        assert most.value is not None and most.low is not None and most.high is not None
        assert 0 < most.low < most.value < most.high
        assert least.value == pytest.approx(0, abs=1e-12)
    assert (told.rows, told.test_rows, told.unit, told.units, told.unmeasured) == (300, 300, "row", 300, 0)


def test_the_same_rows_give_the_same_figures_and_other_rows_are_shuffled_otherwise() -> None:
    assert explained() == explained()
    other = explain(parcels(), answers_of("binary"), rows_of(), "trees", "f" * 64)
    assert other != explained() and other.singles[0].columns == ("weight",)


def test_the_interval_counts_days_and_groups_once_however_often_their_rows_are_shuffled() -> None:
    def answer(rows: pd.DataFrame) -> Answers:
        late = rows["amount"].to_numpy() > 20
        return Answers(late.astype(np.float64), np.column_stack([1 - 0.8 * late - 0.1, 0.8 * late + 0.1]))

    amount = np.random.default_rng(1).uniform(0, 40, 400)
    rows = pd.DataFrame({"at": pd.Timestamp("2024-01-01"), "amount": amount, "items": 1.0, "shop": "north"})
    rows = rows.assign(
        **{LABEL: (amount > 20).astype(np.float64), DAY: [f"2024-01-{1 + n % 20:02}" for n in range(400)]}
    )
    of_days = explain(tills(), answer, rows, "trees", DIGEST)
    assert (of_days.unit, of_days.units, of_days.singles[0].columns) == ("day", 20, ("amount",))
    groups = rows_of().assign(zone=lambda frame: frame.index % 30 * 1.0)
    assert (explained(rows=groups, group="zone").unit, explained(rows=groups, group="zone").units) == ("zone", 30)


@pytest.mark.parametrize(
    ("answer", "rows", "reason"),
    [
        (lambda rows: Answers(np.zeros(len(rows)), np.tile([0.9, 0.1], (len(rows), 1))), 300, None),
        (answers_of("binary"), 5, "too few units for an interval"),
    ],
)
def test_what_cannot_be_measured_is_said_and_is_no_number(answer: Any, rows: int, reason: str | None) -> None:
    told = explain(parcels(metric="precision"), answer, rows_of(rows), "trees", DIGEST)
    for one in told.importances:
        cost = one.costs["log_loss"]
        assert cost.reason == reason and (cost.low is None) == (reason is not None)
        assert one.costs["precision"].value is None or np.isfinite(one.costs["precision"].value)


COLUMNS = tuple(Column(name=name) for name in ("celsius", "rain", "kelvin")) + tuple(
    Column(name=name, type="text") for name in ("airport", "city", "plane")
)


def weather(count: int = 400) -> pd.DataFrame:
    generator = np.random.default_rng(3)
    celsius, place = generator.normal(10, 8, count), generator.integers(0, 5, count)
    return pd.DataFrame(
        {
            "celsius": celsius,
            "rain": np.where(generator.random(count) < 0.1, np.nan, generator.gamma(1, 1, count)),
            "kelvin": celsius + 273,
            "airport": pd.Series(np.array(["JFK", "EWR", "LGA", "BOS", "LAX"])[place], dtype="str"),
            "city": pd.Series(np.array(["a", "b", "c", "d", "e"])[place], dtype="str"),
            "plane": pd.Series([f"N{n}" for n in range(count)], dtype="str"),
        }
    )


def test_columns_that_stand_for_each_other_are_found_and_others_are_not() -> None:
    assert alike_columns(COLUMNS, weather()) == [("celsius", "kelvin"), ("airport", "city")]
    assert alike_columns(COLUMNS, weather(1)) == [] == alike_columns(COLUMNS, weather(0))
    assert alike_columns(COLUMNS, weather().assign(kelvin=np.nan, city=None, celsius=1.0)) == []


def test_columns_that_stand_for_each_other_are_shuffled_together_too() -> None:
    def answer(rows: pd.DataFrame) -> Answers:
        return Answers((rows["weight"].to_numpy() + rows["distance"].to_numpy() / 30) / 2)

    rows = rows_of().assign(distance=lambda frame: 30 * frame["weight"], **{LABEL: lambda frame: frame["weight"]})
    told = explain(parcels("regression"), answer, rows, "trees", DIGEST)
    (both,) = told.groups
    assert both.columns == ("weight", "distance")
    costs = [one.costs["rmse"].value for one in (both, *told.singles)]
    assert costs == [None] * 5  # the model errs nowhere, so no share of its loss is defined
    noisy = rows.assign(**{LABEL: rows[LABEL] + np.random.default_rng(0).normal(0, 1, len(rows))})
    told = explain(parcels("regression"), answer, noisy, "trees", DIGEST)
    (together, alone) = (one.costs["rmse"].value or 0.0 for one in (told.groups[0], told.singles[0]))
    assert together > 1.5 * alone > 0


@pytest.mark.parametrize(
    ("kind", "columns", "rows", "classes", "size"),
    [
        ("trees", 20, 25_000, 2, Size(4_000, 3)),
        ("trees", 100, 25_000, 2, Size(800, 3)),
        ("trees", 20, 100, 0, Size(100, 10)),
        ("embedded", 20, 25_000, 2, Size(1_000, 3)),
        ("kind_of_a_company", 20, 25_000, 2, Size(400, 3)),
        ("trees", 20, 25_000, 26, Size(379, 3)),
        ("ensemble", 0, 10, 3, Size(10, 10)),
    ],
)
def test_the_number_of_rows_follows_from_a_table(kind: str, columns: int, rows: int, classes: int, size: Size) -> None:
    assert sizes(kind, columns, rows, classes) == size
    assert size.shuffles >= SHUFFLES


@pytest.fixture
def few_columns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(explanation, "MOST_COLUMNS", 2)
    yield


@pytest.mark.usefixtures("few_columns")
@pytest.mark.parametrize("kind", KINDS)
def test_of_a_wide_table_the_columns_are_measured_that_go_with_the_answers(kind: TaskKind) -> None:
    told = explained(kind)
    assert "weight" in {one.columns[0] for one in told.singles}
    assert (len(told.singles), told.unmeasured) == (2, 2)


def test_a_missing_value_is_shuffled_like_any_other() -> None:
    rows = rows_of()
    rows.loc[::3, "distance"] = np.nan

    def answer(frame: pd.DataFrame) -> Answers:
        assert int(frame["distance"].isna().sum()) in {100, 1_000}  # before it is shuffled, and ten times after
        return answers_of("binary")(frame.fillna({"distance": 0.0}))

    assert explain(parcels(), answer, rows, "trees", DIGEST).singles[0].columns == ("weight",)
    assert replace(explained(), reason="x").reason == "x"
