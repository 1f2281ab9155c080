"""Raw rows to what models compute with, with constants that were learnt on train rows only."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

UNKNOWN, MISSING, FIRST_CODE = 0, 1, 2
ROWS_IN_CACHE = 32_768  # a block of x is written column by column while it stays in the processor's cache
ROWS_FOR_THREADS = 4 * ROWS_IN_CACHE  # fewer are done before threads have started
Item = TypeVar("Item")
Made = TypeVar("Made")


def on_all_cores(make: Callable[[Item], Made], items: Iterable[Item], rows: int) -> list[Made]:
    """`[make(item) for item in items]`, side by side where rows are many: NumPy and Arrow leave Python's lock alone."""
    if rows < ROWS_FOR_THREADS:
        return [make(item) for item in items]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return list(pool.map(make, items))


@dataclass(frozen=True, kw_only=True)
class NumberFeature:
    """(x - mean) / std, clipped to ±clip; a missing value becomes the mean (0), marked by an indicator column."""

    column: str
    mean: float
    std: float
    clip: float
    indicator: bool

    def write(self, values: NDArray[np.float64], x: NDArray[np.floating[Any]]) -> None:
        """Fills x (rows, width) from values (rows,)."""
        missing = np.isnan(values)
        scaled = values - self.mean
        scaled /= self.std
        np.clip(scaled, -self.clip, self.clip, out=scaled)
        scaled[missing] = 0.0
        x[:, 0] = scaled
        if self.indicator:
            x[:, 1] = missing

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
        """(rows,) the codes."""
        positions, texts = distinct_texts(frame[self.column], self.part)
        codes = np.full(len(texts) + 1, MISSING, np.float32)  # the last is that of position -1
        known = pd.Index(self.values, dtype="object").get_indexer(pd.Index(texts, dtype="object"))
        codes[:-1] = np.where(known < 0, UNKNOWN, known + FIRST_CODE)
        return codes[positions]

    @property
    def size(self) -> int:
        return FIRST_CODE + len(self.values)


def distinct_texts(series: pd.Series, part: str | None) -> tuple[NDArray[np.intp], list[str]]:
    """(rows,) each value's position among distinct texts, -1 where it is missing; and the text under which each is
    counted as a category: a date part, a whole number without '.0', or itself."""
    if part is not None:
        series = series.dt.day_of_week if part == "weekday" else getattr(series.dt, part)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return series.cat.codes.to_numpy(np.intp), [str(value) for value in series.cat.categories]
    positions, values = pd.factorize(series)
    if pd.api.types.is_numeric_dtype(series):
        # 16 digits keep apart all whole numbers that float64 holds; adding 0 makes -0 the 0 that it equals.
        return positions, [f"{value + 0.0:.16g}" for value in values.astype(np.float64)]
    return positions, [str(value) for value in values]


def category_counts(series: pd.Series, part: str | None) -> dict[str, int]:
    """Rows by text, without those that miss it."""
    positions, texts = distinct_texts(series, part)
    counts = np.bincount(positions + 1, minlength=len(texts) + 1)[1:]
    found: dict[str, int] = {}
    for text, count in zip(texts, counts.tolist(), strict=True):  # two fractions may share their 16 digits
        if count:  # a category may be left of rows that are no longer there
            found[text] = found.get(text, 0) + count
    return found


def vocabulary(categories: Iterable[CategoryFeature]) -> dict[str, tuple[str, ...]]:
    """The known values by column, for the columns that are learnt whole and not by a part of their time."""
    return {feature.column: feature.values for feature in categories if feature.part is None}


@dataclass(frozen=True)
class Encoder:
    """All features of a use case: float32 columns, numbers and indicators first, then category codes."""

    numbers: tuple[NumberFeature, ...]
    categories: tuple[CategoryFeature, ...]

    def transform(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """(rows, width) float32; codes are exact in float32 up to 2**24."""
        x = np.empty((len(frame), self.number_width + len(self.categories)), np.float32)
        columns = [frame[feature.column].to_numpy(np.float64) for feature in self.numbers]
        codes = on_all_cores(lambda feature: feature.transform(frame), self.categories, len(frame))

        def write(start: int) -> None:
            rows = slice(start, start + ROWS_IN_CACHE)
            self._write(x[rows], [values[rows] for values in columns], [values[rows] for values in codes])

        on_all_cores(write, range(0, len(frame), ROWS_IN_CACHE), len(frame))
        return x

    def _write(
        self, x: NDArray[np.float32], columns: list[NDArray[np.float64]], codes: list[NDArray[np.float32]]
    ) -> None:
        place = 0
        for feature, values in zip(self.numbers, columns, strict=True):
            feature.write(values, x[:, place : place + feature.width])
            place += feature.width
        for position, code in enumerate(codes):
            x[:, place + position] = code

    @property
    def number_width(self) -> int:
        return sum(feature.width for feature in self.numbers)

    @property
    def category_sizes(self) -> tuple[int, ...]:
        return tuple(feature.size for feature in self.categories)
