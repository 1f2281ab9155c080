"""Servers as children: who may start them, what they answer, and that none of them is left behind."""

import http.server
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from deployments.prefect import children
from deployments.prefect.announcement import Servers, announce, only_up, running_servers
from deployments.prefect.children import child
from deployments.prefect.client import answers, insisted
from deployments.prefect.crashed import next_attempt
from deployments.prefect.servers import free_port, prefect_server
from deployments.prefect.up import run_up
from ml.errors import Busy, PrefectUnavailable, UsageError
from ml.settings import Settings

on_linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    return Settings(home, str(home / "store"), f"sqlite:///{home / 'mlflow.db'}", None, 1)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Writes a module that children can run; returns its name."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def write(name: str, source: str) -> str:
        (folder / f"{name}.py").write_text(source)
        return name

    return write


def python(settings: Settings, source: str) -> "subprocess.Popen[str]":
    """A process of its own home that runs the source."""
    environment = {**os.environ, "RETRAIN_HOME": str(settings.home), "PYTHONUNBUFFERED": "1"}
    head = (
        "from ml.settings import Settings\n"
        "from deployments.environment import prepare_environment\n"
        "settings = Settings.from_environment()\n"
        "prepare_environment(settings)\n"
    )
    command = [sys.executable, "-c", head + source]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def line_with(process: "subprocess.Popen[str]", words: str) -> str:
    """The first line of output with these words; fails with everything that was said if it never comes."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return line
    raise AssertionError("".join(said))


def descendants(pid: int) -> set[int]:
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    parents = {int(stat.split()[0]): int(stat.rpartition(")")[2].split()[1]) for stat in stats}
    found = {pid}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    """Those that are there and no mere entries in the table of processes."""
    stats = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return {
        pid for pid, path in stats.items() if path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"
    }


def wait_until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """Addresses, as the kernel writes them, and ports that these processes listen at."""
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    sockets = {row[9]: row[1].split(":") for row in rows if row[3] == "0A"}
    held = {str(each.readlink()) for pid in pids for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
    return {(sockets[inode][0], int(sockets[inode][1], 16)) for inode in sockets if f"socket:[{inode}]" in held}


@contextmanager
def answering() -> Iterator[str]:
    """An API that is healthy, and nothing else."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def test_taken_port_is_named_with_its_option(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError) as refused:
            run_up(settings, prefect_port=port, mlflow_port=0)
        with pytest.raises(UsageError, match="--mlflow-port"):
            run_up(settings, prefect_port=0, mlflow_port=port)
    assert str(refused.value) == (
        f"--prefect-port is a free port, but {port} is not (Address already in use): set --prefect-port to another."
    )


def test_second_up_in_a_home_is_refused(settings: Settings) -> None:
    with only_up(settings), pytest.raises(Busy, match="another one runs in"):
        run_up(settings, prefect_port=0, mlflow_port=0)
    with only_up(settings):
        pass


def test_servers_are_found_while_their_process_lives_and_answers(settings: Settings) -> None:
    settings.home.mkdir()
    assert running_servers(settings) is None
    with answering() as api:
        here = Servers(api, "http://127.0.0.1:1", "http://127.0.0.1:2", os.getpid(), "store", "sqlite://")
        with announce(settings, here):
            assert running_servers(settings) == here
        assert running_servers(settings) is None
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        with announce(settings, Servers(api, "", "", ended.pid, "", "")):
            assert running_servers(settings) is None
    with announce(settings, here):
        assert running_servers(settings) is None, "nobody answers any more"


SLEEPER = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("asleep", flush=True)
time.sleep(60)
"""


@on_linux
def test_stubborn_child_and_its_own_children_are_killed(
    settings: Settings, modules: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "STOP_SECONDS", 0.3)
    with child(settings, "sleeper", [modules("sleeper", SLEEPER)], {}, PrefectUnavailable) as sleeper:
        wait_until(lambda: "asleep" in sleeper.log.read_text())
        pids = {sleeper.process.pid, *descendants(sleeper.process.pid)}
        assert len(pids) == 2
    wait_until(lambda: not alive(pids))


@on_linux
def test_children_die_with_a_killed_parent(settings: Settings, modules: Callable[[str, str], str]) -> None:
    modules("sleeper", SLEEPER)
    parent = python(
        settings,
        "import time\n"
        "from deployments.prefect.children import child\n"
        "from ml.errors import PrefectUnavailable\n"
        "with child(settings, 'sleeper', ['sleeper'], {}, PrefectUnavailable) as it:\n"
        "    while 'asleep' not in it.log.read_text(): time.sleep(0.05)\n"
        "    print('ready')\n"
        "    time.sleep(60)\n",
    )
    with parent:
        line_with(parent, "ready")
        pids = descendants(parent.pid)
        assert len(pids) == 2
        parent.kill()
    wait_until(lambda: not alive(pids))


def test_child_that_ends_is_named_with_its_last_error(
    settings: Settings, modules: Callable[[str, str], str], caplog: pytest.LogCaptureFixture
) -> None:
    broken = modules("broken", "import sys\nprint('one', 'two')\nsys.exit('ValueError: no such use case')\n")
    with child(settings, "schedule server", [broken], {}, PrefectUnavailable) as it:
        it.process.wait()
        with pytest.raises(PrefectUnavailable) as ended:
            it.require_alive()
    assert str(ended.value) == (
        "the schedule server runs until it is stopped, but it ended with exit code 1 (ValueError: no such use case): "
        f"read {settings.home / 'logs' / 'schedule-server.log'}."
    )
    assert "one two" in caplog.text


ONE_OFF = """
import json, sqlite3
from deployments.prefect.servers import prefect_server
with prefect_server(settings, meanwhile=lambda: __import__("prefect")) as api:
    from prefect import flow, task
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    import logging
    log = logging.getLogger("retrain.test")
    @task
    def quick(i):
        log.info("line %d", i)
    @flow
    def many():
        for i in range(150):
            quick(i)
    log.info("said outside of a run")
    with temporary_settings({PREFECT_API_URL: api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        many()
print("done")
"""


@pytest.mark.slow
def test_everything_of_a_run_is_recorded_before_its_server_stops(settings: Settings) -> None:
    began = time.monotonic()
    with python(settings, ONE_OFF) as run:
        assert line_with(run, "") == "done\n", "nothing else is said on the terminal"
        assert run.wait(timeout=20) == 0
    assert time.monotonic() - began < 60, "Prefect waits over a minute for a server that stopped too early"
    with sqlite3.connect(settings.home / "prefect" / "prefect.db") as database:
        ended = database.execute("select state_type, count(*) from task_run group by 1").fetchall()
        (lines,) = database.execute("select count(*) from log where name = 'retrain.test'").fetchone()
    database.close()
    assert ended == [("COMPLETED", 150)]
    assert lines == 150


NIGHTLY = """
import os, signal, time
from pathlib import Path
from prefect import flow, runtime, serve
@flow(name="retrain")
def night(kills: int | None = None):
    if kills is None:
        time.sleep(60)
    with Path(os.environ["RETRAIN_HOME"], runtime.flow_run.id).open("a+") as starts:
        starts.write(f"{runtime.flow_run.scheduled_start_time}\\n")
        starts.flush()
        starts.seek(0)
        if len(starts.readlines()) <= kills:
            os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    serve(night.to_deployment("night"), pause_on_shutdown=False, print_starting_message=False, limit=1)
"""
UP = """
import sys
from deployments.prefect.up import run_up
sys.exit(run_up(settings, {}, {}, serving={{'schedule server': ['nightly']}}))
"""


@contextmanager
def up(settings: Settings) -> Iterator[tuple["subprocess.Popen[str]", Servers]]:
    """A whole `retrain up` that serves one flow of a minute."""
    with python(settings, UP.format(free_port(), free_port())) as process:
        line_with(process, "Ctrl-C")
        found = running_servers(settings)
        assert found is not None
        try:
            yield process, found
        finally:
            process.kill()


def submit_run(api: str, **parameters: int) -> str:
    (deployment,) = insisted(f"{api}/deployments/filter", {})
    request = {"parameters": parameters, "idempotency_key": str(uuid4())}
    return str(insisted(f"{api}/deployments/{deployment['id']}/create_flow_run", request)["id"])


def start_run(api: str) -> str:
    """Starts the deployment's flow; returns the run's id once it runs."""
    run = submit_run(api)
    wait_until(lambda: state(api, run) == "Running", seconds=40)
    return run


def state(api: str, run: str) -> str:
    return str(insisted(f"{api}/flow_runs/{run}")["state"]["name"])


def history(api: str, run: str) -> list[str]:
    """The names of the run's states and, of those that are ours, what they say."""
    states = insisted(f"{api}/flow_run_states/?flow_run_id={run}")
    ordered = sorted(states, key=lambda state: str(state["timestamp"]))
    return [state["message"] if state["name"] == "AwaitingRetry" else state["name"] for state in ordered]


@on_linux
@pytest.mark.slow
def test_up_listens_on_loopback_and_ends_at_once(settings: Settings, modules: Callable[[str, str], str]) -> None:
    modules("nightly", NIGHTLY)
    with up(settings) as (process, found):
        pids = descendants(process.pid)
        assert found.pid == process.pid
        assert {address for address, _ in listening(pids)} == {"0100007F"}
        assert answers(found.mlflow_ui), "the page"
        assert answers(found.prefect_ui), "the page"
        run = start_run(found.prefect_api)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.read() == "Stopping.\n"
        assert process.wait(timeout=15) == 0
    assert not alive(pids)
    assert running_servers(settings) is None
    assert not any("Traceback" in log.read_text() for log in (settings.home / "logs").iterdir())
    with prefect_server(settings) as api:
        assert state(api, run) == "Crashed"


@on_linux
@pytest.mark.slow
def test_killed_up_leaves_no_process_and_the_next_ends_its_run(
    settings: Settings, modules: Callable[[str, str], str]
) -> None:
    modules("nightly", NIGHTLY)
    with up(settings) as (process, found):
        run = start_run(found.prefect_api)
        pids = descendants(process.pid)
        process.kill()
        wait_until(lambda: not alive(pids))
    assert running_servers(settings) is None
    with up(settings) as (process, found):
        wait_until(lambda: history(found.prefect_api, run).count("Running") == 2, seconds=40)
        assert history(found.prefect_api, run)[-5:-3] == ["Crashed", "Attempt 2 of 3 after a crash."]
        process.terminate()
        assert process.wait(timeout=15) == 0


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["SCHEDULED", "PENDING", "RUNNING", "CRASHED"], 2),
        (["SCHEDULED", "PENDING", "CRASHED", "SCHEDULED", "PENDING", "CRASHED"], 3),
        (["SCHEDULED", *["PENDING", "CRASHED", "SCHEDULED"] * 2, "PENDING", "CRASHED"], None),
        (["SCHEDULED", "RUNNING", "CANCELLING", "CRASHED"], None),
        (["SCHEDULED", "RUNNING", "CANCELLED"], None),
    ],
)
def test_a_crashed_run_has_three_attempts_and_a_cancelled_one_no_more(states: list[str], expected: int | None) -> None:
    assert next_attempt(states) == expected


@on_linux
@pytest.mark.slow
def test_killed_runs_are_run_again_within_their_budget(settings: Settings, modules: Callable[[str, str], str]) -> None:
    """As the same run, for the same time: the date of a night does not move with its crashes."""
    modules("nightly", NIGHTLY)
    with up(settings) as (process, found):
        once, ever = submit_run(found.prefect_api, kills=1), submit_run(found.prefect_api, kills=9)
        attempt = ["Pending", "Submitting", "Running", "Crashed"]
        second, third = ["Attempt 2 of 3 after a crash."], ["Attempt 3 of 3 after a crash."]
        wait_until(lambda: history(found.prefect_api, ever).count("Crashed") == 3, seconds=100)
        time.sleep(8)  # longer than between two looks
        assert history(found.prefect_api, once)[1:] == [*attempt, *second, *attempt[:3], "Completed"]
        assert history(found.prefect_api, ever)[1:] == [*attempt, *second, *attempt, *third, *attempt]
        for run, starts in ((once, 2), (ever, 3)):
            times = (settings.home / run).read_text().splitlines()
            assert (len(times), len(set(times))) == (starts, 1)
        process.terminate()
        assert process.wait(timeout=15) == 0
