"""What makes a run itself: everything that decides its result, in one SHA-256. Never a git commit."""

import functools
import re
from importlib import metadata
from pathlib import Path

from ml.artifacts import Night
from ml.digests import digest_sources, digest_value
from ml.errors import ConfigError

ROOT = Path(__file__).parents[1]
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
    "verdict": (*READING, "serving/rules.py", "cleaning.py", "meaning.py", "validation.py", "row_alone.py"),
    "cleaned": (*READING, "cleaning.py", "validation.py"),  # which drops duplicates
    "statistics": ("serving/columns.py", "serving/features.py", "cleaning.py", "features.py", "split.py", "windows.py"),
}


def run_key(night: Night, snapshot_digest: str) -> str:
    """Key of a run that is finished at most once."""
    return digest_value([*_what_is_learnt(night, snapshot_digest), str(night.as_of)])


def _what_is_learnt(night: Night, snapshot_digest: str) -> list[str | int | None]:
    return [
        night.use_case,
        snapshot_digest,
        night.use_case_digest,
        night.code_digest,
        night.lock_digest,
        night.device,
        night.threads,
        night.seed,
        night.again,
    ]


def learning_key(night: Night, snapshot_digest: str) -> str:
    """The run key without its date: two nights with the same one would learn the same, so the second is NOTHING_NEW."""
    return digest_value(_what_is_learnt(night, snapshot_digest))


def code_digest(sources: str) -> str:
    """Digest of the sources of ml/ and expectations/ that a run executes, and of `sources`: that of the use case's file
    with every module of its own.

    Our own modules are in memory as they were when first read, or, of those that are imported later, compared then
    (`require_same_code`); the use case's file and modules run from the bytes that were hashed.
    """
    return digest_value([own_code_digest(), sources])


@functools.cache
def own_code_digest() -> str:
    files = [*(ROOT / "ml").rglob("*.py"), *(ROOT / "expectations").glob("*.py")]
    return digest_sources(ROOT, sorted(path for path in files if path.parent.name != "use_cases"))


def require_same_code() -> None:
    """Raises ConfigError where our sources changed since the night began: what is imported now would be of others."""
    if own_code_digest.__wrapped__() != own_code_digest():
        raise ConfigError("our sources stay as they are during a night", "they changed", "run it again")


@functools.cache
def state_code_digest(kind: str) -> str:
    """Digest of the code and libraries that decide a partition's states of that kind."""
    files = [ROOT / "ml" / name for name in STATE_MODULES[kind]]
    versions = [metadata.version(name) for name in ("pandas", "pyarrow", "numpy")]
    return digest_value([kind, digest_sources(ROOT, files), versions])


@functools.cache
def lock_digest(instructions: str) -> str:
    """Digest of the installed version of everything that the project requires, and of the CPU's vector instructions."""
    required = metadata.requires("nightly-retrain") or []
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in required if "extra ==" not in line}
    return digest_value([{name: metadata.version(name) for name in sorted(names)}, instructions])
