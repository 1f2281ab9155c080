"""A folder below RETRAIN_HOME/cache/sources into which a source is brought, proved to be as it was written."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml.digests import KeptDigests, canonical_json, sealed, unsealed, write_whole

BROUGHT = ".brought.json"
NO_DAY = "%d rows of %s have no %s and belong to no day."


class BroughtFolder:
    """What was brought: what the source was then, and which files are still as they were written."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.digests = path, KeptDigests(path.with_name(f"{path.name}.json"))
        brought = self._read()
        self.source, files = brought["source"], brought["files"]
        seen = self._seen()
        self.intact = {name for name, digest in files.items() if seen.get(name) == digest}
        self.is_whole = self.intact == files.keys() == seen.keys()

    def keep(self, source: Any, names: Iterable[str]) -> None:
        """Notes that it now holds these files of such a source, and nothing else."""
        for name in self._files().keys() - set(names):
            (self.path / name).unlink()
        write_whole(self.path / BROUGHT, sealed(canonical_json({"source": source, "files": self._seen()})))

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
