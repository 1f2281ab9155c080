"""One file that holds what an installation cannot make again: ledgers, models, MLflow's and Prefect's databases.

The file is a tar: `manifest.json` first, then the members in the order in which a restore puts them back, and at last
`index.json` with the size and SHA-256 of each: a file without a matching index is not whole. It is not compressed, for
models and figures do not shrink.

**The order of copying.** Nights go on meanwhile, so one moment is chosen, and all that is copied is true of it:

1. The keys of the ledgers are listed, then the notes of what followed an entry (alias seen, report published), then the
   databases are copied, then the ledgers are listed again. If an entry came in between, this is repeated. So no alias
   in the copied MLflow is of a decision that the copied ledger lacks, and nothing is noted as done that the copied
   MLflow does not show. A night between its decision and its alias looks like a night that was killed there.
2. Only then the other objects are listed and read. A night writes an object before the entry that names it, so every
   object that a copied entry names is there. What nights wrote since is copied too, and does no harm.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from ml.digests import canonical_json, digest_bytes, digest_file
from ml.errors import Busy, ConfigError, Corrupt, UsageError, without_passwords
from ml.settings import Settings
from ml.storage import paths
from ml.storage.databases import copy_database, database_files, is_lost, prefect_elsewhere
from ml.storage.ledger import AnyEntry, Ledger, refuse_replaced_in_part
from ml.storage.records import FileRef
from ml.storage.store import Sink, Store, open_store

FORMAT = 1
MANIFEST, INDEX = "manifest.json", "index.json"
STORE, DATABASES, PROJECT = "store/", "databases/", "project/"
LIBRARIES = ("mlflow", "prefect")
CUT_ATTEMPTS = 5
BLOCK_BYTES = 2**20
Progress = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a backup says of itself: when and where it was made, up to which ledger entries, and what it lacks."""

    format: int
    made_at: str
    store: str
    entries: dict[str, int]
    databases: tuple[str, ...]
    libraries: dict[str, str]
    left_out: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A whole backup: its manifest, size and SHA-256 of every member, and what was damaged when it was copied."""

    manifest: Manifest
    members: dict[str, list[Any]]
    damaged: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The moment of which everything in a backup is true: the ledgers' keys, what was noted of them, the databases."""

    ledgers: list[str]
    notes: list[str]
    databases: dict[str, Path]
    with_secrets: list[str]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One piece of a backup: its name, its bytes or the file that has them, and its size."""

    name: str
    size: int
    read: Callable[[], bytes | Path | None]


@dataclass
class Archive:
    """Writes members and remembers their digests."""

    tar: tarfile.TarFile
    progress: Progress
    index: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, member: Member) -> None:
        """An object that was deleted since it was listed is left out."""
        found = member.read()
        if found is None:
            return
        if isinstance(found, Path):
            self.index[member.name] = [found.stat().st_size, digest_file(found)]
            with found.open("rb") as file:
                self._write(member.name, found.stat().st_size, file)
        else:
            self.index[member.name] = [len(found), digest_bytes(found)]
            self._write(member.name, len(found), io.BytesIO(found))
        self.progress(member.size)

    def _write(self, name: str, size: int, data: BinaryIO | io.BytesIO) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        self.tar.addfile(entry, data)

    def write_json(self, name: str, value: Any) -> None:
        data = canonical_json(value)
        self._write(name, len(data), io.BytesIO(data))


def place_of(target: str) -> tuple[Store, str]:
    """Where a backup lies: the store of its folder, and its name there. Raises UsageError where none can be."""
    folder, _, name = target.rpartition("/")
    if target.startswith("s3://"):
        if folder in {"s3:/", "s3:"} or not name:
            raise UsageError("a backup in S3 is named s3://bucket/file", f"it is {target!r}", "name bucket and file")
        return open_store(folder), name
    path = Path(target).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("FILE is a file in a folder that is there", f"it is {target}", "make the folder")
    return open_store(str(path.parent)), path.name


def refuse_inside(settings: Settings, place: Store) -> None:
    """Raises UsageError for a backup that would be lost together with what it is a copy of."""
    for kept in (str(settings.home), open_store(settings.store).uri):
        if _is_inside(place.uri, kept):
            raise UsageError("a backup lies outside of what it is a copy of", f"it is in {kept}", "name another place")


def _is_inside(place: str, kept: str) -> bool:
    if "://" in place or "://" in kept:
        return f"{place}/".startswith(f"{kept}/")
    return Path(place).resolve().is_relative_to(Path(kept).resolve())


def write_backup(settings: Settings, target: str, progress: Callable[[int], Progress]) -> Backup:
    """Writes everything into a new file, which is there whole or not at all. `progress` is given the bytes to come, and
    gives what is to be told of those that are done."""
    place, name = place_of(target)
    refuse_inside(settings, place)
    store = open_store(settings.store)
    (settings.home / "tmp").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=settings.home / "tmp") as scratch:
        cut = take_cut(store, settings, Path(scratch))
        if not (cut.ledgers or cut.databases):
            raise UsageError("a backup copies what is there", f"{settings.home} has nothing", "set RETRAIN_HOME")
        members = list(_members(store, settings, cut))
        manifest = Manifest(
            format=FORMAT,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            store=store.uri,
            entries=_entries_by_use_case(cut),
            databases=tuple(cut.databases),
            libraries={library: metadata.version(library) for library in LIBRARIES},
            left_out=tuple(_left_out(settings, cut)),
            bytes=sum(member.size for member in members),
        )
        with place.writing(name) as sink, tarfile.open(mode="w|", fileobj=_file_of(sink), bufsize=BLOCK_BYTES) as tar:
            archive = Archive(tar, progress(manifest.bytes))
            archive.write_json(MANIFEST, asdict(manifest))
            for member in members:
                archive.add(member)
            damaged = sorted(_damaged(store, archive.index, cut))
            archive.write_json(INDEX, {"members": archive.index, "damaged": damaged})
    return Backup(manifest=manifest, members=archive.index, damaged=tuple(damaged))


def _file_of(sink: Sink) -> Any:
    """tarfile asks for no more than `write`, and says so to no type checker."""
    return sink


def take_cut(store: Store, settings: Settings, scratch: Path) -> Cut:
    """Raises Busy where decisions come faster than the databases can be copied."""
    files = {name: file for name, file in database_files(settings).items() if not is_lost(name, file)}
    for _ in range(CUT_ATTEMPTS):
        ledgers = store.keys(paths.ledgers())
        refuse_replaced_in_part(ledgers)
        notes = [key for folder in paths.NOTES for key in store.keys(folder)]
        copies = {name: scratch / f"{name}.db" for name in files}
        for copy in copies.values():
            copy.unlink(missing_ok=True)
        secret = [name for name, file in files.items() if copy_database(name, file, copies[name])]
        if store.keys(paths.ledgers()) == ledgers:
            known = {key.removeprefix(paths.ledgers()) for key in ledgers}
            of_cut = [key for key in notes if key[key.index("/") :] in known]
            return Cut(ledgers=ledgers, notes=of_cut, databases=copies, with_secrets=secret)
    raise Busy("a backup is of one moment", f"decisions came during {CUT_ATTEMPTS} copies", "try it again later")


def _entries_by_use_case(cut: Cut) -> dict[str, int]:
    names = [key.split("/")[1] for key in cut.ledgers]
    return {name: names.count(name) for name in sorted(set(names))}


def _members(store: Store, settings: Settings, cut: Cut) -> Iterator[Member]:
    """In the order in which they are put back: a ledger after what it names, and its newest entry first, so that a
    restore that was cut off leaves a ledger without a beginning, which nobody takes for a whole one."""
    if settings.project is not None:
        for path in project_files(settings):
            name = f"{PROJECT}{path.relative_to(settings.project).as_posix()}"
            yield Member(name=name, size=path.stat().st_size, read=lambda path=path: path)  # type: ignore[misc]
    sizes = store.sizes()
    first_folders = paths.FOLDERS - {*paths.MADE_AGAIN, *paths.NOTES, paths.ledgers()}  # and nothing of others
    first = sorted(key for key in sizes if key.split("/")[0] in first_folders)
    for key in (*first, *cut.notes, *reversed(cut.ledgers)):
        yield Member(name=f"{STORE}{key}", size=sizes.get(key, 0), read=lambda key=key: store.get(key))  # type: ignore[misc]
    for name, copy in cut.databases.items():
        yield Member(name=f"{DATABASES}{name}.db", size=copy.stat().st_size, read=lambda copy=copy: copy)  # type: ignore[misc]


def project_files(settings: Settings) -> list[Path]:
    """The Python files of RETRAIN_PROJECT and its suites; neither data nor hidden files, which may hold secrets."""
    assert settings.project is not None
    found = []
    for folder, names, files in os.walk(settings.project):
        here = Path(folder)
        names[:] = [name for name in names if not _is_foreign(settings, here / name)]
        suite = here == settings.project / "expectations"
        kept = [here / name for name in files if name.endswith(".py") or (suite and name.endswith(".json"))]
        found += [path for path in kept if path.name[0] != "." and path.name.isascii()]
    return sorted(found)


def _is_foreign(settings: Settings, folder: Path) -> bool:
    """Hidden folders, caches of Python, virtual environments, and the home."""
    return (
        folder.name[0] == "."
        or folder.name == "__pycache__"
        or (folder / "pyvenv.cfg").exists()
        or folder == settings.home
    )


def _left_out(settings: Settings, cut: Cut) -> Iterator[str]:
    """What a backup never holds, and what this one lacks, each with what to copy instead."""
    again = ", ".join(f"{name}/" for name in paths.MADE_AGAIN)
    yield f"caches, and of the store {again}: nights make them again"
    yield "the data that use cases read, those below RETRAIN_HOME/data too: copy them where they come from"
    yield "variables of the environment and other secrets"
    if "mlflow" not in database_files(settings):
        place = without_passwords(settings.tracking_uri)
        yield f"MLflow's database, which is behind {place}: copy it there, as with pg_dump"
    elsewhere = prefect_elsewhere()
    if elsewhere is not None:
        yield f"Prefect's database, which is where {elsewhere} says: copy it there, as with pg_dump"
    if "prefect" in cut.with_secrets:
        yield "Prefect's blocks, which hold secrets, and what calls them: set alerts up again with retrain alerts URL"
    if "mlflow" in cut.with_secrets:
        yield "MLflow's webhooks and the keys of its gateways: set them up again"
    if settings.project is None:
        yield "your own use cases: there are none, for RETRAIN_PROJECT is not set"


def _damaged(store: Store, index: dict[str, list[Any]], cut: Cut) -> Iterator[str]:
    """Ledgers, and files of models that have served, that are not in the copy as they were written."""
    known = set(cut.ledgers)
    for name in _entries_by_use_case(cut):
        try:
            entries = [each for each in Ledger(store, name).entries() if paths.ledger_entry(name, each.seq) in known]
        except Corrupt as error:
            yield f"{error.rule}, but {error.value}"
            continue
        for file in served_files(entries):
            seen = index.get(f"{STORE}{file.key}")
            if seen is None or seen[1] != file.digest:
                yield f"{file.key} of {name} is {'gone' if seen is None else 'changed'}"


def served_files(entries: list[AnyEntry]) -> Iterator[FileRef]:
    """The files of every champion and reference that the entries name, each once."""
    files = {
        file.key: file for each in entries for model in (each.champion, each.reference) if model for file in model.files
    }
    yield from files.values()


def read_members(target: str) -> Iterator[tuple[str, bytes | BinaryIO]]:
    """Every member of the file by name, in order: databases as streams, all others as bytes.

    Raises Corrupt for a file that is no whole backup, ConfigError for one of a newer format.
    """
    place, name = place_of(target)
    try:
        with place.reading(name) as stream, tarfile.open(mode="r|", fileobj=stream, bufsize=BLOCK_BYTES) as tar:
            for entry in tar:
                data = tar.extractfile(entry)
                if data is None:
                    raise not_whole(target, f"{entry.name[:100]} in it is no file")
                yield entry.name, data if entry.name.startswith(DATABASES) else data.read()  # type: ignore[misc]
    except tarfile.TarError as error:
        raise not_whole(target, f"{error}"[:100]) from error


def not_whole(target: str, seen: str) -> Corrupt:
    return Corrupt("FILE is a whole backup of `retrain backup`", f"{target}: {seen}", "choose another backup")


def parse_manifest(target: str, data: bytes) -> Manifest:
    """Raises ConfigError for a format that is newer than this code."""
    try:
        said = json.loads(data)
        made_by = int(said["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise not_whole(target, "it does not begin with a manifest") from error
    if made_by > FORMAT:
        raise ConfigError(
            f"this retrain reads backups of format {FORMAT}", f"{target} is of format {made_by}", "use a newer retrain"
        )
    return Manifest(**{**said, "databases": tuple(said["databases"]), "left_out": tuple(said["left_out"])})
