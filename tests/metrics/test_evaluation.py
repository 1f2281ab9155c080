"""Metrics against scikit-learn's, what is undefined, and intervals against leaving out each unit by hand."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from ml.evaluation.gates import Difference, Evidence, metric_interval
from ml.metrics.intervals import Estimate, Pair, half_width, make_pair, spread
from ml.metrics.scores import (
    AREAS,
    CLASS_METRICS,
    METRICS,
    PROBABILITY_SCORES,
    Answers,
    class_metric,
    confusion,
    probability_scores,
    values_of_rows,
)
from ml.storage.json_form import from_json, to_json

Floats = NDArray[np.float64]


def drawn_classes(
    seed: int, classes: int, rows: int = 200, missing: int | None = None
) -> tuple[Floats, Floats, Floats]:
    """Labels and two predictors' answers; neither predictor ever says `missing`."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, classes, rows)
    y[:classes] = np.arange(classes)
    guesses = [np.where(generator.random(rows) < 0.6, y, generator.integers(0, classes, rows)) for _ in range(2)]
    candidate, other = (np.where(guess == missing, (guess + 1) % classes, guess) for guess in guesses)
    return y.astype(float), candidate.astype(float), other.astype(float)


def sklearn_class_metric(name: str, y: Floats, chosen: Floats, classes: int) -> float:
    if name == "accuracy":
        return float(sklearn_metrics.accuracy_score(y, chosen))
    score = getattr(sklearn_metrics, f"{name}_score")
    average: dict[str, Any] = {"average": "binary"} if classes == 2 else {"average": "macro", "labels": range(classes)}
    return float(score(y, chosen, zero_division=0 if name == "f1" else np.nan, **average))


@pytest.mark.parametrize("name", CLASS_METRICS)
@pytest.mark.parametrize(("classes", "missing"), [(2, None), (3, None), (5, None), (4, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_class_metrics_equal_scikit_learns(name: str, classes: int, missing: int | None, seed: int) -> None:
    """Macro over the declared classes, also where no predictor ever says one of them."""
    y, candidate, other = drawn_classes(seed, classes, missing=missing)
    pair = make_pair("binary" if classes == 2 else "multiclass", classes, y, Answers(candidate), Answers(other), None)
    for side, chosen in (("candidate", candidate), ("other", other)):
        seen = pair.metric(name, side, pair.totals())[0]  # type: ignore[arg-type]
        if name == "precision" and missing is not None:
            assert np.isnan(seen)
        else:
            assert seen == pytest.approx(sklearn_class_metric(name, y, chosen, classes), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_value_metrics_equal_scikit_learns(seed: int) -> None:
    generator = np.random.default_rng(seed)
    y = generator.normal(180_000, 80_000, 500)
    candidate, other = (y + generator.normal(0, spread, 500) for spread in (10_000, 30_000))
    days = generator.integers(0, 30, 500).astype(object)
    for units in (None, days):
        pair = make_pair("regression", 0, y, Answers(candidate), Answers(other), units)
        for side, said in (("candidate", candidate), ("other", other)):
            seen = {name: pair.metric(name, side, pair.totals())[0] for name in METRICS["regression"]}  # type: ignore[arg-type]
            expected = {
                "rmse": sklearn_metrics.root_mean_squared_error(y, said),
                "mae": sklearn_metrics.mean_absolute_error(y, said),
                "r2": sklearn_metrics.r2_score(y, said),
            }
            assert seen == pytest.approx(expected, rel=1e-9)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 50), min_size=4, max_size=4))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(cells: list[int]) -> None:
    matrix = np.array(cells, float).reshape(1, 2, 2)
    precision, recall, f1 = (class_metric(name, matrix, binary=True)[0] for name in ("precision", "recall", "f1"))
    if precision > 0 and recall > 0:
        assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    elif cells[2] + cells[3] == 0:
        assert np.isnan(f1)
    else:
        assert f1 == 0


UNDEFINED = [
    ("no positive row", [0, 0, 0], [0, 1, 0], {"f1", "recall"}),
    ("no positive answer", [0, 1, 0], [0, 0, 0], {"precision"}),
    ("neither", [0, 0, 0], [0, 0, 0], {"f1", "recall", "precision"}),
    ("both", [0, 1, 1], [1, 1, 0], set()),
]


@pytest.mark.parametrize(("y", "said", "undefined"), [case[1:] for case in UNDEFINED], ids=[c[0] for c in UNDEFINED])
def test_what_is_undefined_is_nan_and_never_a_number(y: list[int], said: list[int], undefined: set[str]) -> None:
    labels, answers = np.array(y, float), Answers(np.array(said, float))
    pair = make_pair("binary", 2, labels, answers, answers, None)
    seen = {name for name in CLASS_METRICS if np.isnan(pair.metric(name, "candidate", pair.totals())[0])}
    assert seen == undefined


def test_a_class_without_rows_leaves_macro_scores_undefined() -> None:
    y, said = np.array([0.0, 1, 1]), Answers(np.array([0.0, 1, 2]))
    pair = make_pair("multiclass", 3, y, said, said, None)
    assert {name for name in CLASS_METRICS if np.isnan(pair.metric(name, "other", pair.totals())[0])} == {
        "f1",
        "recall",
    }


@pytest.mark.parametrize("rows", [5, 3_000])
@pytest.mark.parametrize("label", [0.0, 3.0, 0.1, -1e-9, 1e9 / 7])
def test_r2_of_a_constant_label_is_undefined(label: float, rows: int) -> None:
    """Whatever the last bits of its sums are."""
    y, said = np.full(rows, label), Answers(label + np.arange(float(rows)))
    pair = make_pair("regression", 0, y, said, said, None)
    assert np.isnan(pair.metric("r2", "candidate", pair.totals())[0])
    nearly = make_pair("regression", 0, y + 1e-6 * (abs(label) + 1) * (np.arange(rows) % 2), said, said, None)
    assert np.isfinite(nearly.metric("r2", "candidate", nearly.totals())[0])


def drawn_probabilities(seed: int, classes: int, rows: int = 300) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(seed)
    y = generator.integers(0, classes, rows).astype(float)
    logits = generator.normal(0, 1, (rows, classes)) + 1.5 * np.eye(classes)[y.astype(int)]
    return y, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_probability_scores_equal_scikit_learns(seed: int) -> None:
    y, p = drawn_probabilities(seed, 2)
    assert probability_scores("binary", y, p) == pytest.approx(
        {
            "roc_auc": sklearn_metrics.roc_auc_score(y, p[:, 1]),
            "pr_auc": sklearn_metrics.average_precision_score(y, p[:, 1]),
            "log_loss": sklearn_metrics.log_loss(y, p),
            "brier": sklearn_metrics.brier_score_loss(y, p[:, 1]),
        }
    )
    y, p = drawn_probabilities(seed, 4)
    assert probability_scores("multiclass", y, p) == pytest.approx(
        {
            "roc_auc": sklearn_metrics.roc_auc_score(y, p, multi_class="ovr", average="macro"),
            "pr_auc": sklearn_metrics.average_precision_score(np.eye(4)[y.astype(int)], p, average="macro"),
            "log_loss": sklearn_metrics.log_loss(y, p),
            "brier": sklearn_metrics.brier_score_loss(y, p),
        }
    )


def test_areas_are_undefined_where_a_class_is_missing() -> None:
    y, p = np.zeros(5), np.full((5, 2), 0.5)
    scores = probability_scores("binary", y, p)
    assert scores["roc_auc"] is None
    assert scores["pr_auc"] is None
    assert scores["log_loss"] == pytest.approx(np.log(2))
    assert probability_scores("regression", y, None) == {}


def by_day(seed: int = 3, days: int = 40, rows: int = 12) -> tuple[Pair, NDArray[np.int_]]:
    """Two predictors over days of rows, with the 8 cells of each day."""
    y, candidate, other = drawn_classes(seed, 2, days * rows)
    names = np.repeat(np.arange(days), rows).astype(object)
    cells = np.zeros((days, 8), int)
    np.add.at(cells, (names.astype(int), (4 * y + 2 * other + candidate).astype(int)), 1)
    return make_pair("binary", 2, y, Answers(candidate), Answers(other), names), cells


def test_as_many_units_are_counted_as_there_are() -> None:
    pair, cells = by_day()
    assert pair.units == len(cells)
    assert pair.totals().sum() == cells.sum()


@pytest.mark.parametrize("units", ["row", "group", "day"])
@pytest.mark.parametrize("classes", [2, 3])
def test_an_interval_follows_from_leaving_out_each_unit(units: str, classes: int) -> None:
    """The scores without each unit are those of the other rows alone, as scikit-learn computes them."""
    rows = 100 if units == "row" else 300
    y, candidate, other = drawn_classes(3, classes, rows)
    names = {
        "row": np.arange(rows), "group": np.random.default_rng(0).integers(0, 30, rows), "day": np.arange(rows) // 10
    }  # fmt: skip
    of_rows = names[units]
    kind: Any = "binary" if classes == 2 else "multiclass"
    grouped = None if units == "row" else of_rows.astype(object)
    pair = make_pair(kind, classes, y, Answers(candidate), Answers(other), grouped, in_order=units == "day")
    count = len(np.unique(of_rows))
    for name in CLASS_METRICS:
        without = [
            sklearn_class_metric(name, y[of_rows != unit], candidate[of_rows != unit], classes)
            - sklearn_class_metric(name, y[of_rows != unit], other[of_rows != unit], classes)
            for unit in np.unique(of_rows)
        ]
        found = Estimate.of(pair, name, "candidate", "other")
        error, independent = spread((count - 1) * (found.value - np.array(without)), in_order=units == "day")
        assert found.error == pytest.approx(error)
        assert found.independent == pytest.approx(independent)
        assert (found.low, found.high) == pytest.approx(
            (found.value - half_width(error, independent), found.value + half_width(error, independent))
        )
        assert (found.independent < count) == (units == "day")


@pytest.mark.parametrize("name", ["f1", "accuracy", "recall"])
def test_without_order_the_error_is_that_of_resampled_days(name: str) -> None:
    pair, cells = by_day()
    times = np.random.default_rng(0).multinomial(len(cells), np.full(len(cells), 1 / len(cells)), 4000)
    resampled = pair.difference(name, (times @ cells).astype(float))
    assert Estimate.of(pair, name, "candidate", "other").error == pytest.approx(resampled.std(), rel=0.1)


def process(autocorrelation: float, tests: int, days: int) -> Floats:
    """(tests, days) days of mean 0, each of which resembles the one before."""
    values = np.random.default_rng(5).normal(size=(tests, days))
    for day in range(1, days):
        values[:, day] = autocorrelation * values[:, day - 1] + np.sqrt(1 - autocorrelation**2) * values[:, day]
    return values


@pytest.mark.parametrize(("autocorrelation", "equal"), [(-0.6, 2000), (0.0, 2000), (0.3, 1077), (0.6, 500)])
def test_days_that_resemble_each_other_equal_fewer(autocorrelation: float, equal: float) -> None:
    """Of r, n (1 - r) / (1 + r). Days that alternate are no more than independent ones."""
    _, independent = spread(process(autocorrelation, 20, 2000), in_order=True)
    assert independent.mean() == pytest.approx(equal, rel=0.05)
    assert independent.max() <= 2000


@pytest.mark.parametrize("days", [20, 28, 56])
@pytest.mark.parametrize(("autocorrelation", "most"), [(0.0, 0.05), (0.1, 0.056), (0.6, 0.13)])
def test_an_interval_errs_as_rarely_as_the_page_says(days: int, autocorrelation: float, most: float) -> None:
    """Of 4,000 tests; independent days' t errs in 22 per cent of those of autocorrelation 0.6."""
    values = process(autocorrelation, 4000, days)
    ours, plain = (
        float((values.mean(axis=1) - half_width(*spread(values, in_order=in_order)) > 0).mean())
        for in_order in (True, False)
    )
    assert ours < most + 0.006
    assert ours < plain
    assert autocorrelation < 0.6 or plain > 0.18


@pytest.mark.parametrize(("kind", "metric"), [("binary", "f1"), ("regression", "rmse"), ("regression", "r2")])
def test_one_row_has_a_value_at_most_and_no_interval(kind: Any, metric: str) -> None:
    y = np.ones(1)
    pair = make_pair(kind, 2 if kind == "binary" else 0, y, Answers(y), Answers(y), None)
    found = Estimate.of(pair, metric, "candidate")
    assert np.isnan([found.low, found.high, found.error, found.independent]).all()
    assert np.isfinite(found.value) == (metric != "r2")


def test_equal_units_are_counted_once() -> None:
    y, said = np.tile([0.0, 1.0], 500), Answers(np.tile([0.0, 1.0], 500))
    pair = make_pair("binary", 2, y, said, said, None)
    assert sorted(pair.counts) == [500, 500]


def test_evidence_does_not_depend_on_the_order_of_rows() -> None:
    y, candidate, other = drawn_classes(1, 3)
    order = np.random.default_rng(0).permutation(len(y))
    units = np.array([f"d{i % 7}" for i in range(len(y))], object)
    shuffled = make_pair("multiclass", 3, y[order], Answers(candidate[order]), Answers(other[order]), units[order])
    assert make_pair("multiclass", 3, y, Answers(candidate), Answers(other), units) == shuffled


def test_a_difference_in_errors_is_a_fraction_of_the_others_error() -> None:
    y = np.arange(10.0)
    pair = make_pair("regression", 0, y, Answers(y + 1), Answers(y + 4), None)
    assert pair.difference("mae", pair.totals())[0] == pytest.approx(0.75)
    assert pair.difference("r2", pair.totals())[0] > 0
    exact = make_pair("regression", 0, y, Answers(y + 1), Answers(y), None)
    assert np.isnan(exact.difference("rmse", exact.totals())[0])


def test_the_confusion_matrix_equals_scikit_learns() -> None:
    y, candidate, _ = drawn_classes(0, 4, missing=1)
    expected = sklearn_metrics.confusion_matrix(y, candidate, labels=range(4))
    assert np.array_equal(np.array(confusion(y, candidate, 4)), expected)


def answered(probability: Floats) -> Answers:
    return Answers(probability.argmax(axis=1).astype(float), probability)


def sklearn_scores(y: Floats, p: Floats, weight: Floats | None = None) -> dict[str, float]:
    """scikit-learn's scores of the probabilities of two classes."""
    return {
        "roc_auc": float(sklearn_metrics.roc_auc_score(y, p[:, 1], sample_weight=weight)),
        "pr_auc": float(sklearn_metrics.average_precision_score(y, p[:, 1], sample_weight=weight)),
        "log_loss": float(sklearn_metrics.log_loss(y, p, sample_weight=weight)),
        "brier": float(sklearn_metrics.brier_score_loss(y, p[:, 1], sample_weight=weight)),
    }


def with_ties(p: Floats) -> Floats:
    """The probabilities of two classes in steps of a twentieth, none of them 0 or 1."""
    second = np.clip(np.round(p[:, 1], 2) // 0.05 * 0.05, 0.05, 0.95)
    return np.column_stack([1 - second, second])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("unit", ["row", "day"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_of_probabilities_follow_from_sums_per_unit(classes: int, unit: str, seed: int) -> None:
    """They equal those that are computed from all rows at once, which equal scikit-learn's."""
    y, candidate = drawn_probabilities(seed, classes)
    other = drawn_probabilities(seed + 50, classes)[1]
    candidate = with_ties(candidate) if classes == 2 else candidate
    units = np.arange(300).astype(object) // 11 if unit == "day" else None
    kind: Any = "binary" if classes == 2 else "multiclass"
    pair = make_pair(kind, classes, y, answered(candidate), answered(other), units, PROBABILITY_SCORES)
    for side, p in (("candidate", candidate), ("other", other)):
        seen = {name: pair.metric(name, side, pair.totals())[0] for name in PROBABILITY_SCORES}  # type: ignore[arg-type]
        assert seen == pytest.approx(probability_scores(kind, y, p), rel=1e-12)
        assert classes > 2 or seen == pytest.approx(sklearn_scores(y, p), rel=1e-12)


@pytest.mark.parametrize("name", PROBABILITY_SCORES)
@pytest.mark.parametrize("ties", [False, True])
def test_the_value_of_a_row_is_how_the_score_changes_with_the_rows_weight(name: str, ties: bool) -> None:
    """Scikit-learn's weighted scores give the derivative."""
    y, p = drawn_probabilities(4, 2, rows=80)
    p = with_ties(p) if ties else p
    values, step = values_of_rows(name, y, p, binary=True), 1e-5
    for row in range(0, 80, 7):
        more, less = (sklearn_scores(y, p, 1 + sign * step * np.eye(80)[row])[name] for sign in (1, -1))
        derivative = (more - less) / (2 * step)
        assert values[row] == pytest.approx(values.mean() + 80 * derivative, abs=1e-5)


@pytest.mark.parametrize("name", AREAS)
def test_the_area_of_a_perfect_model_is_exactly_one(name: str) -> None:
    """So it reaches a floor of 1, and does not miss it by the last bit of a sum."""
    y = np.array([0.0, 0, 1, 0, 1, 1, 0] * 7)
    p = np.column_stack([0.9 - 0.7 * y, 0.1 + 0.7 * y])
    pair = make_pair("binary", 2, y, answered(p), answered(1 - p), np.arange(49).astype(object) // 2, [name])
    assert pair.metric(name, "candidate", pair.totals())[0] == 1
    assert metric_interval(pair, name, "candidate").high == 1


@pytest.mark.parametrize("classes", [2, 3])
def test_an_area_is_undefined_without_a_class_and_a_loss_is_not(classes: int) -> None:
    y, p = drawn_probabilities(0, classes)
    y[y == 1] = 0
    kind: Any = "binary" if classes == 2 else "multiclass"
    pair = make_pair(kind, classes, y, answered(p), answered(p), None, PROBABILITY_SCORES)
    undefined = {name for name in PROBABILITY_SCORES if np.isnan(pair.metric(name, "other", pair.totals())[0])}
    assert undefined == set(AREAS)
    assert from_json(Pair, to_json(pair)) == pair


def two_models(generator: np.random.Generator, days: int, rows: int) -> tuple[Floats, Answers, Answers, Any]:
    """Days that differ: a third of the rows is of the second class, and the candidate knows a little more."""
    day = np.repeat(np.arange(days), rows)
    shift, fault = generator.normal(0, 0.4, days)[day], generator.normal(0, 0.3, days)[day]
    x = generator.normal(0, 1, days * rows)
    y = (generator.random(days * rows) < 1 / (1 + np.exp(0.9 - 1.5 * x - shift))).astype(float)
    logits = (1.5 * x - 0.9 + fault, 1.2 * x - 0.9 + generator.normal(0, 0.6, days * rows))
    ours, theirs = (np.column_stack([1 - p, p]) for p in (1 / (1 + np.exp(-logit)) for logit in logits))
    return y, answered(ours), answered(theirs), day.astype(object)


@pytest.mark.parametrize("name", AREAS)
def test_the_error_of_an_area_is_near_that_of_leaving_out_each_day(name: str) -> None:
    """To first order: within a tenth."""
    y, candidate, other, day = two_models(np.random.default_rng(1), days=28, rows=30)
    pair = make_pair("binary", 2, y, candidate, other, day, [name])
    score = {"roc_auc": sklearn_metrics.roc_auc_score, "pr_auc": sklearn_metrics.average_precision_score}[name]
    sides = [answers.probability[:, 1] for answers in (candidate, other) if answers.probability is not None]
    ours, theirs = ([score(y[day != one], side[day != one]) for one in range(28)] for side in sides)
    error, _ = spread(27 * (np.array(ours) - np.array(theirs)), in_order=False)
    assert Estimate.of(pair, name, "candidate", "other").error == pytest.approx(error, rel=0.1)


@pytest.mark.slow
def test_intervals_of_differences_hold_the_truth_about_nine_times_in_ten() -> None:
    """Where days are independent. The truth is measured on 4,000 days."""
    generator, times = np.random.default_rng(8), 300
    large = make_pair("binary", 2, *two_models(generator, 4000, 60), PROBABILITY_SCORES)
    truth = {name: large.difference(name, large.totals())[0] for name in PROBABILITY_SCORES}
    held = dict.fromkeys(PROBABILITY_SCORES, 0)
    for _ in range(times):
        pair = make_pair("binary", 2, *two_models(generator, 28, 60), PROBABILITY_SCORES, in_order=True)
        for name in PROBABILITY_SCORES:
            found = Difference.of(pair, name)
            held[name] += found.low <= truth[name] <= found.high
    assert {name: 0.87 <= count / times <= 0.96 for name, count in held.items()} == dict.fromkeys(held, True), held


def test_naming_a_score_moves_no_interval_of_another_metric() -> None:
    y, candidate, other, day = two_models(np.random.default_rng(2), days=30, rows=20)
    plain, scored = (
        make_pair("binary", 2, y, candidate, other, day, named, in_order=True)
        for named in ((), ("f1", "log_loss", "brier"))
    )
    for name in CLASS_METRICS:
        assert Difference.of(scored, name) == Difference.of(plain, name)
    assert scored.scores is not None
    assert scored.scores.names == ("log_loss", "brier")
    assert {name for name in METRICS["binary"] if not scored.measures(name)} == set(AREAS)
    with pytest.raises(ValueError, match="roc_auc is measured where it fits the target and the use case or a gate"):
        scored.metric("roc_auc", "candidate", scored.totals())


def test_the_interval_of_a_score_ends_where_the_score_does() -> None:
    """Of 28 days with a single error."""
    y, days = np.tile([0.0, 1.0], 280), np.arange(560) // 20
    said = np.where(np.arange(560) == 3, 1 - y, y)
    pair = make_pair("binary", 2, y, Answers(said), Answers(said), days.astype(object), in_order=True)
    assert metric_interval(pair, "f1", "candidate").high == 1
    values = make_pair("regression", 0, y, Answers(said), Answers(said), days.astype(object), in_order=True)
    assert metric_interval(values, "mae", "candidate").low == 0


def test_evidence_of_before_is_read_and_written_as_it_was() -> None:
    """Pairs had neither scores of probabilities nor an order; without them the bytes are the same still."""
    stored = b'{"classes":2,"counts":[3,1],"kind":"binary","statistics":[[0.0,1.0],[2.0,0.5]]}'
    pair = from_json(Pair, stored)
    assert (pair.scores, pair.order, pair.units) == (None, (), 4)
    assert to_json(pair) == stored
    y, candidate, other, day = two_models(np.random.default_rng(3), days=30, rows=10)
    assert not {b"scores", b"order"} & {*re.findall(rb"\w+", to_json(make_pair("binary", 2, y, candidate, other, day)))}
    drawn = b'{"not_applicable":{},"not_comparable":{},"pairs":{"constant":' + stored + b'},"seed":7,"unit":"day"}'
    assert from_json(Evidence, drawn) == Evidence(unit="day", pairs={"constant": pair})


def test_evidence_of_scores_is_small_and_read_back_to_the_last_bit() -> None:
    y, candidate, other, day = two_models(np.random.default_rng(3), days=28, rows=100)
    pair = make_pair("binary", 2, y, candidate, other, day, PROBABILITY_SCORES, in_order=True)
    assert from_json(Pair, to_json(pair)) == pair
    assert len(to_json(pair)) < 10_000


def test_there_are_no_sums_of_scores_where_a_side_has_no_probabilities() -> None:
    y, candidate, other, day = two_models(np.random.default_rng(3), days=28, rows=10)
    pair = make_pair("binary", 2, y, candidate, Answers(other.chosen), day, PROBABILITY_SCORES)
    assert pair.scores is None
    assert not pair.measures("log_loss")
