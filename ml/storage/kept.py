"""Kept results: what stages and partitions produced, each under its content key and behind a line with its own digest.

Damage is found when a result is read, and said in the log. What is damaged counts as not there and is made again.
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
OLD_RESULTS = "states"  # what `results` was called in stores until 2026-11-27


def content_key(*parts: str) -> str:
    """The key of a result, from digests and plain words that decide it."""
    return digest_bytes("\n".join(parts).encode())


def seal(value: Any) -> bytes:
    return sealed(to_json(value))


def unseal(kind: Any, place: str, data: bytes | None) -> Any | None:
    """The sealed value. None where the bytes are not those that were written, which the log says; and where they are of
    another version of ours."""
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
    """The kept results of one type; `place` gives the object of the store that has the result of a content key."""

    def __init__(self, store: Store, kind: type[T], place: Callable[[str], str]) -> None:
        self.store, self.kind, self.place = store, kind, place

    def find(self, keys: Collection[str], known: Mapping[str, T] = MappingProxyType({})) -> dict[str, T]:
        """The results that are kept under these keys: from those that are known, and one call each for the others.

        Files that they point to are not looked at: whoever reads one finds its damage.
        """
        found = {key: known[key] for key in keys if key in known}
        lacking = [key for key in keys if key not in found]
        places = [self.place(key) for key in lacking]
        read = [unseal(self.kind, *each) for each in zip(places, self.store.get_many(places), strict=True)]
        return found | {key: value for key, value in zip(lacking, read, strict=True) if value is not None}

    def keep(self, key: str, value: T) -> None:
        self.store.put(self.place(key), seal(value))

    def whole(self, key: str) -> T | None:
        """The result under the key; None, said in the log, where it or a file that it points to is damaged."""
        value, damaged = self._look(key)
        if damaged:
            log.warning("%s is gone or damaged and is made again.", ", ".join(damaged))
        return value

    def resume_or_make(self, key: str, make: Callable[[], T]) -> tuple[T, bool]:
        """The kept result, or a new one, kept; and whether it was kept.

        Of two makers at once the first to keep its result wins, and the other returns the winner's.
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
        """The result, if it is whole, and the names of the objects that are not."""
        place = self.place(key)
        data = self.store.get(place)
        if data is None:
            return None, []
        if unsealed(data) is None:
            return None, [place]
        value: T | None = unseal(self.kind, place, data)
        broken = [file.key for file in _files(value) if not is_whole(self.store, file)]
        return (None if broken else value), broken


def _files(value: Any) -> Iterator[FileRef]:
    """Every file that a result points to, however deep."""
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
    """The results of a month's partitions: `key` follows from all that decides them, `results` has them by their own
    keys as JSON, mostly packed, and `sums` says what they come to together."""

    key: str
    results: str
    sums: S

    @classmethod
    def of(cls, key: str, kind: type[T], results: dict[str, T], sums: S) -> "KeptMonth[S]":
        return cls(key, packed(dict[str, kind], results), sums)  # type: ignore[valid-type]

    def by_key(self, kind: type[T]) -> dict[str, T]:
        """The results; the dictionary is shared, so nobody changes it."""
        found: dict[str, T] = parsed(dict[str, kind], self.results)  # type: ignore[valid-type]
        return found


class KeptMonths(Generic[S]):
    """What is kept of partitions of one kind, by month: one object that every night reads and writes whole.

    It only repeats what each partition's own object has, so that a night finds all in one call; of two runs that write
    it the last wins. A month's results are parsed only where the month's key is another one than before.
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
        """The months that are as they were under these keys."""
        return {name: self.kept[name] for name, key in keys.items() if name in self.kept and self.kept[name].key == key}

    def results(self, names: Collection[str], kind: type[T]) -> dict[str, T]:
        """The results of these months by their own keys, as they were."""
        return {key: one for name in names if name in self.kept for key, one in self.kept[name].by_key(kind).items()}

    def save(self, months: dict[str, KeptMonth[S]]) -> None:
        if months != self.kept:
            self.store.put(self.place, seal(months))

    def decided_otherwise(self, decided: str) -> bool:
        """Whether what is kept was decided by other code, rules or declarations; remembers tonight's."""
        place = paths.months(self.use_case, f"{self.kind}-decided")
        before = unseal(str, place, self.store.get(place))
        if before != decided:
            self.store.put(place, seal(decided))
        return bool(self.kept) and before != decided


def _nested(months: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Months in the form that stores had until 2026-11-27, when sums stood beside key and results."""
    return {name: {"key": month["key"], "results": month[OLD_RESULTS], "sums": month} for name, month in months.items()}


def words_of(data: bytes | None) -> str | None:
    """All that one object of months says, their packed results unpacked: a result whose key is in it is in use. None if
    it is damaged."""
    body = unsealed(data or b"")
    if body is None:
        return None
    kept = json.loads(body)
    months = kept.values() if isinstance(kept, dict) else ()
    names = ("results", OLD_RESULTS)
    return "".join([body.decode(), *(unpacked(month[name]) for month in months for name in names if name in month)])
