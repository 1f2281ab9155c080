"""Which modules and libraries decide each kind of result that is kept of a partition.

Their digest is part of the result's key, so a change in one of them makes those results again, and no others.
"""

import functools
from importlib import metadata
from pathlib import Path

from ml.digests import digest_sources, digest_value

ROOT = Path(__file__).parents[2]
READING = (
    "serving/columns.py",
    "declarations.py",
    "data/source_kinds.py",
    "data/sources/folder.py",
    "data/csv_fields.py",
    "data/dataset.py",
    "data/reading.py",
    "data/derived.py",
    "data/side_tables.py",
    "data/joins.py",
    "data/partitions.py",
    "use_case/own_modules.py",
)
STATE_MODULES = {
    "brought": (
        "serving/columns.py",
        "days.py",
        "data/csv_fields.py",
        "data/reading.py",
        "data/sources/brought.py",
        "data/sources/days.py",
        "data/sources/file.py",
        "data/sources/database.py",
        "data/sources/database_values.py",
    ),
    "verdict": (
        *READING,
        "serving/rules.py",
        "data/cleaning.py",
        "data/meaning.py",
        "data/validation.py",
        "data/row_alone.py",
    ),
    "cleaned": (*READING, "data/cleaning.py", "data/validation.py"),  # which drops duplicates
    "statistics": (
        "serving/columns.py",
        "serving/features.py",
        "data/cleaning.py",
        "data/dataset.py",
        "data/statistics.py",
        "data/split.py",
        "data/window_sums.py",
    ),
}


@functools.cache
def state_code_digest(kind: str) -> str:
    """Digest of the modules and libraries that decide the results of this kind, a key of STATE_MODULES."""
    files = [ROOT / "ml" / name for name in STATE_MODULES[kind]]
    versions = [metadata.version(name) for name in ("pandas", "pyarrow", "numpy")]
    return digest_value([kind, digest_sources(ROOT, files), versions])
