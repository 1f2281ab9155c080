"""Reads a source as a folder that has one file, or one folder of files, for each day.

A folder on disk is read where it lies. Anything else (objects in S3, one file of all days, a database) is first brought
into a folder below RETRAIN_HOME/cache (ml/data/sources/bringing.py), so that all other code sees days with files.
A folder that can be read in two ways, such as a day with two files, is refused.
"""

import errno
import inspect
import operator
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from ml.data.disk import reading_from
from ml.data.handles import LeftOut
from ml.data.source_kinds import DatabaseSource, DaySource, FileSource, RowSource, Source
from ml.days import FIRST_DAY, LAST_DAY
from ml.declarations import plain_fields
from ml.digests import FileDigests, digest_bytes, digest_value
from ml.errors import DataRejected, SourceUnavailable, printable
from ml.serving.columns import Column
from ml.settings import Settings

ALL = "all"
DAY_FILE = re.compile(r"(\d{4}-\d{2}-\d{2}|all)\.(parquet|csv|csv\.gz)", re.ASCII)
HIVE = re.compile(r"[A-Za-z_]\w*=(\d{4}-\d{2}-\d{2})", re.ASCII)
KINDS = (".parquet", ".csv", ".csv.gz")
MOST_NAMES = 5
# Errors of the system that will be the same at the next try; any other may pass by itself.
LASTING = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}


class DayFiles(NamedTuple):
    """The files of one day: a single one, or those of the day's folder in the order of their names."""

    name: str
    paths: tuple[str, ...]
    is_folder: bool = False


class Listing(NamedTuple):
    """What a source has now.

    `days`: the files of each day (or of `all`), in date order. `unusable`: the days that cannot be read, with the
    reasons. `left_out`: what belongs to no day.
    """

    days: dict[str, DayFiles]
    unusable: dict[str, str]
    left_out: tuple[LeftOut, ...]


class UnusableEntry(ValueError):
    """An entry is named by a day and cannot be read; the message is the reason."""


def source_folder(
    settings: Settings, source: RowSource, time_zone: str = "UTC", columns: tuple[Column, ...] = ()
) -> Path:
    """The folder on this disk that has the source's days, or will have them.

    What is in a copy depends on the source's declaration, the time zone, and the units of columns with times. So use
    cases that declare these differently get copies of their own. Of a DaySource it depends on the code of its class.
    """
    if isinstance(source, Source) and source.is_on_disk:
        return settings.data / source.folder  # an absolute folder stays as it is
    if isinstance(source, DaySource):
        decided: dict[str, Any] = {"fields": plain_fields(source), "code": _code_of(type(source))}
    else:
        assert isinstance(source, Source | FileSource | DatabaseSource)
        decided = asdict(source)
    if isinstance(source, FileSource | DatabaseSource):
        units = units_of_times(source, columns)
        decided |= {"time_zone": time_zone} if time_zone != "UTC" else {}
        decided |= {"units": units} if units != {source.time_column: ""} else {}
    return settings.home / "cache" / "sources" / f"{type(source).__name__}-{digest_value(decided)[:16]}"


def _code_of(kind: type[DaySource]) -> dict[str, str]:
    """The digest of every module that the class and those that it inherits from stand in, by the classes' names."""
    kinds = kind.__mro__[: kind.__mro__.index(DaySource)]
    return {each.__qualname__: digest_bytes(inspect.getsource(sys.modules[each.__module__]).encode()) for each in kinds}


def units_of_times(source: FileSource | DatabaseSource, columns: tuple[Column, ...]) -> dict[str, str]:
    """The declared unit of each column that is brought as times, by name; empty if it has none.

    Of a file that is the time column alone, of a database every declared timestamp.
    """
    units = {column.name: column.unit for column in columns if column.type == "timestamp"}
    own = {source.time_column: units.get(source.time_column, "")}
    return own if isinstance(source, FileSource) else own | units


# Days of files


def listed(folder: Path, place: str) -> Listing:
    """What the folder has. `place`: the source's name in sentences.

    Raises DataRejected if a file's name looks like a day and is none, if a day is there twice, or if no file is named
    by a day and there are several.
    """
    entries = {entry.name: entry for entry in _entries(folder) if not is_hidden(entry.name)}
    names = names_by_day(entries, place)
    days, unusable, ignored = dict[str, DayFiles](), dict[str, str](), list[str]()
    for day, name in names.items():
        try:
            days[day], others = _files(entries[name])
            ignored += others
        except (UnusableEntry, SourceUnavailable, OSError) as error:
            unusable[day] = _lasting_reason(name, error)
    return Listing(days, unusable, not_read(place, [*ignored, *sorted(entries.keys() - names.values())]))


def names_by_day(names: Iterable[str], place: str) -> dict[str, str]:
    """The name of each day's (or `all`'s) file or folder, in date order, out of all names in a source's folder.

    If none is named by a day, the only table that is there is `all`, whatever its name. Raises what `listed` raises.
    """
    by_day, undated = dict[str, str](), list[str]()
    for name in names:
        match = DAY_FILE.fullmatch(name) or HIVE.fullmatch(name)
        if match is None:
            undated += [name] if name.endswith(KINDS) else []
        elif match[1] == ALL or _is_day(match[1]):
            _refuse_ambiguous(by_day, match[1], name, place)
            by_day[match[1]] = name
        elif not _is_stray(match[1]):
            raise DataRejected("a partition's file is named by its day", f"{place}/{name} names none", "rename it")
    if by_day or not undated:
        return dict(sorted(by_day.items()))
    if len(undated) > 1:
        raise DataRejected(
            "a source without days is one file",
            f"{place} has {len(undated)} ({short_list(undated)})",
            "keep one of them, or name each by its day, like 2013-09-30.parquet",
        )
    return {ALL: undated[0]}


def _is_stray(day: str) -> bool:
    """Whether it is a date outside of the years that the project works with, which only a mistaken time makes."""
    try:
        return not FIRST_DAY <= date.fromisoformat(day) <= LAST_DAY
    except ValueError:
        return False


def not_read(place: str, names: list[str]) -> tuple[LeftOut, ...]:
    """What the report says of names in a source that are not read; empty if there are none."""
    if not names:
        return ()
    strays = [name for name in names if (m := DAY_FILE.fullmatch(name) or HIVE.fullmatch(name)) and _is_stray(m[1])]
    others = [name for name in names if name not in strays]
    days = f"outside of {FIRST_DAY} to {LAST_DAY}"
    return (
        *_items(place, others, "are no days and are not read", "is no day and is not read"),
        *_items(place, strays, f"are days {days} and are not read", f"is a day {days} and is not read"),
    )


def _items(place: str, names: list[str], why: str, why_of_one: str) -> tuple[LeftOut, ...]:
    if not names:
        return ()
    words = f"{why_of_one if len(names) == 1 else why}: {short_list(names)}"
    return (LeftOut(source=place, what="item", count=len(names), why=words),)


def short_list(names: list[str]) -> str:
    """The first names, in words, and how many more there are."""
    shown = ", ".join(map(printable, names[:MOST_NAMES]))
    return shown + (f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else "")


def refuse_empty(listing: Listing, place: str) -> None:
    """Raises DataRejected if a source has no day that can be read."""
    if listing.days:
        return
    if listing.unusable:
        day, why = max(listing.unusable.items())
        days = f"{len(listing.unusable)} days" if len(listing.unusable) > 1 else "one day"
        raise DataRejected(
            "a source has a day that can be used", f"{place} has {days} and none that can; {day}, as {why}", "mend it"
        )
    seen = "; ".join(item.sentence.removesuffix(".") for item in listing.left_out).replace(": ", " - ")
    raise DataRejected(
        "a source has files like 2013-09-30.parquet or all.parquet, folders like day=2013-09-30, or rows with a time",
        f"{place} has none" + (f" ({seen})" if seen else ""),
        "check the source",
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The folder's entries in the order of their names; none if there is no such folder."""
    with reading_from(folder):
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=operator.attrgetter("name"))
        except (FileNotFoundError, NotADirectoryError):
            return []


def _files(entry: os.DirEntry[str]) -> tuple[DayFiles, list[str]]:
    """The files of an entry that is named by a day, and the names of what else its folder has. Raises UnusableEntry."""
    if entry.is_dir():
        parts, others = _parts(Path(entry.path))
        return DayFiles(entry.name, parts, is_folder=True), others
    if HIVE.fullmatch(entry.name):
        raise UnusableEntry(f"{entry.name} must be a folder and is none")
    _require_file(entry)
    return DayFiles(entry.name, (entry.path,)), []


def _lasting_reason(name: str, error: Exception) -> str:
    """Why an entry cannot be used. Raises SourceUnavailable if that may pass by itself."""
    if isinstance(error, UnusableEntry):
        return str(error)
    cause = error.__cause__ if isinstance(error, SourceUnavailable) else error
    if not isinstance(cause, OSError) or cause.errno not in LASTING:
        with reading_from(Path(name)):
            raise error
    seen = "it is a link that leads to itself" if cause.errno == errno.ELOOP else str(cause.strerror)
    return f"{name} cannot be read ({seen})"


def _require_file(entry: os.DirEntry[str]) -> None:
    """Raises UnusableEntry unless the entry is a file: reading a pipe, for one, would wait for ever."""
    if entry.is_file():
        return
    seen = "a link that leads nowhere" if entry.is_symlink() else "neither a file nor a folder"
    raise UnusableEntry(f"{entry.name} is {seen}")


def _parts(folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """The files of a day's folder, and the names of what else is in it and not hidden.

    Raises UnusableEntry if a part cannot be read, or the folder is not yet written to its end.
    """
    entries = _entries(folder)
    names = {entry.name for entry in entries}
    refuse_unfinished(folder.name, names)
    shown = [entry for entry in entries if not is_hidden(entry.name)]
    for entry in shown:
        if entry.is_dir():  # a name like hour=03 may hold values that no column has
            raise UnusableEntry(f"a day's folder has files only, and {folder.name}/{entry.name} is a folder")
        if entry.name.endswith(KINDS):
            _require_file(entry)
            refuse_odd_name(folder.name, entry.name)
    parts = tuple(entry.path for entry in shown if entry.name.endswith(KINDS))
    if not parts:
        raise UnusableEntry(f"{folder.name} holds no file that ends in {', '.join(KINDS)}")
    return parts, [f"{folder.name}/{entry.name}" for entry in shown if not entry.name.endswith(KINDS)]


def refuse_unfinished(folder: str, names: set[str]) -> None:
    """Raises UnusableEntry if the folder is still being written.

    Spark and Hadoop keep _temporary in a folder while they write it, and put _SUCCESS into it when it is whole.
    """
    if "_temporary" in names and "_SUCCESS" not in names:
        raise UnusableEntry(f"{folder} is not written to its end (it has _temporary and no _SUCCESS)")


def refuse_odd_name(folder: str, name: str) -> None:
    """Raises UnusableEntry for a name that cannot be printed: it is an accident, and may move a terminal's cursor."""
    if not name.isprintable():
        raise UnusableEntry(f"{folder} has a file whose name cannot be printed ({printable(name)})")


def is_hidden(name: str) -> bool:
    """Whether the name marks something that is not data, like _SUCCESS, or a file that is not yet whole."""
    return name.startswith((".", "_"))


def _refuse_ambiguous(by_day: dict[str, str], day: str, name: str, place: str) -> None:
    """Raises DataRejected if the day is there already, or if there are both days and `all`."""
    if day in by_day:
        seen = f"{by_day[day]} and {name} are both in {place}"
        raise DataRejected("a source has one file a day", seen, "remove one of them")
    if by_day and (day == ALL or ALL in by_day):
        seen = f"{place} has {name} and {next(iter(by_day.values()))}"
        raise DataRejected("a source has a file a day, or one for all", seen, "remove one kind")


def _is_day(text: str) -> bool:
    try:
        return FIRST_DAY <= date.fromisoformat(text) <= LAST_DAY
    except ValueError:
        return False


def digest_of(digests: FileDigests, files: DayFiles, stats: Mapping[str, os.stat_result]) -> str:
    """The digest of a day's files: the SHA-256 of a single file, or a digest of all names and digests in a folder.

    Raises UnusableEntry if a file cannot be read, and will not be at the next try.
    """
    try:
        of_parts = [digests.of(path, stats[path]) for path in files.paths]
    except OSError as error:
        raise UnusableEntry(_lasting_reason(files.name, error)) from error
    return _digest_of_parts(files.paths, of_parts) if files.is_folder else of_parts[0]


def _digest_of_parts(paths: Iterable[str], digests: Iterable[str]) -> str:
    return digest_value({Path(path).name: digest for path, digest in zip(paths, digests, strict=True)})


def read_bytes(folder: Path, name: str, digest: str) -> list[tuple[str, bytes]] | None:
    """The name and the bytes of each of a day's files; None if they no longer have this digest."""
    place = folder / name
    try:
        paths = _parts(place)[0] if place.is_dir() else (str(place),) if place.exists() else ()
    except UnusableEntry:
        return None
    with reading_from(place):
        files = [(Path(path).name, Path(path).read_bytes()) for path in paths]
    digests = [digest_bytes(data) for _, data in files]
    same = (_digest_of_parts(paths, digests) if place.is_dir() else "".join(digests)) == digest
    return files if same else None
