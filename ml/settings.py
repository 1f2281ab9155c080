"""Where this installation keeps its things, read from environment variables when it is asked, not at import.

Paths that MLflow or sqlite would misread, credentials in an address, and a folder on this disk together with an MLflow
server elsewhere are refused.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ml.errors import ConfigError

ENCRYPTION = re.compile(r"|(AES256|aws:kms)(?:(?<=kms):(\S+))?")
HOME = ".retrain"
ODD = "%?"  # MLflow treats a path as an address: it reads %41 as A, and drops all that follows a ?
LONGEST_PATH = 300  # bytes: sqlite opens no path of more than 512, and models lie 150 bytes below
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Settings:
    """Where everything lies, and how much may be used.

    `home`: the folder on this disk. `store`: where files are kept, a folder or `s3://bucket/prefix`. `tracking_uri`:
    MLflow's address. `project`: a company's own folder of use cases. `threads`: for computing. `batch_mb`: megabytes of
    raw rows that may be in memory at once.
    """

    home: Path
    store: str
    tracking_uri: str
    project: Path | None
    threads: int
    batch_mb: int = 100

    @classmethod
    def from_environment(cls, home: Path | None = None) -> "Settings":
        """Reads RETRAIN_HOME, _STORE, _PROJECT, _THREADS, _BATCH_MB and MLFLOW_TRACKING_URI.

        An empty variable counts as unset. `home` replaces RETRAIN_HOME. No folder is made: the home may not be there
        yet. Raises ConfigError for a path or a number that cannot be used, and if the store is on this disk while
        MLflow is elsewhere.
        """
        home = home or _home()
        store = _absolute(os.environ.get("RETRAIN_STORE") or str(home / "store"))
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"
        project = os.environ.get("RETRAIN_PROJECT")
        _refuse_disk_with_remote_registry(store, tracking_uri)
        project_folder = _existing(project) if project else None
        threads, batch_mb = _number("RETRAIN_THREADS", "1"), _number("RETRAIN_BATCH_MB", "100")
        return cls(home, store, tracking_uri, project_folder, threads, batch_mb)

    @property
    def data(self) -> Path:
        """The folder of sources that are declared without an absolute path."""
        return self.home / "data"

    @property
    def has_home(self) -> bool:
        return self.home.is_dir()

    @property
    def keeps_files_at_home(self) -> bool:
        """Whether the store lies in the home, so that without a home there is nothing to read."""
        return "://" not in self.store and Path(self.store).is_relative_to(self.home)

    @property
    def batch_bytes(self) -> int:
        return self.batch_mb * 2**20


def _home() -> Path:
    """RETRAIN_HOME if it is set, else the nearest `.retrain` in the working directory or a folder above it.

    If there is none, it is the one that the working directory would get.
    """
    given = os.environ.get("RETRAIN_HOME")
    if given:
        home = Path(_plain("RETRAIN_HOME", given)).absolute()
    else:
        here = Path.cwd()
        above = [folder / HOME for folder in (here, *here.parents)]
        home = next((folder for folder in above if folder.is_dir()), here / HOME)
    _plain("RETRAIN_HOME", str(home))  # again, with the working directory in front of a relative path
    return home


def where_no_home_is() -> str:
    """Where a home was looked for and not found, in words."""
    given = os.environ.get("RETRAIN_HOME")
    if given:
        return f"there is no folder {Path(given).absolute()}, which RETRAIN_HOME names"
    return f"neither {Path.cwd()} nor a folder above it has {HOME}, and RETRAIN_HOME is not set"


def s3_encryption() -> tuple[str | None, str | None]:
    """How S3 shall encrypt what is stored, and by which key; None for what is not set.

    Raises ConfigError if RETRAIN_S3_ENCRYPTION cannot be read.
    """
    encryption = os.environ.get("RETRAIN_S3_ENCRYPTION") or ""
    match = ENCRYPTION.fullmatch(encryption)
    if match is None:
        raise ConfigError(
            "RETRAIN_S3_ENCRYPTION is AES256, aws:kms or aws:kms:KEY",
            f"it is {encryption!r}",
            "unset it or set one of them",
        )
    return match[1], match[2]


def _absolute(store: str) -> str:
    """The absolute path of a folder, because child processes work in other folders; an address stays as it is.

    Raises ConfigError for an address that holds credentials.
    """
    if "://" not in store:
        return str(Path(_plain("RETRAIN_STORE", store)).absolute())
    if "@" in store:
        raise ConfigError("RETRAIN_STORE holds no credentials", "it has an @", "set AWS_ACCESS_KEY_ID and its secret")
    return store


def _plain(name: str, path: str) -> str:
    """The path as it is. Raises ConfigError for a path that libraries would misread or cannot open."""
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
    """The absolute path of the project's folder. Raises ConfigError if it is not there."""
    if not Path(_plain("RETRAIN_PROJECT", project)).is_dir():
        raise ConfigError("RETRAIN_PROJECT is a folder", f"there is no {project}", "make it, or unset RETRAIN_PROJECT")
    return Path(project).absolute()


def _number(name: str, default: str) -> int:
    """The number in an environment variable. Raises ConfigError if it is no whole number from 1."""
    text = os.environ.get(name) or default
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name} must be a whole number from 1", f"it is {text!r}", f"unset it or set {default}")
    return int(text)


def _refuse_disk_with_remote_registry(store: str, tracking_uri: str) -> None:
    """Raises ConfigError if MLflow is on another machine and the store is a folder here, which it could not read."""
    remote = urlsplit(tracking_uri)
    if remote.scheme in {"http", "https"} and remote.hostname not in LOOPBACK and not store.startswith("s3://"):
        raise ConfigError(
            "a remote MLflow server needs files that it can reach",
            f"MLFLOW_TRACKING_URI is on {remote.hostname} and the store is the folder {store}",
            "set RETRAIN_STORE=s3://bucket/prefix",
        )
