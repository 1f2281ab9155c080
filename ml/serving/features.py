"""Raw rows to the network's input, with constants that were learnt on train rows only."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

UNKNOWN, MISSING, FIRST_CODE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class NumberFeature:
    """(x - mean) / std, clipped to ±clip; a missing value becomes the mean (0), marked by an indicator column."""

    column: str
    mean: float
    std: float
    clip: float
    indicator: bool

    def transform(self, frame: pd.DataFrame) -> list[NDArray[np.float32]]:
        values = frame[self.column].to_numpy(np.float64)
        missing = np.isnan(values)
        scaled = np.clip((np.where(missing, self.mean, values) - self.mean) / self.std, -self.clip, self.clip)
        return [scaled.astype(np.float32)] + ([missing.astype(np.float32)] if self.indicator else [])

    @property
    def width(self) -> int:
        return 2 if self.indicator else 1


@dataclass(frozen=True, kw_only=True)
class CategoryFeature:
    """A code a row: 0 for an unknown or rare value, 1 for a missing one, then the known values in their order."""

    column: str
    part: str | None
    values: tuple[str, ...]

    def transform(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        texts = category_texts(frame[self.column], self.part)
        codes = pd.Index(self.values).get_indexer(pd.Index(texts)) + FIRST_CODE
        codes[codes == FIRST_CODE - 1] = UNKNOWN
        codes[texts.isna().to_numpy()] = MISSING
        return codes.astype(np.float32)

    @property
    def size(self) -> int:
        return FIRST_CODE + len(self.values)


def category_texts(series: pd.Series, part: str | None) -> pd.Series:
    """The text under which a value is counted as a category: a date part, a whole number without '.0', or itself."""
    if part is not None:
        series = series.dt.day_of_week if part == "weekday" else getattr(series.dt, part)
    if pd.api.types.is_numeric_dtype(series):
        # 16 digits keep apart all whole numbers that float64 holds.
        texts = series.map(lambda value: None if pd.isna(value) else f"{value:.16g}")
        return texts.astype("object")
    return series.astype("object").where(series.notna(), None)


@dataclass(frozen=True)
class Encoder:
    """All features of a use case: float32 columns, numbers and indicators first, then category codes."""

    numbers: tuple[NumberFeature, ...]
    categories: tuple[CategoryFeature, ...]

    def transform(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """(rows, width) float32; codes are exact in float32 up to 2**24."""
        columns = [array for feature in self.numbers for array in feature.transform(frame)]
        columns += [feature.transform(frame) for feature in self.categories]
        return np.column_stack(columns) if columns else np.empty((len(frame), 0), np.float32)

    @property
    def number_width(self) -> int:
        return sum(feature.width for feature in self.numbers)

    @property
    def category_sizes(self) -> tuple[int, ...]:
        return tuple(feature.size for feature in self.categories)
