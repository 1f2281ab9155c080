"""Kept results: what stages and partitions produced, so that no later night computes them again.

Each result lies in one object of the store. The object's name contains the result's content key (a digest of
everything that decides the result), and its first line is the digest of the rest. A damaged result is therefore noticed
when it is read: the log says so, the result counts as absent, and it is made again.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from ml.digests import digest_bytes, sealed, unsealed
from ml.storage import paths
from ml.storage.json_form import from_json, packed, parsed, to_json, unpacked
from ml.storage.records import FileRef
from ml.storage.store import Store, is_whole

log = logging.getLogger("retrain.kept")
T = TypeVar("T")
S = TypeVar("S")
OLD_RESULTS = "states"  # the name of the field `results` in stores written until 2026-11-27


def content_key(*parts: str) -> str:
    """The key of a result: one digest over the digests and plain words that decide it."""
    return digest_bytes("\n".join(parts).encode())


def seal(value: Any) -> bytes:
    """The value as JSON, behind a line with the digest of that JSON. Raises ValueError for a NaN."""
    return sealed(to_json(value))


def unseal(kind: Any, place: str, data: bytes | None) -> Any | None:
    """The value that `seal` wrote. `place` is the object's key, for the log.

    None if there are no bytes; if they are damaged, which the log says; or if another version of our code wrote them in
    a form that this one cannot read.
    """
    if data is None:
        return None
    body = unsealed(data)
    if body is None:
        log.warning("%s is damaged and is made again.", place)
        return None
    try:
        return from_json(kind, body)
    except ValueError:
        return None


class Kept(Generic[T]):
    """The kept results of one type. `place` turns a content key into the key of the object that holds the result."""

    def __init__(self, store: Store, kind: type[T], place: Callable[[str], str]) -> None:
        self.store, self.kind, self.place = store, kind, place

    def find(self, keys: Collection[str], known: Mapping[str, T] = MappingProxyType({})) -> dict[str, T]:
        """The kept results by content key; keys without a result are left out.

        Results in `known` are taken from there, all others are read from the store. The files that a result points to
        are not checked here: whoever reads such a file notices damage.
        """
        results = {key: known[key] for key in keys if key in known}
        unknown = [key for key in keys if key not in results]
        places = [self.place(key) for key in unknown]
        objects = self.store.get_many(places)
        read = [unseal(self.kind, place, data) for place, data in zip(places, objects, strict=True)]
        return results | {key: value for key, value in zip(unknown, read, strict=True) if value is not None}

    def keep(self, key: str, value: T) -> None:
        """Writes the result under the content key, over one that is there."""
        self.store.put(self.place(key), seal(value))

    def whole(self, key: str) -> T | None:
        """The result under the key, if it and every file that it points to are undamaged; else None.

        The log names what is damaged.
        """
        value, damaged = self._look(key)
        if damaged:
            log.warning("%s is gone or damaged and is made again.", ", ".join(damaged))
        return value

    def resume_or_make(self, key: str, make: Callable[[], T]) -> tuple[T, bool]:
        """The kept result and True; if there is none, a new one, which is kept, and False.

        If two runs make the same result at once, the first to write it wins, and the other one returns the winner's.
        """
        kept = self.whole(key)
        if kept is not None:
            return kept, True
        value = make()
        if self.store.create(self.place(key), seal(value)):
            return value, False
        winner, _ = self._look(key)
        if winner is not None:
            return winner, True
        self.keep(key, value)
        return value, False

    def _look(self, key: str) -> tuple[T | None, list[str]]:
        """The result, None if anything of it is damaged; and the keys of the damaged objects."""
        place = self.place(key)
        data = self.store.get(place)
        if data is None:
            return None, []
        if unsealed(data) is None:
            return None, [place]
        value: T | None = unseal(self.kind, place, data)
        damaged = [file.key for file in _files(value) if not is_whole(self.store, file)]
        return (None if damaged else value), damaged


def _files(value: Any) -> Iterator[FileRef]:
    """Every file that a result points to, at any depth of its fields."""
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


@dataclass(frozen=True)
class KeptMonth(Generic[S]):
    """The results of all partitions of one month.

    `key` is a digest of everything that decides them. `results` is JSON, usually packed: content key to result. `sums`
    is their total.
    """

    key: str
    results: str
    sums: S

    @classmethod
    def of(cls, key: str, kind: type[T], results: dict[str, T], sums: S) -> "KeptMonth[S]":
        """A month from its results by content key, which it packs."""
        return cls(key, packed(dict[str, kind], results), sums)  # type: ignore[valid-type]

    def by_key(self, kind: type[T]) -> dict[str, T]:
        """The results by content key. The dictionary is cached and shared: do not change it."""
        results: dict[str, T] = parsed(dict[str, kind], self.results)  # type: ignore[valid-type]
        return results


class KeptMonths(Generic[S]):
    """All kept results of one kind (verdicts, cleaned rows), by month, in one object of the store.

    The object only repeats what the objects of the single partitions hold; it lets a night read everything in one call.
    If two runs write it, the last one wins. Results are parsed only for months whose key has changed.
    """

    def __init__(self, store: Store, use_case: str, kind: str, sums: type[S]) -> None:
        self.store, self.use_case, self.kind, self.sums = store, use_case, kind, sums
        self.place = paths.months(use_case, kind)
        self.kept = self._read(store.get(self.place))

    def _read(self, data: bytes | None) -> dict[str, KeptMonth[S]]:
        form: Any = dict[str, KeptMonth[self.sums]]  # type: ignore[name-defined]
        body = unsealed(data) if data is not None else None
        if body is not None and f'"{OLD_RESULTS}":'.encode() in body:
            data = seal(_nested(json.loads(body)))
        return unseal(form, self.place, data) or {}

    def same(self, keys: Mapping[str, str]) -> dict[str, KeptMonth[S]]:
        """The kept months, by name, whose key is still the given one. `keys` is month name to key."""
        return {name: self.kept[name] for name, key in keys.items() if name in self.kept and self.kept[name].key == key}

    def results(self, names: Collection[str], kind: type[T]) -> dict[str, T]:
        """The kept results of these months, by content key, whatever the keys of the months are now."""
        months = [self.kept[name] for name in names if name in self.kept]
        return {key: result for month in months for key, result in month.by_key(kind).items()}

    def save(self, months: dict[str, KeptMonth[S]]) -> None:
        """Writes tonight's months in place of the kept ones, if they differ."""
        if months != self.kept:
            self.store.put(self.place, seal(months))

    def decided_otherwise(self, decided: str) -> bool:
        """Whether other code, rules or declarations decided what is kept. `decided` is tonight's digest of them, which
        is kept for the next night to compare with."""
        place = paths.months(self.use_case, f"{self.kind}-decided")
        before = unseal(str, place, self.store.get(place))
        if before != decided:
            self.store.put(place, seal(decided))
        return bool(self.kept) and before != decided


def _nested(months: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Months written until 2026-11-27, when the sums stood beside key and results, in today's form."""
    return {name: {"key": month["key"], "results": month[OLD_RESULTS], "sums": month} for name, month in months.items()}


def words_of(data: bytes | None) -> str | None:
    """The text of an object that `KeptMonths` wrote, with its packed results unpacked; None if it is damaged.

    A result is in use if its content key occurs in this text.
    """
    body = unsealed(data or b"")
    if body is None:
        return None
    kept = json.loads(body)
    months = kept.values() if isinstance(kept, dict) else ()
    names = ("results", OLD_RESULTS)
    return "".join([body.decode(), *(unpacked(month[name]) for month in months for name in names if name in month)])
