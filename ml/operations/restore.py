"""A restore: what is gone or damaged is put back from a backup, and what is newer than the backup stays.

The whole file is read once before anything is written, and every member must have its digest. Then the objects are
written one by one: ledgers last, each with its newest entry first. The databases come at the very end, by renaming.

A restore that is cut off leaves nothing that looks whole and is not. A ledger that lacks its beginning is refused by
every command, and so is a ledger with the mark that it is being replaced. The same restore run again finishes the work.

A decision that differs from the backup's is written over only if the operator names its ledger; then it is moved aside.
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
    """A backup whose every member has the right digest. `ledgers` is use case to the bytes of its entries by key."""

    backup: Backup
    ledgers: dict[str, dict[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a restore would do."""

    missing: frozenset[str]  # keys that the store lacks
    damaged: frozenset[str]  # keys whose bytes in the store give way to the backup's
    replaced: tuple[str, ...]  # use cases whose ledgers give way
    moved_aside: tuple[str, ...]  # keys of the entries and notes of those ledgers
    kept: int  # how many objects differ from the backup's and stay
    databases: dict[str, str]  # name to restored, kept, or elsewhere
    project: dict[str, str]  # file to restored, kept, same, or no project
    relocated: bool  # whether addresses in the kept MLflow database change to this store

    @property
    def put(self) -> frozenset[str]:
        """The keys that are written."""
        return self.missing | self.damaged

    @property
    def does_nothing(self) -> bool:
        """Whether everything is there and stays as it is."""
        outcomes = [*self.databases.values(), *self.project.values()]
        return not (self.put or self.replaced or self.relocated or "restored" in outcomes)


@dataclass
class _Reading:
    """What the first reading of a backup has read so far: size and digest of members, and entries of ledgers."""

    members: dict[str, list[Any]] = field(default_factory=dict)
    ledgers: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def add(self, name: str, data: bytes | BinaryIO, progress: Progress) -> None:
        """Takes the next member, of which only entries of ledgers are kept in memory."""
        size, digest = _measured(data)
        self.members[name] = [size, digest]
        progress(size)
        folder = f"{STORE}{paths.ledgers()}/"
        if name.startswith(folder):
            assert isinstance(data, bytes)
            entries = self.ledgers.setdefault(name.split("/")[2], {})
            entries[name.removeprefix(STORE)] = data


def examine(target: str, progress: Progress) -> Examined:
    """Reads the whole file. Raises Corrupt unless every member has the size and SHA-256 that the index says.

    `progress` is called with the bytes that were just read.
    """
    members = read_members(target)
    first, data = next(members, ("", b""))
    if first != MANIFEST or not isinstance(data, bytes):
        raise not_whole(target, "it does not begin with a manifest")
    manifest, reading, index = parse_manifest(target, data), _Reading(), None
    for name, data in members:
        if name == INDEX and isinstance(data, bytes):
            index = json.loads(data)
        else:
            reading.add(name, data, progress)
    if index is None:
        raise not_whole(target, "its end is missing")
    for name in sorted({*index["members"], *reading.members}):
        if index["members"].get(name) != reading.members.get(name):
            raise not_whole(target, f"{name} is not as it was written")
        _require_known(target, name)
    backup = Backup(manifest=manifest, members=reading.members, damaged=tuple(index["damaged"]))
    return Examined(backup, reading.ledgers)


def _measured(data: bytes | BinaryIO) -> tuple[int, str]:
    """Size and SHA-256."""
    if isinstance(data, bytes):
        return len(data), digest_bytes(data)
    digest, size = hashlib.sha256(), 0
    while block := data.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def _require_known(target: str, name: str) -> None:
    """Raises UsageError or Corrupt for a member that would be written outside of store, databases and project."""
    safe_key(name)
    if not name.startswith((STORE, DATABASES, PROJECT)):
        raise not_whole(target, f"{name} in it is unknown")


def make_plan(settings: Settings, examined: Examined, replace: frozenset[str]) -> Plan:
    """Compares the backup with what is there.

    `replace` names what may give way although it is newer: a use case for its ledger, `mlflow` or `prefect` for the
    database. Raises UsageError if another ledger would have to give way, or if `replace` names no part of the backup;
    ConfigError if the installed libraries are too old for the databases.
    """
    manifest, store = examined.backup.manifest, open_store(settings.store)
    _require_libraries(manifest)
    _require_names(examined, replace)
    members = examined.backup.members.items()
    theirs = {name.removeprefix(STORE): measured for name, measured in members if name.startswith(STORE)}
    missing, different = _compared(store, theirs)
    cut_off = [name for name in examined.ledgers if store.get(paths.replacing(name)) is not None]
    aside = {
        name: [key for key in _keys_of_ledger(store, name) if key not in theirs or key in different]
        for name in _giving_way(store, examined, different, cut_off, replace)
    }
    moved_aside = tuple(key for keys in aside.values() for key in keys)
    damaged = {key for key in different if key in moved_aside or _is_damaged(store, examined, key, theirs[key][1])}
    databases = dict(_databases(settings, manifest, replace))
    return Plan(
        missing=frozenset(missing),
        damaged=frozenset(damaged),
        replaced=tuple(name for name, keys in aside.items() if keys or name in cut_off),
        moved_aside=moved_aside,
        kept=len(different - damaged),
        databases=databases,
        project=dict(_project(settings, examined.backup)),
        relocated=manifest.store != store.uri and databases.get("mlflow") == "kept",
    )


def _require_libraries(manifest: Manifest) -> None:
    """Raises ConfigError if a library here is older than the one that wrote the databases."""
    here = {name: metadata.version(name) for name in manifest.libraries}
    for name in older_libraries(manifest.libraries, here) if manifest.databases else ():
        raise ConfigError(
            "a database is read by the library that wrote it, or by a newer one",
            f"{name} is {here[name]} here and was {manifest.libraries[name]}",
            "make setup with the newer lock",
        )


def _require_names(examined: Examined, replace: frozenset[str]) -> None:
    """Raises UsageError if `replace` names what is not in the backup."""
    known = {*examined.ledgers, *examined.backup.manifest.databases}
    for name in sorted(replace - known):
        raise UsageError(
            f"--replace names a part of the backup ({', '.join(sorted(known))})", f"it is {name}", "mend it"
        )


def _compared(store: Store, theirs: dict[str, list[Any]]) -> tuple[set[str], set[str]]:
    """The keys that the store lacks, and the keys whose bytes differ. `theirs` is key to size and SHA-256."""
    sizes = store.sizes()
    missing = {key for key in theirs if key not in sizes}
    other_size = {key for key, (size, _) in theirs.items() if key not in missing and sizes[key] != size}
    same_size = {key: digest for key, (_, digest) in theirs.items() if key not in missing | other_size}
    changed = {key for key, digest in same_size.items() if _digest(store, key) != digest}
    return missing, other_size | changed


def _digest(store: Store, key: str) -> str | None:
    data = store.get(key)
    return None if data is None else digest_bytes(data)


def _giving_way(
    store: Store, examined: Examined, different: set[str], cut_off: list[str], replace: frozenset[str]
) -> list[str]:
    """The use cases in `replace` whose ledgers the backup has.

    Raises UsageError for any other ledger that has other decisions than the backup, or whose replacing was cut off.
    """
    for name, entries in examined.ledgers.items():
        if name in cut_off and name not in replace:
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


def _keys_of_ledger(store: Store, name: str) -> list[str]:
    """The keys of a use case's entries and of the notes on them."""
    folders = (paths.ledgers(), *paths.NOTES)
    keys = [key for folder in folders for key in store.keys(f"{folder}/{name}")]
    return [key for key in keys if key != paths.replacing(name)]


def _is_damaged(store: Store, examined: Examined, key: str, digest: str) -> bool:
    """Whether the bytes in the store, which differ from the backup's, give way: they are damaged, the backup's are
    not."""
    if key == paths.store_id():  # MLflow's tags, which the backup has too, name the backup's identifier
        return True
    if any(key in entries for entries in examined.ledgers.values()):
        return unsealed(store.get(key) or b"") is None
    registered = _registered(examined).get(key)
    return registered is not None and registered.digest == digest


def _registered(examined: Examined) -> dict[str, FileRef]:
    """The files of served models that the backup's ledgers name, by key."""
    files: dict[str, FileRef] = {}
    for data in (data for entries in examined.ledgers.values() for data in entries.values()):
        _, _, body = (unsealed(data) or b"").partition(b"\n")
        with suppress(ValidationError):  # the entry was damaged when it was copied, which the backup says
            files.update({file.key: file for file in served_files([ENTRY.validate_json(body)])})
    return files


def _databases(settings: Settings, manifest: Manifest, replace: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Each database of the backup, and whether it is restored, kept, or elsewhere."""
    here = database_files(settings)
    for name in manifest.databases:
        if name not in here:
            yield name, "elsewhere"
        else:
            yield name, "restored" if name in replace or is_lost(name, here[name]) else "kept"


def _project(settings: Settings, backup: Backup) -> Iterator[tuple[str, str]]:
    """Each file of the backup's project, and whether it is restored, kept, the same, or without a project here."""
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
    """Holds the locks of `retrain up` and of these use cases' nights and moves. Raises Busy if one is held."""
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
    """Does what the plan says. Call it inside `nothing_runs`. Raises Corrupt if the file changed since it was
    examined."""
    store, stamp = open_store(settings.store), datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    for use_case in plan.replaced:
        store.put(paths.replacing(use_case), b"{}")
    _move_aside(store, plan.moved_aside, stamp)
    staged: dict[str, Path] = {}
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
    """Moves entries that give way to keys below `replaced/`, the newest first."""
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
    """Writes the database into a file beside its place, so that a renaming will put it there."""
    assert not isinstance(data, bytes)
    path = database_files(settings)[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.restoring")
    with beside.open("wb") as file:
        while block := data.read(BLOCK_BYTES):
            file.write(block)
    return beside


def _place_databases(settings: Settings, backup: Backup, plan: Plan, staged: dict[str, Path], stamp: str) -> None:
    """Puts the databases into their places, and changes MLflow's addresses to this store."""
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
