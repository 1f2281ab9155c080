"""Which partitions a run uses, and what is in each.

A row of day d is used if and only if d < as_of - label_delay_days. `ml.data.calendars` says which days should be there.
"""

import functools
import logging
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype

from ml.data.calendars import Calendar, days_between, due_days, due_in_gap, suggestion, weekday_of
from ml.data.dataset import Dataset, Reading, Table, UsedDays
from ml.data.disk import reading_from
from ml.data.handles import JoinCounts, LeftOut, Manifest, Month, Partition
from ml.data.joins import complete
from ml.data.reading import Declared, UnusablePartition, parse_table, refuse_other_columns, together
from ml.data.sources.bringing import listing, partition_files
from ml.data.sources.folder import (
    ALL,
    AnySource,
    DayFiles,
    Listing,
    UnusableEntry,
    digest_of,
    read_bytes,
    short_list,
    source_folder,
    source_words,
)
from ml.days import FIRST_DAY, month_of, months_between
from ml.digests import FileDigests, KeptDigests, digest_bytes
from ml.errors import ConfigError, Corrupt, DataRejected, UsageError, printable
from ml.serving.columns import conform, days_of
from ml.settings import Settings
from ml.storage.json_form import from_json, to_json
from ml.storage.store import Store

log = logging.getLogger("retrain.snapshots")
WRITE_DAYS = "write a file a day"
GAP_PER_STRAY = 30  # so many days of nothing for each day that is taken for a stray one: a month for one day


class Survey(NamedTuple):
    """What a night may use: the manifest, the days that are missing in it, of these the ones that cannot be read with
    the reason, and what of its sources no partition has."""

    manifest: Manifest
    missing: tuple[str, ...]
    unusable: dict[str, str]
    left_out: tuple[LeftOut, ...]


def newest_day(settings: Settings, use_case: Table) -> date:
    """The last day of the source up to today: one in the future is a mistaken time. Raises DataRejected for a source
    without days."""
    days = partition_files(settings, use_case, use_case.source)
    _refuse_undated(settings, use_case, days)
    today = str(use_case.today())
    return date.fromisoformat(max((day for day in days if day <= today), default=today))


def kept_digests(settings: Settings, use_case: str) -> Path:
    """Where the digests of files are kept that need not be hashed again."""
    return settings.home / "cache" / f"digests-{use_case}.json"


def last_due_day(use_case: UsedDays, as_of: date) -> date:
    return as_of - timedelta(days=use_case.label_delay_days + 1)


def take_manifest(
    settings: Settings, use_case: Dataset, as_of: date, excluded: Mapping[str, str]
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of a survey, and the days missing in it."""
    found = survey(settings, use_case, as_of, excluded)
    return found.manifest, found.missing


def survey(settings: Settings, use_case: Dataset, as_of: date, excluded: Mapping[str, str]) -> Survey:
    """The window that ends before `as_of`, without the excluded days.

    Raises UsageError for a date in the future, DataRejected for an empty window, a missing newest day or too many
    missing days.
    """
    if as_of < FIRST_DAY:
        raise UsageError(f"as_of is a day from {FIRST_DAY} on", f"it is {as_of}", "use a later one")
    if as_of > use_case.today():
        raise UsageError("as_of is a day up to today", f"it is {as_of}", f"use --as-of {use_case.today()} or earlier")
    tables = _tables(settings, use_case)
    left_out = [each for table in tables.values() for each in table.left_out]
    newest: str | None = ALL
    if not use_case.dated:
        _refuse_dated(settings, use_case, tables)
        due = {ALL: (ALL, ALL)}
    else:
        window = _window(settings, use_case, as_of, tables, excluded)
        due = {name: (str(first), str(last)) for name, first, last in months_between(window.first, window.last)}
        newest = window.newest
        left_out += [*window.left_out, *_in_the_future(settings, use_case, tables[""])]
    for each in dict.fromkeys(left_out):
        log.warning("%s", each.sentence)
    manifest, missing, unusable = _manifest(settings, use_case, tables, due, newest, excluded if use_case.dated else {})
    if use_case.calendar != "daily":
        expected = {*due_of_manifest(use_case, manifest, as_of), *tables[""].days, *unusable}
        missing = tuple(day for day in missing if day in expected)
    return Survey(manifest, missing, unusable, tuple(dict.fromkeys(left_out)))


def due_of_manifest(use_case: UsedDays, manifest: Manifest, as_of: date) -> list[str]:
    """The due days from the manifest's first day on; a function of the manifest and of nothing else that is there."""
    present = {partition.day for partition in manifest.partitions} | {*manifest.excluded}
    days = days_between(date.fromisoformat(min(present)), last_due_day(use_case, as_of))
    return due_days(use_case.calendar, days, present)


def _tables(settings: Settings, use_case: Reading) -> dict[str, Listing]:
    """What the source, named "", and each side table have now."""
    sources = {"": use_case.source, **{table.name: table.source for table in use_case.side_tables}}
    return {name: listing(settings, use_case, source) for name, source in sources.items()}


def _in_the_future(settings: Settings, use_case: Reading, source: Listing) -> tuple[LeftOut, ...]:
    """Days of the source that no night can use yet, of which a mistaken time may have made some."""
    days = [day for day in source.days if day > str(use_case.today())]
    if not days:
        return ()
    why = f"{'is' if len(days) == 1 else 'are'} in the future and not used yet: {short_list(days)}"
    return (LeftOut(source=source_words(settings, use_case.source), what="day", count=len(days), why=why),)


def _manifest(
    settings: Settings,
    use_case: Table,
    tables: dict[str, Listing],
    due: dict[str, tuple[str, str]],
    newest: str | None,
    excluded: Mapping[str, str],
) -> tuple[Manifest, tuple[str, ...], dict[str, str]]:
    """Of the first and the last day of every month, the days that are missing, and why some of them cannot be used; a
    month that is as it was is not looked at again. `newest`: the newest due day."""
    digests = KeptDigests(kept_digests(settings, use_case.name))
    by_month = {name: _by_month(table.days) for name, table in tables.items()}
    unusable = _unusable(tables)
    months, missing, size = {}, list[str](), 0
    left_out = dict[str, str]()
    for name, (first, last) in due.items():
        files = {table: {**of.get(name, {}), **of.get(ALL, {})} for table, of in by_month.items()}
        month = DueMonth(first, last, {day: excluded[day] for day in sorted(excluded) if first <= day <= last}, files)
        left_out |= month.excluded
        stats = month.stats()
        found = digests.of(name, month.decided, stats, functools.partial(month.look, stats))
        missing += found["missing"]
        unusable |= found.get("unusable", {})
        if found["size"]:
            months[name], size = found["month"], size + found["size"]
    digests.save()
    reasons = {day: unusable[day] for day in missing if day in unusable}
    if newest in reasons:
        _refuse_unusable_newest(newest, reasons)
    if not size:
        raise DataRejected("a window has a day with data", "every due day is missing or excluded", "deliver one")
    return Manifest(months=months, size=size, excluded=left_out), tuple(missing), reasons


def _unusable(tables: dict[str, Listing]) -> dict[str, str]:
    """Why a day cannot be used, where some table has it in a form that cannot be read."""
    found: dict[str, str] = {}
    for name, table in tables.items():
        words = f"side table {name}: " if name else ""
        found = {day: f"{words}{why}" for day, why in table.unusable.items()} | found
    return found


def _refuse_unusable_newest(day: str, unusable: Mapping[str, str]) -> NoReturn:
    raise DataRejected(
        f"the newest partition ({day}) must be usable", unusable[day].replace(": ", " - "), "mend it, then run again"
    )


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
        with reading_from(Path(paths[0]).parent if paths else Path()):
            return {path: os.stat(path) for path in paths}  # noqa: PTH116 - thousands a night

    def look(self, stats: dict[str, os.stat_result], digests: FileDigests) -> dict[str, Any]:
        source, *sides = self.files.values()
        due = self.days
        whole = [day for day in due if day in source and all(day in side or ALL in side for side in sides)]
        used = {*whole, ALL}.difference(self.excluded)
        found, unusable = self._digests(used, stats, digests)
        lost = {*unusable} if ALL not in unusable else {*due}
        tables = {
            name: tuple(
                Partition(day=day, file=files.name, digest=found[name, day])
                for day, files in of.items()
                if (name, day) in found and day not in lost
            )
            for name, of in self.files.items()
        }
        month = Month(partitions=tables.pop(""), side_tables=tables)
        missing = sorted({*due}.difference({*whole} - lost, self.excluded))
        seen = {"month": to_json(month).decode(), "size": len(month.partitions), "missing": missing}
        return {**seen, "unusable": {day: unusable.get(day, unusable.get(ALL, "")) for day in lost}} if lost else seen

    def _digests(
        self, used: set[str], stats: dict[str, os.stat_result], digests: FileDigests
    ) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
        """Digest by table and day; and why files of some days cannot be read, which is not kept."""
        found, unusable = dict[tuple[str, str], str](), dict[str, str]()
        for name, of in self.files.items():
            for day, files in of.items():
                if day not in used:
                    continue
                try:
                    found[name, day] = digest_of(digests, files, stats)
                except UnusableEntry as error:
                    unusable[day] = f"side table {name}: {error}" if name else str(error)
                    digests.settled = False
        return found, unusable


def _refuse_undated(settings: Settings, use_case: Table, files: dict[str, DayFiles]) -> None:
    """Raises DataRejected where a use case with days has one file for all."""
    if ALL not in files:
        return
    place = source_words(settings, use_case.source)
    raise DataRejected(
        f"{use_case.name} has a time column and so a file a day",
        f"there is only {files[ALL].name} in {place}",
        f'{WRITE_DAYS}, or name the file by FileSource(file=..., time_column="{use_case.time_column}")',
    )


def _refuse_dated(settings: Settings, use_case: Table, tables: dict[str, Listing]) -> None:
    """Raises DataRejected where a use case without days, or a side table of it, has a file a day."""
    source = tables[""].days
    if ALL not in source:
        raise DataRejected(
            f"{use_case.name} has no time column and so one partition",
            f"all.parquet is not there, and {next(iter(source.values())).name} is in "
            f"{source_words(settings, use_case.source)}",
            "write it, or name the use case's time_column",
        )
    for table in use_case.side_tables:
        if ALL not in tables[table.name].days:
            first = next(iter(tables[table.name].days.values())).name
            raise DataRejected(
                f"side table {table.name} of {use_case.name} must be one file, all.parquet, as there is no time_column",
                f"{source_words(settings, table.source)} has {first}",
                "write one file, or name the use case's time_column",
            )


def refuse_window(settings: Settings, use_case: Dataset, as_of: date, excluded: Mapping[str, str]) -> None:
    """Raises what `take_manifest` would for the days that are there, without reading any file."""
    _window(settings, use_case, as_of, _tables(settings, use_case), excluded)


class Window(NamedTuple):
    """Its first and its last day, the newest due one, and the stray days before the first."""

    first: date
    last: date
    newest: str | None
    left_out: tuple[LeftOut, ...]


def _window(
    settings: Settings,
    use_case: Dataset,
    as_of: date,
    tables: dict[str, Listing],
    excluded: Mapping[str, str],
) -> Window:
    _refuse_undated(settings, use_case, tables[""].days)
    last = last_due_day(use_case, as_of)
    files, place = tables[""].days, source_words(settings, use_case.source)
    known = sorted({*files, *tables[""].unusable} - {ALL})
    strays = stray_days([day for day in known if day <= str(last)], use_case.max_missing_days, use_case.calendar)
    first = date.fromisoformat(known[len(strays)])
    if last < first:
        raise DataRejected(
            f"as_of must come after the first data ({first})",
            f"it is {as_of}",
            f"use {_as_of_to_train(use_case, known[len(strays) :])}, which leaves rows to train on",
        )
    sides = {name: table.days for name, table in tables.items() if name}
    whole = {day for day in files if all(day in side or ALL in side for side in sides.values())}
    newest = _newest_due(use_case, first, last, whole.union(excluded))
    if newest is not None and newest not in whole and newest not in excluded:
        unusable = _unusable(tables)
        if newest in unusable:
            _refuse_unusable_newest(newest, unusable)
        lacking = [name for name, side in sides.items() if newest not in side and ALL not in side]
        _refuse_missing_newest(use_case, newest, [] if newest in files else [place], lacking, whole)
    last = date.fromisoformat(max(newest or str(first), *(day for day in known if day <= str(last))))
    begin = last - timedelta(days=use_case.window_days - 1)
    return Window(max(first, begin), last, newest, _strays_left_out(place, strays, first) if begin < first else ())


def _newest_due(use_case: Dataset, first: date, last: date, present: Set[str]) -> str | None:
    """The newest due day between two; None where none is. Raises ConfigError for a list of dates that has ended."""
    calendar = use_case.calendar
    if isinstance(calendar, tuple) and max(calendar) < last:
        raise ConfigError(
            f"the dates in the calendar of {use_case.name} reach up to the last day that a night looks for ({last})",
            f"the last is {max(calendar)}",
            "add the next one",
        )
    if calendar == "daily":
        return str(last)
    return max(due_days(calendar, days_between(first, last), present), default=None)


def stray_days(days: list[str], max_missing_days: int, calendar: Calendar = "daily") -> list[str]:
    """Days far before all others, which mistaken times have made: 1970-01-01 where the data begin in 2024.

    They lie before a gap of more due days than may be missing, which are 30 times as many as they.
    """
    gaps = zip(days, days[1:], strict=False)
    for place, (day, following) in reversed([*enumerate(gaps, start=1)]):
        missing = due_in_gap(calendar, day, following)
        if missing > max_missing_days and missing >= GAP_PER_STRAY * place:
            return days[:place]
    return []


def _strays_left_out(place: str, strays: list[str], first: date) -> tuple[LeftOut, ...]:
    """That the window begins after them is said where it decides the window."""
    if not strays:
        return ()
    why = f"{'lies' if len(strays) == 1 else 'lie'} far before the others, which begin on {first}: {short_list(strays)}"
    return (LeftOut(source=place, what="day", count=len(strays), why=why),)


def _as_of_with(use_case: UsedDays, day: date, days_after: int = 0) -> date:
    """The as_of whose last due day lies so many days after the day."""
    return day + timedelta(days=use_case.label_delay_days + 1 + days_after)


def _as_of_to_train(use_case: UsedDays, known: Sequence[str]) -> str:
    """From which as_of on there are days to train on, in words; `known`: the days with data."""
    held_out = use_case.test_days + use_case.validation_days
    if use_case.calendar == "daily":
        return f"{_as_of_with(use_case, date.fromisoformat(known[0]), held_out)} or later"
    if len(known) > held_out:
        return f"{_as_of_with(use_case, date.fromisoformat(known[held_out]))} or later"
    return f"a later one, when more than {held_out} days have data"


def _refuse_missing_newest(
    use_case: Dataset, newest: str, source: list[str], sides: list[str], whole: set[str]
) -> NoReturn:
    """Raises DataRejected, which names what lacks the day, and every way on: the newest as_of that the data allow, a
    night without the day, and a calendar that does not expect it."""
    before = max((day for day in whole if day < newest), default=None)
    possible = f", or run with --as-of {_as_of_with(use_case, date.fromisoformat(before))}" if before else ""
    absent = ", ".join([*source, *(f"side table {name}" for name in sides)])
    raise DataRejected(
        "the newest due day must be there, in side tables too",
        f"expected {newest}, a {weekday_of(newest)}, which {absent} lacks; the newest that all have is "
        f"{before or 'none'}",
        f"deliver {newest}{possible}{suggestion(use_case.calendar, [newest]) if source else ''}; "
        f"or go on without it by retrain data exclude {use_case.name} {newest} --reason WHY",
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


def inputs_by_day(use_case: Reading, month: Month) -> dict[str, tuple[str, ...]]:
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
    unknown_columns: tuple[str, ...] = ()
    joins: dict[str, JoinCounts] = field(default_factory=dict)

    @property
    def unmatched(self) -> dict[str, int]:
        """How many rows no row of a side table matches, for want of a key or of a row with it."""
        return {name: counts.unmatched + counts.null_keys for name, counts in self.joins.items()}


def read_partition(settings: Settings, use_case: Table, manifest: Manifest, day: str) -> PartitionRows:
    """The partition's rows, derived and joined.

    Raises UnusablePartition where the file cannot be read, a column is missing or of another type, or a row is of
    another day; DataRejected where the bytes are no longer those of the manifest.
    """
    month = manifest.month(month_of(day))
    source = source_rows(settings, use_case, manifest, day)
    sides = {t.name: _read(settings, use_case, t.source, month.side_tables[t.name], day) for t in use_case.side_tables}
    whole = complete(use_case, source, sides)
    refuse_other_columns(use_case, whole.rows, use_case.columns)
    typed = conform(whole.rows, use_case.columns, use_case.time_zone)
    _refuse_other_days(use_case, typed, day)
    on = {name for table in use_case.side_tables for name in table.on}
    unknown = set(source.columns) - {column.name for column in use_case.columns} - on
    return PartitionRows(typed, tuple(sorted(_undeclared(use_case, source, name) for name in unknown)), whole.joins)


def _undeclared(use_case: Reading, rows: pd.DataFrame, name: Any) -> str:
    """The column's name; for `derive`, with the type that it is given, which the values of the day decide."""
    words = printable(str(name))
    if use_case.derive is None or rows[name].isna().all():
        return words
    kinds = {"a number": is_numeric_dtype, "a time": is_datetime64_any_dtype}
    kind = next((kind for kind, holds in kinds.items() if holds(rows[name].dtype)), "text")
    return f"{words} as {kind}"


def source_rows(settings: Settings, use_case: Table, manifest: Manifest, day: str) -> pd.DataFrame:
    """The partition's rows as `derive` is given them. Raises as `read_partition` does."""
    return _read(settings, use_case, use_case.source, manifest.month(month_of(day)).partitions, day)


def _read(
    settings: Settings, use_case: Table, source: AnySource, partitions: tuple[Partition, ...], day: str
) -> pd.DataFrame:
    """The rows of a day, or of all days, from the very bytes that stand in the manifest."""
    seen = {partition.day: partition for partition in partitions}
    partition = seen.get(day) or seen[ALL]
    folder = source_folder(settings, source, use_case.time_zone, use_case.columns)
    read = _table_of_all_days if partition.day == ALL and use_case.dated else _rows
    try:
        return read(folder, partition, Declared.of(use_case, source))
    except _OtherBytes:
        for kept in (kept_digests(settings, use_case.name), folder.with_name(f"{folder.name}.json")):
            kept.unlink(missing_ok=True)  # a disk may have changed them and no time
        ours = folder.is_relative_to(settings.home / "cache")
        what = f"the copy of {partition.day} of {source_words(settings, source)}" if ours else partition.file
        raise DataRejected(
            "a partition stays as it is during a night", f"{what} changed since the snapshot", "run it again"
        ) from None


class _OtherBytes(Exception):
    """The bytes are not those of the manifest."""


@functools.lru_cache(maxsize=8)
def _table_of_all_days(folder: Path, partition: Partition, declared: Declared) -> pd.DataFrame:
    """A table that every day of a window joins, read once."""
    return _rows(folder, partition, declared)


def _rows(folder: Path, partition: Partition, declared: Declared) -> pd.DataFrame:
    files = read_bytes(folder, partition.file, partition.digest)
    if files is None:
        raise _OtherBytes(partition.file)
    return together([parse_table(name, data, declared) for name, data in files], partition.file)


def _refuse_other_days(use_case: Reading, rows: pd.DataFrame, day: str) -> None:
    """The name of a file says which day its rows are of; a row of a later day would let the future in."""
    if use_case.time_column is None or not len(rows):
        return
    days = days_of(rows[use_case.time_column])
    others = int((days.notna() & (days != day)).sum())
    if others:
        zone = "" if use_case.time_zone == "UTC" else f" as clocks in {use_case.time_zone} show it"
        raise UnusablePartition(f"{others} of {len(rows)} rows are of another day by {use_case.time_column}{zone}")
