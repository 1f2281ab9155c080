"""What `status` and `doctor` say of nights that the ledger does not know: one that runs, one that ended red, and one
that was killed."""

from collections.abc import Iterator
from dataclasses import replace

from deployments.prefect.announcement import prefect_api
from deployments.prefect.client import ask
from deployments.prefect.crashed import CANCELLED
from ml.settings import Settings
from ml.storage.locks import holder_name
from ml.storage.nights import KILLED, RedNight, killed, last_red, left_behind, running_night

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


def running_now(settings: Settings, use_case: str) -> dict[str, str | None] | None:
    """The night that runs: its date, since when, and in which stage if Prefect tells it. None if no night runs.

    A night of another machine counts only if Prefect says that it runs, because no lock of this machine tells it.
    """
    began = running_night(settings, use_case)
    if began is None:
        return None
    stage = _stage(settings, began.flow_run)
    if began.holder != holder_name(settings.home, use_case) and _state(settings, began.flow_run) != "RUNNING":
        return None
    return {"as_of": str(began.as_of), "since": began.at, "stage": stage}


def _stage(settings: Settings, flow_run: str | None) -> str | None:
    """The name of the task that the run is in; None if it is between two, or if Prefect does not tell it."""
    api = prefect_api(settings)
    if api is None or flow_run is None:
        return None
    running = {"flow_runs": {"id": {"any_": [flow_run]}}, "task_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    tasks = ask(f"{api}/task_runs/filter", running)
    return str(tasks[0]["name"]) if tasks else None


def _state(settings: Settings, flow_run: str | None) -> str | None:
    """The type of the state of the night's run; None if Prefect does not tell it."""
    api = prefect_api(settings)
    run = ask(f"{api}/flow_runs/{flow_run}") if api and flow_run else None
    return str(run["state_type"]) if run else None
