"""The folder below RETRAIN_HOME/cache/sources that holds the copy of a source.

It notes the digest of every file that it writes, so it knows which files are still as they were written. If the disk
gives back other bytes than were written, it refuses to go on.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml.data.handles import LeftOut
from ml.days import FIRST_DAY, LAST_DAY
from ml.digests import KeptDigests, canonical_json, digest_bytes, sealed, unsealed, write_whole
from ml.errors import SourceUnavailable

BROUGHT = ".brought.json"  # notes what the folder holds


def rows_left_out(source: str, count: int, why: str, why_of_one: str) -> tuple[LeftOut, ...]:
    """What the report says of `count` rows that are left out; empty if there are none."""
    return (LeftOut(source=source, what="row", count=count, why=why_of_one if count == 1 else why),) if count else ()


def rows_without_time(source: str, count: int, time_column: str) -> tuple[LeftOut, ...]:
    """What the report says of rows without a time; empty if there are none."""
    return rows_left_out(
        source, count, f"have no {time_column} and belong to no day", f"has no {time_column} and belongs to no day"
    )


def rows_of_no_day(source: str, count: int, time_column: str) -> tuple[LeftOut, ...]:
    """The same for a source that does not tell rows without a time from rows whose year cannot be right."""
    return rows_without_time(source, count, f"{time_column} from {FIRST_DAY} to {LAST_DAY}")


class BroughtFolder:
    """The copy of a source, as it was brought the last time.

    `source`: a JSON value that says what the source was then; None if nothing was brought. `noted`: the digest of every
    file by name. `intact`: the files that are still as they were written. `is_whole`: whether all of them are, and no
    other file is there. `left_out` and `unusable`: what no file has, and the days that cannot be used, with the
    reasons.

    The digest of a file that is written is that of the bytes in memory, not that of what the disk made of them.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.digests = path, KeptDigests(path.with_name(f"{path.name}.json"))
        brought = self._read()
        self.source, self.noted = brought["source"], brought["files"]
        self.left_out = tuple(LeftOut(**item) for item in brought.get("left_out", ()))
        self.unusable: dict[str, str] = brought.get("unusable", {})
        on_disk = self._on_disk()
        self.intact = {name for name, digest in self.noted.items() if on_disk.get(name) == digest}
        self.is_whole = self.intact == self.noted.keys() == on_disk.keys()
        self.written: dict[str, str] = {}

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all.

        A file that has these bytes already is left alone and keeps its times, so that it is not hashed again.
        """
        self.written[name] = digest_bytes(data)
        if name not in self.intact or self.noted[name] != self.written[name]:
            self._clear_way(name)
            write_whole(self.path / name, data)

    def _clear_way(self, name: str) -> None:
        """Removes what is in the way: a day may have been a folder before and be a file now, or the other way round."""
        parent = (self.path / name).parent
        if parent.is_file():
            parent.unlink()
        if (self.path / name).is_dir():
            for path in (self.path / name).iterdir():
                path.unlink()
            (self.path / name).rmdir()

    def keep(
        self,
        source: Any,
        names: Iterable[str],
        left_out: tuple[LeftOut, ...] = (),
        unusable: Mapping[str, str] | None = None,
    ) -> None:
        """Notes that the folder now holds the files of these names and nothing else; other files are removed.

        Raises SourceUnavailable if the disk gives back other bytes than were written.
        """
        self._remove_others(set(names))
        on_disk = self._on_disk()
        self._refuse_damaged(on_disk)
        noted = {
            "source": source,
            "files": on_disk,
            "left_out": [asdict(item) for item in left_out],
            "unusable": dict(unusable or {}),
        }
        write_whole(self.path / BROUGHT, sealed(canonical_json(noted)))
        self.left_out, self.unusable = left_out, dict(unusable or {})

    def _remove_others(self, names: set[str]) -> None:
        files = self._files()
        for name in files.keys() - names:
            files[name].unlink()
        for folder in [path for path in self.path.iterdir() if path.is_dir() and not any(path.iterdir())]:
            folder.rmdir()

    def _refuse_damaged(self, on_disk: Mapping[str, str]) -> None:
        damaged = [name for name, digest in self.written.items() if on_disk.get(name) != digest]
        if damaged:
            raise SourceUnavailable(
                "the disk must give back what was written to it",
                f"{self.path / damaged[0]} holds other bytes",
                "check the disk, then run again",
            )

    def digest_of(self, path: Path) -> str:
        """The digest of a file elsewhere, which is hashed again only if it may have changed since the last time."""
        stats = {str(path): path.stat()}
        return str(self.digests.of("source", "", stats, lambda files: files.of(str(path), stats[str(path)])))

    def _read(self) -> Any:
        """What was noted; an empty note if the source was never brought whole, or if the note is damaged."""
        try:
            noted = unsealed((self.path / BROUGHT).read_bytes())
        except OSError:
            noted = None
        return {"source": None, "files": {}} if noted is None else json.loads(noted)

    def _files(self) -> dict[str, Path]:
        paths = (path for path in self.path.rglob("*") if path.is_file() and path.name != BROUGHT)
        return {path.relative_to(self.path).as_posix(): path for path in sorted(paths)}

    def _on_disk(self) -> dict[str, str]:
        """The digest of every file that the folder holds now, by name."""
        files = self._files()
        stats = {str(path): path.stat() for path in files.values()}
        by_path = self.digests.of(
            "days", "", stats, lambda digests: {path: digests.of(path, stat) for path, stat in stats.items()}
        )
        return {name: by_path[str(path)] for name, path in files.items()}
