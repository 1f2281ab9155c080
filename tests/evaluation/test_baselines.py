"""The best constant and the best one-column rule, against brute force."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from ml import Column, UseCase
from ml.data.cleaning import LABEL
from ml.evaluation.baselines import OneColumnRule, best_constant, best_rule
from ml.metrics.scores import PROBABILITY_SCORES
from tests.tiny import parcels

CONSTANTS = [
    ("binary", "f1", [0, 0, 0, 1], 1.0, "always 'late'"),
    ("binary", "accuracy", [0, 0, 0, 1], 0.0, "always 'in time'"),
    ("multiclass", "f1", [0, 1, 1, 2], 1.0, "always 'usual'"),
    ("multiclass", "accuracy", [2, 2, 1, 0], 2.0, "always 'quick'"),
    ("binary", "log_loss", [0, 0, 0, 1], 1.0, "always the classes' shares of the train rows"),
    ("multiclass", "brier", [0, 1, 1, 2], 1.0, "always the classes' shares of the train rows"),
    ("regression", "rmse", [1000, 2000, 6000], 3000.0, "always 3,000 dollars"),
    ("regression", "mae", [1000, 2000, 6000], 2000.0, "always 2,000 dollars"),
]


@pytest.mark.parametrize(("kind", "metric", "labels", "answer", "words"), CONSTANTS)
def test_the_best_constant(kind: str, metric: str, labels: list[float], answer: float, words: str) -> None:
    constant = best_constant(parcels(kind, metric=metric), np.array(labels, float))  # type: ignore[arg-type]
    assert (constant.answer, constant.description) == (answer, words)
    answers = constant.answers(pd.DataFrame({"x": range(5)}))
    assert answers.chosen.tolist() == [answer] * 5
    if kind == "regression":
        assert answers.probability is None
    else:
        shares = np.bincount(np.array(labels, int), minlength=len(constant.shares)) / len(labels)
        assert answers.probability == pytest.approx(np.tile(shares, (5, 1)))


def train_rows(seed: int, kind: str) -> pd.DataFrame:
    """Two numbers with ties and missing values, and a label that follows one of them more or less."""
    generator = np.random.default_rng(seed)
    rows = 60
    numbers = {name: generator.integers(0, 12, rows).astype(float) for name in ("weight", "distance")}
    numbers["distance"][generator.random(rows) < 0.2] = np.nan
    falling = -1 if seed % 2 else 1
    signal = falling * np.nan_to_num(numbers["distance"], nan=-1.0) + generator.normal(0, 3, rows)
    label = signal if kind == "regression" else (signal > np.median(signal)).astype(float)
    return pd.DataFrame({**numbers, "zone": 1.0, LABEL: label})


def every_cut(train: pd.DataFrame) -> list[pd.Series]:
    """The rows above each possible threshold on each number, missing counting as not above."""
    cuts = [(name, cut) for name in ("weight", "distance") for cut in [-1e9, *np.unique(train[name].dropna())]]
    return [train[name] > cut for name, cut in cuts]


def f1(y: np.ndarray, said: np.ndarray) -> float:
    return float(2 * (y * said).sum() / (y.sum() + said.sum()))


@pytest.mark.parametrize("seed", range(6))
def test_no_threshold_has_a_better_f1_on_train(seed: int) -> None:
    train = train_rows(seed, "binary")
    rule = best_rule(parcels(), train)
    assert rule is not None
    y = train[LABEL].to_numpy()
    best = max(f1(y, said.to_numpy()) for above in every_cut(train) for said in (above, ~above))
    assert f1(y, rule.answers(train).chosen) == best


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "log_loss": lambda y, p: -float(metrics.log_loss(y, p)),
    "brier": lambda y, p: -float(metrics.brier_score_loss(y, p)),
    "roc_auc": lambda y, p: float(metrics.roc_auc_score(y, p)),
    "pr_auc": lambda y, p: float(metrics.average_precision_score(y, p)),
}


@pytest.mark.parametrize("metric", PROBABILITY_SCORES)
@pytest.mark.parametrize("seed", range(6))
def test_no_threshold_has_better_probabilities_on_train(metric: str, seed: int) -> None:
    """A side's probability is the share of late rows there, with one more row of each class."""
    train = train_rows(seed, "binary")
    rule = best_rule(parcels(metric=metric), train)
    assert rule is not None
    y = train[LABEL].to_numpy()

    def score(above: np.ndarray) -> float:
        shares = [(y[side].sum() + 1) / (side.sum() + 2) for side in (~above, above)]
        return SCORES[metric](y, np.where(above, shares[1], shares[0]))

    found = rule.answers(train)
    assert found.probability is not None
    seen = SCORES[metric](y, found.probability[:, 1])
    assert seen == pytest.approx(max(score(above.to_numpy()) for above in every_cut(train) if above.any()))
    assert np.array_equal(found.chosen, (found.probability[:, 1] == found.probability[:, 1].max()).astype(float))


def test_a_rule_without_errors_on_train_is_not_certain_elsewhere() -> None:
    """Otherwise one row that it has wrong would cost it an endless log loss."""
    train = pd.DataFrame({"weight": [1.0, 2, 3, 4], "distance": np.nan, LABEL: [0.0, 0, 1, 1]})
    rule = best_rule(parcels(metric="log_loss"), train)
    assert rule is not None
    assert rule.shares == ((0.75, 0.25), (0.25, 0.75))
    assert rule.description == "a probability of 0.750 for 'late' where weight > 2.5, else 0.250 (smoothed shares)"


@pytest.mark.parametrize("seed", range(6))
def test_no_threshold_leaves_less_squared_error_on_train(seed: int) -> None:
    train = train_rows(seed, "regression")
    rule = best_rule(parcels("regression"), train)
    assert rule is not None

    def error(above: pd.Series) -> float:
        return float(train.groupby(above)[LABEL].apply(lambda y: ((y - y.mean()) ** 2).sum()).sum())

    seen = float(((train[LABEL] - rule.answers(train).chosen) ** 2).sum())
    assert seen == pytest.approx(min(error(above) for above in every_cut(train)))


def test_a_rule_is_chosen_on_train_and_answers_other_rows() -> None:
    train = pd.DataFrame({"weight": [1.0, 2, 3, 4], "distance": np.nan, LABEL: [0.0, 0, 1, 1]})
    rule = best_rule(parcels(), train)
    assert rule == OneColumnRule("weight", 2.5, 0.0, 1.0, ((1.0, 0.0), (0.0, 1.0)), "'late' where weight > 2.5")
    answers = rule.answers(pd.DataFrame({"weight": [2.4, 2.5, 2.6, np.nan]}))
    assert answers.chosen.tolist() == [0, 0, 1, 0]
    assert answers.probability is not None
    assert answers.probability.tolist() == [[1, 0], [1, 0], [0, 1], [1, 0]]


def test_missing_values_can_be_the_rule() -> None:
    train = pd.DataFrame({"weight": 1.0, "distance": [np.nan, np.nan, 3.0, 7.0], LABEL: [1.0, 1, 0, 0]})
    rule = best_rule(parcels(), train)
    assert rule is not None
    assert rule.answers(train).chosen.tolist() == [1, 1, 0, 0]
    assert "<=" in rule.description


def without_numbers() -> UseCase:
    features = (Column(name="carrier", type="text"), Column(name="zone", type="integer", category=True))
    hidden = tuple(column for column in parcels().columns if not column.feature)
    return parcels(columns=(*features, *hidden))


@pytest.mark.parametrize("use_case", [parcels("multiclass"), without_numbers()], ids=["three classes", "no number"])
def test_there_is_no_rule_for_more_classes_or_without_a_number(use_case: UseCase) -> None:
    assert best_rule(use_case, train_rows(0, "binary")) is None


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_a_cut_through_a_sensitive_column_is_not_told(kind: str) -> None:
    use_case, train = parcels(kind), train_rows(0, kind)  # type: ignore[arg-type]
    sensitive = tuple(dataclasses.replace(column, sensitive=column.type == "number") for column in use_case.columns)
    open_, hidden = best_rule(use_case, train), best_rule(dataclasses.replace(use_case, columns=sensitive), train)
    assert open_ is not None
    assert hidden is not None
    assert f"{open_.threshold:.6g}" in open_.description
    assert "a threshold that is not shown" in hidden.description
    assert f"{open_.threshold:.6g}" not in hidden.description
    assert dataclasses.replace(hidden, description=open_.description) == open_
