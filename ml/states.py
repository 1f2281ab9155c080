"""What is kept of partitions: small states under content keys, and bundles by which a night finds them in one call.

A state begins with the SHA-256 of the rest: damage is found when it is read, said in the log, and the state counts as
not there. A bundle only repeats what lies in states of their own; of two runs that write one the last wins.
"""

import logging
from collections.abc import Collection, Mapping
from typing import Any, Generic, TypeVar

from ml import paths
from ml.artifacts import adapter
from ml.digests import digest_bytes, sealed, unsealed
from ml.store import Store

log = logging.getLogger("retrain.states")
H = TypeVar("H")


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


class States(Generic[H]):
    """One use case's states of one kind: `kind` is its name in keys, `made` its type."""

    def __init__(self, store: Store, use_case: str, kind: str, made: type[H]) -> None:
        self.store, self.use_case, self.kind, self.made = store, use_case, kind, made
        self.bundle = paths.bundle(use_case, kind)
        self.bundled: dict[str, H] = {}

    def find(self, keys: Collection[str]) -> dict[str, H]:
        """The kept states among `keys`: from the bundle, and one call each for those that it lacks."""
        self.bundled = unseal(dict[str, self.made], self.bundle, self.store.get(self.bundle)) or {}  # type: ignore[name-defined]
        found = {key: self.bundled[key] for key in keys if key in self.bundled}
        return found | self.find_single([key for key in keys if key not in found])

    def find_single(self, keys: Collection[str]) -> dict[str, H]:
        places = [paths.state(self.use_case, self.kind, key) for key in keys]
        read = [unseal(self.made, *place) for place in zip(places, self.store.get_many(places), strict=True)]
        return {key: state for key, state in zip(keys, read, strict=True) if state is not None}

    def keep(self, key: str, state: H) -> None:
        self.store.put(paths.state(self.use_case, self.kind, key), seal(self.made, state))

    def bundle_up(self, window: Mapping[str, H]) -> None:
        """Makes the bundle hold the window's states."""
        if self.bundled != window:
            self.store.put(self.bundle, seal(dict[str, self.made], dict(window)))  # type: ignore[name-defined]
