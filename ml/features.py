"""Statistics of train rows as a fold of day states in date order, and the encoder that they fit.

Moments are merged as Chan, Golub and LeVeque (1979) do; the fold's order is part of the definition, so that an
incremental and a full pass agree bit for bit.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import pandas as pd

from ml.config import UseCase
from ml.serving.columns import Column
from ml.serving.features import CategoryFeature, Encoder, NumberFeature, category_texts

ROUNDING = 1e-12  # of the mean; merging thousands of days of one value leaves less


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of the values present, and how many were missing."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    missing: int = 0

    @classmethod
    def of(cls, series: pd.Series) -> "Moments":
        values = series.to_numpy(np.float64)
        present = values[np.isfinite(values)]
        if not len(present):
            return cls(missing=len(values))
        mean = float(present.mean())
        return cls(len(present), mean, float(np.square(present - mean).sum()), len(values) - len(present))

    def merge(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        if not count:
            return Moments(missing=self.missing + other.missing)
        delta = other.mean - self.mean
        mean = self.mean + delta * other.count / count
        squares = self.squares + other.squares + delta * delta * self.count * other.count / count
        return Moments(count, mean, squares, self.missing + other.missing)

    @property
    def std(self) -> float:
        """The spread; 1 where there is none but what rounding leaves of equal values."""
        std = (self.squares / self.count) ** 0.5 if self.count else 0.0
        return std if std > ROUNDING * abs(self.mean) else 1.0


@dataclass(frozen=True)
class DayState:
    """Statistics of one partition's rows: moments by number, text counts by (column, date part)."""

    moments: dict[str, Moments] = field(default_factory=dict)
    texts: dict[tuple[str, str | None], Counter[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, use_case: UseCase, rows: pd.DataFrame) -> "DayState":
        return cls(
            {column.name: Moments.of(rows[column.name]) for column in _numbers(use_case)},
            {(c.name, part): Counter(category_texts(rows[c.name], part).dropna()) for c, part in _categories(use_case)},
        )

    def merge(self, other: "DayState") -> "DayState":
        return DayState(
            {name: moments.merge(other.moments[name]) for name, moments in self.moments.items()},
            {name: counts + other.texts[name] for name, counts in self.texts.items()},
        )


def fit_encoder(use_case: UseCase, day_states: Iterable[DayState]) -> Encoder:
    """Constants of every feature from train rows' day states in date order. Raises TypeError for no state at all."""
    window = reduce(DayState.merge, day_states)
    return Encoder(
        tuple(_number_feature(use_case, column, window.moments[column.name]) for column in _numbers(use_case)),
        tuple(
            CategoryFeature(column=c.name, part=part, values=_common(window.texts[c.name, part], use_case.rare_below))
            for c, part in _categories(use_case)
        ),
    )


def _number_feature(use_case: UseCase, column: Column, moments: Moments) -> NumberFeature:
    return NumberFeature(
        column=column.name, mean=moments.mean, std=moments.std, clip=use_case.outlier_std, indicator=column.nullable
    )


def _common(counts: Counter[str], rare_below: int) -> tuple[str, ...]:
    return tuple(sorted(text for text, count in counts.items() if count >= rare_below))


def _numbers(use_case: UseCase) -> list[Column]:
    return [c for c in use_case.features if c.type in {"number", "integer"} and not c.is_category]


def _categories(use_case: UseCase) -> list[tuple[Column, str | None]]:
    plain: list[tuple[Column, str | None]] = [(column, None) for column in use_case.features if column.is_category]
    return plain + [(column, part) for column in use_case.features for part in column.parts]
