"""Metrics against scikit-learn's, what is undefined, and the paired bootstrap against direct resampling."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from ml.metrics.intervals import FEW_DISTINCT, RESAMPLES, Pair, make_pair
from ml.metrics.scores import CLASS_METRICS, METRICS, Answers, class_metric, confusion, probability_scores

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


@pytest.mark.parametrize("days", [40, 200])
def test_the_bootstrap_over_distinct_statistics_is_direct_resampling_of_units(days: int) -> None:
    """Of few distinct units it draws how often each, of many which."""
    pair, cells = by_day(days=days)
    assert (len(pair.counts) > FEW_DISTINCT) == (days == 200)
    generator = np.random.default_rng(0)
    picked = generator.integers(0, len(cells), (RESAMPLES, len(cells)))
    direct = pair.difference("f1", cells[picked].sum(axis=1).astype(float))
    ours = pair.difference("f1", pair.resampled(1))
    assert ours.mean() == pytest.approx(direct.mean(), abs=0.05 * direct.std())
    assert ours.std() == pytest.approx(direct.std(), rel=0.05)
    assert np.percentile(ours, [5, 95]) == pytest.approx(np.percentile(direct, [5, 95]), abs=0.1 * direct.std())


@pytest.mark.parametrize("days", [40, 200])
def test_the_bootstrap_is_the_same_for_the_same_seed_only(days: int) -> None:
    pair, _ = by_day(days=days)
    assert np.array_equal(pair.resampled(5), pair.resampled(5))
    assert not np.array_equal(pair.resampled(5), pair.resampled(6))


@pytest.mark.parametrize("days", [40, 200])
def test_a_resample_has_as_many_rows_as_the_test_set(days: int) -> None:
    pair, cells = by_day(days=days)
    assert (pair.resampled(0).sum(axis=1) == cells.sum()).all()
    assert pair.units == len(cells)


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
