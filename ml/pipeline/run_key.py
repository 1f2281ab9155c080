"""The key of a run: one SHA-256 over everything that decides its result. A git commit is never part of it."""

import functools
import re
from importlib import metadata

from ml.data.code import ROOT
from ml.digests import digest_sources, digest_value
from ml.errors import ConfigError
from ml.storage.records import Night


def run_key(night: Night, snapshot_digest: str) -> str:
    """The key of a run. A run with the same key is finished at most once."""
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
    """The run key without the date. Two nights with the same learning key would learn the same model, so the second one
    decides NOTHING_NEW."""
    return digest_value(_what_is_learnt(night, snapshot_digest))


def code_digest(sources: str) -> str:
    """A digest of all code that a run executes: ml/, expectations/, and the use case's file with its own modules, of
    which `sources` is the digest.

    It holds for the whole run. The use case's code runs from the very bytes that were hashed. Our own modules stay in
    memory as they were imported; a stage that imports more of them calls `require_same_code` first.
    """
    return digest_value([own_code_digest(), sources])


@functools.cache
def own_code_digest() -> str:
    """A digest of the files of ml/ and expectations/, as they were when this process first asked."""
    files = [*(ROOT / "ml").rglob("*.py"), *(ROOT / "expectations").glob("*.py")]
    return digest_sources(ROOT, sorted(path for path in files if path.parent.name != "use_cases"))


def require_same_code() -> None:
    """Raises ConfigError if our sources changed since the night began: modules imported from now on would be others."""
    if own_code_digest.__wrapped__() != own_code_digest():
        raise ConfigError("our sources stay as they are during a night", "they changed", "run it again")


@functools.cache
def lock_digest(instructions: str) -> str:
    """A digest of the installed versions of all required packages and of the CPU's vector instructions."""
    required = metadata.requires("nightly-retrain") or []
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in required if "extra ==" not in line}
    return digest_value([{name: metadata.version(name) for name in sorted(names)}, instructions])
