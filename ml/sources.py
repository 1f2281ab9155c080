"""Where rows come from: every kind of source as a folder with a file, or a Hive folder, a day.

A folder on disk is read where it lies. Anything else (objects in S3, one file of all days, a database) is brought into
a folder below RETRAIN_HOME/cache first (ml/bringing.py); all that follows sees days of files.
"""

import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import NamedTuple

from ml.config import DatabaseSource, FileSource, Source
from ml.days import FIRST_DAY, LAST_DAY
from ml.digests import FileDigests, digest_bytes, digest_value
from ml.errors import DataRejected, SourceUnavailable
from ml.settings import Settings

ALL = "all"
DAY_FILE = re.compile(r"(\d{4}-\d{2}-\d{2}|all)\.(parquet|csv|csv\.gz)")
HIVE = re.compile(r"[A-Za-z_]\w*=(\d{4}-\d{2}-\d{2})")
KINDS = (".parquet", ".csv", ".csv.gz")
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

    Raises DataRejected where there is no folder or nothing in it, where a name is no day or a day is there twice, and
    where a folder stands for a file or lies in a day's folder.
    """
    found: dict[str, DayFiles] = {}
    for entry in _entries(folder):
        match = DAY_FILE.fullmatch(entry.name) or HIVE.fullmatch(entry.name)
        paths = _paths(entry) if match else ()
        if match and paths:
            day = match[1]
            if day in found or ALL in found or not _is_day(day):
                _refuse_ambiguous(found, day, entry, folder)
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


def _paths(entry: os.DirEntry[str]) -> tuple[str, ...]:
    """The files of an entry that is named by a day; none of what is neither a file nor a Hive folder."""
    if not HIVE.fullmatch(entry.name):
        if entry.is_dir():
            raise DataRejected("a day's file is a file", f"{entry.path} is a folder", "name it like day=2013-09-30")
        return (entry.path,) if entry.is_file() else ()  # reading a pipe would wait for ever
    return _parts(Path(entry.path)) if entry.is_dir() else ()


def _parts(folder: Path) -> tuple[str, ...]:
    shown = [entry for entry in _entries(folder) if not is_hidden(entry.name)]
    for entry in shown:
        if entry.is_dir():  # the values in its name may be in no column
            raise DataRejected("a day's folder has files only", f"{entry.path} is a folder", "put its files above it")
    return tuple(entry.path for entry in shown if entry.name.endswith(KINDS) and entry.is_file())


def is_hidden(name: str) -> bool:
    """Whether writers of tables mean it for themselves, like _SUCCESS and what is not yet whole."""
    return name.startswith((".", "_"))


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
