"""Scores of a model on a test set, and the evidence that gates weigh: sufficient statistics a resampling unit.

The paired bootstrap draws units with replacement (Efron and Tibshirani 1993, chapter 13). Units with equal statistics
are counted once, so that ten thousand resamples are one multinomial draw over the distinct ones.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.metrics.scores import LOWER_IS_BETTER, Answers, Floats, class_metric, value_metric
from ml.serving.output import TaskKind

RESAMPLES = 10_000
FEW_DISTINCT = 64
Side = Literal["candidate", "other"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Sufficient statistics of candidate and another predictor on the same rows.

    `statistics` (distinct units, m) with `counts` (distinct units,). For K classes m = K^3: rows by (label, other,
    candidate). For regression m = 7: n, sums of y - y[0] and of its square, squared and absolute errors of other and
    candidate.
    """

    kind: TaskKind
    classes: int
    statistics: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]

    @property
    def units(self) -> int:
        return sum(self.counts)

    def totals(self) -> Floats:
        return np.array(self.counts, np.float64)[None] @ np.array(self.statistics, np.float64)

    def resampled(self, seed: int) -> Floats:
        """(RESAMPLES, m) totals of resampled units."""
        return _resampled(self, seed)

    def metric(self, name: str, side: Side, totals: Floats) -> Floats:
        """(draws,) the metric on each row of `totals`; NaN where it is undefined."""
        if self.kind == "regression":
            return value_metric(name, totals, 0 if side == "other" else 1)
        cells = totals.reshape(-1, self.classes, self.classes, self.classes)
        matrix = cells.sum(axis=3 if side == "other" else 2)
        return class_metric(name, matrix, binary=self.kind == "binary")

    def difference(self, name: str, totals: Floats) -> Floats:
        """(draws,) candidate minus other, larger is better; for errors a fraction of the other's."""
        candidate, other = self.metric(name, "candidate", totals), self.metric(name, "other", totals)
        if name in LOWER_IS_BETTER:
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(other > 0, (other - candidate) / other, np.nan)
        return candidate - other


@functools.lru_cache(maxsize=8)
def _resampled(pair: Pair, seed: int) -> Floats:
    """Draws once for all metrics: of few distinct units how often each, of many which."""
    generator = np.random.default_rng(seed)
    statistics, counts = np.array(pair.statistics, np.float64), np.array(pair.counts)
    if len(counts) <= FEW_DISTINCT:
        return generator.multinomial(pair.units, counts / pair.units, size=RESAMPLES) @ statistics
    each = statistics[np.repeat(np.arange(len(counts)), counts)]
    return np.concatenate([_drawn(generator, each, len(block)) for block in _draw_blocks(pair.units)])


def _drawn(generator: np.random.Generator, each: Floats, draws: int) -> Floats:
    """(draws, m) sums of as many units as there are, drawn with replacement."""
    units = len(each)
    chosen = generator.integers(0, units, size=(draws, units)) + np.arange(draws)[:, None] * units
    times = np.bincount(chosen.ravel(), minlength=draws * units).reshape(draws, units)
    return times @ each


def _draw_blocks(units: int) -> list[NDArray[np.int_]]:
    """All resamples, in blocks that need at most some 80 MB."""
    return np.array_split(np.arange(RESAMPLES), max(1, RESAMPLES * units // 10_000_000))


def make_pair(
    kind: TaskKind, classes: int, y: Floats, candidate: Answers, other: Answers, units: NDArray[np.object_] | None
) -> Pair:
    """Evidence from answers on the same rows; `units` names each row's resampling unit, None makes each row one.

    A row without a unit is a unit of its own. Raises ValueError for an answer that is no number or no class.
    """
    for answers in (candidate, other):
        _refuse_no_answers(classes, y, answers)
    if kind == "regression":
        level = y - y[:1].sum()  # the spread is the same, and that of equal labels is 0 to the last bit
        each = np.column_stack([np.ones_like(y), level, level * level] + _errors(y, other) + _errors(y, candidate))[
            :, [0, 1, 2, 3, 5, 4, 6]
        ]
    else:
        cell = (y * classes + other.chosen) * classes + candidate.chosen
        each = np.eye(classes**3)[cell.astype(int)]
    if units is not None:
        each = pd.DataFrame(each).groupby(_unit_numbers(units)).sum().to_numpy()
    distinct, counts = np.unique(each, axis=0, return_counts=True)
    rows = tuple(tuple(float(value) for value in row) for row in distinct)
    return Pair(kind=kind, classes=classes, statistics=rows, counts=tuple(int(count) for count in counts))


def _unit_numbers(units: NDArray[np.object_]) -> NDArray[np.int_]:
    """(rows,) a number for each unit; pandas itself would leave out the rows that have none."""
    numbers, names = pd.factorize(units)
    alone = numbers < 0
    return np.where(alone, len(names) + np.cumsum(alone), numbers)


def _refuse_no_answers(classes: int, y: Floats, answers: Answers) -> None:
    if len(answers.chosen) != len(y):
        raise ValueError(f"each of {len(y)} rows needs an answer, but there are {len(answers.chosen)}")
    whole = np.isfinite(answers.chosen) if not classes else np.isin(answers.chosen, np.arange(classes))
    if not whole.all():
        raise ValueError(f"an answer is a number or a class, but {int((~whole).sum())} of {len(y)} are none")


def _errors(y: Floats, answers: Answers) -> list[Floats]:
    return [np.square(y - answers.chosen), np.abs(y - answers.chosen)]
