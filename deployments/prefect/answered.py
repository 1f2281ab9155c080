"""Lets runs go on that wait for an operator's answer although the ledger says by now what closed their question.

It may have been closed by a command in a terminal, on another machine, or by a later night that promoted.
"""

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from deployments.prefect.client import ask, ask_all
from deployments.prefect.crashed import is_ours
from ml.errors import RetrainError
from ml.settings import Settings
from ml.storage.ledger import AnyEntry, Ledger, NightEntry
from ml.storage.store import open_store
from tasks.lost import ASKED

WAITING = {"flows": {"name": {"any_": ["retrain"]}}, "flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}


def resume_answered(settings: Settings, api: str, use_cases: Collection[str]) -> list[str] | None:
    """Resumes the suspended runs of these use cases whose question is closed, and returns their ids.

    A resumed run ends by itself: it says what the ledger says. Returns None if Prefect does not answer.
    """
    waiting = ask_all(f"{api}/flow_runs/filter", WAITING)
    if waiting is None:
        return None
    resumed = []
    for run in waiting:
        closed = _closed_by(settings, run) if is_ours(run, use_cases) else None
        if closed is not None:
            # Not Prefect's own `resume`, which would need an answer for the form, as if somebody had given a second.
            message = f"Entry {closed.seq} of the ledger closed the question."
            state = {"type": "SCHEDULED", "name": "Resuming", "message": message}
            if ask(f"{api}/flow_runs/{run['id']}/set_state", {"state": state}) is None:
                return None
            resumed.append(str(run["id"]))
    return resumed


def _closed_by(settings: Settings, run: dict[str, Any]) -> AnyEntry | None:
    """The entry that closed the question of a suspended run; None if it is open, or if the ledger cannot be read."""
    asked = run["labels"].get(ASKED)
    if asked is None:
        return None
    with suppress(RetrainError):  # whoever needs the ledger reports it, and here it is looked for again
        ledger = Ledger(open_store(settings.store), run["parameters"]["request"]["use_case"])
        night = ledger.entry(int(asked))
        return ledger.answer_to(night) if isinstance(night, NightEntry) else None
    return None
