"""Real Prefect and MLflow servers as children on loopback; none of them outlives the process that started it.

`python -m deployments.servers PID MODULE [ARGUMENT ...]` is how a child runs: MODULE, for as long as PID lives.
"""

import http.client
import json
import logging
import os
import queue
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deployments.environment import homes_and_telemetry
from ml.errors import Busy, PrefectUnavailable, RegistryUnavailable, Unavailable, UsageError
from ml.settings import Settings
from ml.storage import paths
from ml.storage.locks import held_lock

log = logging.getLogger("retrain.servers")

HOST = "127.0.0.1"
START_SECONDS = 60.0  # measured on two idle cores: Prefect 8 s with a new database and 3 s afterwards, MLflow 5 s
STOP_SECONDS = 5.0  # measured: Prefect 0.2 s, MLflow 1.5 s
SETTLE_SECONDS = 5.0
ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.05
ORPHAN_SECONDS = 0.5
SHOWN_LINES, SHOWN_CHARACTERS = 10, 300

# What schedules, workers and concurrency limits need, and one run does not. The recorders of events and task runs and
# the automations stay on.
SCHEDULING_SERVICES = (
    "SCHEDULER",
    "LATE_RUNS",
    "FOREMAN",
    "CANCELLATION_CLEANUP",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "CLEANUP_RECONCILER",
)
SUCCESS = range(200, 300)
TRIES, TRY_AGAIN_SECONDS = 5, 1.0
ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
NOT_ENDED = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]


@dataclass(frozen=True)
class Servers:
    """Where a running `retrain up` can be reached, its process, and the places that its runs use."""

    prefect_api: str
    prefect_ui: str
    mlflow_ui: str
    pid: int
    store: str
    tracking_uri: str


@dataclass(frozen=True)
class Child:
    """A process of ours in a session of its own, so that Ctrl-C in the terminal reaches only its parent."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    log_start: int  # bytes that earlier processes had written
    unavailable: type[Unavailable]

    def require_alive(self) -> None:
        """Raises the child's error, and logs its last lines, if it has ended by itself."""
        code = self.process.poll()
        if code is None:
            return
        lines = self._said()
        log.error("The %s said at last:", self.name)
        for line in lines[-SHOWN_LINES:]:
            log.error("%s", line)
        raise self.unavailable(
            f"the {self.name} runs until it is stopped",
            f"it ended with exit code {code} ({_last_words(lines)})",
            f"read {self.log}",
        )

    def _said(self) -> list[str]:
        text = self.log.read_bytes()[self.log_start :].decode(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()]


def _last_words(lines: list[str]) -> str:
    """The last line that names an error, or else the last."""
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it said nothing"])[-1].strip()[:SHOWN_CHARACTERS]


@dataclass(frozen=True)
class Server:
    """A child with an address, and another that answers as soon as it is ready."""

    child: Child
    url: str
    health: str

    def wait(self) -> None:
        """Returns when the server answers; raises its error if it ends first, or is silent for START_SECONDS."""
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
    """A Prefect server for the time of the context; yields the URL of its API. Port 0 stands for a free one.

    `services` adds the page and what schedules need. `meanwhile` is called while the server starts: imports take as
    long. At the end, what this process still holds for the server is sent and recorded before it stops.
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
    """An MLflow server for the time of the context; yields its URL, which is also its page. Port 0: a free one."""
    with starting_mlflow(settings, port) as server:
        server.wait()
        yield server.url


@contextmanager
def starting_prefect(settings: Settings, port: int = 0, *, services: bool) -> Iterator[Server]:
    """A Prefect server on the database of PREFECT_HOME, perhaps not ready yet. Its URL is the API's."""
    port = port or free_port()
    address = f"http://{HOST}:{port}"
    environment = {
        "PREFECT_SERVER_API_HOST": HOST,  # by variables, because the page asks these, and not the flags, for the API
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_ENABLED": str(services).lower(),
        "PREFECT_UI_URL": address if services else "",  # what links in alerts begin with: none leads where no page is
        # One by one, as by default, 1,000 quick task runs were recorded at 20 a second and 70 % lost at the stop.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "500",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{address},http://localhost:{port}",  # by default any web site
        **({} if services else {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in SCHEDULING_SERVICES}),
    }
    command = ["prefect", "server", "start"]
    with child(settings, "Prefect server", command, environment, PrefectUnavailable) as process:
        yield Server(process, f"{address}/api", f"{address}/api/health")


@contextmanager
def starting_mlflow(settings: Settings, port: int = 0) -> Iterator[Server]:
    """An MLflow server on the tracking store, perhaps not ready yet. It reads artifacts where the runs say they are."""
    port = port or free_port()
    address = f"http://{HOST}:{port}"
    environment = {
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,  # not an argument: it may hold a password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # five more processes, for evaluations by language models
    }
    root = f"{settings.store}/{paths.mlflow_root()}"
    command = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--no-serve-artifacts", "--default-artifact-root", root, "--uvicorn-opts", "--log-level warning"]
    with child(settings, "MLflow server", command, environment, RegistryUnavailable) as process:
        yield Server(process, address, f"{address}/health")


@contextmanager
def child(
    settings: Settings,
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    unavailable: type[Unavailable],
    ending: signal.Signals = signal.SIGTERM,
) -> Iterator[Child]:
    """Runs `python -m` with the command until the context ends or this process does, whatever ends it.

    Its output is appended to <home>/logs/, under its name. The `ending` signal is what it is asked with to stop.
    """
    path = settings.home / "logs" / f"{name.lower().replace(' ', '-')}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as output:
        written_before = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.servers", str(os.getpid()), *command],
            env=_environment(settings, environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Child(name, process, path, written_before, unavailable)
    finally:
        _stop(process, ending)


def _environment(settings: Settings, own: Mapping[str, str]) -> dict[str, str]:
    """This process's variables, those of the home, and the child's own."""
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    python = {
        "PYTHONSAFEPATH": "1",  # a folder `ml` or `tasks` in the working directory must not shadow ours
        "PYTHONUNBUFFERED": "1",  # so that the last line of a log is what was said last
    }
    return {**inherited, **homes_and_telemetry(settings), **python, **own}


def _stop(process: "subprocess.Popen[bytes]", ending: signal.Signals) -> None:
    """Asks the child to end, and kills what is left of its session."""
    try:
        process.send_signal(ending)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def send_what_is_held() -> None:
    """Sends the logs and events that Prefect holds in this process.

    Without it the last lines are lost, and at its exit Python waits over a minute for a server that has gone.
    """
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        logging.getLogger(worker.__name__).setLevel(logging.ERROR)  # it would warn of each line still to be sent
        worker.drain_all(timeout=SETTLE_SECONDS)


def drop_what_is_held() -> None:
    """Forgets what Prefect holds for a server that has gone: at its exit Python would try each event for 7 s."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    workers: tuple[Any, ...] = (EventsWorker, APILogWorker)
    for worker in workers:
        for service in list(worker._instances.values()):
            with suppress(queue.Empty):
                while True:
                    service._queue.get_nowait()


def wait_until_recorded(api: str, since: datetime) -> None:
    """Waits while a flow run that ended since then has task runs that are recorded as unfinished.

    Flow runs are written at once, task runs from events, a second later and again if the database was locked.
    """
    query = {
        "flow_runs": {"state": {"type": {"any_": ENDED}}, "end_time": {"after_": since.isoformat()}},
        "task_runs": {"state": {"type": {"any_": NOT_ENDED}}},
    }
    deadline = time.monotonic() + SETTLE_SECONDS
    while ask(f"{api}/task_runs/count", query) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


@contextmanager
def one_start_at_a_time(settings: Settings) -> Iterator[None]:
    """Two servers that migrate one new database at the same time: the second dies of a duplicate column."""
    busy = PrefectUnavailable(
        f"a Prefect server starts within {START_SECONDS:.0f} s",
        f"another process is still starting one in {settings.home}",
        "wait for it, or end it",
    )
    with held_lock(settings.home / "prefect-start.lock", START_SECONDS, busy):
        yield


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


def answers(url: str) -> bool:
    return _status_and_body("GET", url, None, {})[0] == http.client.OK


def ask(url: str, query: Mapping[str, Any] | None = None, *, method: str = "POST") -> Any:
    """The answer of Prefect's API, to what is posted or else to the URL alone; None where it has none."""
    method, content = ("GET", None) if query is None else (method, json.dumps(query))
    status, body = _status_and_body(method, url, content, _authorization())
    return json.loads(body) if status in SUCCESS and body else None


def insisted(url: str, query: dict[str, Any]) -> Any:
    """The answer of Prefect's API to what may be asked twice. On sqlite one request may find the database locked."""
    for _ in range(TRIES):
        answer = ask(url, query)
        if answer is not None:
            return answer
        time.sleep(TRY_AGAIN_SECONDS)
    raise PrefectUnavailable(
        "Prefect does what it is asked", f"{url} failed {TRIES} times", "read its log, start again"
    )


def _authorization() -> dict[str, str]:
    """What a Prefect server with a password wants to see, as its own client does it."""
    given = os.environ.get("PREFECT_API_AUTH_STRING")
    return {"Authorization": f"Basic {b64encode(given.encode()).decode()}"} if given else {}


def _status_and_body(method: str, url: str, content: str | None, authorization: Mapping[str, str]) -> tuple[int, bytes]:
    """One request. The status is 0 where nobody answers. A proxy is not asked: it would look for its own loopback."""
    try:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        with closing(kind(parts.netloc, timeout=ANSWER_SECONDS)) as connection:
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request(method, target, content, {"Content-Type": "application/json", **authorization})
            response = connection.getresponse()
            return response.status, response.read()
    except (OSError, ValueError, http.client.HTTPException):  # ValueError: it is no address
        return 0, b""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def require_free_port(port: int, option: str) -> None:
    """Raises UsageError, which names the option, for a port that cannot be opened."""
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise UsageError(f"{option} is a free port", f"{port} is not ({reason})", f"set {option} to another") from error


def _live_with(parent: int) -> None:
    """Kills this process and all of its session soon after the parent has gone, even if that was killed."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _run_as_child(parent: int, module: str) -> None:
    threading.Thread(target=_live_with, args=[parent], daemon=True).start()
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run_as_child(int(sys.argv[1]), sys.argv[2])
