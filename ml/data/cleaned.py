"""Reads cleaned rows. Every file is verified by its digest; one that is lost or damaged is made again from its source.

Rows are refused (DataRejected) if their file is damaged and the source has changed since.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import pandas as pd

from ml.data.cleaning import DAY, LABEL, ROW_NUMBER, clean, from_arrow, from_parquet, to_arrow, to_parquet
from ml.data.dataset import Dataset
from ml.data.handles import Cleaned, CleanedPartition, Manifest, Part
from ml.data.partitions import read_partition
from ml.data.snapshots import due_of_manifest, read_manifest
from ml.data.sources.folder import ALL
from ml.data.split import days_of_part, rows_of
from ml.data.validation import Batch, check_batch, drop_duplicates
from ml.days import month_of
from ml.digests import digest_bytes
from ml.errors import Corrupt, DataRejected
from ml.serving.columns import conform
from ml.serving.rules import Rule
from ml.settings import Settings
from ml.storage.records import FileRef
from ml.storage.store import Store, get_file

log = logging.getLogger("retrain.data")


@dataclass(frozen=True)
class CleanedReader:
    """Reads a snapshot's cleaned rows.

    Reading raises DataRejected if a file is lost or damaged and its source has changed since.
    """

    settings: Settings
    store: Store
    use_case: Dataset
    rules: tuple[Rule, ...]
    cleaned: Cleaned

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.store, self.cleaned.manifest)

    def rows(self, partition: CleanedPartition) -> pd.DataFrame:
        """A partition's rows without those in quarantine, as they are stored.

        Texts are categoricals, and numbers may be float32.
        """
        data = self._bytes(partition.cleaned.file, lambda: self._cleaned(partition.day))
        if partition.quarantine is None:
            return from_arrow(data)
        quarantine = self._bytes(partition.quarantine, lambda: self._quarantine(partition.day))
        return from_arrow(data, from_parquet(quarantine)[ROW_NUMBER])

    def _bytes(self, file: FileRef, make: Callable[[], bytes]) -> bytes:
        """The file's bytes; `make` gives them again if the stored ones are lost or damaged."""
        try:
            return get_file(self.store, file)
        except Corrupt as error:
            log.warning("%s It is made again from its source.", error)
        data = make()
        if digest_bytes(data) != file.digest:
            raise DataRejected(
                "a lost file comes back from its source as it was", f"{file.key} does not", "run the night again"
            )
        self.store.put(file.key, data)
        return data

    def _cleaned(self, day: str) -> bytes:
        rows = read_partition(self.settings, self.use_case, self.manifest, day).rows
        return to_arrow(clean(self.use_case, drop_duplicates(rows, self.use_case.key)))

    def _quarantine(self, day: str) -> bytes:
        read = read_partition(self.settings, self.use_case, self.manifest, day)
        batch = Batch.of(self.use_case.key, {day: read})
        return to_parquet(check_batch(self.use_case, self.rules, batch).quarantine[day])

    def part_rows(self, as_of: date, part: Part, partition: CleanedPartition) -> pd.DataFrame:
        """The partition's rows that belong to the part on that date."""
        return rows_of(self.use_case, as_of, part, partition.day, self.rows(partition))

    def part_frames(self, as_of: date, part: Part) -> Iterator[pd.DataFrame]:
        """The part's rows as they are stored: one frame per partition, in date order."""
        for partition in self.of_part(as_of, part):
            yield self.part_rows(as_of, part, partition)

    def raw_rows(self, as_of: date, part: Part) -> pd.DataFrame:
        """The part's rows as a model takes them, with their label and day as two more columns."""
        frames = [self.raw_rows_of(as_of, part, partition) for partition in self.of_part(as_of, part)]
        return pd.concat(frames, ignore_index=True)

    def raw_rows_of(self, as_of: date, part: Part, partition: CleanedPartition) -> pd.DataFrame:
        """The partition's rows that belong to the part, as a model takes them, with label and day."""
        columns = tuple(column for column in self.use_case.columns if column.name != self.use_case.target.column)
        rows = self.part_rows(as_of, part, partition)
        return conform(rows, columns).assign(**{LABEL: rows[LABEL].astype("float64"), DAY: partition.day})

    def days(self, first: str, last: str) -> list[CleanedPartition]:
        """The partitions from the first day to the last, in date order."""
        months = [name for name in self.cleaned.months if month_of(first) <= name <= month_of(last)]
        return [partition for name in months for partition in self.of_month(name, first, last)]

    def labelled_columns(self, as_of: date, part: Part, names: list[str]) -> pd.DataFrame:
        """The part's rows with these columns and the label alone, as they are stored.

        One partition is read at a time.
        """
        return pd.concat([rows[[*names, LABEL]] for rows in self.part_frames(as_of, part)], ignore_index=True)

    def of_part(self, as_of: date, part: Part) -> list[CleanedPartition]:
        """The partitions of the days of a part, in date order."""
        months = self.months_of_part(as_of, part)
        return [partition for name, ends in months.items() for partition in self.of_month(name, *ends)]

    def months_of_part(self, as_of: date, part: Part) -> dict[str, tuple[str, str]]:
        """The months that may have days of the part, each with the first and last day of the part that it may have."""
        counted = self.counted(as_of)
        first, last = days_of_part(self.use_case, as_of, part, counted) if self.use_case.dated else (ALL, ALL)
        return {
            name: (max(first, f"{name}-01"), min(last, f"{name}-31")) if name != ALL else (ALL, ALL)
            for name in self.cleaned.months
            if month_of(first) <= name <= month_of(last)
        }

    @cached_property
    def counted(self) -> Callable[[date], list[str] | None]:
        """A function of as_of that gives the days which `test_days` and `validation_days` count.

        These are the days that are due, and other days that have data. The function gives None if every day counts.
        """
        return functools.cache(self._counted)

    def _counted(self, as_of: date) -> list[str] | None:
        if self.use_case.calendar == "daily":
            return None
        with_data = {partition.day for name in self.cleaned.months for partition in self.cleaned.of_month(name)}
        return sorted(with_data.union(due_of_manifest(self.use_case, self.manifest, as_of)))

    def of_month(self, name: str, first: str, last: str) -> list[CleanedPartition]:
        """The month's partitions from the first day to the last."""
        return [partition for partition in self.cleaned.of_month(name) if first <= partition.day <= last]
