"""Content addresses: one canonical JSON form and SHA-256 over bytes, values and sources."""

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic_core import from_json, to_json  # which take a third of json's time

RACY_NS = 2_000_000_000  # no file system's clock has coarser steps
STAMP = struct.Struct("=QqqQ").pack  # size, mtime and ctime in ns, inode


def canonical_json(value: Any) -> bytes:
    """Sorted, compact and strict: NaN and infinities raise ValueError. A day is written like 2013-10-01."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False, default=_day_text
    )
    return text.encode()


def _day_text(value: Any) -> str:
    if type(value) is not date:
        raise TypeError(f"canonical JSON cannot hold a {type(value).__name__}")
    return value.isoformat()


def digest_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sealed(data: bytes) -> bytes:
    """The bytes after a line with their SHA-256, so that damage shows when they are read."""
    return digest_bytes(data).encode() + b"\n" + data


def unsealed(data: bytes) -> bytes | None:
    """What was sealed; None where the bytes are not those that were written."""
    digest, _, body = data.partition(b"\n")
    return body if digest == digest_bytes(body).encode() else None


def digest_value(value: Any) -> str:
    """Digest of anything that canonical JSON can hold."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_sources(root: Path, files: Iterable[Path]) -> str:
    """Digest of source files by their path below `root` and their bytes."""
    return digest_value({path.relative_to(root).as_posix(): digest_file(path) for path in files})


class FileDigests:
    """Digests of files on this disk, each hashed again only where its size, times (mtime, ctime) or inode changed.

    As in git, what was written less than two seconds before it was hashed is hashed again next time: a second edit in
    the same step of the clock could leave all four as they are. An edit whose mtime was set back shows in ctime, which
    nothing sets.
    """

    def __init__(self, kept: dict[str, list[Any]]) -> None:
        self.kept, self.used, self.settled = kept, dict[str, list[Any]](), True

    def of(self, path: str, stat: os.stat_result) -> str:
        seen = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        kept = self.kept.get(path)
        if kept is not None and kept[:4] == seen:
            self.used[path] = kept
            return str(kept[4])
        now = time.time_ns()
        digest = digest_file(Path(path))
        if max(stat.st_mtime_ns, stat.st_ctime_ns) + RACY_NS < now:
            self.used[path] = [*seen, digest]
        else:
            self.settled = False
        return digest


class KeptDigests:
    """What was made of the files of each month, as long as none of them changed; of other months, their digests."""

    def __init__(self, file: Path) -> None:
        self.file, self.kept, self.used = file, _read_kept(file), dict[str, list[Any]]()

    def of(
        self, name: str, decided: str, stats: Mapping[str, os.stat_result], make: Callable[[FileDigests], Any]
    ) -> Any:
        """What `make` makes, in JSON's types, of the digests of a month's files and of what else was decided."""
        stamp = _stamp(decided, stats)
        kept = self.kept.get(name)
        if kept is None or kept[0] != stamp:
            files = FileDigests(json.loads(kept[2]) if kept is not None else {})
            made = make(files)
            kept = [stamp if files.settled else "", made, canonical_json(files.used).decode()]
        self.used[name] = kept
        return kept[1]

    def save(self) -> None:
        """Keeps the months that were asked for."""
        if self.used == self.kept:
            return
        write_whole(self.file, sealed(to_json(self.used)))


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: another thread or process may read or write it. For what can be made again:
    the store's files survive a power failure too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _stamp(decided: str, stats: Mapping[str, os.stat_result]) -> str:
    """Changes with every file's path, size, times and inode."""
    seen = [STAMP(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for stat in stats.values()]
    return digest_bytes(b"".join(["\n".join([decided, *stats]).encode("utf-8", "surrogateescape"), *seen]))


def _read_kept(file: Path) -> dict[str, list[Any]]:
    """Nothing where nothing is kept or it is damaged: then everything is hashed."""
    try:
        kept = unsealed(file.read_bytes())
    except OSError:
        return {}
    return {} if kept is None else from_json(kept)
