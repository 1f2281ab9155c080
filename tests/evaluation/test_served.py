"""What judged days promise, what served days make of it, and when the twin of a refit is surely better."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.evaluation.day_scores import DayScore, as_first_judged, as_they_are, losses_when_first_judged, read_days
from ml.evaluation.promise import FEWEST_DAYS, Band, Promise, promise_of
from ml.evaluation.served import (
    ServedDay,
    curve_of,
    score_of_newest,
    side_of,
    summary,
    why_twin_is_better,
)
from ml.evaluation.take_over import MIN_DAYS, why_surely_worse
from ml.metrics.day_sums import DaySums, day_sums
from ml.metrics.scores import Answers
from ml.storage import paths
from ml.storage.kept import seal
from ml.storage.records import Refit
from ml.storage.store import open_store
from tests.storage.test_ledger import entry, version

JUDGED = ("run", "model")


def a_day(seed: int, right: float = 0.8, rows: int = 50) -> DaySums:
    """A day on which the answers are right with this probability, of two classes."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, rows).astype(float)
    chosen = np.where(generator.random(rows) < right, y, 1 - y)
    positive = np.where(chosen == 1, right, 1 - right).clip(0.01, 0.99)
    return day_sums("binary", 2, y, Answers(chosen, np.column_stack([1 - positive, positive])), 0.0)


def days_from(first: int, count: int, right: float = 0.8) -> dict[str, DaySums]:
    names = np.datetime64("2024-01-01") + np.arange(first, first + count)
    return {str(day): a_day(place + first, right) for place, day in enumerate(names)}


def promise(metric: str = "accuracy", count: int = 28) -> Promise:
    judged = days_from(0, count)
    return promise_of(metric, judged, days_from(0, count, right=0.5))


def results(days: dict[str, DaySums], **changes: Any) -> dict[str, DayScore]:
    fields: dict[str, Any] = {"version": 3, "judged": JUDGED, "at": "2024-05-01", **changes}
    return {day: DayScore(day=day, served=sums, **fields) for day, sums in days.items()}


def test_a_promise_says_where_days_and_their_score_together_are_expected() -> None:
    made = promise()
    day, all_of_them, one = made.one_day(), made.several_days(28), made.several_days(1)
    assert day and all_of_them and one and made.value and made.error
    assert day.low < made.value < day.high
    assert one.low < all_of_them.low < made.value < all_of_them.high < one.high, "more days say more"
    assert made.error == pytest.approx(np.sqrt(0.8 * 0.2 / 50 / 28), rel=0.3)
    assert len(made.days) == 28
    assert all(0 < (judged.relative or 0) < 1 for judged in made.days.values()), "better than a coin"


@pytest.mark.slow
def test_nine_of_ten_days_lie_where_one_day_was_promised_to_lie() -> None:
    inside = [
        side_of(day.metric("accuracy", np.array([day.values]))[0], promise().one_day(), "accuracy") is None
        for day in days_from(1000, 400).values()
    ]
    assert 0.85 < np.mean(inside) < 0.96


@pytest.mark.parametrize("count", [1, FEWEST_DAYS - 1])
def test_too_few_judged_days_promise_nothing(count: int) -> None:
    made = promise(count=count)
    assert (made.one_day(), made.several_days(5), made.error) == (None, None, None)
    assert made.value is not None


@pytest.mark.parametrize(("metric", "highest"), [("accuracy", 1.0), ("f1", 1.0), ("log_loss", np.inf)])
def test_a_promise_stays_within_what_the_metric_can_be(metric: str, highest: float) -> None:
    wide = Promise(metric=metric, value=0.9, error=5.0, independent=9.0, mean=0.9, spread=5.0, days=promise().days)
    band = wide.several_days(1)
    assert band and 0 <= band.low < band.high <= highest


@pytest.mark.parametrize(
    ("score", "metric", "side"),
    [
        (0.5, "f1", None), (0.3, "f1", "worse"), (0.7, "f1", "better"), (0.3, "log_loss", "better"),
        (0.7, "rmse", "worse"), (None, "f1", None),
    ],
)  # fmt: skip
def test_on_which_side_of_its_promise_a_score_lies(score: float | None, metric: str, side: str | None) -> None:
    assert side_of(score, Band(low=0.4, high=0.6), metric) == side


def told(days: dict[str, DayScore], window: int = 28) -> tuple[tuple[ServedDay, ...], Any]:
    curve = curve_of(days, "accuracy", {JUDGED: promise()}, window)
    return curve, score_of_newest(days, curve, "accuracy")


def test_a_model_that_keeps_its_promise_is_inside() -> None:
    curve, score = told(results(days_from(28, 40)))
    assert (score.days, score.left, score.left_side, score.versions) == (28, None, None, 1)
    assert (score.first_day, score.last_day, score.rows) == ("2024-02-10", "2024-03-08", 28 * 50)
    assert [point.days for point in curve] == [*range(1, 28), *[28] * 13]


@pytest.mark.parametrize(("right", "side"), [(0.6, "worse"), (0.97, "better")])
def test_it_is_said_since_when_the_score_is_outside(right: float, side: str) -> None:
    _, score = told(results(days_from(28, 30) | days_from(58, 30, right)))
    assert score.left_side == side
    assert "2024-02-28" < score.left < "2024-03-20", score.left
    assert score.outside > 5 or side == "better"


def test_a_score_that_is_inside_again_is_not_outside_any_more() -> None:
    _, score = told(results(days_from(28, 20) | days_from(48, 8, 0.4) | days_from(56, 30)))
    assert score.left is None


def test_a_version_without_a_promise_is_scored_and_promised_nothing() -> None:
    _, score = told(results(days_from(28, 5), judged=("another", "one")))
    assert (score.promised, score.one_day, score.left, score.outside) == (None, None, None, 0)
    assert score.score is not None


def test_several_versions_have_one_curve() -> None:
    _, score = told(results(days_from(28, 5)) | results(days_from(33, 5), version=4))
    assert (score.version, score.versions, score.days) == (4, 2, 10)
    assert score.promised is not None


def test_a_day_that_was_answered_anew_keeps_its_first_result(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (day, first), (_, second) = days_from(28, 1).items().__iter__().__next__(), ("", a_day(999))
    made = [*results({day: second}, at="2024-05-02").values(), *results({day: first}, at="2024-05-01").values()]
    for key, result in zip("ab", made, strict=True):
        store.put(paths.served_day("tills", day, key), seal(result))
    store.put(paths.served_day("tills", "2024-03-01", "c"), b"damaged")
    read = read_days(store, "tills")
    assert [result.at for result in read.values()] == ["2024-05-01", "2024-05-02"]
    assert as_they_are(read.values())[day].served == second
    assert as_first_judged(read.values())[day].served == first


def test_an_excluded_day_counts_no_more() -> None:
    days = results(days_from(28, 5))
    gone = list(days)[2]
    served = summary(days.values(), [entry(1, excluded={gone: "a sensor"})], "accuracy", 28)
    assert served.score is not None
    assert (served.score.days, gone in {point.day for point in served.curve}) == (4, False)


def pairs(count: int, refit: float, twin: float) -> tuple[list[DaySums], list[DaySums]]:
    return list(days_from(28, count, refit).values()), list(days_from(28, count, twin).values())


@pytest.mark.parametrize(
    ("count", "refit", "twin", "sure"),
    [
        (MIN_DAYS, 0.6, 0.8, True), (MIN_DAYS - 1, 0.6, 0.8, False), (60, 0.8, 0.8, False), (60, 0.85, 0.8, False),
        (60, 0.7, 0.8, True),
    ],
)  # fmt: skip
def test_a_refit_that_is_surely_worse_than_its_twin(count: int, refit: float, twin: float, sure: bool) -> None:
    why = why_surely_worse("accuracy", *pairs(count, refit, twin))
    assert (why is not None) == sure, why
    if sure:
        assert why and why.startswith("its accuracy differs by -")


def test_a_refit_that_is_better_in_the_other_of_two_measures_stays() -> None:
    """Its answers are as good, and its probabilities are far too sure."""
    refit, twin = pairs(60, 0.8, 0.8)
    place = 4 + 2 * refit[0].names.index("log_loss")

    def times(day: DaySums, factor: float) -> DaySums:
        values = list(day.values)
        values[place] *= factor
        return replace(day, values=tuple(values))

    assert why_surely_worse("accuracy", [times(day, 1.5) for day in refit], twin) is not None, (
        "worse in one, equal in one"
    )
    better = [replace(day, values=(day.values[0] + 1, day.values[1] - 1, *day.values[2:])) for day in refit]
    assert why_surely_worse("accuracy", [times(day, 1.5) for day in better], twin) is None


def test_only_days_of_the_champions_own_refit_count() -> None:
    refit = Refit(version=9, run_id="r", fit_until="2024-01-20", folder="f", files=(), key="k")
    pair = replace(version(1), refit=refit)
    worse, twin = pairs(40, 0.6, 0.8)
    names = list(days_from(28, 40))
    days = [
        DayScore(day=day, version=9, judged=pair.identity, at="1", served=one, twin=other)
        for day, one, other in zip(names, worse, twin, strict=True)
    ]
    head = entry(1, champion=pair)
    assert why_twin_is_better(days, head, "accuracy") is not None
    assert why_twin_is_better(days, replace(head, champion=version(1)), "accuracy") is None, "it has no refit"
    assert why_twin_is_better([replace(day, version=7) for day in days], head, "accuracy") is None, "of another refit"
    assert why_twin_is_better([replace(day, twin=None) for day in days], head, "accuracy") is None
    excluded = replace(head, excluded=dict.fromkeys(names[:30], "so"))
    assert why_twin_is_better(days, excluded, "accuracy") is None, "too few days are left"


def test_losses_of_days_are_those_that_were_first_known() -> None:
    """Two days were served, and one of them was answered anew; the days before are those of the judgements."""
    model = version(1)
    judged = replace(promise(), days={day: of_day for day, of_day in promise().days.items() if day > "2024-01-20"})
    night = entry(1, candidate=model, champion=model, result={"promise": asdict(judged)})
    served_days = list(days_from(28, 3))
    first = [
        DayScore(day=day, version=1, judged=model.identity, at="1", served=a_day(1), constant=a_day(2, 0.5))
        for day in served_days
    ]
    again = replace(first[0], at="2", served=a_day(3, 0.1))
    head = entry(2, champion=model, excluded={served_days[2]: "so"})
    losses = losses_when_first_judged([*first, again], [night, head])
    assert list(losses) == [*judged.days, *served_days[:2]]
    assert losses[served_days[0]] == losses[served_days[1]] == (50, pytest.approx(0.7, abs=0.2))
    assert losses["2024-01-21"] == (50, judged.days["2024-01-21"].relative)


def test_losses_that_are_not_known_are_left_out() -> None:
    model = version(1)
    days = results(days_from(28, 3), judged=model.identity)  # no constant is known
    assert losses_when_first_judged(days.values(), [entry(1, candidate=model, champion=model)]) == {}
    assert losses_when_first_judged([], []) == {}
