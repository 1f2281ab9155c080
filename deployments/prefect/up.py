"""`retrain up`: starts Prefect's server, MLflow's server and the schedules as one tree of processes, and watches it."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from deployments.environment import discard, left_behind
from deployments.prefect.announcement import Servers, announce, only_up
from deployments.prefect.answered import resume_answered
from deployments.prefect.children import Child, child
from deployments.prefect.client import ask, ask_all, insisted
from deployments.prefect.crashed import OURS, Lost, end_left_tasks, posting, resubmit_crashed
from deployments.prefect.missed import make_up
from deployments.prefect.servers import (
    START_SECONDS,
    Server,
    one_start_at_a_time,
    require_free_port,
    starting_mlflow,
    starting_prefect,
)
from deployments.prefect.upcoming import name_upcoming
from ml.errors import PrefectUnavailable, UsageError, without_passwords
from ml.reporting.decision_section import TRAINING_VIEW
from ml.settings import Settings
from ml.use_case.loading import use_case_files
from tasks.lost import EXECUTED, end_lost

WATCH_SECONDS = 0.2
STOPPED = "`retrain up` stopped while this run was active."
LOOKS_BETWEEN_CRASHES = 25  # so crashed runs are looked for every five seconds
LOOKS_BETWEEN_ANSWERS = 300  # once a minute: a command that answers resumes the run itself, if it can
SERVING = {
    "schedule server": ["deployments.prefect.serve"],
    "backfill server": ["deployments.prefect.serve", "backfills"],
}
# Only runs of deployments: any other run is executed by a command's process, which may be alive.
LOST_RUNS = {
    "flows": OURS,
    "flow_runs": {
        "state": {"type": {"any_": EXECUTED}},
        "deployment_id": {"is_null_": False},
    },
}
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serving_of(work_pool: str | None) -> Mapping[str, list[str]]:
    """The commands of the processes that execute runs, by their names.

    Without a pool, they serve the use cases of this installation. With one, it is a worker for that pool of a Prefect
    server elsewhere. Raises UsageError for a pool without PREFECT_API_URL.
    """
    if work_pool is None:
        return SERVING
    if _given_prefect() is None:
        raise UsageError("--work-pool is a pool of the server at PREFECT_API_URL", "that is not set", "set it")
    # No --limit: with it the worker died when a run was scheduled again before the worker had let go of it.
    worker = ["prefect", "worker", "start", "--pool", work_pool, "--no-create-pool-if-not-found"]
    return {"worker": [*worker, "--install-policy", "never"]}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_up(
    settings: Settings,
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
    *,
    serving: Mapping[str, list[str]] = SERVING,
    say: Callable[[str], None] = _say,
) -> int:
    """Runs everything until Ctrl-C or SIGTERM, which are its normal end, and returns the exit code.

    If PREFECT_API_URL or MLFLOW_TRACKING_URI names a server, that server is used and none is started. Raises UsageError
    for a port that is taken, Busy for a second `up` in this home, and the error of a child that ends by itself.
    """
    with only_up(settings), ended_by_signals(), suppress(KeyboardInterrupt), ExitStack() as children:
        since = datetime.now(UTC)
        started, servers = _start_servers(settings, prefect_port, mlflow_port, children)
        if _given_prefect() is None:  # the server is ours alone, and so are all its runs
            _end_lost_runs(servers.prefect_api)
            children.callback(_end_lost_runs, servers.prefect_api, ask)
        missed = make_up(settings, servers.prefect_api, since)
        mlflow = f"{servers.mlflow_ui}/#/?{TRAINING_VIEW}"
        say(f"Prefect  {servers.prefect_ui}\nMLflow   {mlflow}\nLogs     {settings.home / 'logs'}")
        for sentence in missed:
            say(sentence)
        served = _start_serving(settings, serving, servers, children)
        _wait_until_served(servers, served, since)
        children.enter_context(announce(settings, servers))
        say("The schedules are served. Ctrl-C stops everything.")
        children.callback(say, "Stopping.")
        _watch([*(server.child for server in started), *served], servers.prefect_api, settings)
    return 0


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raises KeyboardInterrupt at the first ending signal and ignores later ones, so that the children are stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for ending in ENDING_SIGNALS:
            signal.signal(ending, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {ending: signal.signal(ending, interrupt) for ending in ENDING_SIGNALS}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)


def _start_servers(
    settings: Settings, prefect_port: int, mlflow_port: int, children: ExitStack
) -> tuple[list[Server], Servers]:
    """Starts the servers that the environment does not name, at the same time, and waits until they answer."""
    api, page = _given_prefect(), _given_mlflow(settings)
    if api is None:
        require_free_port(prefect_port, "--prefect-port")
    if page is None:
        require_free_port(mlflow_port, "--mlflow-port")
    started: list[Server] = []
    with one_start_at_a_time(settings):
        if api is None:
            started.append(children.enter_context(starting_prefect(settings, prefect_port, services=True)))
            api = started[-1].url
        if page is None:
            started.append(children.enter_context(starting_mlflow(settings, mlflow_port)))
            page = started[-1].url
        for server in started:
            server.wait()
    pages = api.removesuffix("/api"), without_passwords(page)
    return started, Servers(api, *pages, os.getpid(), settings.store, settings.tracking_uri)


def _given_prefect() -> str | None:
    """The API of the Prefect server that PREFECT_API_URL names, if it is set."""
    return os.environ.get("PREFECT_API_URL") or None


def _given_mlflow(settings: Settings) -> str | None:
    """The MLflow server that MLFLOW_TRACKING_URI names, if it names a server and not a database."""
    return settings.tracking_uri if urlsplit(settings.tracking_uri).scheme in {"http", "https"} else None


def _start_serving(
    settings: Settings, serving: Mapping[str, list[str]], servers: Servers, children: ExitStack
) -> list[Child]:
    """Starts the processes that execute runs. They come last, so that they are stopped first.

    They are stopped by SIGINT, because at SIGTERM they would leave tracebacks in their logs.
    """
    for path in left_behind(settings.home):
        discard(path)
    environment = {"PREFECT_API_URL": servers.prefect_api}
    return [
        children.enter_context(child(settings, name, command, environment, PrefectUnavailable, ending=signal.SIGINT))
        for name, command in serving.items()
    ]


def _end_lost_runs(api: str, request: Callable[..., Any] = insisted) -> None:
    """Ends the runs that were active when the server stopped. Call it only for a server that is ours alone."""
    for run in request(f"{api}/flow_runs/filter", LOST_RUNS) or []:
        end_lost(posting(api, request), run, STOPPED)


def _wait_until_served(servers: Servers, served: Sequence[Child], since: datetime) -> None:
    """Waits until the deployments of each child have asked for work: then every command finds its deployment."""
    deadline = time.monotonic() + START_SECONDS
    while _served(servers.prefect_api, since) < len(served):
        for process in served:
            process.require_alive()
        if time.monotonic() > deadline:
            raise PrefectUnavailable(
                f"the schedules are served within {START_SECONDS:.0f} s",
                "no deployment asked for work",
                f"read {served[0].log}",
            )
        time.sleep(WATCH_SECONDS)


def _served(api: str, since: datetime) -> float:
    """How many flows have a deployment that has asked for work since then.

    Infinity if the API does not tell, because a password is missing: then nothing is waited for.
    """
    deployments = ask_all(f"{api}/deployments/filter", {"sort": "UPDATED_DESC"})
    if deployments is None:
        return float("inf")
    last_asked = ((deployment["flow_id"], deployment["last_polled"]) for deployment in deployments)
    return len({flow for flow, at in last_asked if at and datetime.fromisoformat(at) >= since})


def _watch(children: Sequence[Child], api: str, settings: Settings) -> None:
    """Watches for ever, and ends lost runs. Raises the error of the first child that ends by itself."""
    lost = Lost(settings.home, set(use_case_files(settings.project)))
    for look in count():
        for process in children:
            process.require_alive()
        if look % LOOKS_BETWEEN_CRASHES == 0:
            lost.end(api)
            resubmit_crashed(api, lost.use_cases)
            end_left_tasks(api, lost.use_cases)
            name_upcoming(settings, api)
        if look % LOOKS_BETWEEN_ANSWERS == 0:
            resume_answered(settings, api, lost.use_cases)
        time.sleep(WATCH_SECONDS)
