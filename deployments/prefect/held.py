"""The logs and events that Prefect still holds in this process: sends them, drops them, or waits for their record."""

import logging
import queue
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import Any

from deployments.prefect.client import ask

SETTLE_SECONDS = 5.0
POLL_SECONDS = 0.05
ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
NOT_ENDED = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]


def send_what_is_held() -> None:
    """Sends the logs and events that Prefect holds in this process.

    Otherwise the last lines would be lost, and Python would wait over a minute at its exit for a server that is gone.
    """
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        logging.getLogger(worker.__name__).setLevel(logging.ERROR)  # it warns of every line that is still to be sent
        worker.drain_all(timeout=SETTLE_SECONDS)


def drop_what_is_held() -> None:
    """Forgets what Prefect holds for a server that is gone. Otherwise Python would try each event for 7 s at exit."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    workers: tuple[Any, ...] = (EventsWorker, APILogWorker)
    for worker in workers:
        for service in list(worker._instances.values()):
            with suppress(queue.Empty):
                while True:
                    service._queue.get_nowait()


def wait_until_recorded(api: str, since: datetime) -> None:
    """Waits until no flow run that ended after `since` has a task that is recorded as unfinished, but not for long.

    Prefect writes the end of a flow run at once. It writes the ends of tasks from events: a second later, or more if
    the database is locked.
    """
    query = {
        "flow_runs": {"state": {"type": {"any_": ENDED}}, "end_time": {"after_": since.isoformat()}},
        "task_runs": {"state": {"type": {"any_": NOT_ENDED}}},
    }
    deadline = time.monotonic() + SETTLE_SECONDS
    while ask(f"{api}/task_runs/count", query) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
