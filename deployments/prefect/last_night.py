"""What the last nights of a use case died of, for `status` and `doctor`: a night that ended red, and a killed one."""

import os
from collections.abc import Iterator
from dataclasses import replace

from deployments.prefect.announcement import running_servers
from deployments.prefect.client import ask
from deployments.prefect.crashed import CANCELLED
from ml.settings import Settings
from ml.storage.nights import KILLED, RedNight, killed, last_red, left_behind

OVER = {"CRASHED", "FAILED"}
COMES_AGAIN = {"SCHEDULED", "PENDING", "RUNNING"}


def red_nights(settings: Settings, use_case: str) -> Iterator[RedNight]:
    """The last red night and the last killed one, unless a good night came after them or an operator cancelled them.

    A red night whose date was begun again later is left out: what it died of was seen to. Raises Unavailable if the
    store does not answer and the home has no note.
    """
    red = last_red(settings, use_case)
    left = left_behind(settings, use_case, lambda began: _state(settings, began.flow_run) in OVER)
    nights = [red, killed(left) if left else None]
    if left is not None and red is not None and left.as_of == red.as_of and left.at > red.at:
        nights.remove(red)
    for night in nights:
        state = _state(settings, night.flow_run) if night and night.error == KILLED else None
        if night is not None and state not in CANCELLED:
            yield replace(night, next_step="`retrain up` runs it again by itself") if state in COMES_AGAIN else night


def _state(settings: Settings, flow_run: str | None) -> str | None:
    """The type of the state of the night's run; None if Prefect does not tell it."""
    servers = running_servers(settings)
    api = servers.prefect_api if servers else os.environ.get("PREFECT_API_URL")
    run = ask(f"{api}/flow_runs/{flow_run}") if api and flow_run else None
    return str(run["state_type"]) if run else None
