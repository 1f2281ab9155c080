"""Statistics of a partition's rows, and their exact sums over a window.

A day's sums are whole numbers of steps on a grid that holds every float. Adding a day and subtracting one are therefore
exact: last night's window, moved on to tonight, equals a window that is summed from scratch bit for bit, in any order
of its days.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaning import LABEL
from ml.data.dataset import Reading
from ml.errors import DataRejected
from ml.serving.columns import Column
from ml.serving.features import category_counts, on_all_cores

ROUNDING = 1e-12  # a spread below this share of the mean is what rounding leaves of equal values
GRID = 2**1074  # the grid has as many steps between 0 and 1; every finite float64 lies on it
Counts: TypeAlias = dict[str, int]


@dataclass(frozen=True)
class Moments:
    """Exact sums over the values of a number.

    `count`: how many values are finite. `missing`: how many are not. `total`: the sum of the finite values, in steps of
    1 / GRID. `squares`: the sum of their squares, in steps of 1 / GRID**2.
    """

    count: int = 0
    missing: int = 0
    total: int = 0
    squares: int = 0

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Moments":
        """The sums of one day's values, (rows,) float64.

        The sums of deviations from the day's mean are rounded, to 1e-15 of the spread; all else is exact. Raises
        DataRejected if squares do not fit into float64.
        """
        finite = np.isfinite(values)
        present = values if finite.all() else values[finite]
        if not len(present):
            return cls(missing=len(values))
        with np.errstate(over="ignore", invalid="ignore"):
            center = float(present.mean())
            deviations = present - center
            first, second = float(deviations.sum()), float(np.square(deviations).sum())
        if not np.isfinite([first, second]).all():
            raise DataRejected("numbers to learn from lie within 1e150", "one does not", "declare the column's maximum")
        n, mean, rest = len(present), _steps(center), _steps(first)
        squares = _steps(second) * GRID + 2 * mean * rest + n * mean * mean
        return cls(n, len(values) - n, n * mean + rest, squares)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.missing + other.missing,
            self.total + other.total,
            self.squares + other.squares,
        )

    def __sub__(self, other: "Moments") -> "Moments":
        return self + Moments(-other.count, -other.missing, -other.total, -other.squares)

    @property
    def mean(self) -> float:
        return self.total / (self.count * GRID) if self.count else 0.0  # a division of whole numbers is rounded once

    @property
    def deviations(self) -> float:
        """The sum of squared deviations from the mean."""
        return (self.count * self.squares - self.total**2) / (self.count * GRID**2) if self.count else 0.0

    @property
    def std(self) -> float:
        """The standard deviation; 1.0 if all values are equal, apart from what rounding leaves."""
        std = (max(self.deviations, 0.0) / self.count) ** 0.5 if self.count else 0.0
        return std if std > ROUNDING * abs(self.mean) else 1.0


def _steps(value: float) -> int:
    """The value as a number of steps of the grid."""
    numerator, denominator = value.as_integer_ratio()
    return numerator * (GRID // denominator)


@dataclass(frozen=True)
class Statistics:
    """Exact sums over rows.

    `rows`: how many there are. `labels`: rows by class code; empty for a regression. `moments`: by number column.
    `texts`: rows by value, for each category column or part of a timestamp.
    """

    rows: int
    labels: Counts
    moments: dict[str, Moments]
    texts: dict[str, Counts]

    @classmethod
    def none(cls, use_case: Reading) -> "Statistics":
        """The statistics of no rows."""
        names = [category_key(column, part) for column, part in categories(use_case)]
        return cls(0, {}, {column.name: Moments() for column in numbers(use_case)}, {name: {} for name in names})

    @classmethod
    def of(cls, use_case: Reading, rows: pd.DataFrame) -> "Statistics":
        """The statistics of cleaned rows."""
        columns, texts = numbers(use_case), categories(use_case)
        moments = on_all_cores(lambda c: Moments.of(rows[c.name].to_numpy(np.float64)), columns, len(rows))
        counts = on_all_cores(lambda text: category_counts(rows[text[0].name], text[1]), texts, len(rows))
        return cls(
            rows=len(rows),
            labels=_label_counts(use_case, rows[LABEL]),
            moments=dict(zip([c.name for c in columns], moments, strict=True)),
            texts=dict(zip([category_key(c, part) for c, part in texts], counts, strict=True)),
        )

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            rows=self.rows + other.rows,
            labels=_sum(self.labels, other.labels, 1),
            moments={name: moments + other.moments[name] for name, moments in self.moments.items()},
            texts={name: _sum(counts, other.texts[name], 1) for name, counts in self.texts.items()},
        )

    def __sub__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            rows=self.rows - other.rows,
            labels=_sum(self.labels, other.labels, -1),
            moments={name: moments - other.moments[name] for name, moments in self.moments.items()},
            texts={name: _sum(counts, other.texts[name], -1) for name, counts in self.texts.items()},
        )


def _label_counts(use_case: Reading, labels: pd.Series) -> Counts:
    """Rows per class; empty for a regression, which has no classes."""
    if use_case.target.kind == "regression":
        return {}
    by_code = np.bincount(labels.to_numpy(np.int64))
    return {str(code): int(count) for code, count in enumerate(by_code) if count}


def _sum(counts: Counts, others: Counts, sign: int) -> Counts:
    """The counts plus (`sign` is 1) or less (-1) the others, without zeros."""
    total = dict(counts)
    for text, count in others.items():
        total[text] = total.get(text, 0) + sign * count
        if not total[text]:
            del total[text]
    return total


@dataclass(frozen=True)
class DayStatistics:
    """Statistics of one partition's rows, and the smallest and largest value of every number.

    Extremes are not part of the sums over a window, because they cannot be subtracted again.
    """

    statistics: Statistics
    extremes: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, use_case: Reading, rows: pd.DataFrame) -> "DayStatistics":
        extremes = {c.name: _extremes(rows[c.name].to_numpy(np.float64)) for c in numbers(use_case)}
        return cls(Statistics.of(use_case, rows), {name: both for name, both in extremes.items() if both})

    def merge(self, other: "DayStatistics") -> "DayStatistics":
        """The statistics of the rows of both."""
        names = {**self.extremes, **other.extremes}
        both = {name: [e[name] for e in (self.extremes, other.extremes) if name in e] for name in names}
        extremes = {name: (min(low for low, _ in e), max(high for _, high in e)) for name, e in both.items()}
        return DayStatistics(self.statistics + other.statistics, extremes)


def _extremes(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The smallest and the largest finite value; None if there is none."""
    low, high = np.fmin.reduce(values, initial=np.nan), np.fmax.reduce(values, initial=np.nan)
    if np.isinf(low) or np.isinf(high):
        return _extremes(values[np.isfinite(values)])
    return None if np.isnan(low) else (float(low), float(high))


def category_key(column: Column, part: str | None) -> str:
    """The key of a category in `Statistics.texts`."""
    return f"{column.name} {part or 'text'}"


def numbers(use_case: Reading) -> list[Column]:
    """The features that are learnt as numbers."""
    return [c for c in use_case.features if c.type in {"number", "integer"} and not c.is_category]


def categories(use_case: Reading) -> list[tuple[Column, str | None]]:
    """The features that are learnt as categories: a column with None, or a timestamp with one of its parts."""
    plain: list[tuple[Column, str | None]] = [(column, None) for column in use_case.features if column.is_category]
    return plain + [(column, part) for column in use_case.features for part in column.parts]
