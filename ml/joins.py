"""Source rows as raw rows: derived, then joined to side tables."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from ml.bringing import partition_files
from ml.config import SideTable, UseCase
from ml.reading import Declared, UnusablePartition, read_table, refuse_missing, refuse_other_columns, short, together
from ml.serving.columns import days_of, typed
from ml.settings import Settings
from ml.sources import ALL, DayFiles


def complete(use_case: UseCase, rows: pd.DataFrame, sides: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One partition's source rows as raw rows: derived, then joined to side tables, in the same order.

    Raises UnusablePartition where a side table or the rows lack a column.
    """
    whole = _derived(use_case, rows)
    for table in use_case.side_tables:
        if table.name in sides:
            whole = _joined(whole, table, _side_rows(table, sides[table.name]))
    return whole.set_index(rows.index)


def _derived(use_case: UseCase, rows: pd.DataFrame) -> pd.DataFrame:
    """What `derive` makes of the rows; where it fails, their columns are looked at before it is blamed."""
    if use_case.derive is None:
        return rows
    try:
        return use_case.derive(rows)
    except Exception as error:  # noqa: BLE001 - a company's own code; its message may quote the row
        joined = {name for table in use_case.side_tables for name in table.take}
        refuse_other_columns(use_case, rows, tuple(each for each in use_case.columns if each.name not in joined))
        raise UnusablePartition(f"derive fails on it with {type(error).__name__}") from None


def _joined(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> pd.DataFrame:
    refuse_missing(rows, table.on)
    try:
        return rows.merge(side, on=list(table.on), how="left", validate="m:1")
    except ValueError as error:
        raise UnusablePartition(f"{table.name} cannot be joined on {', '.join(table.on)} ({short(error)})") from error


def complete_by_day(settings: Settings, use_case: UseCase, rows: pd.DataFrame) -> pd.DataFrame:
    """Source rows of any days as raw rows, for scoring, in the same order.

    A row without its time is joined to undated tables only. Raises UnusablePartition where a column is missing or of
    another type, and for a day without a side table.
    """
    sides = {table.name: partition_files(settings, use_case, table.source) for table in use_case.side_tables}
    declared = {table.name: Declared.of(use_case, table.source) for table in use_case.side_tables}
    numbered = rows.reset_index(drop=True)
    read = functools.cache(_read_files)
    parts = [
        complete(
            use_case,
            part,
            {name: read(files, declared[name]) for name, files in _files_of_day(sides, str(day)).items()},
        )
        for day, part in numbered.groupby(_days(use_case, numbered))
    ]
    whole = pd.concat(parts).sort_index() if parts else numbered
    taken = [name for table in use_case.side_tables for name in table.take if name not in whole]
    return whole.assign(**dict.fromkeys(taken, np.nan)).set_axis(rows.index)


def _days(use_case: UseCase, rows: pd.DataFrame) -> pd.Series:
    """(rows,) the partition of each row; `all` where it has no time."""
    if not use_case.dated:
        return pd.Series(ALL, index=rows.index)
    (column,) = (each for each in use_case.columns if each.name == use_case.time_column)
    refuse_other_columns(use_case, rows, (column,))
    return days_of(typed(column, rows[column.name], use_case.time_zone)).fillna(ALL)


def _read_files(files: DayFiles, declared: Declared) -> pd.DataFrame:
    return together([read_table(Path(path), declared) for path in files.paths], files.name)


def _files_of_day(sides: dict[str, dict[str, DayFiles]], day: str) -> dict[str, DayFiles]:
    absent = [name for name, files in sides.items() if day not in files and ALL not in files]
    if absent and day != ALL:
        raise UnusablePartition(f"{', '.join(absent)} has no {day}")
    return {name: files.get(day) or files[ALL] for name, files in sides.items() if name not in absent}


def _side_rows(table: SideTable, rows: pd.DataFrame) -> pd.DataFrame:
    absent = [name for name in (*table.on, *table.take) if name not in rows.columns]
    if absent:
        raise UnusablePartition(f"{table.name} lacks the columns {', '.join(absent)}")
    return rows[[*table.on, *table.take]].drop_duplicates()
