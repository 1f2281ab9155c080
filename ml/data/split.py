"""Splits rows into train, validation and test: by day if they have a time, else by a hash of the row's group or key.

A row without group and key is told apart by its content, the label included, and by how many equal rows come before it.
So neither added rows nor another order of rows move a row to another part. A corrected row counts as a new one.
A part without rows, or without one of the classes, is refused.
"""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaning import DAY, LABEL
from ml.data.dataset import Dataset, Reading, Table, UsedDays
from ml.data.handles import Part, SplitRows
from ml.data.sources.folder import ALL
from ml.data.statistics import Statistics
from ml.data.window import last_due_day
from ml.digests import digest_value
from ml.errors import DataRejected
from ml.serving.columns import Column, conform

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.08  # a fifth of all rows, and a tenth of the others


def days_of_part(use_case: UsedDays, as_of: date, part: Part, counted: Sequence[str] | None = None) -> tuple[str, str]:
    """The first and the last day of a part, in ISO 8601.

    Test is the last `test_days` up to the last due day, validation the `validation_days` before those, train the rest.
    `counted`: the days that count, in order; None if the calendar counts every day.
    """
    validation, test = _first_days(use_case, as_of, counted)
    before = timedelta(days=1)
    first, end = {
        "train": (date.min, validation - before),
        "validation": (validation, test - before),
        "test": (test, last_due_day(use_case, as_of)),
    }[part]
    return str(first), str(end)


def _first_days(use_case: UsedDays, as_of: date, counted: Sequence[str] | None) -> tuple[date, date]:
    """The first day of validation and the first day of test. If too few days count, none is left for train."""
    held_out = use_case.validation_days + use_case.test_days
    if counted is None:
        end = last_due_day(use_case, as_of) + timedelta(days=1)
        return end - timedelta(days=held_out), end - timedelta(days=use_case.test_days)
    validation, test = counted[-held_out:], counted[-use_case.test_days :]
    return date.fromisoformat(validation[0]), date.fromisoformat(test[0])


def parts_of_rows(use_case: UsedDays, keys: pd.DataFrame) -> NDArray[np.object_]:
    """(rows,) the part of each row.

    It follows from the row's key and the use case's seed alone: added rows move no other.
    """
    return _parts(_places(use_case, keys))


def _places(use_case: UsedDays, keys: pd.DataFrame) -> NDArray[np.float64]:
    """(rows,) float64: a number from 0 to 1 that follows from the row's key and the use case's seed alone."""
    seeded = keys.assign(seed__=str(use_case.seed))  # pandas' own `hash_key` leaves the hashes of numbers as they are
    return _hashes(seeded) / 2.0**64


def _hashes(keys: pd.DataFrame) -> NDArray[np.uint64]:
    return pd.util.hash_pandas_object(keys, index=False, categorize=False).to_numpy(np.uint64)


def _parts(places: NDArray[np.float64]) -> NDArray[np.object_]:
    """(rows,) the part of each row, from its place between 0 and 1."""
    return np.select([places < TEST_SHARE, places < TEST_SHARE + VALIDATION_SHARE], ["test", "validation"], "train")


def undated_parts(use_case: Dataset, rows: pd.DataFrame) -> NDArray[np.object_]:
    """(rows,) the part of each row without time: that of its group, or its own if it has no group."""
    places = _own_places(use_case, rows)
    if use_case.group is not None:
        groups = groups_of(use_case, rows)
        places = np.where(groups.isna(), places, _places(use_case, groups.to_frame()))
    return _parts(places)


def _own_places(use_case: Dataset, rows: pd.DataFrame) -> NDArray[np.float64]:
    """(rows,) float64: the place of each row by its key, or by its content if it has no key.

    Without the content, all rows without a key would lie in the same part.
    """
    keys = _typed(use_case, rows, *use_case.key)
    lacking = keys.isna().all(axis=1).to_numpy(bool)
    places = _places(use_case, keys)
    if lacking.any():
        places[lacking] = _places(use_case, _content_keys(use_case, rows[lacking]))
    return places


def _content_keys(use_case: Reading, rows: pd.DataFrame) -> pd.DataFrame:
    """What tells rows without a key apart: a hash of their content, and the number of equal rows before them."""
    names = [column.name for column in use_case.columns if column.name != use_case.target.column]
    content = _typed(use_case, rows, *names).assign(**{LABEL: rows[LABEL].astype("float64")})
    numbers = content.select_dtypes("float64") + 0.0  # -0.0 is 0.0
    hashes = pd.Series(_hashes(content.assign(**{str(name): column for name, column in numbers.items()})))
    return pd.DataFrame({"content": hashes, "before": hashes.groupby(hashes).cumcount()})


def _typed(use_case: Reading, rows: pd.DataFrame, *names: str) -> pd.DataFrame:
    """These columns in their declared types. A hash depends on the type, and texts are stored as categoricals."""
    return conform(rows, tuple(_declared(use_case, name) for name in names))


def _declared(use_case: Reading, name: str) -> Column:
    return next(column for column in use_case.columns if column.name == name)


def rows_of(use_case: Dataset, as_of: date, part: Part, day: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The partition's rows that were known before as_of and, if they have no day, belong to the part."""
    chosen = np.full(len(rows), True)
    if day == ALL:
        chosen &= undated_parts(use_case, rows) == part
    if use_case.known_at_column:
        chosen &= (rows[use_case.known_at_column] < pd.Timestamp(as_of)).to_numpy()
    return rows if chosen.all() else rows[chosen]


def split_digest(use_case: Dataset) -> str:
    """A digest of all that decides the part of a row without time. Runs with equal digests split rows alike."""
    keys = [_declared(use_case, name) for name in use_case.key]
    decided: list[Any] = [use_case.seed, list(use_case.key), [c.type for c in keys], TEST_SHARE, VALIDATION_SHARE]
    if not use_case.dated and all(column.nullable for column in keys):
        decided += [[[column.name, column.type] for column in use_case.columns], use_case.target.digest]
    if not use_case.dated and use_case.group is not None:
        decided += [use_case.group, _declared(use_case, use_case.group).type]
    return digest_value(decided)


def share_of_known_groups(use_case: Table, train: Iterable[pd.DataFrame], test: Iterable[pd.DataFrame]) -> float | None:
    """The share of test rows whose group has train rows too; None if no group is cut, or none is declared."""
    if use_case.group is None or not use_case.dated:
        return None
    train_groups: set[Any] = set()
    for rows in train:
        train_groups.update(groups_of(use_case, rows).dropna().unique())
    in_train = [groups_of(use_case, rows).isin(train_groups) for rows in test]
    return float(np.concatenate(in_train).mean()) if in_train else None


def groups_of(use_case: Table, rows: pd.DataFrame) -> pd.Series:
    """(rows,) each row's group; null if it has none. A blank text counts as none."""
    assert use_case.group is not None
    groups = _typed(use_case, rows, use_case.group)[use_case.group]
    return groups.mask(groups.str.strip() == "") if isinstance(groups.dtype, pd.StringDtype) else groups


def units_of(use_case: Table, rows: pd.DataFrame) -> tuple[Any, str]:
    """The unit of each row, and what a unit is called: rows of one unit depend on each other.

    The units are days for dated rows, and groups if the use case has them (null for a row without one). Otherwise they
    are None, which makes every row a unit.
    """
    if use_case.dated:
        return rows[DAY].to_numpy(object), "day"
    if use_case.group:
        return groups_of(use_case, rows).to_numpy(object), use_case.group
    return None, "row"


def fit_until(use_case: Dataset, as_of: date, counted: Sequence[str] | None = None) -> str | None:
    """The last day that a model of this run may have seen, the day before the first test day; None without time."""
    return days_of_part(use_case, as_of, "validation", counted)[1] if use_case.dated else None


def describe(use_case: Table, part: Part, total: Statistics, days: Sequence[str]) -> SplitRows:
    """What the report says of a part, from its statistics and the days that have rows.

    Raises DataRejected if the part has no rows, or lacks one of the classes.
    """
    if not total.rows:
        more = "widen the window or choose a later --as-of" if use_case.dated else _more_rows(use_case)
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


def _refuse_missing_class(use_case: Table, part: Part, total: Statistics) -> None:
    absent = [name for code, name in enumerate(use_case.target.classes) if str(code) not in total.labels]
    if absent:
        raise DataRejected(
            f"every part needs rows of each class of {use_case.target.column}",
            f"{part} has none of {', '.join(absent)}",
            f"{'widen the window' if use_case.dated else _more_rows(use_case)} or check how the target is recorded",
        )


def _more_rows(use_case: Table) -> str:
    together = f", of other values of {use_case.group}: rows of one stay in one part" if use_case.group else ""
    return f"add rows to the source{together}"
