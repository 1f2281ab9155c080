"""Which partitions a run uses, and what is in each: the only module that reads the source.

A row of day d is used if and only if d < as_of - label_delay_days.
"""

import functools
import logging
import re
import zlib
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa

from ml.artifacts import Manifest, Partition
from ml.config import SideTable, Source, UseCase
from ml.digests import digest_file
from ml.errors import DataRejected, UsageError
from ml.serving.columns import Column, conform, wrong_type
from ml.settings import Settings

log = logging.getLogger("retrain.snapshots")
ALL = "all"
DAY_FILE = re.compile(r"(\d{4}-\d{2}-\d{2}|all)\.(parquet|csv|csv\.gz)")


class UnusablePartition(ValueError):
    """A partition that cannot be read as declared; its message is the reason."""


def source_folder(settings: Settings, source: Source) -> Path:
    return settings.data / source.folder  # an absolute folder stays itself


def partition_files(settings: Settings, source: Source) -> dict[str, Path]:
    """Day (or `all`) to file, in date order.

    Raises DataRejected where there is no folder or nothing in it, and where a name is no day or a day has two files.
    """
    folder = source_folder(settings, source)
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        match = DAY_FILE.fullmatch(path.name)
        if match:
            _refuse_ambiguous(found, match[1], path)
            found[match[1]] = path
    if not found:
        raise DataRejected(
            "a source has files like 2013-09-30.parquet or all.parquet",
            f"{folder} has none",
            "check the source's folder",
        )
    return found


def _refuse_ambiguous(found: dict[str, Path], day: str, path: Path) -> None:
    if day in found:
        seen = f"{found[day].name} and {path.name} are both in {path.parent}"
        raise DataRejected("a source has one file a day", seen, "remove one of them")
    if found and day == ALL:
        seen = f"{path.parent} has {path.name} and {next(iter(found.values())).name}"
        raise DataRejected("a source has a file a day, or one for all", seen, "remove one kind")
    if day != ALL and not _is_day(day):
        raise DataRejected("a partition's file is named by its day", f"{path} names none", "rename it")


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def last_due_day(use_case: UseCase, as_of: date) -> date:
    return as_of - timedelta(days=use_case.label_delay_days + 1)


def take_manifest(
    settings: Settings, use_case: UseCase, as_of: date, excluded: Mapping[str, str]
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of the window that ends before `as_of` without the excluded days, and the days missing in it.

    Raises UsageError for a date in the future, DataRejected for an empty window, a missing newest day or too many
    missing days.
    """
    if as_of > use_case.today():
        raise UsageError("as_of is a day up to today", f"it is {as_of}", f"use --as-of {use_case.today()} or earlier")
    files = partition_files(settings, use_case.source)
    sides = {table.name: partition_files(settings, table.source) for table in use_case.side_tables}
    if not use_case.dated:
        _refuse_dated(use_case, sides)
    days, missing, left_out = (
        _window(use_case, as_of, files, sides, excluded) if use_case.dated else ((ALL,), (), dict[str, str]())
    )
    if ALL in days and ALL not in files:
        raise DataRejected(
            f"{use_case.name} has no time column and so one partition", "all.parquet is not there", "write it"
        )
    return Manifest(
        partitions=tuple(_seen(day, files[day]) for day in days),
        excluded=left_out,
        side_tables={
            name: tuple(_seen(d, f) for d, f in table.items() if d in {*days, ALL}) for name, table in sides.items()
        },
    ), missing


def _refuse_dated(use_case: UseCase, sides: dict[str, dict[str, Path]]) -> None:
    dated = [(name, next(iter(files.values()))) for name, files in sides.items() if ALL not in files]
    if dated:
        name, file = dated[0]
        raise DataRejected(
            f"side table {name} of {use_case.name} must be one file, all.parquet, as there is no time_column",
            f"there is {file}",
            "write one file, or name the use case's time_column",
        )


def refuse_window(settings: Settings, use_case: UseCase, as_of: date, excluded: Mapping[str, str]) -> None:
    """Raises what `take_manifest` would for the days that are there, without reading any file."""
    files = partition_files(settings, use_case.source)
    sides = {table.name: partition_files(settings, table.source) for table in use_case.side_tables}
    _window(use_case, as_of, files, sides, excluded)


def _window(
    use_case: UseCase,
    as_of: date,
    files: dict[str, Path],
    sides: dict[str, dict[str, Path]],
    excluded: Mapping[str, str],
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """Days present, days missing and days excluded, each in order."""
    if ALL in files:
        raise DataRejected(
            f"{use_case.name} has a time column and so a file a day",
            f"there is only {files[ALL].name}",
            "write a file a day",
        )
    first, last = date.fromisoformat(next(iter(files))), last_due_day(use_case, as_of)
    if last < first:
        raise DataRejected(
            f"as_of must come after the first data ({first})",
            f"it is {as_of}",
            f"use {_as_of_with(use_case, first, use_case.test_days + use_case.validation_days)} or later, "
            "which leaves rows to train on",
        )
    whole = {day for day in files if all(day in side or ALL in side for side in sides.values())}
    if str(last) not in {*whole, *excluded}:
        _refuse_missing_newest(use_case, str(last), files, whole)
    start = max(first, last - timedelta(days=use_case.window_days - 1))
    due = [str(start + timedelta(days=n)) for n in range((last - start).days + 1)]
    present = tuple(day for day in due if day in whole and day not in excluded)
    missing = tuple(day for day in due if day not in {*whole, *excluded})
    return present, missing, {day: excluded[day] for day in due if day in excluded}


def _as_of_with(use_case: UseCase, day: date, days_after: int = 0) -> date:
    """The as_of whose last due day lies so many days after the day."""
    return day + timedelta(days=use_case.label_delay_days + 1 + days_after)


def _refuse_missing_newest(use_case: UseCase, last: str, files: dict[str, Path], whole: set[str]) -> NoReturn:
    """Raises DataRejected, which names the newest as_of that the data allow."""
    before = max((day for day in whole if day < last), default=None)
    possible = f", or run with --as-of {_as_of_with(use_case, date.fromisoformat(before))}" if before else ""
    rule = "every side table must have the newest due day" if last in files else "the newest due day must be there"
    raise DataRejected(rule, f"expected {last}, newest is {before or 'none'}", f"deliver {last}{possible}")


def _seen(day: str, path: Path) -> Partition:
    return Partition(day=day, file=path.name, digest=digest_file(path))


def changed_days(before: Manifest | None, now: Manifest) -> tuple[str, ...]:
    """Days that both manifests have, with different bytes, side tables included."""
    if before is None:
        return ()
    old, new = _by_day(before), _by_day(now)
    return tuple(sorted({day for table, day in old.keys() & new.keys() if old[table, day] != new[table, day]}))


def _by_day(manifest: Manifest) -> dict[tuple[str, str], str]:
    tables = {"": manifest.partitions, **manifest.side_tables}
    return {(name, partition.day): partition.digest for name, table in tables.items() for partition in table}


def partition_inputs(use_case: UseCase, manifest: Manifest, day: str) -> dict[str, str]:
    """Digests of all bytes that a partition's rows come from, by table."""
    by_day = _by_day(manifest)
    sides = {table.name: by_day.get((table.name, day)) or by_day[table.name, ALL] for table in use_case.side_tables}
    return {"": by_day["", day], **sides}


def read_partition(
    settings: Settings, use_case: UseCase, manifest: Manifest, day: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The partition's raw rows, joined and derived, with declared columns and types; and the columns nobody declared.

    Raises UnusablePartition where the file cannot be read, a column is missing or of another type, or a row is of
    another day; DataRejected where the bytes are no longer those of the manifest.
    """
    path, digest = _place(settings, use_case.source, manifest.partitions, day)
    places = {t.name: _place(settings, t.source, manifest.side_tables[t.name], day) for t in use_case.side_tables}
    try:
        source = read_table(path, use_case.columns)
        rows = complete(use_case, source, {name: place for name, (place, _) in places.items()})
    finally:  # read first and hashed after, so that no change in between is missed
        _refuse_changed({path: digest, **dict(places.values())})
    refuse_other_columns(rows, use_case.columns)
    _refuse_other_days(use_case, rows, day)
    on = {name for table in use_case.side_tables for name in table.on}
    unknown = set(source.columns) - {column.name for column in use_case.columns} - on
    return conform(rows, use_case.columns), tuple(sorted(unknown))


def _place(settings: Settings, source: Source, partitions: tuple[Partition, ...], day: str) -> tuple[Path, str]:
    """The file of a day, or of all days, and the digest that it had when the snapshot was taken."""
    seen = {partition.day: partition for partition in partitions}
    partition = seen.get(day) or seen[ALL]
    return source_folder(settings, source) / partition.file, partition.digest


def _refuse_changed(files: dict[Path, str]) -> None:
    for path, digest in files.items():
        if not path.exists() or digest_file(path) != digest:
            raise DataRejected(
                "a partition stays as it is during a night", f"{path.name} changed since the snapshot", "run it again"
            )


def _refuse_other_days(use_case: UseCase, rows: pd.DataFrame, day: str) -> None:
    """The name of a file says which day its rows are of; a row of a later day would let the future in."""
    if use_case.time_column is None or not len(rows):
        return
    days = rows[use_case.time_column].dt.strftime("%Y-%m-%d")
    others = int((days.notna() & (days != day)).sum())
    if others:
        raise UnusablePartition(f"{others} of {len(rows)} rows are of another day by {use_case.time_column}")


def complete(use_case: UseCase, rows: pd.DataFrame, sides: dict[str, Path]) -> pd.DataFrame:
    """One partition's source rows as raw rows: derived, then joined to the files of side tables, in the same order.

    Raises UnusablePartition where a side table's file cannot be read or lacks a column, and where the rows lack one.
    """
    whole = _derived(use_case, rows)
    for table in use_case.side_tables:
        if table.name in sides:
            whole = _joined(whole, table, _side_rows(table, sides[table.name], use_case.columns))
    return whole.set_index(rows.index)


def _derived(use_case: UseCase, rows: pd.DataFrame) -> pd.DataFrame:
    """What `derive` makes of the rows; where it fails, their columns are looked at before it is blamed."""
    if use_case.derive is None:
        return rows
    try:
        return use_case.derive(rows)
    except Exception as error:  # noqa: BLE001 - a company's own code; its message may quote the row
        joined = {name for table in use_case.side_tables for name in table.take}
        refuse_other_columns(rows, tuple(column for column in use_case.columns if column.name not in joined))
        raise UnusablePartition(f"derive fails on it with {type(error).__name__}") from None


def _joined(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> pd.DataFrame:
    _refuse_missing(rows, table.on)
    try:
        return rows.merge(side, on=list(table.on), how="left", validate="m:1")
    except ValueError as error:
        raise UnusablePartition(f"{table.name} cannot be joined on {', '.join(table.on)} ({_short(error)})") from error


def complete_by_day(settings: Settings, use_case: UseCase, rows: pd.DataFrame) -> pd.DataFrame:
    """Source rows of any days as raw rows, for scoring, in the same order.

    A row without its time is joined to undated tables only. Raises UnusablePartition where a column is missing or of
    another type, and for a day without a side table.
    """
    sides = {table.name: partition_files(settings, table.source) for table in use_case.side_tables}
    numbered = rows.reset_index(drop=True)
    parts = [
        complete(use_case, part, _files_of_day(sides, str(day)))
        for day, part in numbered.groupby(_days(use_case, numbered))
    ]
    whole = pd.concat(parts).sort_index() if parts else numbered
    taken = [name for table in use_case.side_tables for name in table.take if name not in whole]
    return whole.assign(**dict.fromkeys(taken, np.nan)).set_axis(rows.index)


def _days(use_case: UseCase, rows: pd.DataFrame) -> pd.Series:
    """(rows,) the partition of each row; `all` where it has no time."""
    if not use_case.dated:
        return pd.Series(ALL, index=rows.index)
    refuse_other_columns(rows, tuple(column for column in use_case.columns if column.name == use_case.time_column))
    return pd.to_datetime(rows[use_case.time_column]).dt.strftime("%Y-%m-%d").fillna(ALL)


def _files_of_day(sides: dict[str, dict[str, Path]], day: str) -> dict[str, Path]:
    absent = [name for name, files in sides.items() if day not in files and ALL not in files]
    if absent and day != ALL:
        raise UnusablePartition(f"{', '.join(absent)} has no {day}")
    return {name: files.get(day) or files[ALL] for name, files in sides.items() if name not in absent}


def _side_rows(table: SideTable, path: Path, columns: tuple[Column, ...]) -> pd.DataFrame:
    undated = path.name.startswith(ALL)
    rows = _undated_table(path, path.stat().st_mtime_ns, columns) if undated else read_table(path, columns)
    absent = [name for name in (*table.on, *table.take) if name not in rows.columns]
    if absent:
        raise UnusablePartition(f"{table.name} lacks the columns {', '.join(absent)}")
    return rows[[*table.on, *table.take]].drop_duplicates()


@functools.lru_cache(maxsize=8)
def _undated_table(path: Path, changed_at: int, columns: tuple[Column, ...]) -> pd.DataFrame:
    """A table that every day of a window joins, read once."""
    del changed_at
    return read_table(path, columns)


def read_table(path: Path, columns: tuple[Column, ...]) -> pd.DataFrame:
    """A Parquet or CSV file, CSV parsed by the declared types. Raises UnusablePartition if it cannot be read."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        dates = [column.name for column in columns if column.type == "timestamp"]
        texts = {column.name: "str" for column in columns if column.type == "text"}
        header = set(pd.read_csv(path, nrows=0).columns)
        return pd.read_csv(path, parse_dates=[name for name in dates if name in header], dtype=texts)
    except (OSError, ValueError, EOFError, zlib.error, pa.ArrowException) as error:
        raise UnusablePartition(f"{path.name} cannot be read ({_short(error)})") from error


def _short(error: Exception) -> str:
    """The first line of the error's message, or its kind if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def refuse_other_columns(rows: pd.DataFrame, columns: tuple[Column, ...]) -> None:
    """Raises UnusablePartition where a declared column is missing or of another type."""
    _refuse_missing(rows, tuple(column.name for column in columns))
    for column in columns:
        seen = wrong_type(column, rows[column.name])
        if seen:
            raise UnusablePartition(f"column {column.name} must be {column.type}, but it is {seen}")


def _refuse_missing(rows: pd.DataFrame, names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in rows.columns]
    if missing:
        raise UnusablePartition(f"column {', '.join(missing)} is missing")
