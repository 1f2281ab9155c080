"""Resuming: what is kept under its content key, sealed and with whole files, is not made again."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ml.digests import sealed, unsealed
from ml.storage.json_form import from_json, to_json
from ml.storage.records import FileRef
from ml.storage.store import Store, is_whole

log = logging.getLogger("retrain.stages")
H = TypeVar("H")


def resume_or_make(store: Store, kind: type[H], key: str, make: Callable[[], H]) -> tuple[H, bool]:
    """The kept handle under `key`, or a new one, kept; and whether it was kept.

    Of two makers at once the first to keep its handle wins, and the other returns the winner's.
    """
    kept = whole(store, kind, key)
    if kept is not None:
        return kept, True
    handle = make()
    if store.create(key, _seal(handle)):
        return handle, False
    winner, _ = _look(store, kind, key)
    if winner is not None:
        return winner, True
    keep(store, key, handle)
    return handle, False


def keep(store: Store, key: str, handle: object) -> None:
    store.put(key, _seal(handle))


def _seal(handle: object) -> bytes:
    return sealed(to_json(handle))


def whole(store: Store, kind: type[H], key: str) -> H | None:
    """What is kept under `key`; None, said in the log, where it or a file that it points to is damaged."""
    handle, damaged = _look(store, kind, key)
    if damaged:
        log.warning("%s is gone or damaged and is made again.", ", ".join(damaged))
    return handle


def _look(store: Store, kind: type[H], key: str) -> tuple[H | None, list[str]]:
    """What is kept, if it is whole, and the keys of what is not."""
    data = store.get(key)
    if data is None:
        return None, []
    handle = _unseal(kind, data)
    if handle is None:
        return None, [key]
    broken = [file.key for file in _files(handle) if not is_whole(store, file)]
    return (None if broken else handle), broken


def _unseal(kind: type[H], data: bytes) -> H | None:
    body = unsealed(data)
    try:
        return None if body is None else from_json(kind, body)
    except ValueError:  # whole, and of another version of ours
        return None


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
