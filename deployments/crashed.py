"""Nights whose process was killed: each is run again, as the same run, until its attempts are used up."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from deployments.servers import ask

ATTEMPTS = 3
RECENT = timedelta(days=1)  # an older crash has been slept over; the next night does its work
CANCELLED = {"CANCELLING", "CANCELLED"}


def next_attempt(states: Sequence[str]) -> int | None:
    """Which attempt comes after these states of a run that crashed; None if it was the last, or was cancelled.

    Crashes are counted and not starts: a process that is killed before the flow begins has started nothing.
    """
    crashes = states.count("CRASHED")
    return crashes + 1 if crashes < ATTEMPTS and not CANCELLED & set(states) else None


def resubmit_crashed(api: str) -> None:
    """Schedules crashed nights of the last day now. They resume: what is done lies in the store under its keys, and
    a run keeps the time that it was first scheduled for, and so its as_of."""
    query = {
        "flows": {"name": {"any_": ["retrain"]}},  # a backfill is resumed by its operator
        "flow_runs": {
            "state": {"type": {"any_": ["CRASHED"]}},
            "end_time": {"after_": (datetime.now(UTC) - RECENT).isoformat()},
            "deployment_id": {"is_null_": False},
        },
    }
    for run in ask(f"{api}/flow_runs/filter", query) or []:
        states = ask(f"{api}/flow_run_states/?flow_run_id={run['id']}") or []
        attempt = next_attempt([state["type"] for state in states])
        if states and attempt is not None:
            message = f"Attempt {attempt} of {ATTEMPTS} after a crash."
            state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": message}
            ask(f"{api}/flow_runs/{run['id']}/set_state", {"state": state})
