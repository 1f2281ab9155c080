"""Brings objects in S3 as the files of a folder. An object whose name no file can have makes its day unusable."""

from collections.abc import Iterator
from contextlib import contextmanager

from ml.data.source_kinds import Source
from ml.data.sources.brought import BroughtFolder
from ml.data.sources.folder import (
    HIVE,
    KINDS,
    UnusableEntry,
    is_hidden,
    names_by_day,
    not_read,
    refuse_odd_name,
    refuse_unfinished,
)
from ml.errors import ConfigError, SourceUnavailable, StoreUnavailable
from ml.storage.store import S3Store, open_store

LONGEST_NAME = 200  # bytes; file systems take 255, some of which the name of a file that is being written needs


def bring_objects(source: Source, folder: BroughtFolder) -> None:
    """Brings the objects. One is fetched again only if its ETag changed, which follows from its bytes.

    The ETag that is noted is the one that came with the bytes, not the one in the list: the object may have been
    replaced in between. Raises ConfigError or SourceUnavailable if the place cannot be used, DataRejected as `listed`.
    """
    with _of_a_source():
        store = open_store(source.folder)
        assert isinstance(store, S3Store)
        _bring(source, store, folder)


@contextmanager
def _of_a_source() -> Iterator[None]:
    """Turns errors of the store into errors of the source: what is wrong is the source's place, not our own store."""
    try:
        yield
    except (ConfigError, StoreUnavailable) as error:
        kind = ConfigError if isinstance(error, ConfigError) else SourceUnavailable
        parts = (error.rule.replace("the store", "the source"), error.value, error.next_step)
        raise kind(*(part.replace("RETRAIN_STORE", "the source's folder") for part in parts)) from error


def _bring(source: Source, store: S3Store, folder: BroughtFolder) -> None:
    etags = {key: etag for key, etag in store.etags().items() if not _is_folder_mark(key)}
    entries = _by_entry(etags)
    days = names_by_day([name for name in entries if not is_hidden(name)], source.folder)
    before, now, unusable, ignored = folder.source or {}, dict[str, str](), dict[str, str](), list[str]()
    for day, name in days.items():
        try:
            keys, others = _parts(name, entries[name])
        except UnusableEntry as error:
            unusable[day] = str(error)
            continue
        ignored += others
        for key in keys:
            if etags[key] == before.get(key) and key in folder.intact:
                now[key] = etags[key]
            elif fetched := store.fetch(key):  # else it was deleted after the list was made
                data, now[key] = fetched
                folder.write(key, data)
    ignored += [name or "/" for name in entries.keys() - days.values() if not (name and is_hidden(name))]
    folder.keep(now, now, not_read(source.folder, sorted(ignored)), unusable)


def _is_folder_mark(key: str) -> bool:
    """Whether the key stands for a folder.

    Consoles make such empty objects, and one with no name for the source's folder.
    """
    return not key or key.endswith("/")


def _by_entry(keys: dict[str, str]) -> dict[str, list[str]]:
    """The keys by what stands before their first /, which would be a file or a folder on a disk."""
    entries: dict[str, list[str]] = {}
    for key in sorted(keys):
        entries.setdefault(key.partition("/")[0], []).append(key)
    return entries


def _parts(name: str, keys: list[str]) -> tuple[list[str], list[str]]:
    """The keys of a day's files, and the keys of what else lies in its folder.

    Raises UnusableEntry if no folder could hold the objects, or if the day is not yet written to its end.
    """
    if keys == [name]:
        if HIVE.fullmatch(name):
            raise UnusableEntry(f"{name} must be a folder and is an object")
        return keys, []
    if name in keys:
        raise UnusableEntry(f"{name} is an object and a folder at once")
    parts = {key: key.removeprefix(f"{name}/") for key in keys}
    refuse_unfinished(name, {part.partition("/")[0] for part in parts.values()})
    shown = {key: part for key, part in parts.items() if not _is_hidden_part(part)}
    for part in shown.values():
        _refuse_odd_part(name, part)
    tables = [key for key in shown if key.endswith(KINDS)]
    if not tables:
        raise UnusableEntry(f"{name} holds no object that ends in {', '.join(KINDS)}")
    return tables, [key for key in shown if key not in tables]


def _is_hidden_part(part: str) -> bool:
    return any(is_hidden(name) and name not in {".", ".."} for name in part.split("/"))


def _refuse_odd_part(folder: str, part: str) -> None:
    names = part.split("/")
    if any(name in {"", ".", ".."} for name in names) or len(part.encode()) > LONGEST_NAME:
        raise UnusableEntry(f"{folder} has an object whose name no file can have ({part[:80]!r})")
    if len(names) > 1:
        raise UnusableEntry(f"a day's folder has files only, and {folder}/{names[0]} is a folder")
    refuse_odd_name(folder, part)
