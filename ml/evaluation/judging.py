"""Scores candidate, champion, reference and baselines on the same test rows, as evidence for the gates."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ml.data.cleaning import DAY, LABEL
from ml.data.dataset import Reading, Table
from ml.data.split import units_of
from ml.evaluation.baselines import best_constant, best_rule
from ml.evaluation.gates import Evidence, metric_interval
from ml.evaluation.handles import Interval, ModelScores
from ml.metrics.calibration_curve import calibration_curve
from ml.metrics.intervals import Pair, make_pair
from ml.metrics.scores import METRICS, Answers, confusion, probability_scores
from ml.models.recipe import Recipe

Predict = Callable[[pd.DataFrame], pd.DataFrame]


class Baseline(Protocol):
    """A predictor without a model."""

    @property
    def description(self) -> str:
        """What it answers, in words."""

    def answers(self, rows: pd.DataFrame) -> Answers:
        """Its answers to the rows, in their order."""


@dataclass(frozen=True)
class Judged:
    """The result of one evaluation: every predictor's scores, and the evidence for the gates."""

    models: dict[str, ModelScores]
    evidence: Evidence


class NoAnswer(ValueError):
    """A model gives no usable answer to a row that today's rules accept."""


def baselines(use_case: Recipe, train: pd.DataFrame) -> dict[str, Baseline]:
    """The best constant and, if there is one, the best one-column rule on train rows (label and numeric features)."""
    constant: dict[str, Baseline] = {"constant": best_constant(use_case, train[LABEL].to_numpy(np.float64))}
    rule = best_rule(use_case, train)
    return constant if rule is None else {**constant, "rule": rule}


def model_answers(use_case: Reading, predict: Predict, rows: pd.DataFrame) -> Answers:
    """A packaged model's answers to raw rows.

    Raises NoAnswer if it refuses a row, or if its answers are not those of a model for this use case.
    """
    out = predict(rows.drop(columns=[LABEL, DAY]))
    classes, kind = use_case.target.classes, use_case.target.kind
    shares = {"binary": ["probability"], "multiclass": [f"probability_{name}" for name in classes]}.get(kind, [])
    missing_columns = [name for name in ("prediction", *shares, "broken_rule") if name not in out]
    if missing_columns:
        raise NoAnswer(f"its answers have no {', '.join(missing_columns)}")
    if len(out) != len(rows):
        raise NoAnswer(f"it gives {len(out)} answers to {len(rows)} rows")
    refused = int(out["broken_rule"].notna().sum())
    if refused:
        raise NoAnswer(f"it refuses {refused} of {len(out)} test rows by its own rules")
    numbers = out[shares or ["prediction"]].to_numpy(np.float64)
    chosen = pd.Index(classes).get_indexer(pd.Index(out["prediction"])).astype(np.float64)
    unusable = ~np.isfinite(numbers).all(axis=1) | ((chosen < 0) if classes else False)
    if unusable.any():
        count = int(unusable.sum())
        raise NoAnswer(f"what it says to {count} of {len(out)} test rows is no number or no declared class")
    if kind == "regression":
        return Answers(numbers[:, 0])
    return Answers(chosen, np.column_stack([1 - numbers[:, 0], numbers[:, 0]]) if kind == "binary" else numbers)


def answer_table(test: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """The label, the answer and the probabilities of each test row. Plots are drawn from this table."""
    table = pd.DataFrame({"label": test[LABEL].to_numpy(np.float64), "answer": answers.chosen})
    probability = answers.probability if answers.probability is not None else np.empty((len(test), 0))
    return table.assign(**{f"probability_{i}": column for i, column in enumerate(probability.T)})


def answers_of(table: pd.DataFrame) -> Answers:
    """The answers that `answer_table` made a table of."""
    probability = table[[name for name in table.columns if name.startswith("probability_")]].to_numpy(np.float64)
    return Answers(table["answer"].to_numpy(np.float64), probability if probability.size else None)


def judge_all(
    use_case: Table,
    test: pd.DataFrame,
    answers: dict[str, Answers],
    descriptions: Mapping[str, str],
    named: Collection[str] = (),
) -> Judged:
    """Scores every predictor in `answers` on the same test rows, and pairs the candidate with each of the others.

    `answers` and `descriptions` are by the predictor's name; "candidate" is one of them. `named` are the metrics that
    the use case and its gates name: scores of probabilities have intervals where they are among them.
    """
    y = test[LABEL].to_numpy(np.float64)
    units, unit = units_of(use_case, test)
    classes = len(use_case.target.classes)
    pairs = {
        who: make_pair(
            use_case.target.kind, classes, y, answers["candidate"], other, units, named, in_order=use_case.dated
        )
        for who, other in answers.items()
    }
    models = {who: _scores(use_case, who, y, answers[who], pairs[who], descriptions[who]) for who in answers}
    others = {who: pair for who, pair in pairs.items() if who != "candidate"}
    return Judged(models, Evidence(unit=unit, pairs=others))


def _scores(use_case: Reading, who: str, y: Any, answers: Answers, pair: Pair, description: str) -> ModelScores:
    """One predictor's scores: what the pair measures with intervals, other scores of its probabilities without."""
    kind = use_case.target.kind
    scores = {name: metric_interval(pair, name, "other") for name in METRICS[kind] if pair.measures(name)}
    points = probability_scores(kind, y, answers.probability)
    undefined = "one class is missing"
    scores |= {
        name: Interval(value=value, reason=undefined if value is None else None)
        for name, value in points.items()
        if name not in scores
    }
    matrix = None if kind == "regression" else confusion(y, answers.chosen, len(use_case.target.classes))
    return ModelScores(
        who=who,
        description=description,
        scores=scores,
        confusion=matrix,
        calibration=calibration_curve(kind, y, answers),
    )
