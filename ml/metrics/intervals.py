"""Pairs of predictors on the same rows, and the resampling that gives intervals of their scores.

A pair keeps, for every resampling unit, the few sums (sufficient statistics) from which all metrics follow. The paired
bootstrap draws units with replacement (Efron and Tibshirani 1993, chapter 13). Units with equal statistics are kept
once, with their count, so that ten thousand resamples can be one multinomial draw.
"""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from ml.metrics.scores import (
    AREAS,
    LOWER_IS_BETTER,
    METRICS,
    PROBABILITY_SCORES,
    Answers,
    Floats,
    class_metric,
    value_metric,
    values_of_rows,
)
from ml.serving.output import TaskKind

RESAMPLES = 10_000
FEW_DISTINCT = 64
Side = Literal["candidate", "other"]


@dataclass(frozen=True, kw_only=True)
class ScoreSums:
    """Sums per resampling unit from which scores of probabilities follow.

    `statistics` is (distinct units, m), and `counts` says how often each of them occurs. m is the number of rows by
    label, and then, for each score in `names`, the sums of the values of rows of the other and of the candidate.
    """

    names: tuple[str, ...]
    statistics: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Sufficient statistics of the candidate and another predictor on the same rows.

    `statistics` is (distinct units, m), and `counts` (distinct units,) says how often each of them occurs. For K
    classes m is K^3: the number of rows by (label, other's answer, candidate's answer). For a regression m is 7: the
    number of rows; the sums of y - y[0] and of its square; the sums of squared errors of the other and of the
    candidate; the sums of absolute errors of the two.

    `scores` has the sums for the scores of probabilities that the use case or a gate names. They are drawn by
    themselves, so that naming one moves no interval of another metric. None is not written, so that evidence without
    them is stored as it always was.
    """

    kind: TaskKind
    classes: int
    statistics: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]
    scores: Annotated[ScoreSums | None, Field(exclude_if=lambda scores: scores is None)] = None

    @property
    def units(self) -> int:
        """How many resampling units there are, equal ones counted each."""
        return sum(self.counts)

    def totals(self) -> Floats:
        """(1, m) sums over all units, those of `scores` last."""
        return np.hstack(
            [np.array(part.counts, np.float64)[None] @ np.array(part.statistics, np.float64) for part in self._parts]
        )

    def resampled(self, seed: int) -> Floats:
        """(RESAMPLES, m) sums over the units of each resample, those of `scores` last."""
        return _resampled(self, seed)

    @property
    def _parts(self) -> "list[Pair | ScoreSums]":
        return [self] if self.scores is None else [self, self.scores]

    def measures(self, name: str) -> bool:
        """Whether the metric follows from these statistics."""
        kept = self.scores.names if self.scores else ()
        return name in METRICS[self.kind] and (name not in PROBABILITY_SCORES or name in kept)

    def metric(self, name: str, side: Side, totals: Floats) -> Floats:
        """(draws,) the metric on each row of `totals`; NaN where it is undefined.

        Raises ValueError for a metric that the pair does not measure.
        """
        if not self.measures(name):
            raise ValueError(f"{name} is measured where it fits the target and the use case or a gate names it")
        if self.kind == "regression":
            return value_metric(name, totals, 0 if side == "other" else 1)
        if name in PROBABILITY_SCORES:
            return self._probability_score(name, side, totals[:, self.classes**3 :])
        cells = totals[:, : self.classes**3].reshape(-1, self.classes, self.classes, self.classes)
        matrix = cells.sum(axis=3 if side == "other" else 2)
        return class_metric(name, matrix, binary=self.kind == "binary")

    def _probability_score(self, name: str, side: Side, sums: Floats) -> Floats:
        """(draws,) the score from the sums of `scores`; an area is NaN where a class has no rows."""
        assert self.scores is not None, name
        column = self.classes + 2 * self.scores.names.index(name) + (side == "candidate")
        rows = sums[:, : self.classes]
        means: Floats = sums[:, column] / rows.sum(axis=1)
        return np.where(rows.all(axis=1), means, np.nan) if name in AREAS else means

    def difference(self, name: str, totals: Floats) -> Floats:
        """(draws,) by how much the candidate is better than the other; for a loss as a fraction of the other's."""
        candidate, other = self.metric(name, "candidate", totals), self.metric(name, "other", totals)
        if name in LOWER_IS_BETTER:
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(other > 0, (other - candidate) / other, np.nan)
        return candidate - other


@functools.lru_cache(maxsize=8)
def _resampled(pair: Pair, seed: int) -> Floats:
    """(RESAMPLES, m) sums, drawn once and used for all metrics."""
    return np.hstack([_drawn_sums(part, seed) for part in pair._parts])


def _drawn_sums(units: Pair | ScoreSums, seed: int) -> Floats:
    """(RESAMPLES, m) sums over the units of each resample.

    If there are few distinct units, it draws how often each of them occurs; otherwise it draws single units.
    """
    generator = np.random.default_rng(seed)
    statistics, counts = np.array(units.statistics, np.float64), np.array(units.counts)
    total = int(counts.sum())
    if len(counts) <= FEW_DISTINCT:
        return generator.multinomial(total, counts / total, size=RESAMPLES) @ statistics
    of_units = statistics[np.repeat(np.arange(len(counts)), counts)]
    return np.concatenate([_drawn(generator, of_units, len(block)) for block in _draw_blocks(total)])


def _drawn(generator: np.random.Generator, of_units: Floats, draws: int) -> Floats:
    """(draws, m) sums over as many units as `of_units` (units, m) has, drawn with replacement."""
    units = len(of_units)
    chosen = generator.integers(0, units, size=(draws, units)) + np.arange(draws)[:, None] * units
    times = np.bincount(chosen.ravel(), minlength=draws * units).reshape(draws, units)
    return times @ of_units


def _draw_blocks(units: int) -> list[NDArray[np.int_]]:
    """The numbers of all resamples, in blocks that each need about 80 MB at most."""
    return np.array_split(np.arange(RESAMPLES), max(1, RESAMPLES * units // 10_000_000))


def make_pair(
    kind: TaskKind, classes: int, y: Floats, candidate: Answers, other: Answers, units: NDArray[np.object_] | None,
    named: Collection[str] = (),
) -> Pair:  # fmt: skip
    """The pair of two predictors' answers to the same rows with labels `y` (rows,).

    `units` (rows,) has the resampling unit of each row; a row whose unit is null is a unit of its own. If `units` is
    None, every row is a unit. `named` are the metrics that the use case and its gates name: of the scores of
    probabilities only these are kept. Raises ValueError for an answer that is no number or no class.
    """
    for answers in (candidate, other):
        _refuse_no_answers(classes, y, answers)
    if kind == "regression":
        level = y - y[:1].sum()  # minus the first label: the variance stays, and that of equal labels is exactly 0
        sums = [np.ones_like(y), level, level * level] + _errors(y, other) + _errors(y, candidate)
        statistics = np.column_stack(sums)[:, [0, 1, 2, 3, 5, 4, 6]]
    else:
        cell = (y * classes + other.chosen) * classes + candidate.chosen
        statistics = np.eye(classes**3)[cell.astype(int)]
    rows, counts = _distinct_units(statistics, units)
    scores = _score_sums(kind, classes, y, candidate, other, units, named)
    return Pair(kind=kind, classes=classes, statistics=rows, counts=counts, scores=scores)


def _score_sums(
    kind: TaskKind, classes: int, y: Floats, candidate: Answers, other: Answers,
    units: NDArray[np.object_] | None, named: Collection[str],
) -> ScoreSums | None:  # fmt: skip
    """The sums for the named scores of probabilities; None if none is named, or if a side has no probabilities."""
    names = tuple(name for name in PROBABILITY_SCORES if name in named)
    if not names or candidate.probability is None or other.probability is None:
        return None
    sides, binary = (other.probability, candidate.probability), kind == "binary"
    values = [values_of_rows(name, y, side, binary=binary) for name in names for side in sides]
    rows, counts = _distinct_units(np.column_stack([np.eye(classes)[y.astype(int)], *values]), units)
    return ScoreSums(names=names, statistics=rows, counts=counts)


def _distinct_units(
    statistics: Floats, units: NDArray[np.object_] | None
) -> tuple[tuple[tuple[float, ...], ...], tuple[int, ...]]:
    """The sums (rows, m) over each unit: the distinct ones, and how often each occurs."""
    if units is not None:
        statistics = pd.DataFrame(statistics).groupby(_unit_numbers(units)).sum().to_numpy()
    distinct, counts = np.unique(statistics, axis=0, return_counts=True)
    rows = tuple(tuple(float(value) for value in row) for row in distinct)
    return rows, tuple(int(count) for count in counts)


def _unit_numbers(units: NDArray[np.object_]) -> NDArray[np.int_]:
    """(rows,) the number of each row's unit. Rows without a unit get numbers of their own: pandas would drop them."""
    numbers, names = pd.factorize(units)
    alone = numbers < 0
    return np.where(alone, len(names) + np.cumsum(alone), numbers)


def _refuse_no_answers(classes: int, y: Floats, answers: Answers) -> None:
    if len(answers.chosen) != len(y):
        raise ValueError(f"each of {len(y)} rows needs an answer, but there are {len(answers.chosen)}")
    usable = np.isfinite(answers.chosen) if not classes else np.isin(answers.chosen, np.arange(classes))
    if not usable.all():
        raise ValueError(f"an answer is a number or a class, but {int((~usable).sum())} of {len(y)} are none")


def _errors(y: Floats, answers: Answers) -> list[Floats]:
    """The squared and the absolute error of each row."""
    return [np.square(y - answers.chosen), np.abs(y - answers.chosen)]
