"""Objects in S3, brought as the files of a folder."""

from collections.abc import Iterator
from contextlib import contextmanager

from ml.data.declared_sources import Source
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

LONGEST_NAME = 200  # in bytes; a file system takes 255, of which a file that is being written needs some


def bring_objects(source: Source, folder: BroughtFolder) -> None:
    """An object is fetched again only where its ETag changed, which follows from its bytes.

    What is noted is the ETag that came with the bytes: since the list was made, the object may have become another.
    """
    with _of_a_source():
        store = open_store(source.folder)
        assert isinstance(store, S3Store)
        _bring(source, store, folder)


@contextmanager
def _of_a_source() -> Iterator[None]:
    """What is wrong with the place is the source's, not the store's of this installation."""
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
            elif fetched := store.fetch(key):  # else it went between the list and now
                data, now[key] = fetched
                folder.write(key, data)
    ignored += [name or "/" for name in entries.keys() - days.values() if not (name and is_hidden(name))]
    folder.keep(now, now, not_read(source.folder, sorted(ignored)), unusable)


def _is_folder_mark(key: str) -> bool:
    """Consoles make an empty object for a folder, and one for the source's own."""
    return not key or key.endswith("/")


def _by_entry(keys: dict[str, str]) -> dict[str, list[str]]:
    """The keys below each name that stands before the first /, as they would lie in a folder."""
    found: dict[str, list[str]] = {}
    for key in sorted(keys):
        found.setdefault(key.partition("/")[0], []).append(key)
    return found


def _parts(name: str, keys: list[str]) -> tuple[list[str], list[str]]:
    """The keys of a day's files, and what else lies in its folder. Raises UnusableEntry where no folder could hold
    them, or a part would be missing."""
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
