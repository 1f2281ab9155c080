"""Where this installation keeps its things, read from the environment at call time."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ml.errors import ConfigError

ENCRYPTION = re.compile(r"|(AES256|aws:kms)(?:(?<=kms):(\S+))?")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Settings:
    """The place of everything: `home` on this disk, `store` for files, `tracking_uri` for MLflow; and what it may use:
    `threads`, and `batch_mb` megabytes of raw rows at once."""

    home: Path
    store: str
    tracking_uri: str
    project: Path | None
    threads: int
    batch_mb: int = 100

    @classmethod
    def from_environment(cls) -> "Settings":
        """Reads RETRAIN_HOME, _STORE, _PROJECT, _THREADS, _BATCH_MB and MLFLOW_TRACKING_URI; empty is unset.

        Raises ConfigError for a number that is none, and for files on this disk with an MLflow elsewhere.
        """
        home = Path(os.environ.get("RETRAIN_HOME") or ".retrain").absolute()
        store = _absolute(os.environ.get("RETRAIN_STORE") or str(home / "store"))
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"
        project = os.environ.get("RETRAIN_PROJECT")
        _refuse_disk_with_remote_registry(store, tracking_uri)
        return cls(home, store, tracking_uri, _existing(project) if project else None, *_numbers())

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def batch_bytes(self) -> int:
        return self.batch_mb * 2**20


def s3_encryption() -> tuple[str | None, str | None]:
    """How S3 is to encrypt what is stored, and by which key. Raises ConfigError for what it cannot be."""
    asked = os.environ.get("RETRAIN_S3_ENCRYPTION") or ""
    found = ENCRYPTION.fullmatch(asked)
    if found is None:
        raise ConfigError(
            "RETRAIN_S3_ENCRYPTION is AES256, aws:kms or aws:kms:KEY", f"it is {asked!r}", "unset it or set one of them"
        )
    return found[1], found[2]


def _absolute(store: str) -> str:
    """A folder's whole path: children work in other folders. An address stays."""
    if "@" in store:
        raise ConfigError("RETRAIN_STORE holds no credentials", "it has an @", "set AWS_ACCESS_KEY_ID and its secret")
    return store if "://" in store else str(Path(store).absolute())


def _existing(project: str) -> Path:
    if not Path(project).is_dir():
        raise ConfigError("RETRAIN_PROJECT is a folder", f"there is no {project}", "make it, or unset RETRAIN_PROJECT")
    return Path(project).absolute()


def _numbers() -> tuple[int, int]:
    """Threads, and megabytes of a batch."""
    return _number("RETRAIN_THREADS", "1"), _number("RETRAIN_BATCH_MB", "100")


def _number(name: str, default: str) -> int:
    text = os.environ.get(name) or default
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name} must be a whole number from 1", f"it is {text!r}", f"unset it or set {default}")
    return int(text)


def _refuse_disk_with_remote_registry(store: str, tracking_uri: str) -> None:
    remote = urlsplit(tracking_uri)
    if remote.scheme in {"http", "https"} and remote.hostname not in LOOPBACK and not store.startswith("s3://"):
        raise ConfigError(
            "a remote MLflow server needs files that it can reach",
            f"MLFLOW_TRACKING_URI is on {remote.hostname} and the store is the folder {store}",
            "set RETRAIN_STORE=s3://bucket/prefix",
        )
