"""Pairs of predictors on the same rows, and how sure their scores are.

A pair keeps, for every unit (a day, a group or a row), the few sums (sufficient statistics) from which all metrics
follow. How much a metric would change without each unit says how sure it is. Days keep their order, because good days
follow good ones. Groups and rows have no order: of those with equal statistics one is kept, with their count.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

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

ONE_SIDED_ERROR = 0.05  # of each end of an interval
SIMULATED_ERRORS = (0.04, 0.14)  # of days that are independent, and of those that resemble each other most
MIN_CARRIERS = 7  # of six, one resample of units in 400 would have none
TYPICAL_AUTOCORRELATION = 0.1  # of two models up to 30 nights apart, from one day to the next: 0.05 to 0.15
TYPICAL_DAYS = 14  # as many days' evidence is that figure worth
UNWRITTEN_IF_EMPTY = Field(exclude_if=lambda value: not value)  # such evidence is stored as it always was
Side = Literal["candidate", "other"]
N = TypeVar("N", float, Floats)


@dataclass(frozen=True, kw_only=True)
class ScoreSums:
    """Sums per unit from which scores of probabilities follow.

    `statistics` is (distinct units, m), and `counts` says how often each of them occurs; `order` is as in Pair. m is
    the number of rows by label, and then, for each score in `names`, the sums of the values of rows of the other and of
    the candidate.
    """

    names: tuple[str, ...]
    statistics: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]
    order: Annotated[tuple[int, ...], UNWRITTEN_IF_EMPTY] = ()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Sufficient statistics of the candidate and another predictor on the same rows.

    `statistics` is (distinct units, m), and `counts` (distinct units,) says how often each of them occurs. For K
    classes m is K^3: the number of rows by (label, other's answer, candidate's answer). For a regression m is 7: the
    number of rows; the sums of y - y[0] and of its square; the sums of squared errors of the other and of the
    candidate; the sums of absolute errors of the two.

    `scores` has the sums for the scores of probabilities that the use case or a gate names. `order` (units,) says which
    of the statistics each day has, from the first day to the last; it is empty where units have no order.
    """

    kind: TaskKind
    classes: int
    statistics: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]
    scores: Annotated[ScoreSums | None, UNWRITTEN_IF_EMPTY] = None
    order: Annotated[tuple[int, ...], UNWRITTEN_IF_EMPTY] = ()

    @property
    def units(self) -> int:
        """How many units there are, equal ones counted each."""
        return sum(self.counts)

    def totals(self) -> Floats:
        """(1, m) sums over all units, those of `scores` last."""
        return np.hstack(
            [np.array(part.counts, np.float64)[None] @ np.array(part.statistics, np.float64) for part in self._parts]
        )

    @property
    def _parts(self) -> "list[Pair | ScoreSums]":
        return [self] if self.scores is None else [self, self.scores]

    def _part(self, name: str) -> "Pair | ScoreSums":
        """Where the sums of a metric are."""
        return self.scores if self.scores is not None and name in PROBABILITY_SCORES else self

    def without_each_unit(self, name: str) -> Floats:
        """(distinct units, m) the totals without each of them, as far as they matter to the metric."""
        part, width = self._part(name), len(self.statistics[0])
        totals = np.repeat(self.totals(), len(part.counts), axis=0)
        with np.errstate(invalid="ignore"):  # another side's error may be too large to be summed
            totals[:, slice(width) if part is self else slice(width, None)] -= np.array(part.statistics, np.float64)
        return totals

    def of_each_unit(self, name: str, of_distinct: Floats) -> Floats:
        """(units,) from the values of distinct units, in the order of days if there is one."""
        part = self._part(name)
        return of_distinct[list(part.order)] if part.order else np.repeat(of_distinct, part.counts)

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
        rows = sums[:, : self.classes]
        means: Floats = sums[:, self._column(name, side)] / rows.sum(axis=1)
        return np.where(rows.all(axis=1), means, np.nan) if name in AREAS else means

    def difference(self, name: str, totals: Floats) -> Floats:
        """(draws,) by how much the candidate is better than the other; for a loss as a fraction of the other's."""
        candidate, other = self.metric(name, "candidate", totals), self.metric(name, "other", totals)
        if name in LOWER_IS_BETTER:
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(other > 0, (other - candidate) / other, np.nan)
        return candidate - other

    def carriers(self, name: str, *sides: Side) -> int:
        """How many units carry the metric of the sides: without them it would have no value.

        They have rows of the class, or answers of it; of several classes or sides those of the rarest are counted. A
        loss of both sides is compared as a fraction of the other's, and is carried by the units in which that one errs.
        """
        part = self._part(name)
        statistics, times = np.array(part.statistics, np.float64), np.array(part.counts)[:, None]
        amounts = [self._needed(name, side, statistics) for side in sides]
        if name in LOWER_IS_BETTER and len(sides) > 1:
            amounts.append(statistics[:, [self._column(name, "other")]])
        return min(int(((amount > 0) * times).sum(axis=0).min()) for amount in amounts)

    def _needed(self, name: str, side: Side, statistics: Floats) -> Floats:
        """(distinct units, k) amounts, of each of which there must be some in all units together."""
        if name in LOWER_IS_BETTER or name == "accuracy":
            return np.ones((len(statistics), 1))
        if name == "r2":
            return statistics[:, 2:3]
        if name in AREAS:
            return statistics[:, : self.classes]
        cells = statistics.reshape(-1, self.classes, self.classes, self.classes)
        of_class = cells.sum(axis=(2, 3) if name != "precision" else (1, 3) if side == "other" else (1, 2))
        return of_class[:, 1:] if self.kind == "binary" else of_class

    def _column(self, name: str, side: Side) -> int:
        """Where the sums of errors of a side are, or of the values of a score of probabilities."""
        if self.kind == "regression":
            return {"rmse": 3, "mae": 5}[name] + (side == "candidate")
        assert self.scores is not None, name
        return self.classes + 2 * self.scores.names.index(name) + (side == "candidate")


def spread(influences: Floats, *, in_order: bool) -> tuple[Floats, Floats]:
    """The standard error of the mean of `influences` (..., units), and how many independent units its units equal.

    If they are days in their order, they count as a process in which each day resembles the day before (AR(1)), and n
    days equal n (1 - r) / (1 + r) independent ones. The autocorrelation r is that of these days, corrected for its
    bias (Marriott and Pope 1954), and drawn to the typical one, because few days say little about it. Days that
    alternate make nothing surer.
    """
    units = influences.shape[-1]
    deviations = influences - influences.mean(axis=-1, keepdims=True)
    squares = np.square(deviations).sum(axis=-1)
    independent = np.full(squares.shape, float(units))
    if in_order:
        neighbours = (deviations[..., 1:] * deviations[..., :-1]).sum(axis=-1)
        seen = np.divide(neighbours, squares, out=np.zeros_like(squares), where=squares > 0)
        unbiased = seen + (1 + 3 * seen) / units
        drawn = (units * unbiased + TYPICAL_DAYS * TYPICAL_AUTOCORRELATION) / (units + TYPICAL_DAYS)
        autocorrelation = drawn.clip(0, 0.95)
        independent = units * (1 - autocorrelation) / (1 + autocorrelation)
    return np.sqrt(squares / (units - 1) / independent), independent


def quantile(independent: N, level: float) -> N:
    """The quantile of Student's t for the mean of so many independent units."""
    from scipy.special import stdtrit

    quantiles: N = stdtrit(np.maximum(independent - 1, 1), level)
    return quantiles


def half_width(error: Floats, independent: Floats) -> Floats:
    """How far the ends of a 90 % interval lie from the estimate."""
    half: Floats = error * quantile(independent, 1 - ONE_SIDED_ERROR)
    return half


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric of one side, or the difference of both, with its 90 % interval. What is undefined is NaN.

    `error` is the standard error of `value`, and `independent` says how many independent units its units equal. All but
    `value` are NaN if too few units carry the metric.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    error: float = np.nan
    independent: float = np.nan

    @classmethod
    def of(cls, pair: Pair, name: str, *sides: Side) -> "Estimate":
        """The metric of one side, or by how much the candidate is better where both are given.

        The influence of a unit is how much the estimate would change without it: the jackknife (Efron 1982).
        """

        def measured(totals: Floats) -> Floats:
            return pair.difference(name, totals) if len(sides) > 1 else pair.metric(name, sides[0], totals)

        value = float(measured(pair.totals())[0])
        if not np.isfinite(value) or pair.carriers(name, *sides) < MIN_CARRIERS:
            return cls(value=value)
        without = pair.of_each_unit(name, measured(pair.without_each_unit(name)))
        if not np.isfinite(without).all():
            return cls(value=value)
        error, independent = spread((pair.units - 1) * (value - without), in_order=bool(pair.order))
        half = float(half_width(error, independent))
        return cls(value=value, low=value - half, high=value + half, error=float(error), independent=float(independent))


def make_pair(
    kind: TaskKind, classes: int, y: Floats, candidate: Answers, other: Answers, units: NDArray[np.object_] | None,
    named: Collection[str] = (), *, in_order: bool = False,
) -> Pair:  # fmt: skip
    """The pair of two predictors' answers to the same rows with labels `y` (rows,).

    `units` (rows,) has the unit of each row; a row whose unit is null is a unit of its own. If `units` is None, every
    row is a unit. With `in_order` the units are days, which follow each other in the order of their names. `named` are
    the metrics that the use case and its gates name: of the scores of probabilities only these are kept. Raises
    ValueError for an answer that is no number or no class.
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
    distinct, counts, order = _distinct_units(statistics, units, in_order=in_order)
    scores = _score_sums(kind, classes, y, candidate, other, units, named, in_order=in_order)
    return Pair(kind=kind, classes=classes, statistics=distinct, counts=counts, scores=scores, order=order)


def _score_sums(
    kind: TaskKind, classes: int, y: Floats, candidate: Answers, other: Answers,
    units: NDArray[np.object_] | None, named: Collection[str], *, in_order: bool,
) -> ScoreSums | None:  # fmt: skip
    """The sums for the named scores of probabilities; None if none is named, or if a side has no probabilities."""
    names = tuple(name for name in PROBABILITY_SCORES if name in named)
    if not names or candidate.probability is None or other.probability is None:
        return None
    sides, binary = (other.probability, candidate.probability), kind == "binary"
    values = [values_of_rows(name, y, side, binary=binary) for name in names for side in sides]
    statistics = np.column_stack([np.eye(classes)[y.astype(int)], *values])
    distinct, counts, order = _distinct_units(statistics, units, in_order=in_order)
    return ScoreSums(names=names, statistics=distinct, counts=counts, order=order)


def _distinct_units(
    statistics: Floats, units: NDArray[np.object_] | None, *, in_order: bool
) -> tuple[tuple[tuple[float, ...], ...], tuple[int, ...], tuple[int, ...]]:
    """The sums (rows, m) over each unit: the distinct ones, how often each occurs, and which of them each unit has."""
    if units is not None:
        statistics = (
            pd.DataFrame(statistics).groupby(unit_numbers(units, len(statistics), in_order=in_order)).sum().to_numpy()
        )
    distinct, order, counts = np.unique(statistics, axis=0, return_inverse=True, return_counts=True)
    rows = tuple(tuple(float(value) for value in row) for row in distinct)
    return rows, tuple(map(int, counts)), tuple(map(int, order)) if in_order else ()


def unit_numbers(units: NDArray[np.object_] | None, rows: int, *, in_order: bool) -> NDArray[np.int_]:
    """(rows,) the number of each row's unit, from 0 on. Rows without a unit get numbers of their own: pandas would drop
    them. Without `units` each row is one."""
    if units is None:
        return np.arange(rows)
    numbers, names = pd.factorize(units, sort=in_order)
    alone = numbers < 0
    return np.where(alone, len(names) + np.cumsum(alone) - 1, numbers)


def _refuse_no_answers(classes: int, y: Floats, answers: Answers) -> None:
    if len(answers.chosen) != len(y):
        raise ValueError(f"each of {len(y)} rows needs an answer, but there are {len(answers.chosen)}")
    usable = np.isfinite(answers.chosen) if not classes else np.isin(answers.chosen, np.arange(classes))
    if not usable.all():
        raise ValueError(f"an answer is a number or a class, but {int((~usable).sum())} of {len(y)} are none")


def _errors(y: Floats, answers: Answers) -> list[Floats]:
    """The squared and the absolute error of each row."""
    return [np.square(y - answers.chosen), np.abs(y - answers.chosen)]
