"""Where rows come from: every kind of source as a folder with a file, or a Hive folder, a day.

A folder on disk is read where it lies. Anything else (objects in S3, one file of all days, a database) is brought into
a folder below RETRAIN_HOME/cache first, of which only what changed is fetched; all that follows sees days of files.
"""

import io
import json
import logging
import operator
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime, timedelta
from gzip import BadGzipFile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml.config import DatabaseSource, FileSource, Source
from ml.days import FIRST_DAY, LAST_DAY
from ml.digests import FileDigests, KeptDigests, canonical_json, digest_bytes, digest_value, write_whole
from ml.errors import ConfigError, DataRejected, SourceUnavailable
from ml.serving.columns import Column
from ml.settings import Settings
from ml.store import S3Store, open_store

log = logging.getLogger("retrain.sources")
ALL = "all"
DAY_FILE = re.compile(r"(\d{4}-\d{2}-\d{2}|all)\.(parquet|csv|csv\.gz)")
HIVE = re.compile(r"[A-Za-z_]\w*=(\d{4}-\d{2}-\d{2})")
ROWS_AT_ONCE = 100_000
BROUGHT = ".brought.json"
AnySource = Source | FileSource | DatabaseSource


class DayFiles(NamedTuple):
    """The files of one day: one, or those of a Hive folder in the order of their names."""

    name: str
    paths: tuple[str, ...]


def source_folder(settings: Settings, source: AnySource) -> Path:
    """Where the source's days lie on this disk."""
    if isinstance(source, Source) and not source.folder.startswith("s3://"):
        return settings.data / source.folder  # an absolute folder stays itself
    kind = type(source).__name__
    return settings.home / "cache" / "sources" / f"{kind}-{digest_value(asdict(source))[:16]}"


def bring(settings: Settings, source: AnySource, columns: tuple[Column, ...]) -> Path:
    """The source's folder, with what it holds now. Raises SourceUnavailable, DataRejected or ConfigError."""
    folder = source_folder(settings, source)
    if isinstance(source, FileSource):
        with reading(settings.data / source.file):
            _bring_file(settings.data / source.file, source, folder)
    elif isinstance(source, DatabaseSource):
        _bring_rows(source, columns, folder)
    elif source.folder.startswith("s3://"):
        _bring_objects(source, folder)
    return folder


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """A disk that does not answer is no verdict on data."""
    try:
        yield
    except OSError as error:
        raise SourceUnavailable(
            f"{place} must be readable", f"{error.strerror or error}", "give access, or wait for the disk"
        ) from error


# Days of files


def listed(folder: Path) -> dict[str, DayFiles]:
    """Day (or `all`) to its files, in date order.

    Raises DataRejected where there is no folder or nothing in it, and where a name is no day or a day is there twice.
    """
    found: dict[str, DayFiles] = {}
    for entry in _entries(folder):
        match = DAY_FILE.fullmatch(entry.name) or HIVE.fullmatch(entry.name)
        if match and (entry.is_file() or entry.is_dir()):  # reading a pipe would wait for ever
            day = match[1]
            if day in found or ALL in found or not _is_day(day):
                _refuse_ambiguous(found, day, entry, folder)
            paths = (entry.path,) if match.re is DAY_FILE else _parts(Path(entry.path))
            found[day] = DayFiles(entry.name, paths)
    if not found:
        raise DataRejected(
            "a source has files like 2013-09-30.parquet or all.parquet, or folders like day=2013-09-30",
            f"{folder} has none",
            "check the source's folder",
        )
    return dict(sorted(found.items()))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with reading(folder):
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=operator.attrgetter("name"))
        except (FileNotFoundError, NotADirectoryError):
            return []


def _parts(folder: Path) -> tuple[str, ...]:
    return tuple(entry.path for entry in _entries(folder) if entry.name.endswith((".parquet", ".csv", ".csv.gz")))


def _refuse_ambiguous(found: dict[str, DayFiles], day: str, entry: os.DirEntry[str], folder: Path) -> None:
    if day in found:
        seen = f"{found[day].name} and {entry.name} are both in {folder}"
        raise DataRejected("a source has one file a day", seen, "remove one of them")
    if found and (day == ALL or ALL in found):
        seen = f"{folder} has {entry.name} and {next(iter(found.values())).name}"
        raise DataRejected("a source has a file a day, or one for all", seen, "remove one kind")
    if day != ALL and not _is_day(day):
        raise DataRejected("a partition's file is named by its day", f"{entry.path} names none", "rename it")


def _is_day(text: str) -> bool:
    try:
        return FIRST_DAY <= date.fromisoformat(text) <= LAST_DAY
    except ValueError:
        return False


def digest_of(digests: FileDigests, files: DayFiles, stats: Mapping[str, os.stat_result]) -> str:
    """Of one file its SHA-256; of several that of their names and digests."""
    with reading(Path(files.name)):
        found = [digests.of(path, stats[path]) for path in files.paths]
    return _digest_of_parts(files.paths, found) if HIVE.fullmatch(files.name) else found[0]


def _digest_of_parts(paths: Iterable[str], digests: Iterable[str]) -> str:
    return digest_value({Path(path).name: digest for path, digest in zip(paths, digests, strict=True)})


def read_bytes(folder: Path, name: str, digest: str) -> list[tuple[str, bytes]]:
    """Name and bytes of a day's files. Raises DataRejected where they are not those of the digest."""
    place = folder / name
    paths = _parts(place) if place.is_dir() else (str(place),) if place.exists() else ()
    with reading(place):
        files = [(Path(path).name, Path(path).read_bytes()) for path in paths]
    digests = [digest_bytes(data) for _, data in files]
    if (_digest_of_parts(paths, digests) if place.is_dir() else "".join(digests)) != digest:
        raise DataRejected(
            "a partition stays as it is during a night", f"{name} changed since the snapshot", "run it again"
        )
    return files


# What is brought


def _stamp(folder: Path) -> Any:
    """What the folder was brought from."""
    try:
        return json.loads((folder / BROUGHT).read_bytes())
    except (OSError, ValueError):
        return None  # never brought, or not to its end


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside it, whose days take the place of those that differ once they are all there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        yield Path(scratch)
        (folder / BROUGHT).unlink(missing_ok=True)
        fresh = {path.name: path for path in Path(scratch).iterdir()}
        for path in folder.iterdir():
            if path.name not in fresh:
                path.unlink()
        for name, path in fresh.items():  # one that is the same keeps its times, and so its kept digest
            if not (folder / name).exists() or (folder / name).read_bytes() != path.read_bytes():
                path.replace(folder / name)


def _bring_objects(source: Source, folder: Path) -> None:
    """An object is fetched again only where its ETag changed, which follows from its bytes."""
    store = open_store(source.folder)
    assert isinstance(store, S3Store)
    now = store.etags()
    before = _stamp(folder) or {}
    folder.mkdir(parents=True, exist_ok=True)
    for key in before.keys() - now.keys():
        (folder / key).unlink(missing_ok=True)
    for key in sorted(now):
        if now[key] != before.get(key) or not (folder / key).exists():
            data = store.get(key)
            if data is not None:
                write_whole(folder / key, data)
    write_whole(folder / BROUGHT, canonical_json(now))


def _bring_file(path: Path, source: FileSource, folder: Path) -> None:
    """Streams one file into a file a day, in the order of its rows; not again while its bytes are the same."""
    if not path.is_file():
        raise DataRejected("a source's file must be there", f"there is no {path}", "write it, or change the source")
    digests = KeptDigests(folder.with_name(f"{folder.name}.json"))
    stats = {str(path): path.stat()}
    digest = digests.of(ALL, "", stats, lambda files: files.of(str(path), stats[str(path)]))
    digests.save()
    if _stamp(folder) == digest:
        return
    try:
        with _new_folder(folder) as fresh:
            split = _split_parquet if path.suffix == ".parquet" else _split_csv
            lost = split(path, source.time_column, fresh)
    except (BadGzipFile, ValueError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DataRejected(
            f"{path.name} must be readable, its times in ISO 8601", str(error).splitlines()[0][:120], "write it again"
        ) from error
    if lost:
        log.warning("%d rows of %s have no %s and belong to no day.", lost, path.name, source.time_column)
    write_whole(folder / BROUGHT, canonical_json(digest))


def _split_csv(path: Path, time_column: str, fresh: Path) -> int:
    """Rows without a time; every field goes on as it is written."""
    lost = 0
    with pd.read_csv(path, dtype="str", keep_default_na=False, na_filter=False, chunksize=ROWS_AT_ONCE) as chunks:
        for rows in chunks:
            _require_time(time_column, rows.columns, path)
            times = _times(rows[time_column].where(rows[time_column] != ""), path)
            days = times.dt.strftime("%Y-%m-%d")
            lost += int(days.isna().sum())
            for day, part in rows.groupby(days, sort=False):
                file = fresh / f"{day}.csv"
                part.to_csv(file, mode="a", header=not file.exists(), index=False)
    return lost


def _times(texts: pd.Series, path: Path) -> pd.Series:
    try:
        return pd.to_datetime(texts, format="ISO8601")
    except ValueError:  # which quotes the text: in a row that is shifted it may be anything
        raise DataRejected(
            f"{texts.name} of {path.name} must be in ISO 8601", "it is not in every row", "write it again"
        ) from None


def _split_parquet(path: Path, time_column: str, fresh: Path) -> int:
    """Rows without a time. A day's rows may lie anywhere; its parts are put together at the end."""
    lost = 0
    with pq.ParquetFile(path) as file, tempfile.TemporaryDirectory(dir=fresh.parent, prefix=".parts-") as parts:
        _require_time(time_column, file.schema_arrow.names, path)
        if not pa.types.is_timestamp(file.schema_arrow.field(time_column).type):
            raise DataRejected(f"{time_column} of {path.name} must be a timestamp", "it is none", "write it as one")
        for number, batch in enumerate(file.iter_batches(ROWS_AT_ONCE)):
            days = pc.cast(batch[time_column], pa.date32(), safe=False)
            lost += days.null_count
            for day in pc.unique(days.drop_null()).to_pylist():
                rows = pa.table(batch.filter(pc.equal(days, pa.scalar(day, pa.date32()))))
                (Path(parts) / str(day)).mkdir(exist_ok=True)
                pq.write_table(rows, Path(parts) / str(day) / f"{number:09d}.parquet")
        for folder in Path(parts).iterdir():
            tables = [pq.read_table(part) for part in sorted(folder.iterdir())]
            pq.write_table(pa.concat_tables(tables), fresh / f"{folder.name}.parquet")
            shutil.rmtree(folder)
    return lost


def _require_time(time_column: str, names: Iterable[str], path: Path) -> None:
    if time_column not in names:
        raise DataRejected(f"{path.name} must have {time_column}", "it has not", "name its time column in the source")


def _bring_rows(source: DatabaseSource, columns: tuple[Column, ...], folder: Path) -> None:
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
        if error.connection_invalidated or type(error).__name__ in {"OperationalError", "InterfaceError"}:
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


def _bring_days(engine: Any, source: DatabaseSource, columns: tuple[Column, ...], folder: Path) -> None:
    from sqlalchemy import DateTime, bindparam, column, func, literal_column, select, text

    table, at = text(f"({source.query}) AS source_rows"), column(source.time_column, DateTime)
    of_day = (at >= bindparam("start", type_=DateTime)) & (at < bindparam("end", type_=DateTime))
    changed: list[Any] = [func.max(column(source.changed_column))] if source.changed_column else []
    bounds = select(func.min(at), func.max(at)).select_from(table)
    facts = select(func.count(), *changed).select_from(table).where(of_day)
    rows: Any = select(literal_column("*")).select_from(table).where(of_day)
    folder.mkdir(parents=True, exist_ok=True)
    before, now = _stamp(folder) or {}, {}
    with engine.connect() as connection:
        for day, span in _days_between(*connection.execute(bounds).one()):
            seen = [str(value) for value in connection.execute(facts, span).one()]
            if seen[0] == "0":
                continue
            now[day] = seen
            if not changed or before.get(day) != seen or not (folder / f"{day}.parquet").exists():
                _keep_day(folder / f"{day}.parquet", pd.read_sql_query(rows, connection, params=span), columns)
    for day in before.keys() - now.keys():
        (folder / f"{day}.parquet").unlink(missing_ok=True)
    write_whole(folder / BROUGHT, canonical_json(now))


def _days_between(first: datetime | None, last: datetime | None) -> Iterator[tuple[str, dict[str, datetime]]]:
    if first is None or last is None:
        return
    for number in range((last.date() - first.date()).days + 1):
        start = datetime.combine(first.date() + timedelta(days=number), datetime.min.time())
        yield str(start.date()), {"start": start, "end": start + timedelta(days=1)}


def _keep_day(path: Path, rows: pd.DataFrame, columns: tuple[Column, ...]) -> None:
    """In an order of their own, because a database gives none; equal rows give equal bytes."""
    times = {c.name: "datetime64[us]" for c in columns if c.type == "timestamp" and c.name in rows}
    try:
        typed = rows.astype(times)
    except (ValueError, TypeError):  # which quotes the value
        raise DataRejected(
            f"{', '.join(times)} of {path.stem} must be timestamps", "some are none", "mend the query"
        ) from None
    ordered = typed.sort_values(list(rows.columns), ignore_index=True)
    sink = io.BytesIO()
    ordered.to_parquet(sink, index=False)
    if not path.exists() or path.read_bytes() != sink.getvalue():
        write_whole(path, sink.getvalue())
