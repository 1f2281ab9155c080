"""The manifest of a run: which partitions of the source and of its side tables it uses, each with its digest.

A row of day d is used if and only if d < as_of - label_delay_days. `ml.data.calendars` says which days should be there.
A survey is refused for a date in the future, for a window without data, and if the newest due day is missing. Whether
too many other days are missing is judged with the verdicts (`ml.data.validation.snapshot_rules`).
"""

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ml.data.calendars import days_between, due_days
from ml.data.dataset import Dataset, Reading, Table, UsedDays
from ml.data.disk import reading_from
from ml.data.handles import LeftOut, Manifest, Month, Partition
from ml.data.partitions import kept_digests
from ml.data.sources.bringing import listing
from ml.data.sources.folder import ALL, DayFiles, Listing, UnusableEntry, digest_of, short_list
from ml.data.window import last_due_day, refuse_unusable_newest, unusable_days, window_of
from ml.days import FIRST_DAY, month_of, months_between
from ml.digests import FileDigests, KeptDigests, digest_bytes
from ml.errors import Corrupt, DataRejected, UsageError
from ml.settings import Settings
from ml.storage.json_form import from_json, to_json
from ml.storage.store import Store

log = logging.getLogger("retrain.snapshots")


class Survey(NamedTuple):
    """What a night may use.

    `missing`: the days that the manifest lacks. `unusable`: those of them that the source has in a form that cannot be
    read, each with the reason. `left_out`: what the sources have that belongs to no partition.
    """

    manifest: Manifest
    missing: tuple[str, ...]
    unusable: dict[str, str]
    left_out: tuple[LeftOut, ...]


def take_manifest(
    settings: Settings, use_case: Dataset, as_of: date, excluded: Mapping[str, str]
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of a survey, and the days that it lacks. Raises what `survey` raises."""
    surveyed = survey(settings, use_case, as_of, excluded)
    return surveyed.manifest, surveyed.missing


def survey(settings: Settings, use_case: Dataset, as_of: date, excluded: Mapping[str, str]) -> Survey:
    """Looks at the window that ends before `as_of`, without the excluded days (day to reason).

    Raises UsageError for a date in the future, DataRejected for a window without data or without the newest due day,
    and ConfigError for a calendar that has ended.
    """
    if as_of < FIRST_DAY:
        raise UsageError(f"as_of is a day from {FIRST_DAY} on", f"it is {as_of}", "use a later one")
    if as_of > use_case.today():
        raise UsageError("as_of is a day up to today", f"it is {as_of}", f"use --as-of {use_case.today()} or earlier")
    tables = _tables(settings, use_case)
    left_out = [item for table in tables.values() for item in table.left_out]
    newest: str | None = ALL
    if not use_case.dated:
        _refuse_dated(settings, use_case, tables)
        due = {ALL: (ALL, ALL)}
    else:
        window = window_of(settings, use_case, as_of, tables, excluded)
        due = {name: (str(first), str(last)) for name, first, last in months_between(window.first, window.last)}
        newest = window.newest
        left_out += [*window.left_out, *_in_the_future(settings, use_case, tables[""])]
    for item in dict.fromkeys(left_out):
        log.warning("%s", item.sentence)
    manifest, missing, unusable = _manifest(settings, use_case, tables, due, newest, excluded if use_case.dated else {})
    if use_case.calendar != "daily":
        expected = {*due_of_manifest(use_case, manifest, as_of), *tables[""].days, *unusable}
        missing = tuple(day for day in missing if day in expected)
    return Survey(manifest, missing, unusable, tuple(dict.fromkeys(left_out)))


def due_of_manifest(use_case: UsedDays, manifest: Manifest, as_of: date) -> list[str]:
    """The due days from the manifest's first day on.

    They follow from the manifest, not from what the source has now.
    """
    present = {partition.day for partition in manifest.partitions} | {*manifest.excluded}
    days = days_between(date.fromisoformat(min(present)), last_due_day(use_case, as_of))
    return due_days(use_case.calendar, days, present)


def _tables(settings: Settings, use_case: Reading) -> dict[str, Listing]:
    """What the source and each side table have now, by name; the source's own name is ""."""
    sources = {"": use_case.source, **{table.name: table.source for table in use_case.side_tables}}
    return {name: listing(settings, use_case, source) for name, source in sources.items()}


def _in_the_future(settings: Settings, use_case: Reading, source: Listing) -> tuple[LeftOut, ...]:
    """The days of the source that lie in the future. No night can use them yet; mistaken times may have made some."""
    days = [day for day in source.days if day > str(use_case.today())]
    if not days:
        return ()
    why = f"{'is' if len(days) == 1 else 'are'} in the future and not used yet: {short_list(days)}"
    return (LeftOut(source=use_case.source.words(settings.data), what="day", count=len(days), why=why),)


def _manifest(
    settings: Settings,
    use_case: Table,
    tables: dict[str, Listing],
    due: dict[str, tuple[str, str]],
    newest: str | None,
    excluded: Mapping[str, str],
) -> tuple[Manifest, tuple[str, ...], dict[str, str]]:
    """The manifest, the days that it lacks, and why some of those cannot be used.

    `due`: the first and the last due day of every month. `newest`: the newest due day. A month whose files have not
    changed since the last night is not looked at again.
    """
    digests = KeptDigests(kept_digests(settings, use_case.name))
    by_month = {name: _by_month(table.days) for name, table in tables.items()}
    unusable = unusable_days(tables)
    months, missing, size = {}, list[str](), 0
    left_out = dict[str, str]()
    for name, (first, last) in due.items():
        files = {table: {**months_of.get(name, {}), **months_of.get(ALL, {})} for table, months_of in by_month.items()}
        month = DueMonth(first, last, {day: excluded[day] for day in sorted(excluded) if first <= day <= last}, files)
        left_out |= month.excluded
        stats = month.stats()
        looked = digests.of(name, month.decided, stats, functools.partial(month.look, stats))
        missing += looked["missing"]
        unusable |= looked.get("unusable", {})
        if looked["size"]:
            months[name], size = looked["month"], size + looked["size"]
    digests.save()
    reasons = {day: unusable[day] for day in missing if day in unusable}
    if newest in reasons:
        refuse_unusable_newest(newest, reasons)
    if not size:
        raise DataRejected("a window has a day with data", "every due day is missing or excluded", "deliver one")
    return Manifest(months=months, size=size, excluded=left_out), tuple(missing), reasons


def _by_month(table: dict[str, DayFiles]) -> dict[str, dict[str, DayFiles]]:
    """The files of a table's days, by month and then by day."""
    months: dict[str, dict[str, DayFiles]] = {}
    for day, files in table.items():
        months.setdefault(month_of(day), {})[day] = files
    return months


@dataclass(frozen=True)
class DueMonth:
    """The due days of one month, and the files that each table has in it: by table (the source is ""), then by day."""

    first: str
    last: str
    excluded: dict[str, str]
    files: dict[str, dict[str, DayFiles]]

    @property
    def decided(self) -> str:
        """A text of all that decides what `look` returns, except for the files' bytes."""
        names = [f"{table} {' '.join(files.name for files in days.values())}" for table, days in self.files.items()]
        return "\n".join([self.first, self.last, *self.excluded, *names])

    @property
    def days(self) -> list[str]:
        if self.first == ALL:
            return [ALL]
        return days_between(date.fromisoformat(self.first), date.fromisoformat(self.last))

    def stats(self) -> dict[str, os.stat_result]:
        """The size and times of every file, by path."""
        paths = [path for days in self.files.values() for files in days.values() for path in files.paths]
        with reading_from(Path(paths[0]).parent if paths else Path()):
            return {path: os.stat(path) for path in paths}  # noqa: PTH116 - thousands a night

    def look(self, stats: dict[str, os.stat_result], digests: FileDigests) -> dict[str, Any]:
        """The month as JSON, how many partitions it has, which due days are missing, and why days are unusable."""
        source, *sides = self.files.values()
        due = self.days
        whole = [day for day in due if day in source and all(day in side or ALL in side for side in sides)]
        used = {*whole, ALL}.difference(self.excluded)
        known, unusable = self._digests(used, stats, digests)
        lost = {*unusable} if ALL not in unusable else {*due}
        tables = {
            name: tuple(
                Partition(day=day, file=files.name, digest=known[name, day])
                for day, files in days.items()
                if (name, day) in known and day not in lost
            )
            for name, days in self.files.items()
        }
        month = Month(partitions=tables.pop(""), side_tables=tables)
        missing = sorted({*due}.difference({*whole} - lost, self.excluded))
        looked = {"month": to_json(month).decode(), "size": len(month.partitions), "missing": missing}
        reasons = {day: unusable.get(day, unusable.get(ALL, "")) for day in lost}
        return {**looked, "unusable": reasons} if lost else looked

    def _digests(
        self, used: set[str], stats: dict[str, os.stat_result], digests: FileDigests
    ) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
        """Digests by table and day, and why the files of some days cannot be read.

        Such a reason is not kept for later.
        """
        known, unusable = dict[tuple[str, str], str](), dict[str, str]()
        for name, days in self.files.items():
            for day, files in days.items():
                if day not in used:
                    continue
                try:
                    known[name, day] = digest_of(digests, files, stats)
                except UnusableEntry as error:
                    unusable[day] = f"side table {name}: {error}" if name else str(error)
                    digests.settled = False
        return known, unusable


def _refuse_dated(settings: Settings, use_case: Table, tables: dict[str, Listing]) -> None:
    """Raises DataRejected if the use case has no days, but its source or a side table has a file per day."""
    source = tables[""].days
    if ALL not in source:
        raise DataRejected(
            f"{use_case.name} has no time column and so one partition",
            f"all.parquet is not there, and {next(iter(source.values())).name} is in "
            f"{use_case.source.words(settings.data)}",
            "write it, or name the use case's time_column",
        )
    for table in use_case.side_tables:
        if ALL not in tables[table.name].days:
            first = next(iter(tables[table.name].days.values())).name
            raise DataRejected(
                f"side table {table.name} of {use_case.name} must be one file, all.parquet, as there is no time_column",
                f"{table.source.words(settings.data)} has {first}",
                "write one file, or name the use case's time_column",
            )


def refuse_window(settings: Settings, use_case: Dataset, as_of: date, excluded: Mapping[str, str]) -> None:
    """Raises what `take_manifest` would raise because of the days that are there. No file is read."""
    window_of(settings, use_case, as_of, _tables(settings, use_case), excluded)


def read_manifest(store: Store, key: str) -> Manifest:
    """The manifest stored under the key.

    Raises Corrupt if it is gone, if its bytes do not have the digest that its name states, or if another version of the
    project wrote it.
    """
    data = store.get(key)
    if data is None or digest_bytes(data) != PurePosixPath(key).stem:
        seen = "it is gone" if data is None else "they are others"
        raise Corrupt(f"{key} must have the bytes that its name says", seen, "run the night again to rebuild it")
    try:
        return from_json(Manifest, data)
    except ValueError:
        raise Corrupt(f"{key} must be a manifest of this version", "it is of another", "run the night again") from None


def changed_days(before: Manifest | None, now: Manifest) -> tuple[str, ...]:
    """The days that both manifests have with different bytes, of the source or of a side table.

    It is empty if there is no manifest before.
    """
    if before is None:
        return ()
    both = before.months.keys() & now.months.keys()
    changed: set[str] = set()
    for name in (name for name in both if before.months[name] != now.months[name]):
        old, new = _by_day(before.month(name)), _by_day(now.month(name))
        changed |= {day for table, day in old.keys() & new.keys() if old[table, day] != new[table, day]}
    return tuple(sorted(changed))


def _by_day(month: Month) -> dict[tuple[str, str], str]:
    """The digest of every partition, by table (the source is "") and day."""
    tables = {"": month.partitions, **month.side_tables}
    return {(name, partition.day): partition.digest for name, table in tables.items() for partition in table}
