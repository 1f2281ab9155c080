"""Reads a partition's rows: from the very bytes that the snapshot names, completed by derive and joined.

Bytes that are no longer those of the snapshot are refused, and so are rows of another day.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype

from ml.data.dataset import Reading, Table
from ml.data.handles import JoinCounts, Manifest, Month, Partition
from ml.data.joins import complete
from ml.data.reading import Declared, UnusablePartition, parse_table, refuse_other_columns, together
from ml.data.source_kinds import RowSource
from ml.data.sources.folder import ALL, read_bytes, source_folder
from ml.days import month_of
from ml.errors import DataRejected, printable
from ml.serving.columns import conform, days_of
from ml.settings import Settings


def kept_digests(settings: Settings, use_case: str) -> Path:
    """The file that keeps the digests of a use case's files, so that they need not be hashed again."""
    return settings.home / "cache" / f"digests-{use_case}.json"


def inputs_by_day(use_case: Reading, month: Month) -> dict[str, tuple[str, ...]]:
    """What the rows of each partition come from, by day: digest and ending of its own file and of each side table's."""
    sides = [{p.day: _content(p) for p in month.side_tables[table.name]} for table in use_case.side_tables]
    return {
        own.day: (_content(own), *(side[own.day] if own.day in side else side[ALL] for side in sides))
        for own in month.partitions
    }


def _content(partition: Partition) -> str:
    """Digest and ending of the file: with another ending, the same bytes are read in another way."""
    return "".join((partition.digest, *Path(partition.file).suffixes))


@dataclass(frozen=True)
class PartitionRows:
    """A partition's raw rows, with the declared columns in their types.

    `unknown_columns`: the columns that nobody declared, in words. `joins`: how the rows met each side table, by name.
    """

    rows: pd.DataFrame
    unknown_columns: tuple[str, ...] = ()
    joins: dict[str, JoinCounts] = field(default_factory=dict)

    @property
    def unmatched(self) -> dict[str, int]:
        """How many rows each side table does not match, because they have no key or the table lacks it."""
        return {name: counts.unmatched + counts.null_keys for name, counts in self.joins.items()}


def read_partition(settings: Settings, use_case: Table, manifest: Manifest, day: str) -> PartitionRows:
    """The partition's rows, derived and joined.

    Raises UnusablePartition if the file cannot be read, a column is missing or is not of its type, or a row is of
    another day; DataRejected if the bytes are no longer those of the manifest.
    """
    month = manifest.month(month_of(day))
    source = source_rows(settings, use_case, manifest, day)
    sides = {t.name: _read(settings, use_case, t.source, month.side_tables[t.name], day) for t in use_case.side_tables}
    whole = complete(use_case, source, sides)
    refuse_other_columns(use_case, whole.rows, use_case.columns)
    typed = conform(whole.rows, use_case.columns, use_case.time_zone)
    _refuse_other_days(use_case, typed, day)
    joined_on = {name for table in use_case.side_tables for name in table.on}
    unknown = set(source.columns) - {column.name for column in use_case.columns} - joined_on
    return PartitionRows(typed, tuple(sorted(_undeclared(use_case, source, name) for name in unknown)), whole.joins)


def _undeclared(use_case: Reading, rows: pd.DataFrame, name: Any) -> str:
    """The column's name.

    If there is a `derive`, with the type in which it gets the column: the day's values decide it.
    """
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
    settings: Settings, use_case: Table, source: RowSource, partitions: tuple[Partition, ...], day: str
) -> pd.DataFrame:
    """The rows of a day, or of all days, from the very bytes that stand in the manifest."""
    by_day = {partition.day: partition for partition in partitions}
    partition = by_day.get(day) or by_day[ALL]
    folder = source_folder(settings, source, use_case.time_zone, use_case.columns)
    read = _table_of_all_days if partition.day == ALL and use_case.dated else _rows
    try:
        return read(folder, partition, Declared.of(use_case, source))
    except _OtherBytes:
        for kept in (kept_digests(settings, use_case.name), folder.with_name(f"{folder.name}.json")):
            kept.unlink(missing_ok=True)  # a disk may have changed bytes, and no file's times
        ours = folder.is_relative_to(settings.home / "cache")
        what = f"the copy of {partition.day} of {source.words(settings.data)}" if ours else partition.file
        raise DataRejected(
            "a partition stays as it is during a night", f"{what} changed since the snapshot", "run it again"
        ) from None


class _OtherBytes(Exception):
    """The bytes are not those of the manifest."""


@functools.lru_cache(maxsize=8)
def _table_of_all_days(folder: Path, partition: Partition, declared: Declared) -> pd.DataFrame:
    """A side table that all days of a window are joined to. It is cached, so that it is read once."""
    return _rows(folder, partition, declared)


def _rows(folder: Path, partition: Partition, declared: Declared) -> pd.DataFrame:
    files = read_bytes(folder, partition.file, partition.digest)
    if files is None:
        raise _OtherBytes(partition.file)
    return together([parse_table(name, data, declared) for name, data in files], partition.file)


def _refuse_other_days(use_case: Reading, rows: pd.DataFrame, day: str) -> None:
    """Raises UnusablePartition if a row is of another day than its file's name says.

    A row of a later day would let the future in.
    """
    if use_case.time_column is None or not len(rows):
        return
    days = days_of(rows[use_case.time_column])
    others = int((days.notna() & (days != day)).sum())
    if others:
        zone = "" if use_case.time_zone == "UTC" else f" as clocks in {use_case.time_zone} show it"
        raise UnusablePartition(f"{others} of {len(rows)} rows are of another day by {use_case.time_column}{zone}")
