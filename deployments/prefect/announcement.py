"""Where the servers of a running `retrain up` are: said by it, found by the other commands."""

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
    """Where a running `retrain up` can be reached, its process, and the places that its runs use."""

    prefect_api: str
    prefect_ui: str
    mlflow_ui: str
    pid: int
    store: str
    tracking_uri: str


@contextmanager
def only_up(settings: Settings) -> Iterator[None]:
    """At most one `retrain up` in a home."""
    busy = Busy("a home has one `retrain up`", f"another one runs in {settings.home}", "stop it, or set RETRAIN_HOME")
    with held_lock(settings.home / "up.lock", 0, busy):
        yield


@contextmanager
def announce(settings: Settings, servers: Servers) -> Iterator[None]:
    """Tells the other commands, for the time of the context, where the servers are."""
    path = _announcement(settings)
    whole = path.with_suffix(".json.tmp")
    whole.unlink(missing_ok=True)
    whole.touch(mode=0o600)  # its addresses may hold passwords
    whole.write_text(json.dumps(asdict(servers)))
    whole.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_servers(settings: Settings) -> Servers | None:
    """The servers of the `retrain up` of this home, if its process is alive and Prefect answers."""
    try:
        servers = Servers(**json.loads(_announcement(settings).read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # not there, or not what `announce` writes
        return None
    return servers if is_alive(servers.pid) and answers(f"{servers.prefect_api}/health") else None


def _announcement(settings: Settings) -> Path:
    return settings.home / "up.json"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
