"""Cleans every usable partition of a snapshot that has no cleaned rows yet."""

from collections.abc import Collection, Mapping
from datetime import date

import pandas as pd

from ml.data.cleaning import clean, to_arrow, whole_from
from ml.data.handles import (
    Checks,
    Cleaned,
    CleanedDays,
    CleanedMonth,
    CleanedPartition,
    CleanedRows,
    Manifest,
    PartitionCheck,
    Snapshot,
)
from ml.data.snapshots import read_manifest
from ml.data.validation import drop_duplicates
from ml.days import month_of
from ml.digests import digest_bytes, digest_value
from ml.pipeline.partitions import Fold, decided_by, kept_of_partitions, keys_of, read_as_declared
from ml.pipeline.site import Site
from ml.storage import paths
from ml.storage.kept import Kept, KeptMonth, content_key
from ml.storage.records import Work
from ml.storage.store import put_file


def clean_partitions(site: Site, snapshot: Snapshot, checks: Checks) -> Cleaned:
    """Cleans every usable partition that has no cleaned rows yet, whatever rows its verdict sets aside."""
    fold = Cleaning(site, read_manifest(site.store, snapshot.manifest), checks)
    months = fold.months()
    fold.kept.save(months)
    count = sum(month.sums.partitions for month in months.values())
    new = fold.new + len({check.day for check in fold.used.values()} & {*checks.cleaned_days})
    return Cleaned(
        work=Work(stage="", reused=count - new, computed=new),
        manifest=snapshot.manifest,
        digest=digest_value([month.sums.digest for month in months.values()]),
        months=months,
        rows=sum(month.sums.rows for month in months.values()),
    )


class Cleaning(Fold[CleanedRows, CleanedDays]):
    """The cleaned rows of every usable partition."""

    def __init__(self, site: Site, manifest: Manifest, checks: Checks) -> None:
        super().__init__(site, manifest, "cleaned", CleanedRows, CleanedDays, decided_by(site, "cleaned"))
        self.checks, self.used = checks, dict[str, PartitionCheck]()  # by the key of the partition's cleaned rows

    def month_key(self, name: str) -> str:
        partitions = digest_bytes(self.manifest.months[name].encode())
        return content_key(self.decided, partitions, self.checks.months[name].sums.digest)

    def days(self, name: str) -> dict[str, str]:
        """Of the usable ones."""
        month, keys = self.checks.months[name], self.keys_of(name)
        checks = month.by_key(PartitionCheck).values()
        used = {keys[check.day]: check for check in checks if check.day not in month.sums.rejected}
        self.used |= used
        return {check.day: key for key, check in used.items()}

    def known(self, names: Collection[str]) -> dict[str, CleanedRows]:
        return {key: partition.cleaned for key, partition in self.kept.results(names, CleanedPartition).items()}

    def make(self, days: dict[str, str]) -> dict[str, CleanedRows]:
        return {key: self._clean(day, key) for day, key in days.items()}

    def _clean(self, day: str, key: str) -> CleanedRows:
        rows = read_as_declared(self.site, self.manifest, day).rows
        return keep_cleaned(self.site, self.results, key, drop_duplicates(rows, self.site.use_case.key))

    def summed(self, key: str, results: dict[str, CleanedRows]) -> CleanedMonth:
        partitions = {own: _partition(self.used[own], cleaned) for own, cleaned in results.items()}
        sums = CleanedDays(
            digest=digest_value([partition.digests for partition in partitions.values()]),
            partitions=len(partitions),
            rows=sum(partition.rows for partition in partitions.values()),
            whole_from=max((cleaned.whole_from for cleaned in results.values()), default=date.min),
        )
        return KeptMonth.of(key, CleanedPartition, partitions, sums)


def keep_cleaned(site: Site, results: Kept[CleanedRows], key: str, unique: pd.DataFrame) -> CleanedRows:
    """Cleans a partition's unique rows, and keeps them."""
    cleaned = clean(site.use_case, unique)
    file = put_file(site.store, paths.cleaned_rows(site.use_case.name, key), to_arrow(cleaned))
    result = CleanedRows(file=file, whole_from=whole_from(site.use_case, cleaned))
    results.keep(key, result)
    return result


class RowsAtHand:
    """Cleans partitions whose rows are there because they were just judged: reading them twice costs more than judging.

    `days` are those that it cleaned. What it keeps, the cleaning stage finds; what it did not see, that stage reads.
    """

    def __init__(self, site: Site, manifest: Manifest) -> None:
        self.site, self.manifest, self.decided = site, manifest, decided_by(site, "cleaned")
        self.results = kept_of_partitions(site, "cleaned", CleanedRows)
        self.days: list[str] = []

    def clean(self, frames: Mapping[str, pd.DataFrame]) -> None:
        """Keeps the cleaned rows of those of these days that have none yet."""
        months = {month_of(day) for day in frames}
        keys = {day: key for name in months for day, key in self._keys(name).items() if day in frames}
        kept = self.results.find(list(keys.values()))
        for day, key in keys.items():
            if key not in kept:
                keep_cleaned(self.site, self.results, key, frames[day])
                self.days.append(day)

    def _keys(self, month: str) -> dict[str, str]:
        return keys_of(self.site, self.manifest, month, self.decided)


def _partition(check: PartitionCheck, cleaned: CleanedRows) -> CleanedPartition:
    return CleanedPartition(day=check.day, cleaned=cleaned, quarantine=check.quarantine, rows=check.labelled)
