"""Train, validation and test: by day where there is time, by a hash of the row's key where there is not."""

from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.artifacts import Part, SplitRows
from ml.config import UseCase
from ml.digests import digest_value
from ml.errors import DataRejected
from ml.features import Statistics
from ml.serving.columns import conform
from ml.snapshots import last_due_day
from ml.sources import ALL

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.08  # 80 / 20, and a tenth of the 80


def days_of_part(use_case: UseCase, as_of: date, part: Part) -> tuple[str, str]:
    """First and last day of a part: test is the last `test_days` up to the last due day, validation the days before
    those, train the rest."""
    last = last_due_day(use_case, as_of)
    learnt = last - timedelta(days=use_case.test_days)
    train = learnt - timedelta(days=use_case.validation_days)
    first, end = {
        "train": (date.min, train),
        "validation": (train + timedelta(days=1), learnt),
        "test": (learnt + timedelta(days=1), last),
    }[part]
    return str(first), str(end)


def parts_of_rows(use_case: UseCase, keys: pd.DataFrame) -> NDArray[np.object_]:
    """(rows,) the part of each row, a pure function of its key and the use case's seed: added rows move no other."""
    seeded = keys.assign(seed__=str(use_case.seed))  # pandas' own `hash_key` leaves the hashes of numbers as they are
    hashes = pd.util.hash_pandas_object(seeded, index=False, categorize=False)
    place = hashes.to_numpy(np.uint64) / 2.0**64
    return np.select([place < TEST_SHARE, place < TEST_SHARE + VALIDATION_SHARE], ["test", "validation"], "train")


def rows_of(use_case: UseCase, as_of: date, part: Part, day: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Those of a partition's rows that belong to one of its parts and were known before as_of."""
    chosen = np.full(len(rows), True)
    if day == ALL:  # a hash follows the type: of stored keys it would be another one
        declared = {column.name: column for column in use_case.columns}
        chosen &= parts_of_rows(use_case, conform(rows, tuple(declared[name] for name in use_case.key))) == part
    if use_case.known_at_column:
        chosen &= (rows[use_case.known_at_column] < pd.Timestamp(as_of)).to_numpy()
    return rows if chosen.all() else rows[chosen]


def split_digest(use_case: UseCase) -> str:
    """What two runs must share for rows without time to be in the same part."""
    types = [column.type for name in use_case.key for column in use_case.columns if column.name == name]
    return digest_value([use_case.seed, list(use_case.key), types, TEST_SHARE, VALIDATION_SHARE])


def fit_until(use_case: UseCase, as_of: date) -> str | None:
    """The last day that a model of this run may have seen: the day before the first test day."""
    return str(last_due_day(use_case, as_of) - timedelta(days=use_case.test_days)) if use_case.dated else None


def describe(use_case: UseCase, part: Part, total: Statistics, days: Sequence[str]) -> SplitRows:
    """A part of `total` rows on those days. Raises DataRejected if it is empty or, of classes, lacks one."""
    if not total.rows:
        more = "widen the window or choose a later --as-of" if use_case.dated else "add rows to the source"
        raise DataRejected(f"{part} needs rows", "it has none", more)
    if use_case.target.kind != "regression":
        _refuse_missing_class(use_case, part, total)
    dated = sorted(set(days) - {ALL})
    return SplitRows(
        rows=total.rows,
        positive_share=total.labels.get("1", 0) / total.rows if use_case.target.kind == "binary" else None,
        first_day=dated[0] if dated else None,
        last_day=dated[-1] if dated else None,
    )


def _refuse_missing_class(use_case: UseCase, part: Part, total: Statistics) -> None:
    absent = [name for code, name in enumerate(use_case.target.classes) if str(code) not in total.labels]
    if absent:
        raise DataRejected(
            f"every part needs rows of each class of {use_case.target.column}",
            f"{part} has none of {', '.join(absent)}",
            f"{'widen the window' if use_case.dated else 'add rows'} or check how the target is recorded",
        )
