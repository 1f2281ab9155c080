"""Cleaned rows as they are read: verified by digest, and made again from the source where they are gone or damaged."""

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import pandas as pd

from ml.data.cleaning import DAY, LABEL, ROW_NUMBER, clean, from_block, from_parquet, to_block, to_parquet
from ml.data.dataset import Dataset
from ml.data.handles import Block, Blocks, Manifest, Part
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

log = logging.getLogger("retrain.blocks")


@dataclass(frozen=True)
class BlockReader:
    """Reads a snapshot's blocks. Raises DataRejected where one is damaged and its source has changed since."""

    settings: Settings
    store: Store
    use_case: Dataset
    rules: tuple[Rule, ...]
    blocks: Blocks

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.store, self.blocks.manifest)

    def rows(self, block: Block) -> pd.DataFrame:
        """A partition's accepted rows as they are stored: texts as categoricals, numbers maybe float32."""
        data = self._bytes(block.cleaned.file, lambda: self._cleaned(block.day))
        if block.quarantine is None:
            return from_block(data)
        quarantine = self._bytes(block.quarantine, lambda: self._quarantine(block.day))
        return from_block(data, from_parquet(quarantine)[ROW_NUMBER])

    def _bytes(self, file: FileRef, make: Callable[[], bytes]) -> bytes:
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
        return to_block(clean(self.use_case, drop_duplicates(rows, self.use_case.key)))

    def _quarantine(self, day: str) -> bytes:
        read = read_partition(self.settings, self.use_case, self.manifest, day)
        batch = Batch.of(self.use_case.key, {day: read})
        return to_parquet(check_batch(self.use_case, self.rules, batch).quarantine[day])

    def part_rows(self, as_of: date, part: Part, block: Block) -> pd.DataFrame:
        """Those of the block's rows that belong to the part on that date."""
        return rows_of(self.use_case, as_of, part, block.day, self.rows(block))

    def part_frames(self, as_of: date, part: Part) -> Iterator[pd.DataFrame]:
        """The part's rows as they are stored, a frame a block, in date order."""
        for block in self.of_part(as_of, part):
            yield self.part_rows(as_of, part, block)

    def raw_rows(self, as_of: date, part: Part) -> pd.DataFrame:
        """The part's rows as a model takes them, with their label and day."""
        columns = tuple(column for column in self.use_case.columns if column.name != self.use_case.target.column)
        frames = []
        for block in self.of_part(as_of, part):
            rows = self.part_rows(as_of, part, block)
            frames.append(conform(rows, columns).assign(**{LABEL: rows[LABEL].astype("float64"), DAY: block.day}))
        return pd.concat(frames, ignore_index=True)

    def labelled_columns(self, as_of: date, part: Part, names: list[str]) -> pd.DataFrame:
        """Only these columns of the part's rows and their label, as they are stored: a day is read at a time."""
        return pd.concat([rows[[*names, LABEL]] for rows in self.part_frames(as_of, part)], ignore_index=True)

    def of_part(self, as_of: date, part: Part) -> list[Block]:
        months = self.months_of_part(as_of, part)
        return [block for name, ends in months.items() for block in self.of_month(name, *ends)]

    def months_of_part(self, as_of: date, part: Part) -> dict[str, tuple[str, str]]:
        """The months of blocks with days of the part, each with the first and last day that it could have of them."""
        counted = self.counted(as_of)
        first, last = days_of_part(self.use_case, as_of, part, counted) if self.use_case.dated else (ALL, ALL)
        return {
            name: (max(first, f"{name}-01"), min(last, f"{name}-31")) if name != ALL else (ALL, ALL)
            for name in self.blocks.months
            if month_of(first) <= name <= month_of(last)
        }

    @cached_property
    def counted(self) -> Callable[[date], list[str] | None]:
        """The days that `test_days` and `validation_days` count on a date: those that are due, and those that have data
        all the same; None where every day counts."""
        return functools.cache(self._counted)

    def _counted(self, as_of: date) -> list[str] | None:
        if self.use_case.calendar == "daily":
            return None
        with_data = {block.day for name in self.blocks.months for block in self.blocks.of_month(name)}
        return sorted(with_data.union(due_of_manifest(self.use_case, self.manifest, as_of)))

    def of_month(self, name: str, first: str, last: str) -> list[Block]:
        return [block for block in self.blocks.of_month(name) if first <= block.day <= last]
