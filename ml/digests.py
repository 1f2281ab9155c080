"""Content addresses: one canonical JSON form and SHA-256 over bytes, values and sources."""

import hashlib
import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any


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


def digest_value(value: Any) -> str:
    """Digest of anything that canonical JSON can hold."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_sources(root: Path, files: Iterable[Path]) -> str:
    """Digest of source files by their path below `root` and their bytes."""
    return digest_value({path.relative_to(root).as_posix(): digest_file(path) for path in files})
