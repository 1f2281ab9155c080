"""Ends a run that nobody executes any more: first its tasks, then the runs inside of it, then the run itself.

The caller brings the function that posts to Prefect's API: a flow has Prefect's client at hand, while `retrain up` does
without it.
"""

from collections.abc import Callable
from typing import Any

Post = Callable[[str, dict[str, Any]], Any]  # takes a path of the API and a body, and gives the answer or None
LOCK = "retrain.lock"  # a label of the flow run that names the lock it holds, and the machine
ASKED = "retrain.asked"  # a label of the flow run: the number of the ledger's entry that it asks an operator about
QUESTION, ANSWERS = "retrain.question", "retrain.answers"  # labels of such a run: what it asks, and how to answer
FLOWS = ["retrain", "backfill", "retrain date"]
ACTIVE = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]
EXECUTED = ["PENDING", "RUNNING", "CANCELLING"]


def end_lost(post: Post, run: dict[str, Any], message: str, *, force: bool = True) -> None:
    """Ends a run as cancelled if an operator was cancelling it, else as crashed.

    Otherwise it would stay Running for ever, and could not be retried. Without `force`, Prefect refuses to end a run
    that has just ended by itself.
    """
    end_type = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
    end_tasks(post, run["id"], end_type, message)
    inside = {"flow_runs": {"parent_flow_run_id": {"any_": [run["id"]]}, "state": {"type": {"any_": EXECUTED}}}}
    for child in post("/flow_runs/filter", inside) or []:
        end_lost(post, child, message, force=force)
    _set_state(post, f"/flow_runs/{run['id']}", end_type, message, force=force)


def end_tasks(post: Post, run_id: str, end_type: str, message: str) -> None:
    """Ends the tasks of a run whose process is gone; Prefect itself ends only the run and leaves its tasks running.

    `end_type` is the type of their final state, such as CRASHED.
    """
    chosen = {"flow_runs": {"id": {"any_": [run_id]}}, "task_runs": {"state": {"type": {"any_": ACTIVE}}}}
    for task in post("/task_runs/filter", chosen) or []:
        _set_state(post, f"/task_runs/{task['id']}", end_type, message, force=True)


def _set_state(post: Post, path: str, end_type: str, message: str, *, force: bool) -> None:
    state = {"type": end_type, "name": end_type.title(), "message": message}
    post(f"{path}/set_state", {"state": state, "force": force})
