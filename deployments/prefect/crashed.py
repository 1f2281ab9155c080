"""Finds runs whose process was killed, ends them, and runs nights again until their attempts are used up.

A night that runs again is the same run of Prefect's.
"""

import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deployments.prefect.client import ask, ask_all
from ml.operations.dead_runs import Signs, is_dead
from tasks.lost import ACTIVE, EXECUTED, FLOWS, LOCK, Post, end_lost, end_tasks

ATTEMPTS = 3
ATTEMPT = "retrain.attempt"  # a label of the flow run; Prefect counts only starts, and a run may be killed before one
RECENT = timedelta(days=1)  # a run that began earlier is not run again by itself
CANCELLED = {"CANCELLING", "CANCELLED"}
ENDED = {*CANCELLED, "CRASHED", "FAILED", "COMPLETED"}
LOST_SECONDS = 60.0  # a run gives its lock back first, and Prefect may learn of its end so much later
OURS = {"name": {"any_": FLOWS}}
GONE = "The process of this run has gone."


def next_attempt(states: Sequence[str]) -> int | None:
    """The number of the next attempt of a crashed run with these states; None if it has no more, or was cancelled.

    It counts crashes instead of starts, because a process may be killed before its flow starts.
    """
    crashes = states.count("CRASHED")
    return crashes + 1 if crashes < ATTEMPTS and not CANCELLED & set(states) else None


def resubmit_crashed(api: str, use_cases: Collection[str]) -> None:
    """Schedules the nights of these use cases that crashed within the last day, to run again now.

    They resume, because finished stages are in the store under their keys. A run keeps the time for which it was first
    scheduled, and so its as_of.
    """
    query = {
        "flows": {"name": {"any_": ["retrain"]}},  # a backfill is resumed by its operator
        "flow_runs": {
            "state": {"type": {"any_": ["CRASHED"]}},
            "end_time": {"after_": (datetime.now(UTC) - RECENT).isoformat()},
            "deployment_id": {"is_null_": False},
        },
    }
    for run in ask_all(f"{api}/flow_runs/filter", query) or []:
        if not is_ours(run, use_cases):
            continue
        attempt = attempt_after(api, run["id"], datetime.now(UTC), recent=True)
        if attempt is not None:
            end_tasks(posting(api), run["id"], "CRASHED", GONE)
            run_again(api, run["id"], attempt)


def end_left_tasks(api: str, use_cases: Collection[str]) -> None:
    """Ends tasks that are still running in runs of these use cases that were killed or cancelled within the last day.

    Prefect ends only the runs themselves.
    """
    now = datetime.now(UTC)
    recorded = now - timedelta(seconds=LOST_SECONDS)  # Prefect records the end of a task later than that of its run
    ended = {"before_": recorded.isoformat(), "after_": (now - RECENT).isoformat()}
    chosen = {"state": {"type": {"any_": ["CRASHED", "CANCELLED", "FAILED"]}}, "end_time": ended}
    left = {"task_runs": {"state": {"type": {"any_": ACTIVE}}}}
    for run in ask_all(f"{api}/flow_runs/filter", {"flows": OURS, "flow_runs": chosen, **left}) or []:
        if is_ours(run, use_cases):
            end_type = "CANCELLED" if run["state_type"] == "CANCELLED" else "CRASHED"
            end_tasks(posting(api), run["id"], end_type, GONE)


def posting(api: str, request: Callable[..., Any] = ask) -> Post:
    """A function that posts to this API, by `ask` (once) or `insisted` (several times)."""
    return lambda path, body: request(f"{api}{path}", body)


def attempt_after(api: str, run: str, now: datetime, *, recent: bool) -> int | None:
    """The number of a crashed run's next attempt; None if there is none, or if Prefect does not tell the run's history.

    With `recent`, it is None too unless the last attempt began within RECENT; without, unless it began earlier. A crash
    may be noticed days after the start, so the start decides.
    """
    states = ask(f"{api}/flow_run_states/?flow_run_id={run}")
    if not states:
        return None
    begun = max(state["timestamp"] for state in states if state["type"] not in ENDED)
    if (now - datetime.fromisoformat(begun) < RECENT) is not recent:
        return None
    return next_attempt([state["type"] for state in states])


def run_again(api: str, run: str, attempt: int, at: datetime | None = None) -> None:
    """Schedules a crashed run, now or, among other runs that wait, as if it were due `at`.

    A label of the run says which attempt it is. Prefect's own count is of starts, of which a run that waited for an
    answer has several.
    """
    message = f"Attempt {attempt} of {ATTEMPTS} after a crash."
    details = {"state_details": {"scheduled_time": at.isoformat()}} if at else {}
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": message, **details}
    # The label comes first, because the alert of the next crash reads it.
    ask(f"{api}/flow_runs/{run}/labels", {ATTEMPT: attempt}, method="PATCH")
    ask(f"{api}/flow_runs/{run}/set_state", {"state": state})


class Lost:
    """Finds and ends lost runs: those that Prefect counts as running while nobody holds their lock in this home.

    Runs of any home that were about to start and did not are lost too. The process that executes runs tells Prefect if
    one of them dies, but it cannot if it dies together with them.
    """

    def __init__(self, home: Path, use_cases: Collection[str]) -> None:
        self.home, self.use_cases = home, use_cases
        self.since: dict[str, float] = {}  # when each lost run was first noticed, by the run's id

    def end(self, api: str) -> None:
        """Ends runs that have been lost for LOST_SECONDS. One that was being cancelled becomes cancelled."""
        query = {"flows": OURS, "flow_runs": {"state": {"type": {"any_": EXECUTED}}}}
        runs = [run for run in ask_all(f"{api}/flow_runs/filter", query) or [] if is_ours(run, self.use_cases)]
        lost_runs = {run["id"]: run for run in runs if is_dead(self.home, signs_of(run))}
        now = time.monotonic()
        self.since = {run_id: self.since.get(run_id, now) for run_id in lost_runs}
        for run_id, since in self.since.items():
            if now - since >= LOST_SECONDS:
                end_lost(posting(api), lost_runs[run_id], GONE)


def signs_of(run: dict[str, Any], last_heard: datetime | None = None) -> Signs:
    """The signs of life of a run, which is given as Prefect's API gives it."""
    starts = datetime.fromisoformat(run["state"]["timestamp"]) if run["state_type"] == "PENDING" else None
    return Signs(lock=str(run["labels"].get(LOCK, "")), about_to_start=starts, last_heard=last_heard)


def is_ours(run: dict[str, Any], use_cases: Collection[str]) -> bool:
    """Whether the run is of one of these use cases. The server may have flows of other projects with our names."""
    request = run["parameters"].get("request")
    return isinstance(request, dict) and request.get("use_case") in use_cases
