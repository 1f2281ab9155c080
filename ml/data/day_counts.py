"""How the values of each column are spread on a day: integer counts in bins that are the same for all days.

The bins of a number are fixed by how a float64 is written, 256 from each power of two to the next, so that no window
decides them and the counts of any two days can be compared. Categories are counted by a hash, so that counts hold no
value of a row. What is counted follows from a partition's cleaned rows and its verdict alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaning import LABEL
from ml.data.dataset import Reading
from ml.data.handles import PartitionCheck
from ml.data.meaning import hashes_of
from ml.data.statistics import categories, numbers
from ml.serving.columns import Column
from ml.serving.features import category_counts

BIN_BITS = 44  # of the 52 bits of a fraction, 8 decide the bin: it is at most a 256th wide
MAGNITUDE = np.int64(2**63 - 1)
BUCKETS = 1024  # of the hashes of categories, so that a day's counts stay small however many categories there are

# What is counted: the values of a number or category, rows without a value, rows that a side table does not match, rows
# in quarantine and rows without a label.
Kind = Literal["number", "category", "missing", "unmatched", "quarantined", "unlabelled"]
BinCounts = dict[int, int]


@dataclass(frozen=True, kw_only=True)
class DayCounts:
    """A day's counts: kind to column (or side table) to bin to rows. Of shares, bin 1 has the rows that are counted and
    bin 0 the others."""

    rows: int
    counts: dict[Kind, dict[str, BinCounts]]


def count_day(use_case: Reading, rows: pd.DataFrame, check: PartitionCheck) -> DayCounts:
    """The counts of a day, from its cleaned rows without those in quarantine, and from its verdict."""
    labels = Column(name=use_case.target.column, type="number", category=bool(use_case.target.classes))
    as_numbers = {column.name: rows[column.name] for column in numbers(use_case)}
    as_categories = {c.name if part is None else f"{c.name} ({part})": (rows[c.name], part)
                     for c, part in categories(use_case)}  # fmt: skip
    if labels.is_category:
        as_categories[labels.name] = (rows[LABEL], None)
    else:
        as_numbers[labels.name] = rows[LABEL]
    missing = {column.name: int(rows[column.name].isna().sum()) for column in use_case.features}
    unique = check.rows - check.duplicates
    return DayCounts(
        rows=len(rows),
        counts={
            "number": {name: count_numbers(values.to_numpy(np.float64)) for name, values in as_numbers.items()},
            "category": {name: count_categories(values, part) for name, (values, part) in as_categories.items()},
            "missing": {name: _share(count, len(rows)) for name, count in missing.items()},
            "unmatched": {side.name: _share(check.unmatched.get(side.name, 0), check.rows)
                          for side in use_case.side_tables},
            "quarantined": {"": _share(check.quarantined, unique)},
            "unlabelled": {"": _share(check.unlabelled, unique)},
        },
    )  # fmt: skip


def bins_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(values,) int64: the bin of each value, in the order of the values: a larger value is never in a lower bin."""
    bits = np.ascontiguousarray(values, np.float64).view(np.int64)
    magnitude = (bits & MAGNITUDE) >> BIN_BITS
    return np.where(bits < 0, -magnitude, magnitude)


def start_of(number: int) -> float:
    """The value of the bin that lies nearest to zero."""
    magnitude = float(np.array([abs(number) << BIN_BITS], np.int64).view(np.float64)[0])
    return -magnitude if number < 0 else magnitude


def count_numbers(values: NDArray[np.float64]) -> BinCounts:
    """How many values are in each bin; values that are missing or not finite are left out."""
    bins, counts = np.unique(bins_of(values[np.isfinite(values)]), return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))


def count_categories(values: pd.Series, part: Any) -> BinCounts:
    """How many rows are in each bucket of hashes; rows without a category are left out."""
    counts = category_counts(values, part)
    buckets: BinCounts = {}
    for bucket, count in zip((hashes_of(list(counts)) % BUCKETS).tolist(), counts.values(), strict=True):
        buckets[bucket] = buckets.get(bucket, 0) + count
    return dict(sorted(buckets.items()))


def _share(counted: int, rows: int) -> BinCounts:
    return {0: rows - counted, 1: counted}


def shares_of(counts: Mapping[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The bins in order, and the share of the counted rows in each."""
    bins = np.array(sorted(counts), np.int64)
    rows = np.array([counts[number] for number in bins.tolist()], np.float64)
    return bins, rows / max(1.0, rows.sum())
