"""Tells other commands where the servers of a running `retrain up` are, by a file in the home."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.prefect.client import answers
from ml.errors import Busy
from ml.settings import Settings
from ml.storage.locks import held_lock


@dataclass(frozen=True)
class Servers:
    """The addresses of a running `retrain up`, the id of its process, and the store and MLflow that its runs use."""

    prefect_api: str
    prefect_ui: str
    mlflow_ui: str
    pid: int
    store: str
    tracking_uri: str


@contextmanager
def only_up(settings: Settings) -> Iterator[None]:
    """Keeps a second `retrain up` out of the home. Raises Busy if one runs already."""
    busy = Busy("a home has one `retrain up`", f"another one runs in {settings.home}", "stop it, or set RETRAIN_HOME")
    with held_lock(settings.home / "up.lock", 0, busy):
        yield


@contextmanager
def announce(settings: Settings, servers: Servers) -> Iterator[None]:
    """Keeps the file that says where the servers are until the context ends."""
    path = _announcement(settings)
    temporary = path.with_suffix(".json.tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)  # the addresses may contain passwords
    temporary.write_text(json.dumps(asdict(servers)))
    temporary.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_servers(settings: Settings) -> Servers | None:
    """The servers of this home's `retrain up`; None unless its process is alive and Prefect answers."""
    try:
        servers = Servers(**json.loads(_announcement(settings).read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # no file, or one that `announce` did not write
        return None
    return servers if is_alive(servers.pid) and answers(f"{servers.prefect_api}/health") else None


def prefect_api(settings: Settings) -> str | None:
    """The API of this home's `retrain up` if it runs, otherwise the one that PREFECT_API_URL names, if it is set."""
    servers = running_servers(settings)
    return servers.prefect_api if servers else os.environ.get("PREFECT_API_URL") or None


def _announcement(settings: Settings) -> Path:
    return settings.home / "up.json"


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's process
        return True
    return True
