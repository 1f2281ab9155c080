"""The sums of single days give the scores of their rows together, exactly as the rows themselves do."""

import numpy as np
import pytest

from ml.metrics.day_sums import DaySums, day_sums, matrix, of_rows
from ml.metrics.intervals import make_pair
from ml.metrics.scores import AREAS, METRICS, Answers, Floats
from ml.serving.output import TaskKind

CLASSES: dict[TaskKind, int] = {"binary": 2, "multiclass": 3, "regression": 0}


def some_answers(kind: TaskKind, rows: int = 90) -> tuple[Floats, Answers]:
    generator, classes = np.random.default_rng(3), CLASSES[kind]
    if kind == "regression":
        y = 1e6 + generator.normal(0, 5, rows)
        return y, Answers(y + generator.normal(0, 2, rows))
    y = generator.integers(0, classes, rows).astype(float)
    probability = generator.dirichlet(np.ones(classes), rows)
    return y, Answers(probability.argmax(axis=1).astype(float), probability)


def in_days(kind: TaskKind, y: Floats, answers: Answers, levels: tuple[float, ...]) -> list[DaySums]:
    """The sums of as many days as there are levels."""
    places = np.array_split(np.arange(len(y)), len(levels))
    return [
        day_sums(kind, CLASSES[kind], y[rows], of_rows(answers, rows), level)
        for rows, level in zip(places, levels, strict=True)
    ]


KINDS_AND_METRICS = [(kind, name) for kind in CLASSES for name in METRICS[kind] if name not in AREAS]


@pytest.mark.parametrize(("kind", "name"), KINDS_AND_METRICS)
def test_days_together_have_the_score_of_their_rows(kind: TaskKind, name: str) -> None:
    y, answers = some_answers(kind)
    days = in_days(kind, y, answers, (1e6, 1e6 + 3, 1e6 - 40))  # levels of versions that learnt other means
    pair = make_pair(kind, CLASSES[kind], y, answers, answers, None, METRICS[kind])
    expected = pair.metric(name, "candidate", pair.totals())
    assert days[0].metric(name, matrix(days).sum(axis=0, keepdims=True)) == pytest.approx(expected, rel=1e-9)
    assert sum(day.rows for day in days) == len(y)


@pytest.mark.parametrize("name", AREAS)
def test_an_area_of_several_days_is_the_mean_of_those_that_have_one(name: str) -> None:
    y, answers = some_answers("binary")
    y[:30] = 0.0  # the first day lacks a class
    days = in_days("binary", y, answers, (0.0, 0.0, 0.0))
    areas = days[0].metric(name, matrix(days))
    assert np.isnan(areas[0])
    assert days[0].metric(name, matrix(days).sum(axis=0, keepdims=True))[0] == pytest.approx(areas[1:].mean())


def test_answers_without_probabilities_measure_no_score_of_them() -> None:
    y, answers = some_answers("binary")
    sums = day_sums("binary", 2, y, Answers(answers.chosen), 0.0)
    assert sums.measures("f1")
    assert not sums.measures("log_loss")
