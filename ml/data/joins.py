"""Makes raw rows of source rows: `derive` completes them, then side tables are joined. Every row keeps its place."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ml.data.dataset import Reading, Table
from ml.data.derived import derived
from ml.data.handles import JoinCounts
from ml.data.reading import Declared, UnusablePartition, read_table, refuse_other_columns, stacked, together
from ml.data.side_tables import join
from ml.data.sources.bringing import partition_files
from ml.data.sources.folder import ALL, DayFiles
from ml.serving.columns import days_of, typed
from ml.settings import Settings


@dataclass(frozen=True)
class Joined:
    """Raw rows in the order of their source rows, and how they met each side table, by its name."""

    rows: pd.DataFrame
    joins: dict[str, JoinCounts]


def complete(use_case: Table, rows: pd.DataFrame, sides: Mapping[str, pd.DataFrame]) -> Joined:
    """One partition's source rows as raw rows.

    `sides`: the rows of each side table by name; one that is not there is not joined. Raises UnusablePartition if
    derive or a side table cannot be used.
    """
    whole = derived(use_case, rows.reset_index(drop=True))
    counts = {}
    for table in use_case.side_tables:
        if table.name in sides:
            whole, counts[table.name] = join(whole, table, sides[table.name])
    return Joined(whole.set_axis(rows.index), counts)


def complete_by_day(
    settings: Settings, use_case: Table, rows: pd.DataFrame, own_sides: Mapping[str, pd.DataFrame] | None = None
) -> Joined:
    """Source rows of any days as raw rows, in the same order. This is how rows are made for scoring.

    `own_sides` are the rows of side tables that a version has itself, by name: these are not read. A row without a time
    is joined to undated tables only. Raises UnusablePartition if a column is missing or is not of its type, or if a
    side table lacks a day.
    """
    own = dict(own_sides or {})
    others = [table for table in use_case.side_tables if table.name not in own]
    sides = {table.name: partition_files(settings, use_case, table.source) for table in others}
    declared = {table.name: Declared.of(use_case, table.source) for table in use_case.side_tables}
    numbered = rows.reset_index(drop=True)
    read = functools.cache(_read_files)
    parts = {}
    for day, part in numbered.groupby(_days(use_case, numbered)):
        files = _files_of_day(sides, str(day))
        parts[str(day)] = complete(use_case, part, own | {name: read(files[name], declared[name]) for name in files})
    _refuse_other_columns_a_day(use_case, {day: part.rows for day, part in parts.items()})
    whole = stacked([part.rows for part in parts.values()], "the rows").sort_index() if parts else numbered
    taken = [name for table in use_case.side_tables for name in table.take if name not in whole]
    if not len(rows):  # without rows, derive has not run
        taken = [column.name for column in use_case.columns if column.name not in whole]
    return Joined(whole.assign(**dict.fromkeys(taken, np.nan)).set_axis(rows.index), _summed(parts.values()))


def _refuse_other_columns_a_day(use_case: Table, parts: Mapping[str, pd.DataFrame]) -> None:
    """Raises UnusablePartition if derive returned a column on some days only.

    In one table of all days, the rows of the other days would silently lack it.
    """
    joined = {name for table in use_case.side_tables for name in table.take}
    names = {day: {*part.columns} - joined for day, part in parts.items()}
    all_names: set[str] = set().union(*names.values())
    for day, own_names in names.items():
        if own_names != all_names:
            lacking = ", ".join(sorted(map(str, all_names - own_names)))
            raise UnusablePartition(
                f"derive of {use_case.name} returns no {lacking} for {day} (return it for every row)"
            )


def _summed(parts: Iterable[Joined]) -> dict[str, JoinCounts]:
    """The counts summed over days. A side table's own rows without a key are not summed: the largest number counts."""
    total: dict[str, JoinCounts] = {}
    for part in parts:
        for name, counts in part.joins.items():
            before = total.get(name, JoinCounts(rows=0, null_keys=0, unmatched=0, side_null_keys=0))
            total[name] = JoinCounts(
                rows=before.rows + counts.rows,
                null_keys=before.null_keys + counts.null_keys,
                unmatched=before.unmatched + counts.unmatched,
                side_null_keys=max(before.side_null_keys, counts.side_null_keys),
            )
    return total


def _days(use_case: Reading, rows: pd.DataFrame) -> pd.Series:
    """(rows,) the day of each row; `all` if it has no time."""
    if not use_case.dated:
        return pd.Series(ALL, index=rows.index)
    (column,) = (declared for declared in use_case.columns if declared.name == use_case.time_column)
    refuse_other_columns(use_case, rows, (column,))
    return days_of(typed(column, rows[column.name], use_case.time_zone)).fillna(ALL)


def _read_files(files: DayFiles, declared: Declared) -> pd.DataFrame:
    return together([read_table(Path(path), declared) for path in files.paths], files.name)


def _files_of_day(sides: dict[str, dict[str, DayFiles]], day: str) -> dict[str, DayFiles]:
    """The files that each side table has for the day, or for all days. Raises UnusablePartition if one has none."""
    absent = [name for name, files in sides.items() if day not in files and ALL not in files]
    if absent and day != ALL:
        raise UnusablePartition(f"{', '.join(absent)} has no {day}")
    return {name: files.get(day) or files[ALL] for name, files in sides.items() if name not in absent}
