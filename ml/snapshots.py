"""Which partitions a run uses, and what is in each.

A row of day d is used if and only if d < as_of - label_delay_days.
"""

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import pandas as pd

from ml.artifacts import JoinCounts, Manifest, Month, Partition, from_json, to_json
from ml.bringing import partition_files
from ml.config import UseCase
from ml.days import FIRST_DAY, month_of, months_between
from ml.digests import FileDigests, KeptDigests, digest_bytes
from ml.errors import Corrupt, DataRejected, UsageError, printable
from ml.joins import complete
from ml.reading import Declared, UnusablePartition, parse_table, refuse_other_columns, together
from ml.serving.columns import conform, days_of
from ml.settings import Settings
from ml.sources import ALL, AnySource, DayFiles, digest_of, read_bytes, reading, source_folder
from ml.store import Store

log = logging.getLogger("retrain.snapshots")
WRITE_DAYS = "write a file a day"


def newest_day(settings: Settings, use_case: UseCase) -> date:
    """The last day of the source. Raises DataRejected for one without days."""
    newest = list(partition_files(settings, use_case, use_case.source))[-1]
    if newest == ALL:
        raise DataRejected(f"{use_case.name} has a time column and so a file a day", "there is only one", WRITE_DAYS)
    return date.fromisoformat(newest)


def last_due_day(use_case: UseCase, as_of: date) -> date:
    return as_of - timedelta(days=use_case.label_delay_days + 1)


def take_manifest(
    settings: Settings, use_case: UseCase, as_of: date, excluded: Mapping[str, str]
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of the window that ends before `as_of` without the excluded days, and the days missing in it.

    Raises UsageError for a date in the future, DataRejected for an empty window, a missing newest day or too many
    missing days.
    """
    if as_of < FIRST_DAY:
        raise UsageError(f"as_of is a day from {FIRST_DAY} on", f"it is {as_of}", "use a later one")
    if as_of > use_case.today():
        raise UsageError("as_of is a day up to today", f"it is {as_of}", f"use --as-of {use_case.today()} or earlier")
    files = partition_files(settings, use_case, use_case.source)
    sides = {table.name: partition_files(settings, use_case, table.source) for table in use_case.side_tables}
    if not use_case.dated:
        _refuse_dated(use_case, sides)
        if ALL not in files:
            raise DataRejected(
                f"{use_case.name} has no time column and so one partition", "all.parquet is not there", "write it"
            )
        due = {ALL: (ALL, ALL)}
    else:
        ends = _window(use_case, as_of, files, sides, excluded)
        due = {name: (str(first), str(last)) for name, first, last in months_between(*ends)}
    return _manifest(settings, use_case, {"": files, **sides}, due, excluded if use_case.dated else {})


def _manifest(
    settings: Settings,
    use_case: UseCase,
    tables: dict[str, dict[str, DayFiles]],
    due: dict[str, tuple[str, str]],
    excluded: Mapping[str, str],
) -> tuple[Manifest, tuple[str, ...]]:
    """Of the first and the last due day of every month, and the due days that are missing; a month that is as it was
    is not looked at again."""
    digests = KeptDigests(settings.home / "cache" / f"digests-{use_case.name}.json")
    by_month = {name: _by_month(table) for name, table in tables.items()}
    months, missing, size = {}, list[str](), 0
    left_out = dict[str, str]()
    for name, (first, last) in due.items():
        files = {table: {**of.get(name, {}), **of.get(ALL, {})} for table, of in by_month.items()}
        month = DueMonth(first, last, {day: excluded[day] for day in sorted(excluded) if first <= day <= last}, files)
        left_out |= month.excluded
        stats = month.stats()
        found = digests.of(name, month.decided, stats, functools.partial(month.look, stats))
        missing += found["missing"]
        if found["size"]:
            months[name], size = found["month"], size + found["size"]
    digests.save()
    if not size:
        raise DataRejected("a window has a day with data", "every due day is missing or excluded", "deliver one")
    return Manifest(months=months, size=size, excluded=left_out), tuple(missing)


def _by_month(table: dict[str, DayFiles]) -> dict[str, dict[str, DayFiles]]:
    found: dict[str, dict[str, DayFiles]] = {}
    for day, files in table.items():
        found.setdefault(month_of(day), {})[day] = files
    return found


@dataclass(frozen=True)
class DueMonth:
    """The due days of one month, and the files that each table has in it; "" is the source's own."""

    first: str
    last: str
    excluded: dict[str, str]
    files: dict[str, dict[str, DayFiles]]

    @property
    def decided(self) -> str:
        """What beside the files' bytes decides what it comes to."""
        names = [f"{table} {' '.join(files.name for files in of.values())}" for table, of in self.files.items()]
        return "\n".join([self.first, self.last, *self.excluded, *names])

    @property
    def days(self) -> list[str]:
        if self.first == ALL:
            return [ALL]
        first, last = date.fromisoformat(self.first), date.fromisoformat(self.last)
        return [str(first + timedelta(days=number)) for number in range((last - first).days + 1)]

    def stats(self) -> dict[str, os.stat_result]:
        paths = [path for of in self.files.values() for files in of.values() for path in files.paths]
        with reading(Path(paths[0]).parent if paths else Path()):
            return {path: os.stat(path) for path in paths}  # noqa: PTH116 - thousands a night

    def look(self, stats: dict[str, os.stat_result], digests: FileDigests) -> dict[str, Any]:
        source, *sides = self.files.values()
        due = self.days
        whole = [day for day in due if day in source and all(day in side or ALL in side for side in sides)]
        used = {*whole, ALL}.difference(self.excluded)
        tables = {
            name: tuple(
                Partition(day=day, file=files.name, digest=digest_of(digests, files, stats))
                for day, files in of.items()
                if day in used
            )
            for name, of in self.files.items()
        }
        month = Month(partitions=tables.pop(""), side_tables=tables)
        missing = sorted({*due}.difference(whole, self.excluded))
        return {"month": to_json(month).decode(), "size": len(month.partitions), "missing": missing}


def _refuse_dated(use_case: UseCase, sides: dict[str, dict[str, DayFiles]]) -> None:
    dated = [(name, next(iter(files.values())).paths[0]) for name, files in sides.items() if ALL not in files]
    if dated:
        name, file = dated[0]
        raise DataRejected(
            f"side table {name} of {use_case.name} must be one file, all.parquet, as there is no time_column",
            f"there is {file}",
            "write one file, or name the use case's time_column",
        )


def refuse_window(settings: Settings, use_case: UseCase, as_of: date, excluded: Mapping[str, str]) -> None:
    """Raises what `take_manifest` would for the days that are there, without reading any file."""
    files = partition_files(settings, use_case, use_case.source)
    sides = {table.name: partition_files(settings, use_case, table.source) for table in use_case.side_tables}
    _window(use_case, as_of, files, sides, excluded)


def _window(
    use_case: UseCase,
    as_of: date,
    files: dict[str, DayFiles],
    sides: dict[str, dict[str, DayFiles]],
    excluded: Mapping[str, str],
) -> tuple[date, date]:
    """The first and the last due day."""
    if ALL in files:
        raise DataRejected(
            f"{use_case.name} has a time column and so a file a day",
            f"there is only {files[ALL].name}",
            WRITE_DAYS,
        )
    first, last = date.fromisoformat(next(iter(files))), last_due_day(use_case, as_of)
    if last < first:
        raise DataRejected(
            f"as_of must come after the first data ({first})",
            f"it is {as_of}",
            f"use {_as_of_with(use_case, first, use_case.test_days + use_case.validation_days)} or later, "
            "which leaves rows to train on",
        )
    lacking = [name for name, side in sides.items() if str(last) not in side and ALL not in side]
    if (str(last) not in files or lacking) and str(last) not in excluded:
        whole = {day for day in files if all(day in side or ALL in side for side in sides.values())}
        _refuse_missing_newest(use_case, str(last), [] if str(last) in files else ["the source"], lacking, whole)
    return max(first, last - timedelta(days=use_case.window_days - 1)), last


def _as_of_with(use_case: UseCase, day: date, days_after: int = 0) -> date:
    """The as_of whose last due day lies so many days after the day."""
    return day + timedelta(days=use_case.label_delay_days + 1 + days_after)


def _refuse_missing_newest(
    use_case: UseCase, last: str, source: list[str], sides: list[str], whole: set[str]
) -> NoReturn:
    """Raises DataRejected, which names what lacks the day, and the newest as_of that the data allow."""
    before = max((day for day in whole if day < last), default=None)
    possible = f", or run with --as-of {_as_of_with(use_case, date.fromisoformat(before))}" if before else ""
    absent = ", ".join([*source, *(f"side table {name}" for name in sides)])
    raise DataRejected(
        "the newest due day must be there, in side tables too",
        f"expected {last}, which {absent} lacks; the newest that all have is {before or 'none'}",
        f"deliver {last}{possible}",
    )


def read_manifest(store: Store, key: str) -> Manifest:
    """The manifest under its key. Raises Corrupt where its bytes are not those of the digest in its name, or were
    written by another version of ours."""
    data = store.get(key)
    if data is None or digest_bytes(data) != PurePosixPath(key).stem:
        seen = "it is gone" if data is None else "they are others"
        raise Corrupt(f"{key} must have the bytes that its name says", seen, "run the night again to rebuild it")
    try:
        return from_json(Manifest, data)
    except ValueError:
        raise Corrupt(f"{key} must be a manifest of this version", "it is of another", "run the night again") from None


def changed_days(before: Manifest | None, now: Manifest) -> tuple[str, ...]:
    """Days that both manifests have, with different bytes, side tables included."""
    if before is None:
        return ()
    both = before.months.keys() & now.months.keys()
    changed: set[str] = set()
    for name in (name for name in both if before.months[name] != now.months[name]):
        old, new = _by_day(before.month(name)), _by_day(now.month(name))
        changed |= {day for table, day in old.keys() & new.keys() if old[table, day] != new[table, day]}
    return tuple(sorted(changed))


def _by_day(month: Month) -> dict[tuple[str, str], str]:
    tables = {"": month.partitions, **month.side_tables}
    return {(name, partition.day): partition.digest for name, table in tables.items() for partition in table}


def inputs_by_day(use_case: UseCase, month: Month) -> dict[str, tuple[str, ...]]:
    """What a partition's rows come from, by day: digest and ending of its own file, and of each side table's."""
    sides = [{p.day: _content(p) for p in month.side_tables[table.name]} for table in use_case.side_tables]
    return {
        p.day: (_content(p), *(side[p.day] if p.day in side else side[ALL] for side in sides)) for p in month.partitions
    }


def _content(partition: Partition) -> str:
    """The same bytes under another ending are read otherwise."""
    return "".join((partition.digest, *Path(partition.file).suffixes))


@dataclass(frozen=True)
class PartitionRows:
    """A partition's raw rows with declared columns and types, the columns that nobody declared, and how the rows met
    each side table."""

    rows: pd.DataFrame
    unknown_columns: tuple[str, ...]
    joins: dict[str, JoinCounts]


def read_partition(settings: Settings, use_case: UseCase, manifest: Manifest, day: str) -> PartitionRows:
    """The partition's rows, derived and joined.

    Raises UnusablePartition where the file cannot be read, a column is missing or of another type, or a row is of
    another day; DataRejected where the bytes are no longer those of the manifest.
    """
    month = manifest.month(month_of(day))
    source = _read(settings, use_case, use_case.source, month.partitions, day)
    sides = {t.name: _read(settings, use_case, t.source, month.side_tables[t.name], day) for t in use_case.side_tables}
    whole = complete(use_case, source, sides)
    refuse_other_columns(use_case, whole.rows, use_case.columns)
    typed = conform(whole.rows, use_case.columns, use_case.time_zone)
    _refuse_other_days(use_case, typed, day)
    on = {name for table in use_case.side_tables for name in table.on}
    unknown = set(source.columns) - {column.name for column in use_case.columns} - on
    return PartitionRows(typed, tuple(sorted(printable(str(name)) for name in unknown)), whole.joins)


def _read(
    settings: Settings, use_case: UseCase, source: AnySource, partitions: tuple[Partition, ...], day: str
) -> pd.DataFrame:
    """The rows of a day, or of all days, from the very bytes that stand in the manifest."""
    seen = {partition.day: partition for partition in partitions}
    partition = seen.get(day) or seen[ALL]
    folder = source_folder(settings, source)
    if partition.day == ALL and use_case.dated:
        return _table_of_all_days(folder, partition, Declared.of(use_case, source))
    return _rows(folder, partition, Declared.of(use_case, source))


@functools.lru_cache(maxsize=8)
def _table_of_all_days(folder: Path, partition: Partition, declared: Declared) -> pd.DataFrame:
    """A table that every day of a window joins, read once."""
    return _rows(folder, partition, declared)


def _rows(folder: Path, partition: Partition, declared: Declared) -> pd.DataFrame:
    files = read_bytes(folder, partition.file, partition.digest)
    return together([parse_table(name, data, declared) for name, data in files], partition.file)


def _refuse_other_days(use_case: UseCase, rows: pd.DataFrame, day: str) -> None:
    """The name of a file says which day its rows are of; a row of a later day would let the future in."""
    if use_case.time_column is None or not len(rows):
        return
    days = days_of(rows[use_case.time_column])
    others = int((days.notna() & (days != day)).sum())
    if others:
        raise UnusablePartition(f"{others} of {len(rows)} rows are of another day by {use_case.time_column}")
