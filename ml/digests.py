"""Digests: SHA-256 over bytes, files, source code, and values in one canonical JSON form.

Digests of files on this disk are kept between nights, so that a file that has not changed is not hashed again.
"""

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

from pydantic_core import from_json, to_json  # they take a third of the time of json

RACY_NS = 2_000_000_000  # nanoseconds; no file system's clock has coarser steps
STAMP = struct.Struct("=QqqQ").pack  # size, mtime in ns, ctime in ns, inode


def canonical_json(value: Any) -> bytes:
    """The value as sorted, compact JSON in UTF-8. A date is written like 2013-10-01.

    Raises ValueError for NaN and infinities, TypeError for a type that JSON does not have.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False, default=_day_text
    )
    return text.encode()


def _day_text(value: Any) -> str:
    if type(value) is not date:
        raise TypeError(f"canonical JSON cannot hold a {type(value).__name__}")
    return value.isoformat()


def digest_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sealed(data: bytes) -> bytes:
    """The bytes with a first line that has their SHA-256, so that `unsealed` can tell whether they are damaged."""
    return digest_bytes(data).encode() + b"\n" + data


def unsealed(data: bytes) -> bytes | None:
    """The bytes that were sealed; None if they are damaged."""
    digest, _, body = data.partition(b"\n")
    return body if digest == digest_bytes(body).encode() else None


def digest_value(value: Any) -> str:
    """Digest of anything that canonical JSON can hold. Raises what `canonical_json` raises."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_sources(root: Path, files: Iterable[Path]) -> str:
    """Digest of source files by their path below `root` and their bytes."""
    return digest_value({path.relative_to(root).as_posix(): digest_file(path) for path in files})


class FileDigests:
    """Digests of files on this disk. A file is hashed again only if its size, mtime, ctime or inode changed.

    A digest is not kept if the file was written less than two seconds before it was hashed: as git knows, a second edit
    in the same step of the clock could leave all four as they are. An edit whose mtime was set back shows in ctime,
    which no program can set.

    `used` holds what to keep for the next time. `settled` is False if some digest could not be kept.
    """

    def __init__(self, kept: dict[str, list[Any]]) -> None:
        self.kept, self.used, self.settled = kept, dict[str, list[Any]](), True

    def of(self, path: str, stat: os.stat_result) -> str:
        """The digest of the file with this path and these stats."""
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        kept = self.kept.get(path)
        if kept is not None and kept[:4] == state:
            self.used[path] = kept
            return str(kept[4])
        now = time.time_ns()
        digest = digest_file(Path(path))
        if max(stat.st_mtime_ns, stat.st_ctime_ns) + RACY_NS < now:
            self.used[path] = [*state, digest]
        else:
            self.settled = False
        return digest


class KeptDigests:
    """A file that keeps what was made of each month's files, as long as none of them changed.

    For a month that changed, it keeps the digests of the files that did not.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.kept, self.used = file, _read_kept(file), dict[str, list[Any]]()

    def of(
        self, name: str, decided: str, stats: Mapping[str, os.stat_result], make: Callable[[FileDigests], Any]
    ) -> Any:
        """What `make` returns for the files of the month `name`. It is called only if something changed.

        The result must have JSON's types. `decided`: a text of all else that decides the result. `stats`: the stats of
        the month's files, by path.
        """
        stamp = _stamp(decided, stats)
        kept = self.kept.get(name)
        if kept is None or kept[0] != stamp:
            files = FileDigests(json.loads(kept[2]) if kept is not None else {})
            made = make(files)
            kept = [stamp if files.settled else "", made, canonical_json(files.used).decode()]
        self.used[name] = kept
        return kept[1]

    def save(self) -> None:
        """Writes what was kept or made of the months that `of` was called for; other months are forgotten."""
        if self.used == self.kept:
            return
        write_whole(self.file, sealed(to_json(self.used)))


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, so that other threads and processes may read or write it meanwhile.

    It is meant for files that can be made again: unlike the store's files, they may not survive a power failure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _stamp(decided: str, stats: Mapping[str, os.stat_result]) -> str:
    """A digest that changes with `decided` and with every file's path, size, times and inode."""
    states = [STAMP(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for stat in stats.values()]
    return digest_bytes(b"".join(["\n".join([decided, *stats]).encode("utf-8", "surrogateescape"), *states]))


def _read_kept(file: Path) -> dict[str, list[Any]]:
    """What the file keeps; empty if there is no file or it is damaged. Everything is then hashed again."""
    try:
        kept = unsealed(file.read_bytes())
    except OSError:
        return {}
    return {} if kept is None else from_json(kept)
