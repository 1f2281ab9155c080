"""Resuming: a stage whose handle is kept under its content key, with whole files, is not run again."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ml.artifacts import FileRef, from_json, to_json
from ml.digests import digest_bytes
from ml.store import Store

log = logging.getLogger("retrain.stages")
H = TypeVar("H")


def resume_or_make(store: Store, kind: type[H], key: str, make: Callable[[], H]) -> tuple[H, bool]:
    """The kept handle under `key`, or a new one, kept; and whether it was kept.

    Of two makers at once the first to keep its handle wins, and the other returns the winner's.
    """
    kept = _whole(store, kind, key)
    if kept is not None:
        return kept, True
    handle = make()
    if store.create(key, to_json(handle)):
        return handle, False
    winner = _whole(store, kind, key)
    if winner is not None:
        return winner, True
    store.put(key, to_json(handle))
    return handle, False


def _whole(store: Store, kind: type[H], key: str) -> H | None:
    data = store.get(key)
    if data is None:
        return None
    try:
        handle = from_json(kind, data)
    except ValueError:
        log.warning("%s could not be read and is made again", key)
        return None
    broken = [file.key for file in _files(handle) if not _is_intact(store, file)]
    if broken:
        log.warning("%s is gone or changed; the stage is run again", ", ".join(broken))
        return None
    return handle


def _is_intact(store: Store, file: FileRef) -> bool:
    data = store.get(file.key)
    return data is not None and digest_bytes(data) == file.digest


def _files(value: Any) -> Iterator[FileRef]:
    """Every file that a handle points to, however deep."""
    if isinstance(value, FileRef):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _files(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _files(item)
    elif isinstance(value, dict):
        yield from _files(tuple(value.values()))
