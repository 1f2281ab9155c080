"""A backup: one file with what an installation cannot make again (ledgers, models, MLflow's and Prefect's databases).

The file is a tar. `manifest.json` comes first, then the members in the order in which a restore puts them back, and
last `index.json` with the size and SHA-256 of each member. A file whose index does not match is refused. The file is
not compressed, because models and figures do not shrink. Secrets and the data of use cases are not copied.

**The order of copying.** Nights go on while a backup is written. It chooses one moment, and copies what is true then:

1. It lists the keys of the ledgers, then the notes on entries (alias confirmed, report published), copies the
   databases, and lists the ledgers again. If an entry came in between, it does all of this again. So the copied MLflow
   has no alias for a decision that the copied ledger lacks, and no note says that something was done that the copied
   MLflow does not show. A night between its decision and its alias looks like a night that was killed there.
2. Only then it lists and reads the other objects. A night writes an object before the entry that names it, so every
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
CUT_ATTEMPTS = 5  # how often a moment without new entries is tried for
BLOCK_BYTES = 2**20
Progress = Callable[[int], object]  # takes the number of bytes that were just read or written


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a backup says of itself.

    `entries` is use case to the number of its ledger's entries, `libraries` the versions that wrote the databases,
    `left_out` what the backup lacks in words, `bytes` the size of all members.
    """

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
    """A backup without damage to the file itself.

    `members` is name to [size, SHA-256]. `damaged` says in words what was damaged already when it was copied.
    """

    manifest: Manifest
    members: dict[str, list[Any]]
    damaged: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The moment that a backup shows: the keys of ledgers and of notes on them, and the copies of the databases by
    name.

    `with_secrets` names the databases whose secrets were left out.
    """

    ledgers: list[str]
    notes: list[str]
    databases: dict[str, Path]
    with_secrets: list[str]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member of a backup. `read` returns its bytes, or a file with them, or None if it was deleted meanwhile."""

    name: str
    size: int
    read: Callable[[], bytes | Path | None]


@dataclass
class Archive:
    """Writes members into the tar and remembers size and SHA-256 of each in `index`."""

    tar: tarfile.TarFile
    progress: Progress
    index: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, member: Member) -> None:
        """Writes the member, unless it was deleted since it was listed."""
        content = member.read()
        if content is None:
            return
        if isinstance(content, Path):
            self.index[member.name] = [content.stat().st_size, digest_file(content)]
            with content.open("rb") as file:
                self._write(member.name, content.stat().st_size, file)
        else:
            self.index[member.name] = [len(content), digest_bytes(content)]
            self._write(member.name, len(content), io.BytesIO(content))
        self.progress(member.size)

    def _write(self, name: str, size: int, data: BinaryIO | io.BytesIO) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        self.tar.addfile(entry, data)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a member that is not in the index: the manifest, or the index itself."""
        data = canonical_json(value)
        self._write(name, len(data), io.BytesIO(data))


def place_of(target: str) -> tuple[Store, str]:
    """The store of the folder in which a backup lies, and its name there. `target` is a path or s3://bucket/file.

    Raises UsageError if no backup can lie there.
    """
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
    """Raises UsageError if the backup would lie inside the home or the store, and so be lost together with them."""
    for kept in (str(settings.home), open_store(settings.store).uri):
        if _is_inside(place.uri, kept):
            raise UsageError("a backup lies outside of what it is a copy of", f"it is in {kept}", "name another place")


def _is_inside(place: str, kept: str) -> bool:
    if "://" in place or "://" in kept:
        return f"{place}/".startswith(f"{kept}/")
    return Path(place).resolve().is_relative_to(Path(kept).resolve())


def write_backup(settings: Settings, target: str, progress: Callable[[int], Progress]) -> Backup:
    """Writes a backup into the new file `target`. If this fails, there is no file.

    `progress` is called once with the number of bytes to come, and returns what is called with the bytes just written.
    Raises UsageError for a place where no backup can lie, or if there is nothing to copy; Busy if nights write faster
    than the databases can be copied.
    """
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
    """The sink, without its type: tarfile needs nothing but `write`, but its type hints ask for a whole file."""
    return sink


def take_cut(store: Store, settings: Settings, scratch: Path) -> Cut:
    """Chooses the moment of a backup and copies the databases into the folder `scratch`.

    Raises Busy if new entries came during every attempt, Corrupt if a restore of a ledger was cut off.
    """
    files = {name: file for name, file in database_files(settings).items() if not is_lost(name, file)}
    for _ in range(CUT_ATTEMPTS):
        ledgers = store.keys(paths.ledgers())
        refuse_replaced_in_part(ledgers)
        notes = [key for folder in paths.NOTES for key in store.keys(folder)]
        copies = {name: scratch / f"{name}.db" for name in files}
        for copy in copies.values():
            copy.unlink(missing_ok=True)
        with_secrets = [name for name, file in files.items() if copy_database(name, file, copies[name])]
        if store.keys(paths.ledgers()) == ledgers:
            entries = {key.removeprefix(paths.ledgers()) for key in ledgers}
            notes_on_entries = [key for key in notes if key[key.index("/") :] in entries]
            return Cut(ledgers=ledgers, notes=notes_on_entries, databases=copies, with_secrets=with_secrets)
    raise Busy("a backup is of one moment", f"decisions came during {CUT_ATTEMPTS} copies", "try it again later")


def _entries_by_use_case(cut: Cut) -> dict[str, int]:
    names = [key.split("/")[1] for key in cut.ledgers]
    return {name: names.count(name) for name in sorted(set(names))}


def _members(store: Store, settings: Settings, cut: Cut) -> Iterator[Member]:
    """The members in the order in which a restore puts them back.

    A ledger comes after everything that it names, and its newest entry comes first. A restore that is cut off therefore
    leaves a ledger that lacks its beginning, which every command refuses.
    """
    if settings.project is not None:
        for path in project_files(settings):
            name = f"{PROJECT}{path.relative_to(settings.project).as_posix()}"
            yield Member(name=name, size=path.stat().st_size, read=lambda path=path: path)  # type: ignore[misc]
    sizes = store.sizes()
    first_folders = paths.FOLDERS - {*paths.MADE_AGAIN, *paths.NOTES, paths.ledgers()}  # only folders of ours
    first = sorted(key for key in sizes if key.split("/")[0] in first_folders)
    for key in (*first, *cut.notes, *reversed(cut.ledgers)):
        yield Member(name=f"{STORE}{key}", size=sizes.get(key, 0), read=lambda key=key: store.get(key))  # type: ignore[misc]
    for name, copy in cut.databases.items():
        yield Member(name=f"{DATABASES}{name}.db", size=copy.stat().st_size, read=lambda copy=copy: copy)  # type: ignore[misc]


def project_files(settings: Settings) -> list[Path]:
    """The Python files of RETRAIN_PROJECT, and its suites. Data and hidden files, which may hold secrets, are left
    out."""
    assert settings.project is not None
    kept: list[Path] = []
    for folder, names, files in os.walk(settings.project):
        here = Path(folder)
        names[:] = [name for name in names if not _is_foreign(settings, here / name)]
        suite = here == settings.project / "expectations"
        sources = [name for name in files if name.endswith(".py") or (suite and name.endswith(".json"))]
        kept += [here / name for name in sources if name[0] != "." and name.isascii()]
    return sorted(kept)


def _is_foreign(settings: Settings, folder: Path) -> bool:
    """Whether the folder is hidden, a cache of Python, a virtual environment, or the home."""
    return (
        folder.name[0] == "."
        or folder.name == "__pycache__"
        or (folder / "pyvenv.cfg").exists()
        or folder == settings.home
    )


def _left_out(settings: Settings, cut: Cut) -> Iterator[str]:
    """Sentences on what no backup holds and what this one lacks, each with what to do instead."""
    made_again = ", ".join(f"{name}/" for name in paths.MADE_AGAIN)
    yield f"caches, and of the store {made_again}: nights make them again"
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
    """Says which ledgers, and which files of models that have served, were damaged when they were copied."""
    copied = set(cut.ledgers)
    for name in _entries_by_use_case(cut):
        try:
            all_entries = Ledger(store, name).entries()
            entries = [entry for entry in all_entries if paths.ledger_entry(name, entry.seq) in copied]
        except Corrupt as error:
            yield f"{error.rule}, but {error.value}"
            continue
        for file in served_files(entries):
            size_and_digest = index.get(f"{STORE}{file.key}")
            if size_and_digest is None or size_and_digest[1] != file.digest:
                yield f"{file.key} of {name} is {'gone' if size_and_digest is None else 'changed'}"


def served_files(entries: list[AnyEntry]) -> Iterator[FileRef]:
    """The files of every champion and reference that the entries name, judged version and refit, each once."""
    served = [model for entry in entries for model in (entry.champion, entry.reference) if model]
    files = {file.key: file for model in served for version in model.versions for file in version.files}
    yield from files.values()


def read_members(target: str) -> Iterator[tuple[str, bytes | BinaryIO]]:
    """Every member of the file with its name, in order: databases as streams, all others as bytes.

    Raises Corrupt if the file is no tar or is cut off, UsageError if there is none.
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


def not_whole(target: str, reason: str) -> Corrupt:
    """The error for a file that is no undamaged backup."""
    return Corrupt("FILE is a whole backup of `retrain backup`", f"{target}: {reason}", "choose another backup")


def parse_manifest(target: str, data: bytes) -> Manifest:
    """The manifest of the backup `target`. Raises Corrupt if it is none, ConfigError for a format newer than this
    code."""
    try:
        fields = json.loads(data)
        its_format = int(fields["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise not_whole(target, "it does not begin with a manifest") from error
    if its_format > FORMAT:
        raise ConfigError(
            f"this retrain reads backups of format {FORMAT}",
            f"{target} is of format {its_format}",
            "use a newer retrain",
        )
    return Manifest(**{**fields, "databases": tuple(fields["databases"]), "left_out": tuple(fields["left_out"])})
