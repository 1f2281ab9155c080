"""The stage that cleans: every usable partition of a snapshot gets cleaned rows, unless it has them already.

Which partitions are usable was decided by validation (`ml.pipeline.validate`). Nothing here judges a row.
"""

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
    """Cleans every usable partition that has no cleaned rows yet.

    All rows of a partition are cleaned, also those that its verdict put into quarantine. A reader leaves these out.
    """
    fold = Cleaning(site, read_manifest(site.store, snapshot.manifest), checks)
    months = fold.months()
    fold.kept.save(months)
    count = sum(month.sums.partitions for month in months.values())
    cleaned_by_validation = {check.day for check in fold.checks_by_key.values()} & {*checks.cleaned_days}
    new = fold.new + len(cleaned_by_validation)
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
        self.checks = checks
        self.checks_by_key: dict[str, PartitionCheck] = {}  # of usable partitions, by the key of their cleaned rows

    def month_key(self, name: str) -> str:
        partitions = digest_bytes(self.manifest.months[name].encode())
        return content_key(self.decided, partitions, self.checks.months[name].sums.digest)

    def days(self, name: str) -> dict[str, str]:
        """Day to content key of the month's usable partitions."""
        month, keys = self.checks.months[name], self.keys_of(name)
        checks = month.by_key(PartitionCheck).values()
        usable = {keys[check.day]: check for check in checks if check.day not in month.sums.rejected}
        self.checks_by_key |= usable
        return {check.day: key for key, check in usable.items()}

    def known(self, names: Collection[str]) -> dict[str, CleanedRows]:
        return {key: partition.cleaned for key, partition in self.kept.results(names, CleanedPartition).items()}

    def make(self, days: dict[str, str]) -> dict[str, CleanedRows]:
        return {key: self._clean(day, key) for day, key in days.items()}

    def _clean(self, day: str, key: str) -> CleanedRows:
        rows = read_as_declared(self.site, self.manifest, day).rows
        return keep_cleaned(self.site, self.results, key, drop_duplicates(rows, self.site.use_case.key))

    def summed(self, key: str, results: dict[str, CleanedRows]) -> CleanedMonth:
        partitions = {}
        for own_key, cleaned in results.items():
            check = self.checks_by_key[own_key]
            partitions[own_key] = CleanedPartition(
                day=check.day, cleaned=cleaned, quarantine=check.quarantine, rows=check.labelled
            )
        sums = CleanedDays(
            digest=digest_value([partition.digests for partition in partitions.values()]),
            partitions=len(partitions),
            rows=sum(partition.rows for partition in partitions.values()),
            whole_from=max((cleaned.whole_from for cleaned in results.values()), default=date.min),
        )
        return KeptMonth.of(key, CleanedPartition, partitions, sums)


def keep_cleaned(site: Site, results: Kept[CleanedRows], key: str, unique: pd.DataFrame) -> CleanedRows:
    """Cleans a partition's rows, which must be without duplicates, and keeps the result under the content key."""
    cleaned = clean(site.use_case, unique)
    file = put_file(site.store, paths.cleaned_rows(site.use_case.name, key), to_arrow(cleaned))
    result = CleanedRows(file=file, whole_from=whole_from(site.use_case, cleaned))
    results.keep(key, result)
    return result


class RowsAtHand:
    """Cleans partitions while validation still has their rows in memory: reading them again costs more than judging.

    The cleaning stage finds what was kept here, and reads only the other partitions. `days` are those cleaned here.
    """

    def __init__(self, site: Site, manifest: Manifest) -> None:
        self.site, self.manifest, self.decided = site, manifest, decided_by(site, "cleaned")
        self.results = kept_of_partitions(site, "cleaned", CleanedRows)
        self.days: list[str] = []

    def clean(self, frames: Mapping[str, pd.DataFrame]) -> None:
        """Cleans those of these days that have no cleaned rows yet. `frames` is day to rows without duplicates."""
        months = {month_of(day) for day in frames}
        keys_by_month = (keys_of(self.site, self.manifest, month, self.decided) for month in months)
        keys = {day: key for keys in keys_by_month for day, key in keys.items() if day in frames}
        kept = self.results.find(list(keys.values()))
        for day, key in keys.items():
            if key not in kept:
                keep_cleaned(self.site, self.results, key, frames[day])
                self.days.append(day)
