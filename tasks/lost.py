"""How a run is ended that nobody executes any more: its tasks, the runs inside of it, and then the run itself.

It posts to Prefect's API by what the caller has for that: `retrain up` looks every few seconds without the client of
Prefect, and a flow has one at hand.
"""

from collections.abc import Callable
from typing import Any

Post = Callable[[str, dict[str, Any]], Any]  # a path of the API and what is posted to it; the answer, or None
LOCK = "retrain.lock"  # a label of the flow run: which lock of which machine it holds
FLOWS = ["retrain", "backfill", "retrain date"]
ACTIVE = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]
EXECUTED = ["PENDING", "RUNNING", "CANCELLING"]


def end_lost(post: Post, run: dict[str, Any], message: str, *, force: bool = True) -> None:
    """Ends a run as cancelled where that had been asked for, else as crashed: it would stay Running for ever, and could
    not be retried. Without `force`, Prefect refuses where it has just ended by itself."""
    ended = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
    end_tasks(post, run["id"], ended, message)
    inside = {"flow_runs": {"parent_flow_run_id": {"any_": [run["id"]]}, "state": {"type": {"any_": EXECUTED}}}}
    for each in post("/flow_runs/filter", inside) or []:
        end_lost(post, each, message, force=force)
    _set_state(post, f"/flow_runs/{run['id']}", ended, message, force=force)


def end_tasks(post: Post, run_id: str, ended: str, message: str) -> None:
    """Ends the tasks of a run whose process is gone. Prefect ends only the run, and goes on counting its tasks."""
    chosen = {"flow_runs": {"id": {"any_": [run_id]}}, "task_runs": {"state": {"type": {"any_": ACTIVE}}}}
    for task in post("/task_runs/filter", chosen) or []:
        _set_state(post, f"/task_runs/{task['id']}", ended, message, force=True)


def _set_state(post: Post, path: str, ended: str, message: str, *, force: bool) -> None:
    state = {"type": ended, "name": ended.title(), "message": message}
    post(f"{path}/set_state", {"state": state, "force": force})
