"""Statistics of a partition's rows, their exact sums over a window, and the encoder that train rows' sums fit.

A day's sums are whole numbers on the grid of all floats, so that adding a day and taking one off are exact: a window
that slid to tonight and one that is summed from scratch agree bit for bit, in any order.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaning import LABEL
from ml.data.dataset import Dataset, Limits, Reading
from ml.errors import DataRejected
from ml.serving.columns import Column
from ml.serving.features import CategoryFeature, Encoder, NumberFeature, category_counts, on_all_cores

ROUNDING = 1e-12  # of the mean; a column of one value leaves less
GRID = 2**1074  # steps of the grid in 1; every finite float64 lies on it
Counts: TypeAlias = dict[str, int]


@dataclass(frozen=True)
class Moments:
    """Of the values present: how many, their sum in steps of 1 / GRID and their squares' in 1 / GRID**2; and how many
    were missing."""

    count: int = 0
    missing: int = 0
    total: int = 0
    squares: int = 0

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Moments":
        """Sums of deviations from the day's mean are rounded, to 1e-15 of the spread; all else is exact.

        Raises DataRejected where squares leave float64.
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
        return self.total / (self.count * GRID) if self.count else 0.0  # of whole numbers: rounded once

    @property
    def deviations(self) -> float:
        """The sum of squared deviations from the mean."""
        return (self.count * self.squares - self.total**2) / (self.count * GRID**2) if self.count else 0.0

    @property
    def std(self) -> float:
        """The spread; 1 where there is none but what rounding leaves of equal values."""
        std = (max(self.deviations, 0.0) / self.count) ** 0.5 if self.count else 0.0
        return std if std > ROUNDING * abs(self.mean) else 1.0


def _steps(value: float) -> int:
    """The value in steps of the grid."""
    numerator, denominator = value.as_integer_ratio()
    return numerator * (GRID // denominator)


@dataclass(frozen=True)
class Statistics:
    """Exact sums over rows: how many there are, of each class, moments by number, and texts by category."""

    rows: int
    labels: Counts
    moments: dict[str, Moments]
    texts: dict[str, Counts]

    @classmethod
    def none(cls, use_case: Reading) -> "Statistics":
        """Those of no row."""
        names = [_name(column, part) for column, part in categories(use_case)]
        return cls(0, {}, {column.name: Moments() for column in numbers(use_case)}, {name: {} for name in names})

    @classmethod
    def of(cls, use_case: Reading, rows: pd.DataFrame) -> "Statistics":
        columns, texts = numbers(use_case), categories(use_case)
        moments = on_all_cores(lambda c: Moments.of(rows[c.name].to_numpy(np.float64)), columns, len(rows))
        counts = on_all_cores(lambda text: category_counts(rows[text[0].name], text[1]), texts, len(rows))
        return cls(
            rows=len(rows),
            labels=_label_counts(use_case, rows[LABEL]),
            moments=dict(zip([c.name for c in columns], moments, strict=True)),
            texts=dict(zip([_name(c, part) for c, part in texts], counts, strict=True)),
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
    """Rows a class; of values none, for each would be its own."""
    if use_case.target.kind == "regression":
        return {}
    found = np.bincount(labels.to_numpy(np.int64))
    return {str(code): int(count) for code, count in enumerate(found) if count}


def _sum(counts: Counts, others: Counts, sign: int) -> Counts:
    found = dict(counts)
    for text, count in others.items():
        found[text] = found.get(text, 0) + sign * count
        if not found[text]:
            del found[text]
    return found


@dataclass(frozen=True)
class DayStatistics:
    """One partition's rows: their exact sums, and the extremes of every number, which cannot be taken off again."""

    statistics: Statistics
    extremes: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, use_case: Reading, rows: pd.DataFrame) -> "DayStatistics":
        found = {c.name: _extremes(rows[c.name].to_numpy(np.float64)) for c in numbers(use_case)}
        return cls(Statistics.of(use_case, rows), {name: both for name, both in found.items() if both})

    def merge(self, other: "DayStatistics") -> "DayStatistics":
        names = {**self.extremes, **other.extremes}
        both = {name: [e[name] for e in (self.extremes, other.extremes) if name in e] for name in names}
        extremes = {name: (min(low for low, _ in e), max(high for _, high in e)) for name, e in both.items()}
        return DayStatistics(self.statistics + other.statistics, extremes)


def _extremes(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The smallest and the largest finite value."""
    low, high = np.fmin.reduce(values, initial=np.nan), np.fmax.reduce(values, initial=np.nan)
    if np.isinf(low) or np.isinf(high):
        return _extremes(values[np.isfinite(values)])
    return None if np.isnan(low) else (float(low), float(high))


def fit_encoder(use_case: Dataset, train: Statistics) -> Encoder:
    """Constants of every feature from train rows' statistics."""
    return Encoder(
        tuple(_number_feature(use_case, column, train.moments[column.name]) for column in numbers(use_case)),
        tuple(
            CategoryFeature(column=c.name, part=part, values=_common(train.texts[_name(c, part)], use_case.rare_below))
            for c, part in categories(use_case)
        ),
    )


def _number_feature(use_case: Limits, column: Column, moments: Moments) -> NumberFeature:
    return NumberFeature(
        column=column.name, mean=moments.mean, std=moments.std, clip=use_case.outlier_std, indicator=column.nullable
    )


def _common(counts: Counts, rare_below: int) -> tuple[str, ...]:
    return tuple(sorted(text for text, count in counts.items() if count >= rare_below))


def _name(column: Column, part: str | None) -> str:
    return f"{column.name} {part or 'text'}"


def numbers(use_case: Reading) -> list[Column]:
    return [c for c in use_case.features if c.type in {"number", "integer"} and not c.is_category]


def categories(use_case: Reading) -> list[tuple[Column, str | None]]:
    plain: list[tuple[Column, str | None]] = [(column, None) for column in use_case.features if column.is_category]
    return plain + [(column, part) for column in use_case.features for part in column.parts]
