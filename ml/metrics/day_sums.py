"""The sums of one predictor's answers to the rows of one day, from which its scores on any set of days follow.

An area under a curve is no mean over rows. On several days it is the mean of the days' own areas, weighted by rows; a
day that lacks a class has none and is left out of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.metrics.scores import AREAS, PROBABILITY_SCORES, Answers, Floats, class_metric, value_metric, values_of_rows
from ml.serving.output import TaskKind


@dataclass(frozen=True, kw_only=True)
class DaySums:
    """What is kept of one predictor on one day.

    For K classes, `values` has the K * K numbers of rows by label and answer, and then for each score in `names` its
    sum over rows and the number of these rows. For a regression it has the number of rows, the sums of y - level and
    of its square, of the squared errors and of the absolute ones. `level` is a value near the labels, which keeps the
    squares small.
    """

    kind: TaskKind
    classes: int
    names: tuple[str, ...]
    values: tuple[float, ...]
    level: float = 0.0

    @property
    def rows(self) -> int:
        return int(self.values[0] if self.kind == "regression" else sum(self.values[: self.classes**2]))

    def measures(self, name: str) -> bool:
        """Whether the metric follows from these sums."""
        return name not in PROBABILITY_SCORES or name in self.names

    def metric(self, name: str, totals: Floats) -> Floats:
        """(draws,) the metric on each row of `totals` (draws, m), which are sums of `values`; NaN where undefined."""
        if self.kind == "regression":
            return value_metric(name, totals[:, [0, 1, 2, 3, 3, 4, 4]], 0)
        if name in PROBABILITY_SCORES:
            place = self.classes**2 + 2 * self.names.index(name)
            with np.errstate(divide="ignore", invalid="ignore"):
                return totals[:, place] / totals[:, place + 1]
        cells = totals[:, : self.classes**2].reshape(-1, self.classes, self.classes)
        return class_metric(name, cells, binary=self.kind == "binary")

    def at_level(self, level: float) -> tuple[float, ...]:
        """The values as they would be at another level."""
        if self.kind != "regression" or level == self.level:
            return self.values
        rows, total, squares, *errors = self.values
        shift = self.level - level
        return (rows, total + rows * shift, squares + 2 * shift * total + rows * shift**2, *errors)


def matrix(days: Sequence[DaySums]) -> Floats:
    """(days, m) the sums of each day, at the level of the first. All days have the same kind, classes and names."""
    return np.array([day.at_level(days[0].level) for day in days], np.float64)


def day_sums(kind: TaskKind, classes: int, y: Floats, answers: Answers, level: float) -> DaySums:
    """The sums of the answers to the rows of one day with labels `y` (rows,)."""
    if kind == "regression":
        centred, errors = y - level, y - answers.chosen
        sums = (len(y), centred.sum(), (centred**2).sum(), (errors**2).sum(), np.abs(errors).sum())
        return DaySums(kind=kind, classes=0, names=(), values=tuple(float(value) for value in sums), level=level)
    cells = np.bincount((y * classes + answers.chosen).astype(int), minlength=classes**2)
    names = PROBABILITY_SCORES if answers.probability is not None else ()
    scores = [_sum_and_rows(name, y, answers, binary=kind == "binary") for name in names]
    values = (*cells, *(value for pair in scores for value in pair))
    return DaySums(kind=kind, classes=classes, names=names, values=tuple(float(value) for value in values))


def _sum_and_rows(name: str, y: Floats, answers: Answers, *, binary: bool) -> tuple[float, int]:
    """The sum of a score over the rows, and their number; zeros for an area where a class has no rows."""
    assert answers.probability is not None, name
    if name in AREAS and len(np.unique(y)) < answers.probability.shape[1]:
        return 0.0, 0
    return float(values_of_rows(name, y, answers.probability, binary=binary).sum()), len(y)


def of_rows(answers: Answers, rows: NDArray[np.int_]) -> Answers:
    """The answers to these rows."""
    return Answers(answers.chosen[rows], None if answers.probability is None else answers.probability[rows])
