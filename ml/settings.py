"""Where this installation keeps its things, read from the environment at call time."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ml.errors import ConfigError

ENCRYPTION = re.compile(r"|(AES256|aws:kms)(?:(?<=kms):(\S+))?")
HOME = ".retrain"
ODD = "%?"  # MLflow takes a path for an address: %41 is read as A, and all after a ? is left out
LONGEST_PATH = 300  # bytes: sqlite opens no file of more than 512, and models lie 150 below
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
    def from_environment(cls, home: Path | None = None) -> "Settings":
        """Reads RETRAIN_HOME, _STORE, _PROJECT, _THREADS, _BATCH_MB and MLFLOW_TRACKING_URI; empty is unset.

        `home` stands for RETRAIN_HOME. Nothing is made: the home may not be there yet. Raises ConfigError for a number
        that is none, and for files on this disk with an MLflow elsewhere.
        """
        home = home or _home()
        store = _absolute(os.environ.get("RETRAIN_STORE") or str(home / "store"))
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"
        project = os.environ.get("RETRAIN_PROJECT")
        _refuse_disk_with_remote_registry(store, tracking_uri)
        return cls(home, store, tracking_uri, _existing(project) if project else None, *_numbers())

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def has_home(self) -> bool:
        return self.home.is_dir()

    @property
    def keeps_files_at_home(self) -> bool:
        """Whether there is nothing to read where there is no home."""
        return "://" not in self.store and Path(self.store).is_relative_to(self.home)

    @property
    def batch_bytes(self) -> int:
        return self.batch_mb * 2**20


def _home() -> Path:
    """RETRAIN_HOME, else `.retrain` of the nearest folder that has one, from the working directory upwards; else the
    one that the working directory would get."""
    given = os.environ.get("RETRAIN_HOME")
    if given:
        home = Path(_plain("RETRAIN_HOME", given)).absolute()
    else:
        here = Path.cwd()
        above = (folder / HOME for folder in (here, *here.parents))
        home = next((each for each in above if each.is_dir()), here / HOME)
    _plain("RETRAIN_HOME", str(home))  # with the working directory before it
    return home


def where_no_home_is() -> str:
    """Where a home was looked for, where there is none."""
    given = os.environ.get("RETRAIN_HOME")
    if given:
        return f"there is no folder {Path(given).absolute()}, which RETRAIN_HOME names"
    return f"neither {Path.cwd()} nor a folder above it has {HOME}, and RETRAIN_HOME is not set"


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
    if "://" not in store:
        return str(Path(_plain("RETRAIN_STORE", store)).absolute())
    if "@" in store:
        raise ConfigError("RETRAIN_STORE holds no credentials", "it has an @", "set AWS_ACCESS_KEY_ID and its secret")
    return store


def _plain(name: str, path: str) -> str:
    """The path, where libraries that take it for an address, or print it, read it as it is written."""
    odd = sorted({letter for letter in path if letter in ODD or not letter.isprintable()})
    if odd:
        raise ConfigError(
            f"{name} has none of {' '.join(ODD)} and only letters that can be printed",
            f"it has {', '.join(map(ascii, odd))}",
            "name a folder without",
        )
    size = len(os.fsencode(path))
    if size > LONGEST_PATH:
        raise ConfigError(f"{name} has at most {LONGEST_PATH} bytes", f"it has {size}", "name a folder nearer to /")
    return path


def _existing(project: str) -> Path:
    if not Path(_plain("RETRAIN_PROJECT", project)).is_dir():
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
