"""What Prefect still holds in this process for its server: sending it, dropping it, waiting until it is recorded."""

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
