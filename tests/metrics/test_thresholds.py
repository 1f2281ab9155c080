"""What a threshold can serve besides the metric: a cost, a promise, and a matrix of costs."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, matthews_corrcoef, precision_score, recall_score

from ml import AtLeast, Cost, CostMatrix
from ml.errors import ConfigError
from ml.metrics.thresholds import best_threshold, chosen_threshold
from ml.models.training import choose_output
from ml.serving.output import Output, decided, probabilities, sigmoid
from tests.tiny import parcels


def rows(seed: int = 0, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 1.5, count)
    return (generator.random(count) < sigmoid(logits)).astype(float), sigmoid(logits)


def every_cut(p: np.ndarray) -> list[float]:
    values = np.unique(p)
    return [0.0, *((one + other) / 2 for one, other in pairwise(values)), 1.1]


@pytest.mark.parametrize("name", ["balanced_accuracy", "mcc"])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_threshold_is_better_for_scikit_learns_score(name: str, seed: int) -> None:
    y, p = rows(seed)
    score = {"balanced_accuracy": balanced_accuracy_score, "mcc": matthews_corrcoef}[name]
    best = max(score(y, p >= cut) for cut in every_cut(p))
    assert score(y, p >= best_threshold(name, y, p)) == pytest.approx(best)


@pytest.mark.parametrize("cost", [Cost(false_positive=1, false_negative=5), Cost(false_positive=9, false_negative=1)])
def test_no_other_threshold_costs_less(cost: Cost) -> None:
    y, p = rows()

    def paid(cut: float) -> float:
        wrong, missed = ((p >= cut) & (y == 0)).sum(), ((p < cut) & (y == 1)).sum()
        return float(cost.false_positive * wrong + cost.false_negative * missed)

    chosen = chosen_threshold(cost, y, p)
    assert paid(chosen["threshold"]) == min(map(paid, every_cut(p)))
    assert f"the least cost on 300 validation rows, {paid(chosen['threshold']) / 300:.4g} a row" in chosen["decides"]


def test_errors_that_cost_more_are_made_less_often() -> None:
    y, p = rows()
    lazy, eager = (best_threshold(Cost(false_positive=1, false_negative=costs), y, p) for costs in (0.1, 10))
    assert eager < 0.2 < 0.6 < lazy


def test_where_a_missed_one_costs_nothing_there_is_no_false_alarm() -> None:
    y, p = rows()
    assert not ((p >= best_threshold(Cost(false_positive=1, false_negative=0), y, p)) & (y == 0)).any()


@pytest.mark.parametrize(("aim", "kept", "free"), [("precision", precision_score, recall_score),
                                                   ("recall", recall_score, precision_score)])  # fmt: skip
@pytest.mark.parametrize("least", [0.3, 0.5, 0.6])
def test_a_promise_is_kept_and_the_other_share_is_the_highest(aim: str, kept: Any, free: Any, least: float) -> None:
    y, p = rows()
    chosen = chosen_threshold(AtLeast(**{aim: least}), y, p)
    said = p >= chosen["threshold"]
    able = [p >= cut for cut in every_cut(p)[:-1] if kept(y, p >= cut) >= least]
    assert kept(y, said) >= least
    assert free(y, said) == max(free(y, other) for other in able)
    assert f"with a {aim} of at least {least:g}" in chosen["decides"]


def test_a_promise_that_cannot_be_kept_is_said() -> None:
    y, p = np.array([1.0, 0.0] * 20), np.repeat(np.linspace(0.1, 0.9, 20), 2)
    chosen = chosen_threshold(AtLeast(precision=0.8), y, p)
    says = (
        "no threshold reaches the precision of 0.8 on 40 validation rows that the use case asks for; this one has the"
    )
    assert f"{says} highest, 0.500, with recall 1.000." in chosen["decides"]


def test_a_matrix_of_costs_decides_by_the_expected_cost() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.4, 0.35, 0.25]])
    matrix = CostMatrix(((0, 1, 1), (1, 0, 1), (10, 10, 0)))
    use_case = parcels("multiclass", threshold=matrix, calibration="none")
    output = choose_output(use_case, np.log(p), np.array([0.0, 1.0, 2.0]))
    by_hand = [int(np.argmin([row @ np.array(matrix.costs)[:, answer] for answer in range(3)])) for row in p]
    assert decided(output, probabilities(output, np.log(p))).tolist() == by_hand == [2, 2, 2]
    assert decided(Output(kind="multiclass"), p).tolist() == [0, 2, 0]


def test_the_use_case_says_what_the_threshold_serves() -> None:
    y, p = rows()
    logits = np.log(p / (1 - p))[:, None]
    use_case = parcels(threshold=AtLeast(recall=0.95), calibration="none")
    output = choose_output(use_case, logits, y)
    assert recall_score(y, p >= output.threshold) >= 0.95
    assert output.decides.startswith(f"Threshold {output.threshold:.4g}: the best precision on 300 validation rows")


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("binary", {"threshold": "roc_auc"}, "a threshold serves f1, precision"),
        ("binary", {"threshold": AtLeast()}, "AtLeast takes a precision or a recall"),
        ("binary", {"threshold": AtLeast(precision=0.5, recall=0.5)}, "AtLeast takes a precision or a recall"),
        ("binary", {"threshold": AtLeast(precision=1.5)}, "threshold"),
        ("binary", {"threshold": Cost(false_positive=0, false_negative=0)}, "both of its costs are 0"),
        ("binary", {"threshold": Cost(false_positive=-1, false_negative=1)}, "threshold"),
        ("binary", {"threshold": CostMatrix(((0, 1), (1, 0)))}, "a binary target takes no CostMatrix"),
        ("binary", {"calibration": "sigmoid"}, "calibration"),
        ("multiclass", {"threshold": "f1"}, "a multiclass target has no threshold"),
        (
            "multiclass",
            {"threshold": CostMatrix(((0, 1), (1, 0)))},
            "3 classes, and its costs are not 3 rows",
        ),
        ("multiclass", {"threshold": CostMatrix(((2, 1, 1), (1, 0, 1), (1, 1, 0)))}, "a wrong answer costs less"),
        ("multiclass", {"calibration": "platt"}, "multiclass has auto, none, temperature"),
        ("regression", {"threshold": "f1"}, "a regression target has no threshold"),
        ("regression", {"calibration": "temperature"}, "regression has auto, none"),
    ],
)
def test_what_a_target_does_not_have_is_refused(kind: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parcels(kind, **fields)


def test_only_a_threshold_or_a_calibration_of_its_own_changes_a_use_cases_digest() -> None:
    plain = parcels()
    assert parcels(threshold=None, calibration="auto").training_digest == plain.training_digest
    others = [parcels(threshold=Cost(false_positive=1, false_negative=2)), parcels(calibration="none")]
    assert len({plain.training_digest, *(other.training_digest for other in others)}) == 3
