"""Brings one Parquet or CSV file of all days as one Parquet file per day.

A file that is gone, cut or not readable is refused, and so is one whose time column holds something else than times.
"""

import bisect
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ml.data.code import state_code_digest
from ml.data.csv_fields import LONGEST_RECORD, BrokenCsv, open_fields, refuse_twice
from ml.data.reading import FIELDS, Declared, index_columns, of_fields, of_values, open_parquet, short
from ml.data.source_kinds import FileSource
from ml.data.sources.brought import BroughtFolder, rows_of_no_day
from ml.data.sources.folder import units_of_times
from ml.digests import digest_file, digest_value
from ml.errors import DataRejected, is_passing
from ml.serving.columns import Column, days_of, wrong_type

SAMPLE_ROWS = 1000  # so many rows show how large a row is
SMALLEST_BLOCK = 1 << 20  # bytes of a CSV that are read at once, at least


def bring_file(
    path: Path, source: FileSource, columns: tuple[Column, ...], time_zone: str, folder: BroughtFolder, room: int
) -> None:
    """Streams one file into one file per day, in the order of its rows. Nothing is done if its bytes are as before.

    The days are Parquet files; those of a CSV hold its fields as they are written. `room`: how many bytes of rows may
    be in memory at once. Raises DataRejected if the file cannot be read, or its time column does not hold times.
    """
    if path.is_dir():
        raise DataRejected(
            "a FileSource is one file", f"{path} is a folder", "write one file, or a folder a day and use a Source"
        )
    if not path.is_file():
        raise DataRejected("a source's file must be there", f"there is no {path}", "write it, or change the source")
    times = TimeColumn(path.name, source, columns, time_zone)
    state = digest_value([folder.digest_of(path), times.column.unit, time_zone, state_code_digest("brought")])
    if folder.source == state and folder.is_whole:
        return
    with _new_days(folder) as fresh:
        try:
            split = _split_parquet if path.suffix == ".parquet" else _split_csv
            without_day = split(path, source, times, fresh, room)
        except BrokenCsv as error:
            raise DataRejected(f"{path.name} must be whole and readable", error.seen, error.next_step) from None
        except (BadGzipFile, ValueError, EOFError, zlib.error, pa.ArrowException) as error:
            if is_passing(error):
                raise
            raise DataRejected(f"{path.name} must be whole and readable", short(error), "write it again") from error
        names = _replace_changed(folder.path, fresh)
    folder.keep(state, names, rows_of_no_day(path.name, without_day, source.time_column))


@contextmanager
def _new_days(folder: BroughtFolder) -> Iterator[Path]:
    """An empty folder beside the source's. What a killed run has left there is removed first."""
    scratch = folder.path.with_name(f"{folder.path.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / "days").mkdir(parents=True)
        yield scratch / "days"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace_changed(days: Path, fresh: Path) -> list[str]:
    """Moves the days that changed into the folder; returns the names of all days.

    A day that is as before keeps its file and that file's times, so that it is not hashed again.
    """
    names = sorted(path.name for path in fresh.iterdir())
    for name in names:
        if not (days / name).exists() or digest_file(days / name) != digest_file(fresh / name):
            (fresh / name).replace(days / name)
    return names


def _split_csv(path: Path, source: FileSource, times: "TimeColumn", fresh: Path, room: int) -> int:
    """Writes the days of a CSV, with fields as they are written; returns how many rows belong to no day."""
    parts = DayParts(fresh, {FIELDS: b"as written"})
    block = min(max(room // 4, SMALLEST_BLOCK), LONGEST_RECORD)  # bytes of text; a table takes more
    with path.open("rb") as raw, open_fields(raw, path.name, source, block) as (names, batches):
        times.require(names)
        for batch in batches:
            fields = pa.chunked_array([batch[source.time_column]])
            parts.add(batch, times.days_of(of_fields(fields, times.column, times.declared)))
    return parts.together()


def _split_parquet(path: Path, source: FileSource, times: "TimeColumn", fresh: Path, room: int) -> int:
    """Writes the days of a Parquet file; returns how many rows belong to no day."""
    parts = DayParts(fresh, {})
    with open_parquet(path, pre_buffer=False) as file:
        refuse_twice(file.schema_arrow.names)
        times.require(file.schema_arrow.names)
        indexes, start = index_columns(file.schema_arrow, file.metadata.num_rows), 0
        for batch in _parquet_batches(file, room):
            end = start + batch.num_rows
            for name, numbers in indexes.items():
                batch = batch.append_column(name, pa.array(numbers[start:end], pa.int64()))
            start = end
            values = pa.chunked_array([batch[source.time_column]])
            parts.add(batch, times.days_of(of_values(values, times.column, times.declared)))
    return parts.together()


def _parquet_batches(file: pq.ParquetFile, room: int) -> Iterator[pa.RecordBatch]:
    """The rows in batches of at most `room` bytes, by the size of the first rows."""
    sample = next(file.iter_batches(SAMPLE_ROWS), None)
    if sample is not None:
        yield from file.iter_batches(_rows_that_fit(sample.num_rows, sample.nbytes, room))


def _rows_that_fit(rows: int, size: int, room: int) -> int:
    """How many rows fit into `room` bytes, if so many `rows` take `size` bytes."""
    return max(1, rows * room // max(size, 1))


class TimeColumn:
    """The column whose times say which day a row belongs to. It is read as a night reads it."""

    def __init__(self, file: str, source: FileSource, columns: tuple[Column, ...], time_zone: str) -> None:
        (unit,) = units_of_times(source, columns).values()
        self.file, self.rows = file, 0
        self.column = Column(name=source.time_column, type="timestamp", unit=unit)
        self.declared = Declared((self.column,), time_zone, source)

    def require(self, names: list[str]) -> None:
        """Raises DataRejected if the file has no such column."""
        if self.column.name not in names:
            raise DataRejected(
                f"{self.file} must have {self.column.name}", "it has not", "name its time column in the source"
            )

    def days_of(self, times: pd.Series) -> pd.Series:
        """(rows,) the day of each row; null if it has none. Raises DataRejected if a value is no time."""
        other_type = wrong_type(self.column, times)
        if other_type is not None:  # the value is not quoted: in a row whose fields are shifted it may be anything
            raise DataRejected(
                f"{self.column.name} of {self.file} must be a timestamp in every row",
                f"it is {other_type}, the first in row {self.rows + self._first_wrong(times) + 1}",
                "write it in ISO 8601, or declare its unit",
            ) from None
        self.rows += len(times)
        return days_of(times)

    def _first_wrong(self, times: pd.Series) -> int:
        """The position of the first value that is no time: up to it, the values are no longer of the type."""

        def is_wrong_up_to(position: int) -> bool:
            return wrong_type(self.column, times.iloc[: position + 1]) is not None

        return bisect.bisect_left(range(len(times) - 1), True, key=is_wrong_up_to)


class DayParts:
    """Collects the rows of each day, which may lie anywhere in the file, and puts them together at the end.

    `without_day` counts the rows that belong to no day.
    """

    def __init__(self, fresh: Path, metadata: dict[bytes, bytes]) -> None:
        self.fresh, self.parts, self.metadata = fresh, fresh.with_name("parts"), metadata
        self.without_day, self.count = 0, 0

    def add(self, batch: pa.RecordBatch, days: pd.Series) -> None:
        """Adds the rows of a batch to their days, in their order. `days` (rows,) is null where a row has none."""
        codes, names = pd.factorize(days)
        self.without_day += int((codes < 0).sum())
        order = np.argsort(codes, kind="stable")
        ordered = pa.table(batch).replace_schema_metadata(self.metadata).take(order)
        ends = np.searchsorted(codes[order], np.arange(len(names) + 1))
        for day, start, end in zip(names, ends, ends[1:], strict=False):
            (self.parts / day).mkdir(parents=True, exist_ok=True)
            pq.write_table(ordered.slice(start, end - start), self.parts / day / f"{self.count:09d}.parquet")
        self.count += 1

    def together(self) -> int:
        """Writes one file per day; returns how many rows belong to no day."""
        for day in self.parts.iterdir() if self.parts.exists() else ():
            tables = [pq.read_table(part) for part in sorted(day.iterdir())]
            pq.write_table(pa.concat_tables(tables).combine_chunks(), self.fresh / f"{day.name}.parquet")
            shutil.rmtree(day)
        return self.without_day
