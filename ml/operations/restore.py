"""A backup brought back: what is gone or damaged is put in its place, and what is newer stays.

The whole file is read once before anything is written, and every member must have its digest. Then objects are put one
by one, each whole; ledgers last, newest entry first; databases at the very end, by renaming. So a restore that was cut
off leaves nothing that looks whole and is not: a ledger without a beginning is refused by every command, one that is
being replaced has a mark that is refused too, and the same restore again finishes it.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from ml.digests import digest_bytes, unsealed, write_whole
from ml.errors import Busy, ConfigError, UsageError
from ml.operations.backup import (
    BLOCK_BYTES,
    DATABASES,
    INDEX,
    MANIFEST,
    PROJECT,
    STORE,
    Backup,
    Manifest,
    Progress,
    not_whole,
    parse_manifest,
    read_members,
    served_files,
)
from ml.settings import Settings
from ml.storage import paths
from ml.storage.databases import database_files, is_lost, older_libraries, place_database, relocate
from ml.storage.ledger import ENTRY
from ml.storage.locks import held_lock, is_active, one_move_at_a_time, run_lock
from ml.storage.paths import safe_key
from ml.storage.records import FileRef
from ml.storage.store import Store, open_store


@dataclass(frozen=True)
class Examined:
    """A backup whose every member has its digest, with the ledgers that it holds: use case to entries by key."""

    backup: Backup
    ledgers: dict[str, dict[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a restore would do: keys of the store to put back, those of them that are damaged there, and so on."""

    missing: frozenset[str]
    damaged: frozenset[str]
    replaced: tuple[str, ...]  # use cases whose ledgers give way
    moved_aside: tuple[str, ...]
    kept: int
    databases: dict[str, str]
    project: dict[str, str]
    relocated: bool

    @property
    def put(self) -> frozenset[str]:
        return self.missing | self.damaged

    @property
    def does_nothing(self) -> bool:
        done = [*self.databases.values(), *self.project.values()]
        return not (self.put or self.replaced or self.relocated or "restored" in done)


@dataclass
class _Reading:
    """What the first reading has met so far."""

    members: dict[str, list[Any]] = field(default_factory=dict)
    ledgers: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def meet(self, name: str, data: bytes | BinaryIO, progress: Progress) -> None:
        size, digest = _measured(data)
        self.members[name] = [size, digest]
        progress(size)
        folder = f"{STORE}{paths.ledgers()}/"
        if name.startswith(folder):
            assert isinstance(data, bytes)
            of_use_case = self.ledgers.setdefault(name.split("/")[2], {})
            of_use_case[name.removeprefix(STORE)] = data


def examine(target: str, progress: Progress) -> Examined:
    """Reads the whole file. Raises Corrupt unless every member has the size and SHA-256 that the file's end says."""
    members = read_members(target)
    first, data = next(members, ("", b""))
    if first != MANIFEST or not isinstance(data, bytes):
        raise not_whole(target, "it does not begin with a manifest")
    manifest, reading, end = parse_manifest(target, data), _Reading(), None
    for name, data in members:
        if name == INDEX and isinstance(data, bytes):
            end = json.loads(data)
        else:
            reading.meet(name, data, progress)
    if end is None:
        raise not_whole(target, "its end is missing")
    for name in sorted({*end["members"], *reading.members}):
        if end["members"].get(name) != reading.members.get(name):
            raise not_whole(target, f"{name} is not as it was written")
        _require_known(target, name)
    backup = Backup(manifest=manifest, members=reading.members, damaged=tuple(end["damaged"]))
    return Examined(backup, reading.ledgers)


def _measured(data: bytes | BinaryIO) -> tuple[int, str]:
    if isinstance(data, bytes):
        return len(data), digest_bytes(data)
    digest, size = hashlib.sha256(), 0
    while block := data.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def _require_known(target: str, name: str) -> None:
    """Nothing in a file may name a place outside of what a restore writes."""
    safe_key(name)
    if not name.startswith((STORE, DATABASES, PROJECT)):
        raise not_whole(target, f"{name} in it is unknown")


def make_plan(settings: Settings, examined: Examined, replace: frozenset[str]) -> Plan:
    """Compares the backup with what is there. Raises UsageError where something newer would have to give way, unless
    `replace` names it: a use case, for its ledger; or `mlflow`, `prefect`, for the database."""
    manifest, store = examined.backup.manifest, open_store(settings.store)
    _require_libraries(manifest)
    _require_names(examined, replace)
    theirs = {
        name.removeprefix(STORE): seen for name, seen in examined.backup.members.items() if name.startswith(STORE)
    }
    missing, different = _compared(store, theirs)
    in_part = [name for name in examined.ledgers if store.get(paths.replacing(name)) is not None]
    aside = {
        name: [key for key in _of_ledger(store, name) if key not in theirs or key in different]
        for name in _given_way(store, examined, different, in_part, replace)
    }
    moved_aside = tuple(key for keys in aside.values() for key in keys)
    damaged = {key for key in different if key in moved_aside or _is_damaged(store, examined, key, theirs[key][1])}
    databases = dict(_databases(settings, manifest, replace))
    return Plan(
        missing=frozenset(missing),
        damaged=frozenset(damaged),
        replaced=tuple(name for name, keys in aside.items() if keys or name in in_part),
        moved_aside=moved_aside,
        kept=len(different - damaged),
        databases=databases,
        project=dict(_project(settings, examined.backup)),
        relocated=manifest.store != store.uri and databases.get("mlflow") == "kept",
    )


def _require_libraries(manifest: Manifest) -> None:
    here = {name: metadata.version(name) for name in manifest.libraries}
    for name in older_libraries(manifest.libraries, here) if manifest.databases else ():
        raise ConfigError(
            "a database is read by the library that wrote it, or by a newer one",
            f"{name} is {here[name]} here and was {manifest.libraries[name]}",
            "make setup with the newer lock",
        )


def _require_names(examined: Examined, replace: frozenset[str]) -> None:
    known = {*examined.ledgers, *examined.backup.manifest.databases}
    for name in sorted(replace - known):
        raise UsageError(
            f"--replace names a part of the backup ({', '.join(sorted(known))})", f"it is {name}", "mend it"
        )


def _compared(store: Store, theirs: dict[str, list[Any]]) -> tuple[set[str], set[str]]:
    """Keys that are not in the store, and keys whose bytes there are others."""
    sizes = store.sizes()
    missing = {key for key in theirs if key not in sizes}
    other_size = {key for key, (size, _) in theirs.items() if key not in missing and sizes[key] != size}
    changed = {
        key for key, (_, digest) in theirs.items() if key not in missing | other_size and _digest(store, key) != digest
    }
    return missing, other_size | changed


def _digest(store: Store, key: str) -> str | None:
    data = store.get(key)
    return None if data is None else digest_bytes(data)


def _given_way(
    store: Store, examined: Examined, different: set[str], in_part: list[str], replace: frozenset[str]
) -> list[str]:
    """Use cases whose ledgers give way by name. Raises UsageError for the first whose ledger went another way, or is
    replaced in part."""
    for name, entries in examined.ledgers.items():
        if name in in_part and name not in replace:
            raise UsageError(
                "a restore that replaces a ledger runs to its end", f"the one of {name} was cut off",
                f"restore with --replace {name}",
            )  # fmt: skip
        others = [key for key in sorted(different & set(entries)) if unsealed(store.get(key) or b"") is not None]
        if others and name not in replace:
            raise UsageError(
                "a restore writes over no decision",
                f"the ledger of {name} has another {others[0].split('/')[-1]} than the backup",
                f"keep it; or restore with --replace {name}, which moves its decisions aside",
            )
    return sorted(replace & set(examined.ledgers))


def _of_ledger(store: Store, name: str) -> list[str]:
    folders = (paths.ledgers(), *paths.NOTES)
    keys = [key for folder in folders for key in store.keys(f"{folder}/{name}")]
    return [key for key in keys if key != paths.replacing(name)]


def _is_damaged(store: Store, examined: Examined, key: str, digest: str) -> bool:
    """Whether the store's bytes are not those that were written, and the backup's are."""
    if key == paths.store_id():  # MLflow's tags of what the backup holds name the backup's
        return True
    if key in {each for entries in examined.ledgers.values() for each in entries}:
        return unsealed(store.get(key) or b"") is None
    registered = _registered(examined).get(key)
    return registered is not None and registered.digest == digest


def _registered(examined: Examined) -> dict[str, FileRef]:
    """The files of models that the backup's ledgers name, by key."""
    found = {}
    for data in (data for entries in examined.ledgers.values() for data in entries.values()):
        _, _, body = (unsealed(data) or b"").partition(b"\n")
        with suppress(ValidationError):  # damaged when it was copied, as the backup says
            found.update({file.key: file for file in served_files([ENTRY.validate_json(body)])})
    return found


def _databases(settings: Settings, manifest: Manifest, replace: frozenset[str]) -> Iterator[tuple[str, str]]:
    here = database_files(settings)
    for name in manifest.databases:
        if name not in here:
            yield name, "elsewhere"
        else:
            yield name, "restored" if name in replace or is_lost(name, here[name]) else "kept"


def _project(settings: Settings, backup: Backup) -> Iterator[tuple[str, str]]:
    for member, (_, digest) in backup.members.items():
        if not member.startswith(PROJECT):
            continue
        name = member.removeprefix(PROJECT)
        if settings.project is None:
            yield name, "no project"
            continue
        path = settings.project / name
        same = path.is_file() and digest_bytes(path.read_bytes()) == digest
        yield name, "same" if same else "kept" if path.exists() else "restored"


@contextmanager
def nothing_runs(settings: Settings, names: list[str]) -> Iterator[None]:
    """Holds the locks of `retrain up`, and of the use cases' nights and moves. Raises Busy if one is active."""
    with ExitStack() as stack:
        up = Busy("a restore is made while nothing runs", f"retrain up runs in {settings.home}", "stop it")
        stack.enter_context(held_lock(settings.home / "up.lock", 0, up))
        for name in names:
            if is_active(settings.home, name):
                raise Busy("a restore is made while nothing runs", f"a run of {name} is active", "wait for it to end")
            night = Busy("a restore is made while nothing runs", f"a night of {name} runs", "wait for it to end")
            stack.enter_context(held_lock(run_lock(settings.home, name), 0, night))
            stack.enter_context(one_move_at_a_time(settings.home, name))
        yield


def carry_out(settings: Settings, target: str, examined: Examined, plan: Plan, progress: Progress) -> None:
    """Does what the plan says. Raises Corrupt for a file that has changed since it was examined."""
    store, stamp = open_store(settings.store), datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    for use_case in plan.replaced:
        store.put(paths.replacing(use_case), b"{}")
    _move_aside(store, plan.moved_aside, stamp)
    staged = {}
    for name, data in read_members(target):
        size, digest = examined.backup.members.get(name, (0, ""))
        if name in {MANIFEST, INDEX}:
            continue
        if name.startswith(DATABASES):
            database = Path(name).stem
            if plan.databases[database] == "restored":
                staged[database] = _staged(settings, database, data)
        elif _is_wanted(plan, name):
            assert isinstance(data, bytes)
            if digest_bytes(data) != digest:
                raise not_whole(target, f"{name} has changed since it was read first")
            _put(settings, store, name, data)
        progress(size)
    _place_databases(settings, examined.backup, plan, staged, stamp)
    for use_case in plan.replaced:
        store.delete(paths.replacing(use_case))


def _move_aside(store: Store, keys: tuple[str, ...], stamp: str) -> None:
    """Decisions that give way stay in the store, under a name that no ledger has; the newest goes first."""
    for key in sorted(keys, reverse=True):
        data = store.get(key)
        if data is not None:
            store.put(paths.replaced(stamp, key), data)
            store.delete(key)


def _is_wanted(plan: Plan, name: str) -> bool:
    return name.removeprefix(STORE) in plan.put or plan.project.get(name.removeprefix(PROJECT)) == "restored"


def _put(settings: Settings, store: Store, name: str, data: bytes) -> None:
    if name.startswith(STORE):
        store.put(name.removeprefix(STORE), data)
        return
    assert settings.project is not None
    write_whole(settings.project / name.removeprefix(PROJECT), data)


def _staged(settings: Settings, name: str, data: bytes | BinaryIO) -> Path:
    """The database as a file beside its place, so that it gets there by a renaming."""
    assert not isinstance(data, bytes)
    path = database_files(settings)[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.restoring")
    with beside.open("wb") as file:
        while block := data.read(BLOCK_BYTES):
            file.write(block)
    return beside


def _place_databases(settings: Settings, backup: Backup, plan: Plan, staged: dict[str, Path], stamp: str) -> None:
    old, new, files = backup.manifest.store, open_store(settings.store).uri, database_files(settings)
    for name, path in staged.items():
        with path.open("rb") as file:
            if list(_measured(file)) != backup.members[f"{DATABASES}{name}.db"]:
                raise not_whole(str(path), "it has changed since it was read first")
        if name == "mlflow" and old != new:
            relocate(path, old, new)
        place_database(path, files[name], f"replaced-{stamp}")
    if plan.relocated:
        relocate(files["mlflow"], old, new)
