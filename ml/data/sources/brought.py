"""A folder below RETRAIN_HOME/cache/sources into which a source is brought, proved to be as it was written."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml.data.handles import LeftOut
from ml.days import FIRST_DAY, LAST_DAY
from ml.digests import KeptDigests, canonical_json, digest_bytes, sealed, unsealed, write_whole
from ml.errors import SourceUnavailable

BROUGHT = ".brought.json"


def rows_left_out(source: str, count: int, why: str, why_of_one: str) -> tuple[LeftOut, ...]:
    """Nothing where no row is left out."""
    return (LeftOut(source=source, what="row", count=count, why=why_of_one if count == 1 else why),) if count else ()


def rows_without_time(source: str, count: int, time_column: str) -> tuple[LeftOut, ...]:
    return rows_left_out(
        source, count, f"have no {time_column} and belong to no day", f"has no {time_column} and belongs to no day"
    )


def rows_of_no_day(source: str, count: int, time_column: str) -> tuple[LeftOut, ...]:
    """Of a source that does not tell rows without a time from those with one of a year that cannot be."""
    return rows_without_time(source, count, f"{time_column} from {FIRST_DAY} to {LAST_DAY}")


class BroughtFolder:
    """What was brought: what the source was then, what of it was left out, and which files are still as they were
    written.

    A file's digest is that of the bytes that were to be written: what a disk made of them does not count.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.digests = path, KeptDigests(path.with_name(f"{path.name}.json"))
        brought = self._read()
        self.source, self.noted = brought["source"], brought["files"]
        self.left_out = tuple(LeftOut(**each) for each in brought.get("left_out", ()))
        self.unusable: dict[str, str] = brought.get("unusable", {})
        seen = self._seen()
        self.intact = {name for name, digest in self.noted.items() if seen.get(name) == digest}
        self.is_whole = self.intact == self.noted.keys() == seen.keys()
        self.written: dict[str, str] = {}

    def write(self, name: str, data: bytes) -> None:
        """A file whole or not at all. One that has these bytes keeps its times, and so its kept digest."""
        self.written[name] = digest_bytes(data)
        if name not in self.intact or self.noted[name] != self.written[name]:
            self._clear_way(name)
            write_whole(self.path / name, data)

    def _clear_way(self, name: str) -> None:
        """A day may have been a folder before and be a file now, or the other way round."""
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
        """Notes that it now holds these files of such a source, and nothing else."""
        self._remove_others(set(names))
        seen = self._seen()
        self._refuse_damaged(seen)
        noted = {
            "source": source,
            "files": seen,
            "left_out": [asdict(each) for each in left_out],
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

    def _refuse_damaged(self, seen: Mapping[str, str]) -> None:
        damaged = [name for name, digest in self.written.items() if seen.get(name) != digest]
        if damaged:
            raise SourceUnavailable(
                "the disk must give back what was written to it",
                f"{self.path / damaged[0]} holds other bytes",
                "check the disk, then run again",
            )

    def digest_of(self, path: Path) -> str:
        """Of a file elsewhere; it is hashed where it may have changed since the last time."""
        stats = {str(path): path.stat()}
        return str(self.digests.of("source", "", stats, lambda files: files.of(str(path), stats[str(path)])))

    def _read(self) -> Any:
        """Nothing where it was never brought, or not to its end, or what was noted is damaged."""
        try:
            noted = unsealed((self.path / BROUGHT).read_bytes())
        except OSError:
            noted = None
        return {"source": None, "files": {}} if noted is None else json.loads(noted)

    def _files(self) -> dict[str, Path]:
        found = (path for path in self.path.rglob("*") if path.is_file() and path.name != BROUGHT)
        return {path.relative_to(self.path).as_posix(): path for path in sorted(found)}

    def _seen(self) -> dict[str, str]:
        """Digest by name."""
        files = self._files()
        stats = {str(path): path.stat() for path in files.values()}
        found = self.digests.of(
            "days", "", stats, lambda digests: {path: digests.of(path, stat) for path, stat in stats.items()}
        )
        return {name: found[str(path)] for name, path in files.items()}
