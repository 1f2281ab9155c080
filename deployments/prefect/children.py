"""Child processes that end when the process that started them ends, however that happens.

A child is `python -m deployments.prefect.children PID MODULE [ARGUMENT ...]`: it runs MODULE as long as the process PID
lives.
"""

import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deployments.environment import homes_and_telemetry
from ml.errors import Unavailable
from ml.settings import Settings

log = logging.getLogger("retrain.servers")

STOP_SECONDS = 5.0  # a child has so long to end; measured were 0.2 s for Prefect and 1.5 s for MLflow
ORPHAN_SECONDS = 0.5
SHOWN_LINES, SHOWN_CHARACTERS = 10, 300


@dataclass(frozen=True)
class Child:
    """A child process. It has a session of its own, so that Ctrl-C in the terminal reaches only its parent."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    log_start: int  # the size of the log file before this process wrote to it
    unavailable: type[Unavailable]

    def require_alive(self) -> None:
        """If the child has ended by itself, logs its last lines and raises its error (`unavailable`)."""
        code = self.process.poll()
        if code is None:
            return
        lines = self._own_lines()
        log.error("The %s said at last:", self.name)
        for line in lines[-SHOWN_LINES:]:
            log.error("%s", line)
        raise self.unavailable(
            f"the {self.name} runs until it is stopped",
            f"it ended with exit code {code} ({_last_words(lines)})",
            f"read {self.log}",
        )

    def _own_lines(self) -> list[str]:
        """The lines that this process wrote to its log."""
        text = self.log.read_bytes()[self.log_start :].decode(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()]


def _last_words(lines: list[str]) -> str:
    """The last line that names an error; if there is none, the last line."""
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it said nothing"])[-1].strip()[:SHOWN_CHARACTERS]


@contextmanager
def child(
    settings: Settings,
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    unavailable: type[Unavailable],
    ending: signal.Signals = signal.SIGTERM,
) -> Iterator[Child]:
    """Runs `python -m` with the command until the context ends or this process ends, however that happens.

    The child's output is appended to a file in <home>/logs, named after it. The signal `ending` asks it to stop. If it
    ends by itself, `unavailable` is the error to raise.
    """
    path = settings.home / "logs" / f"{name.lower().replace(' ', '-')}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as output:
        written_before = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.prefect.children", str(os.getpid()), *command],
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
    """The child's environment: the variables of this process, those that name folders of the home, and its own."""
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    python = {
        "PYTHONSAFEPATH": "1",  # a folder `ml` or `tasks` in the working directory must not shadow ours
        "PYTHONUNBUFFERED": "1",  # so that the log has every line that was printed, even after a kill
    }
    return {**inherited, **homes_and_telemetry(settings), **python, **own}


def _stop(process: "subprocess.Popen[bytes]", ending: signal.Signals) -> None:
    """Asks the child to end, and then kills whatever is left of its session."""
    try:
        process.send_signal(ending)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _live_with(parent: int) -> None:
    """Waits until the parent is gone, even by a kill; then kills this process and all others of its session."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _run_as_child(parent: int, module: str) -> None:
    threading.Thread(target=_live_with, args=[parent], daemon=True).start()
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run_as_child(int(sys.argv[1]), sys.argv[2])
