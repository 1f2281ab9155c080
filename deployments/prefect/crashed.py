"""Runs whose process was killed: noticed, and nights run again, as the same run, until their attempts are used up."""

import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deployments.prefect.client import ask
from ml.operations.dead_runs import Signs, is_dead
from tasks.lost import ACTIVE, EXECUTED, FLOWS, LOCK, Post, end_lost, end_tasks

ATTEMPTS = 3
ATTEMPT = "retrain.attempt"  # a label of the flow run: Prefect counts starts, and a run may be killed before it starts
RECENT = timedelta(days=1)  # what began earlier has been slept over
CANCELLED = {"CANCELLING", "CANCELLED"}
ENDED = {*CANCELLED, "CRASHED", "FAILED", "COMPLETED"}
LOST_SECONDS = 60.0  # a run gives its lock back before Prefect knows its end, and Prefect tries again for long
OURS = {"name": {"any_": FLOWS}}
GONE = "The process of this run has gone."


def next_attempt(states: Sequence[str]) -> int | None:
    """Which attempt comes after these states of a run that crashed; None if it was the last, or was cancelled.

    Crashes are counted and not starts: a process that is killed before the flow begins has started nothing.
    """
    crashes = states.count("CRASHED")
    return crashes + 1 if crashes < ATTEMPTS and not CANCELLED & set(states) else None


def resubmit_crashed(api: str, use_cases: Collection[str]) -> None:
    """Schedules crashed nights of these use cases and of the last day now.

    They resume: what is done lies in the store under its keys, and a run keeps the time that it was first scheduled
    for, and so its as_of.
    """
    query = {
        "flows": {"name": {"any_": ["retrain"]}},  # a backfill is resumed by its operator
        "flow_runs": {
            "state": {"type": {"any_": ["CRASHED"]}},
            "end_time": {"after_": (datetime.now(UTC) - RECENT).isoformat()},
            "deployment_id": {"is_null_": False},
        },
    }
    for run in ask(f"{api}/flow_runs/filter", query) or []:
        if not is_ours(run, use_cases):
            continue
        attempt = attempt_after(api, run["id"], datetime.now(UTC), recent=True)
        if attempt is not None:
            end_tasks(posting(api), run["id"], "CRASHED", GONE)
            run_again(api, run["id"], attempt)


def end_left_tasks(api: str, use_cases: Collection[str]) -> None:
    """Ends the tasks that still run in runs of these use cases and of the last day that were killed or cancelled:
    Prefect ends the runs alone."""
    now = datetime.now(UTC)
    recorded = now - timedelta(seconds=LOST_SECONDS)  # Prefect writes a task's own end later than its run's
    ended = {"before_": recorded.isoformat(), "after_": (now - RECENT).isoformat()}
    chosen = {"state": {"type": {"any_": ["CRASHED", "CANCELLED", "FAILED"]}}, "end_time": ended}
    left = {"task_runs": {"state": {"type": {"any_": ACTIVE}}}}
    runs = ask(f"{api}/flow_runs/filter", {"flows": OURS, "flow_runs": chosen, **left}) or []
    for run in (each for each in runs if is_ours(each, use_cases)):
        end_tasks(posting(api), run["id"], "CANCELLED" if run["state_type"] == "CANCELLED" else "CRASHED", GONE)


def posting(api: str, request: Callable[..., Any] = ask) -> Post:
    """How to post to this API: once, or insisting."""
    return lambda path, body: request(f"{api}{path}", body)


def attempt_after(api: str, run: str, now: datetime, *, recent: bool) -> int | None:
    """Which attempt of a crashed run is next, by its history; None for none, where Prefect does not tell, and where the
    last attempt did or did not begin within RECENT: a crash may be noticed days later."""
    states = ask(f"{api}/flow_run_states/?flow_run_id={run}")
    if not states:
        return None
    begun = max(state["timestamp"] for state in states if state["type"] not in ENDED)
    if (now - datetime.fromisoformat(begun) < RECENT) is not recent:
        return None
    return next_attempt([state["type"] for state in states])


def run_again(api: str, run: str, attempt: int, at: datetime | None = None) -> None:
    """Schedules a crashed run; `at` is its place among others that wait, if that is not now. A label says which attempt
    it is: Prefect counts starts, and a run that waited for an answer has several."""
    message = f"Attempt {attempt} of {ATTEMPTS} after a crash."
    details = {"state_details": {"scheduled_time": at.isoformat()}} if at else {}
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": message, **details}
    ask(
        f"{api}/flow_runs/{run}/labels", {ATTEMPT: attempt}, method="PATCH"
    )  # first: the alert of its next crash reads it
    ask(f"{api}/flow_runs/{run}/set_state", {"state": state})


class Lost:
    """Runs of this home that Prefect takes for running, and whose lock nobody holds: their process has gone. And runs
    of any home that were about to start and did not.

    What executes runs tells Prefect when one of them dies, but not when it dies with them.
    """

    def __init__(self, home: Path, use_cases: Collection[str]) -> None:
        self.home, self.use_cases = home, use_cases
        self.since: dict[str, float] = {}  # run to when it was first seen without its lock

    def end(self, api: str) -> None:
        """Ends those that were lost for LOST_SECONDS; what was being cancelled is cancelled, and not run again."""
        query = {"flows": OURS, "flow_runs": {"state": {"type": {"any_": EXECUTED}}}}
        runs = [run for run in ask(f"{api}/flow_runs/filter", query) or [] if is_ours(run, self.use_cases)]
        lost = {run["id"]: run for run in runs if self._is_lost(run)}
        now = time.monotonic()
        self.since = {run: self.since.get(run, now) for run in lost}
        for run, since in self.since.items():
            if now - since >= LOST_SECONDS:
                end_lost(posting(api), lost[run], GONE)

    def _is_lost(self, run: dict[str, Any]) -> bool:
        return is_dead(self.home, signs_of(run))


def signs_of(run: dict[str, Any], last_heard: datetime | None = None) -> Signs:
    """Of a run as Prefect's API tells it."""
    starts = datetime.fromisoformat(run["state"]["timestamp"]) if run["state_type"] == "PENDING" else None
    return Signs(lock=str(run["labels"].get(LOCK, "")), about_to_start=starts, last_heard=last_heard)


def is_ours(run: dict[str, Any], use_cases: Collection[str]) -> bool:
    """Whether the run is of one of these use cases: the server may have others' flows of the same names."""
    request = run["parameters"].get("request")
    return isinstance(request, dict) and request.get("use_case") in use_cases
