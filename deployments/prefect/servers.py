"""Starts Prefect's and MLflow's servers on loopback, as children that end with the process that started them."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.prefect.children import Child, child
from deployments.prefect.client import answers
from deployments.prefect.held import POLL_SECONDS, send_what_is_held, wait_until_recorded
from ml.errors import PrefectUnavailable, RegistryUnavailable, UsageError
from ml.settings import Settings
from ml.storage import paths
from ml.storage.locks import held_lock

HOST = "127.0.0.1"
START_SECONDS = 180.0  # on two idle cores Prefect takes 8 s with a new database and MLflow 5 s; with load 18, over 60 s
# Services of Prefect that schedules, workers and concurrency limits need, and that a single run does not. The recorders
# of events and task runs, and the automations, always stay on.
SCHEDULING_SERVICES = (
    "SCHEDULER",
    "LATE_RUNS",
    "FOREMAN",
    "CANCELLATION_CLEANUP",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "CLEANUP_RECONCILER",
)


@dataclass(frozen=True)
class Server:
    """A server: its process, its address, and the address (`health`) that answers as soon as the server is ready."""

    child: Child
    url: str
    health: str

    def wait(self) -> None:
        """Waits until the server answers. Raises its error if it ends, or does not answer within START_SECONDS."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.health):
            self.child.require_alive()
            if time.monotonic() > deadline:
                raise self.child.unavailable(
                    f"the {self.child.name} answers within {START_SECONDS:.0f} s",
                    f"{self.health} does not",
                    f"read {self.child.log}",
                )
            time.sleep(POLL_SECONDS)


@contextmanager
def prefect_server(
    settings: Settings, port: int = 0, *, services: bool = False, meanwhile: Callable[[], object] = lambda: None
) -> Iterator[str]:
    """Runs a Prefect server until the context ends, and yields the URL of its API. Port 0 means any free port.

    `services` adds the pages and the services that schedules need. `meanwhile` is called while the server starts, for
    example to import modules. Before the server stops, this process sends it the logs and events that it still holds.
    """
    since = datetime.now(UTC)
    with ExitStack() as stack:
        with one_start_at_a_time(settings):
            server = stack.enter_context(starting_prefect(settings, port, services=services))
            meanwhile()
            server.wait()
        try:
            yield server.url
        finally:
            send_what_is_held()
            wait_until_recorded(server.url, since)


@contextmanager
def mlflow_server(settings: Settings, port: int = 0) -> Iterator[str]:
    """Runs an MLflow server until the context ends; yields its URL, which is also its page. Port 0 means a free one."""
    with starting_mlflow(settings, port) as server:
        server.wait()
        yield server.url


@contextmanager
def starting_prefect(settings: Settings, port: int = 0, *, services: bool) -> Iterator[Server]:
    """A Prefect server on the database in PREFECT_HOME, which may not be ready yet. Its `url` is that of the API."""
    port = port or free_port()
    address = f"http://{HOST}:{port}"
    environment = {
        # Variables instead of options, because Prefect's page finds the API by these variables only.
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_ENABLED": str(services).lower(),
        "PREFECT_UI_URL": address if services else "",  # links in alerts begin with it; without pages there is no link
        # By default task runs are recorded one by one, 20 in a second: of 1,000 quick ones 70 % were lost at the stop.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "500",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{address},http://localhost:{port}",  # by default any web site may ask
        **({} if services else {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in SCHEDULING_SERVICES}),
    }
    command = ["prefect", "server", "start"]
    with child(settings, "Prefect server", command, environment, PrefectUnavailable) as process:
        yield Server(process, f"{address}/api", f"{address}/api/health")


@contextmanager
def starting_mlflow(settings: Settings, port: int = 0) -> Iterator[Server]:
    """An MLflow server on the tracking store, which may not be ready yet. Its page reads artifacts from the store."""
    port = port or free_port()
    address = f"http://{HOST}:{port}"
    environment = {
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,  # no option, for it may hold a password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it would start five more processes that we do not use
    }
    root = f"{settings.store}/{paths.mlflow_root()}"
    command = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--no-serve-artifacts", "--default-artifact-root", root, "--uvicorn-opts", "--log-level warning"]
    with child(settings, "MLflow server", command, environment, RegistryUnavailable) as process:
        yield Server(process, address, f"{address}/health")


@contextmanager
def one_start_at_a_time(settings: Settings) -> Iterator[None]:
    """Lets one process at a time start a server in this home, for up to START_SECONDS.

    If two servers migrated a new database at the same time, the second would die of a duplicate column.
    """
    busy = PrefectUnavailable(
        f"a Prefect server starts within {START_SECONDS:.0f} s",
        f"another process is still starting one in {settings.home}",
        "wait for it, or end it",
    )
    with held_lock(settings.home / "prefect-start.lock", START_SECONDS, busy):
        yield


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def require_free_port(port: int, option: str) -> None:
    """Raises UsageError for a port that cannot be opened; the error names the option that sets it."""
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise UsageError(f"{option} is a free port", f"{port} is not ({reason})", f"set {option} to another") from error
