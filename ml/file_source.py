"""One file of all days, brought as a file a day."""

import logging
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml.brought import NO_DAY, BroughtFolder
from ml.config import FileSource
from ml.digests import digest_file
from ml.errors import DataRejected
from ml.reading import short

log = logging.getLogger("retrain.sources")
SAMPLE_ROWS = 1000


def bring_file(path: Path, source: FileSource, folder: BroughtFolder, room: int) -> None:
    """Streams one file into a file a day, in the order of its rows; not again while its bytes are the same."""
    if not path.is_file():
        raise DataRejected("a source's file must be there", f"there is no {path}", "write it, or change the source")
    digest = folder.digest_of(path)
    if folder.source == digest and folder.is_whole:
        return
    with _new_days(folder) as fresh:
        try:
            split = _split_parquet if path.suffix == ".parquet" else _split_csv
            lost = split(path, source.time_column, fresh, room)
        except (BadGzipFile, ValueError, EOFError, zlib.error, pa.ArrowException) as error:
            raise DataRejected(
                f"{path.name} must be readable, its times in ISO 8601", short(error),
                "write it again",
            ) from error  # fmt: skip
        names = _replace_changed(folder.path, fresh)
    if lost:
        log.warning(NO_DAY, lost, path.name, source.time_column)
    folder.keep(digest, names)


@contextmanager
def _new_days(folder: BroughtFolder) -> Iterator[Path]:
    """An empty folder beside it; what one that was killed has left there goes."""
    scratch = folder.path.with_name(f"{folder.path.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / "days").mkdir(parents=True)
        yield scratch / "days"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace_changed(days: Path, fresh: Path) -> list[str]:
    """All names. A day that is the same keeps its times, and so its kept digest."""
    names = sorted(path.name for path in fresh.iterdir())
    for name in names:
        if not (days / name).exists() or digest_file(days / name) != digest_file(fresh / name):
            (fresh / name).replace(days / name)
    return names


def _split_csv(path: Path, time_column: str, fresh: Path, room: int) -> int:
    """Rows without a time; every field goes on as it is written."""
    lost = 0
    for rows in _csv_parts(path, room):
        _require_time(time_column, rows.columns, path)
        times = _times(rows[time_column].where(rows[time_column] != ""), path)
        days = times.dt.strftime("%Y-%m-%d")
        lost += int(days.isna().sum())
        for day, part in rows.groupby(days, sort=False):
            file = fresh / f"{day}.csv"
            part.to_csv(file, mode="a", header=not file.exists(), index=False)
    return lost


def _csv_parts(path: Path, room: int) -> Iterator[pd.DataFrame]:
    count = SAMPLE_ROWS
    with pd.read_csv(path, dtype="str", keep_default_na=False, na_filter=False, iterator=True) as reader:
        while True:
            try:
                rows = reader.get_chunk(count)
            except StopIteration:
                return
            yield rows
            count = _rows_that_fit(len(rows), int(rows.memory_usage().sum()), room)


def _rows_that_fit(rows: int, size: int, room: int) -> int:
    """So many rows take so many bytes: how many take the room."""
    return max(1, rows * room // max(size, 1))


def _times(texts: pd.Series, path: Path) -> pd.Series:
    try:
        return pd.to_datetime(texts, format="ISO8601")
    except ValueError:  # which quotes the text: in a row that is shifted it may be anything
        raise DataRejected(
            f"{texts.name} of {path.name} must be in ISO 8601", "it is not in every row", "write it again"
        ) from None


def _split_parquet(path: Path, time_column: str, fresh: Path, room: int) -> int:
    """Rows without a time. A day's rows may lie anywhere; its parts are put together at the end."""
    lost, parts = 0, fresh.with_name("parts")
    with pq.ParquetFile(path, pre_buffer=False) as file:
        _require_time(time_column, file.schema_arrow.names, path)
        if not pa.types.is_timestamp(file.schema_arrow.field(time_column).type):
            raise DataRejected(f"{time_column} of {path.name} must be a timestamp", "it is none", "write it as one")
        for number, batch in enumerate(_parquet_parts(file, room)):
            days = pc.cast(batch[time_column], pa.date32(), safe=False)
            lost += days.null_count
            for day in pc.unique(days.drop_null()).to_pylist():
                rows = pa.table(batch.filter(pc.equal(days, pa.scalar(day, pa.date32()))))
                (parts / str(day)).mkdir(parents=True, exist_ok=True)
                pq.write_table(rows, parts / str(day) / f"{number:09d}.parquet")
    for day in parts.iterdir() if parts.exists() else ():
        tables = [pq.read_table(part) for part in sorted(day.iterdir())]
        pq.write_table(pa.concat_tables(tables), fresh / f"{day.name}.parquet")
        shutil.rmtree(day)
    return lost


def _parquet_parts(file: pq.ParquetFile, room: int) -> Iterator[pa.RecordBatch]:
    sample = next(file.iter_batches(SAMPLE_ROWS), None)
    if sample is not None:
        yield from file.iter_batches(_rows_that_fit(sample.num_rows, sample.nbytes, room))


def _require_time(time_column: str, names: Iterable[str], path: Path) -> None:
    if time_column not in names:
        raise DataRejected(f"{path.name} must have {time_column}", "it has not", "name its time column in the source")
