"""What is kept of partitions: small states under content keys, and bundles by which a night finds them in one call.

Both begin with the SHA-256 of the rest: damage is found when it is read, said in the log, and what is damaged counts as
not there. A bundle only repeats what lies in states of their own; of two runs that write one the last wins.
"""

import json
import logging
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from ml.digests import digest_bytes, sealed, unsealed
from ml.storage import paths
from ml.storage.json_form import adapter, parsed, unpacked
from ml.storage.store import Store

log = logging.getLogger("retrain.states")
H = TypeVar("H")


class KeptMonth(Protocol):
    """A month of partitions: `key` follows from all that decides it, `states` has those of its partitions, packed."""

    @property
    def key(self) -> str: ...

    @property
    def states(self) -> str: ...


M = TypeVar("M", bound=KeptMonth)


def state_key(*parts: str) -> str:
    """Content key of a state, from digests and plain words."""
    return digest_bytes("\n".join(parts).encode())


def seal(kind: Any, value: Any) -> bytes:
    return sealed(adapter(kind).dump_json(value))


def unseal(kind: Any, key: str, data: bytes | None) -> Any | None:
    """The sealed value; None, said in the log, where the bytes are not those that were written."""
    if data is None:
        return None
    body = unsealed(data)
    try:
        if body is not None:
            return adapter(kind).validate_json(body)
    except ValueError:  # whole, and of another version of ours
        pass
    log.warning("%s is damaged and is made again.", key)
    return None


def decided_otherwise(store: Store, use_case: str, kind: str, decided: str, *, any_kept: bool) -> bool:
    """Whether what is kept of this kind was decided by other code, rules or declarations; remembers tonight's."""
    place = paths.bundle(use_case, f"{kind}-decided")
    before = unseal(str, place, store.get(place))
    if before != decided:
        store.put(place, seal(str, decided))
    return any_kept and before != decided


def words_of(bundle: bytes | None) -> str | None:
    """All that a bundle says, its packed states unpacked: a state whose key is in it is in use. None if damaged."""
    body = unsealed(bundle or b"")
    if body is None:
        return None
    kept = json.loads(body)
    months = kept.values() if isinstance(kept, dict) else ()
    return "".join([body.decode(), *(unpacked(each["states"]) for each in months if "states" in each)])


class States(Generic[H]):
    """One use case's states of one kind: `kind` is its name in keys, `made` its type."""

    def __init__(self, store: Store, use_case: str, kind: str, made: type[H]) -> None:
        self.store, self.use_case, self.kind, self.made = store, use_case, kind, made

    def find(self, keys: Collection[str], known: Mapping[str, H] = MappingProxyType({})) -> dict[str, H]:
        """The kept states among `keys`: from those that are known, and one call each for those that are not."""
        found = {key: known[key] for key in keys if key in known}
        lacking = [key for key in keys if key not in found]
        places = [paths.state(self.use_case, self.kind, key) for key in lacking]
        read = [unseal(self.made, *place) for place in zip(places, self.store.get_many(places), strict=True)]
        return found | {key: state for key, state in zip(lacking, read, strict=True) if state is not None}

    def keep(self, key: str, state: H) -> None:
        self.store.put(paths.state(self.use_case, self.kind, key), seal(self.made, state))


class Bundle(Generic[M]):
    """What came of the states of one kind, by month: one object that every night reads and writes whole.

    A month's states lie in it packed, and are parsed only where the month's key is another one than before.
    """

    def __init__(self, store: Store, use_case: str, kind: str, made: type[M]) -> None:
        self.store, self.made, self.place = store, made, paths.bundle(use_case, kind)
        kept = unseal(dict[str, made], self.place, store.get(self.place))  # type: ignore[valid-type]
        self.kept: dict[str, M] = kept or {}

    def same(self, keys: Mapping[str, str]) -> dict[str, M]:
        """The months that are as they were under these keys."""
        return {name: self.kept[name] for name, key in keys.items() if name in self.kept and self.kept[name].key == key}

    def states(self, names: Collection[str], state: type[H]) -> dict[str, H]:
        """The states of the months by their own keys, as they were."""
        return {
            key: found
            for name in names
            if name in self.kept
            for key, found in parsed(dict[str, state], self.kept[name].states).items()  # type: ignore[valid-type]
        }

    def save(self, months: dict[str, M]) -> None:
        if months != self.kept:
            self.store.put(self.place, seal(dict[str, self.made], months))  # type: ignore[name-defined]
