"""Sources that are no folder on this disk, brought into one: objects in S3, one file of all days, a database.

It lies in RETRAIN_HOME/cache/sources. Only what changed at the source, or is no longer here as it was brought, is
fetched again.
"""

import io
import json
import logging
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml.config import DatabaseSource, FileSource, Source
from ml.digests import KeptDigests, canonical_json, digest_file, sealed, unsealed, write_whole
from ml.errors import Busy, ConfigError, DataRejected, SourceUnavailable
from ml.locks import held_lock
from ml.serving.columns import Column
from ml.settings import Settings
from ml.sources import DAY_FILE, HIVE, KINDS, AnySource, is_hidden, reading, source_folder
from ml.store import S3Store, open_store

log = logging.getLogger("retrain.sources")
BROUGHT = ".brought.json"
SAMPLE_ROWS = 1000
NO_DAY = "%d rows of %s have no %s and belong to no day."


def bring(settings: Settings, source: AnySource, columns: tuple[Column, ...]) -> Path:
    """The source's folder, with what it holds now. Raises SourceUnavailable, DataRejected or ConfigError."""
    path = source_folder(settings, source)
    if isinstance(source, Source) and not source.folder.startswith("s3://"):
        return path
    busy = Busy("a source is brought by one run at a time", "another one brings it", "wait for it to end")
    with held_lock(path.with_name(f"{path.name}.lock"), -1, busy):
        folder = BroughtFolder(path)
        if isinstance(source, FileSource):
            with reading(settings.data / source.file):
                _bring_file(settings.data / source.file, source, folder, settings.batch_bytes)
        elif isinstance(source, DatabaseSource):
            _bring_rows(source, columns, folder)
        else:
            _bring_objects(source, folder)
        folder.digests.save()
    return path


class BroughtFolder:
    """What was brought: what the source was then, and which files are still as they were written."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.digests = path, KeptDigests(path.with_name(f"{path.name}.json"))
        brought = self._read()
        self.source, files = brought["source"], brought["files"]
        seen = self._seen()
        self.intact = {name for name, digest in files.items() if seen.get(name) == digest}
        self.is_whole = self.intact == files.keys() == seen.keys()

    def keep(self, source: Any, names: Iterable[str]) -> None:
        """Notes that it now holds these files of such a source, and nothing else."""
        for name in self._files().keys() - set(names):
            (self.path / name).unlink()
        write_whole(self.path / BROUGHT, sealed(canonical_json({"source": source, "files": self._seen()})))

    def digest_of(self, path: Path) -> str:
        """Of a file elsewhere; it is hashed where it may have changed since the last time."""
        stats = {str(path): path.stat()}
        return str(self.digests.of("source", "", stats, lambda files: files.of(str(path), stats[str(path)])))

    def _read(self) -> Any:
        """Nothing where it was never brought, or not to its end, or what was noted is damaged."""
        try:
            noted = unsealed((self.path / BROUGHT).read_bytes())
        except OSError:
            noted = None
        return {"source": None, "files": {}} if noted is None else json.loads(noted)

    def _files(self) -> dict[str, Path]:
        found = (path for path in self.path.rglob("*") if path.is_file() and path.name != BROUGHT)
        return {path.relative_to(self.path).as_posix(): path for path in sorted(found)}

    def _seen(self) -> dict[str, str]:
        """Digest by name."""
        files = self._files()
        stats = {str(path): path.stat() for path in files.values()}
        found = self.digests.of(
            "days", "", stats, lambda digests: {path: digests.of(path, stat) for path, stat in stats.items()}
        )
        return {name: found[str(path)] for name, path in files.items()}


# Objects in S3


def _bring_objects(source: Source, folder: BroughtFolder) -> None:
    """An object is fetched again only where its ETag changed, which follows from its bytes."""
    store = open_store(source.folder)
    assert isinstance(store, S3Store)
    now = {key: etag for key, etag in store.etags().items() if _is_of_a_day(key)}
    before = folder.source or {}
    for key in sorted(now):
        if now[key] != before.get(key) or key not in folder.intact:
            data = store.get(key)
            if data is None:  # it went between the list and now
                del now[key]
            else:
                write_whole(folder.path / key, data)
    folder.keep(now, now)


def _is_of_a_day(key: str) -> bool:
    """Whether such a file in a folder would be listed, or refused; consoles and Spark keep marks of their own."""
    day, _, rest = key.partition("/")
    if not rest:
        return DAY_FILE.fullmatch(day) is not None
    return HIVE.fullmatch(day) is not None and rest.endswith(KINDS) and not any(map(is_hidden, rest.split("/")))


# One file of all days


def _bring_file(path: Path, source: FileSource, folder: BroughtFolder, room: int) -> None:
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
                f"{path.name} must be readable, its times in ISO 8601", str(error).splitlines()[0][:120],
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


# A database


def _bring_rows(source: DatabaseSource, columns: tuple[Column, ...], folder: BroughtFolder) -> None:
    """A day at a time; one whose rows and last change are counted as before is not read again."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    address = os.environ.get(source.database)
    if not address:
        raise ConfigError(f"{source.database} holds the address of the database", "it is not set", "set it")
    try:
        engine = create_engine(address)
        try:
            _bring_days(engine, source, columns, folder)
        finally:
            engine.dispose()
    except DBAPIError as error:
        if error.connection_invalidated or _is_away(error.orig):
            raise SourceUnavailable(
                f"the database of {source.database} must answer", type(error).__name__, "check it, then run again"
            ) from None
        raise ConfigError(
            f"the query on {source.database} must be one that it can answer", type(error).__name__, "mend the source"
        ) from None
    except SQLAlchemyError as error:  # its message may hold the address with its password
        raise ConfigError(
            f"{source.database} holds an address that SQLAlchemy knows", type(error).__name__, "mend it"
        ) from None


def _is_away(error: BaseException | None) -> bool:
    """By the kinds that drivers share (PEP 249), where sqlite's also stands for a query that is no SQL."""
    wrong_query = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return type(error).__name__ in {"OperationalError", "InterfaceError"} and not wrong_query


def _bring_days(engine: Any, source: DatabaseSource, columns: tuple[Column, ...], folder: BroughtFolder) -> None:
    from sqlalchemy import DateTime, bindparam, column, func, literal_column, select, text

    query = source.query.replace(":", r"\:")  # it has no parameters
    table, at = text(f"({query}) AS source_rows"), column(source.time_column, DateTime)
    of_day = (at >= bindparam("start", type_=DateTime)) & (at < bindparam("end", type_=DateTime))
    changed: list[Any] = [func.max(column(source.changed_column))] if source.changed_column else []
    bounds = select(func.min(at), func.max(at), func.count() - func.count(at)).select_from(table)
    facts = select(func.count(), *changed).select_from(table).where(of_day)
    rows: Any = select(literal_column("*")).select_from(table).where(of_day)
    times = sorted({source.time_column, *(c.name for c in columns if c.type == "timestamp")})
    before, now = folder.source or {}, {}
    with engine.connect() as connection:
        first, last = _bounds(connection, bounds, source)
        for day, span in _days_between(first, last):
            seen = [str(value) for value in connection.execute(facts, span).one()]
            if seen[0] == "0":
                continue
            name = f"{day}.parquet"
            now[name] = [*seen, *times]  # a column that is declared anew is read anew
            if not changed or before.get(name) != now[name] or name not in folder.intact:
                data = _day_bytes(pd.read_sql_query(rows, connection, params=span), day, source.time_column, times)
                if name not in folder.intact or (folder.path / name).read_bytes() != data:
                    write_whole(folder.path / name, data)
    folder.keep(now, now)


def _bounds(connection: Any, bounds: Any, source: DatabaseSource) -> tuple[datetime | None, datetime | None]:
    """The first and the last time."""
    try:
        first, last, lost = connection.execute(bounds).one()
        ends = pd.to_datetime(pd.Series([first, last], dtype=object))  # of a column of dates, too
    except (ValueError, TypeError):  # which quote the value
        raise _no_times(source.time_column, "the query") from None
    if ends.dt.tz is not None:
        raise _no_times(source.time_column, "the query")
    if lost:
        log.warning(NO_DAY, lost, source.database, source.time_column)
    return (None, None) if ends.isna().any() else (ends[0].to_pydatetime(), ends[1].to_pydatetime())


def _no_times(names: str, place: str) -> DataRejected:
    return DataRejected(
        f"{names} of {place} must be timestamps without a time zone, like 2013-09-30 00:00:00", "some are none",
        "cast them in the query",
    )  # fmt: skip


def _days_between(first: datetime | None, last: datetime | None) -> Iterator[tuple[str, dict[str, datetime]]]:
    if first is None or last is None:
        return
    for number in range((last.date() - first.date()).days + 1):
        start = datetime.combine(first.date() + timedelta(days=number), datetime.min.time())
        yield str(start.date()), {"start": start, "end": start + timedelta(days=1)}


def _day_bytes(rows: pd.DataFrame, day: str, time_column: str, times: list[str]) -> bytes:
    """As Parquet, in an order of their own, because a database gives none; equal rows give equal bytes."""
    present = [name for name in times if name in rows]
    try:
        typed = rows.astype(dict.fromkeys(present, "datetime64[us]"))
    except (ValueError, TypeError):  # which quotes the value
        raise _no_times(", ".join(present), day) from None
    if not (typed[time_column].dt.normalize() == pd.Timestamp(day)).all():  # sqlite compares texts
        raise _no_times(time_column, day)
    sink = io.BytesIO()
    try:
        typed.sort_values(list(typed.columns), ignore_index=True).to_parquet(sink, index=False)
    except (ValueError, TypeError, pa.ArrowException):
        raise DataRejected(
            "columns of a query hold plain values of one type", f"{', '.join(_odd_columns(typed))} of {day} do not",
            "cast or drop them in the query",
        ) from None  # fmt: skip
    return sink.getvalue()


def _odd_columns(rows: pd.DataFrame) -> list[str]:
    kinds = {str(name): pd.api.types.infer_dtype(rows[name]) for name in rows}
    return [name for name, kind in kinds.items() if kind in {"mixed", "mixed-integer"}]
