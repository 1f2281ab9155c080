"""Which of our code and libraries decide what is kept of a partition."""

import functools
from importlib import metadata
from pathlib import Path

from ml.digests import digest_sources, digest_value

ROOT = Path(__file__).parents[2]


READING = (
    "serving/columns.py",
    "config.py",
    "own_modules.py",
    "sources.py",
    "csv_fields.py",
    "reading.py",
    "derived.py",
    "side_tables.py",
    "joins.py",
    "snapshots.py",
)


STATE_MODULES = {
    "brought": (
        "serving/columns.py",
        "csv_fields.py",
        "reading.py",
        "days.py",
        "brought.py",
        "file_source.py",
        "database_source.py",
        "database_values.py",
    ),
    "verdict": (*READING, "serving/rules.py", "cleaning.py", "meaning.py", "validation.py"),
    "cleaned": (*READING, "cleaning.py", "validation.py"),  # which drops duplicates
    "statistics": ("serving/columns.py", "serving/features.py", "cleaning.py", "features.py", "split.py", "windows.py"),
}


@functools.cache
def state_code_digest(kind: str) -> str:
    """Digest of the code and libraries that decide a partition's states of that kind."""
    files = [ROOT / "ml" / name for name in STATE_MODULES[kind]]
    versions = [metadata.version(name) for name in ("pandas", "pyarrow", "numpy")]
    return digest_value([kind, digest_sources(ROOT, files), versions])
