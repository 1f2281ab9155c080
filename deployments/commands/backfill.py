"""`retrain backfill`: plan, apply, status, pause, resume, cancel and retry-failed, from any terminal of the home."""

import argparse
import time
from datetime import date
from typing import Any

from deployments.prefect.night import run_flow_here_or_there
from deployments.terminal import (
    aligned,
    home_settings,
    home_to_read,
    own_name,
    require_use_case,
    say,
    show,
    show_sentences_only,
)
from ml.errors import UsageError
from ml.operations.backfill import Plan, Progress, add_control, date_name, is_driven, read_plan
from ml.operations.board import board_rows
from ml.pipeline.planning import plan_backfill, refuse_stale_plan
from ml.reporting.words import counted
from ml.settings import Settings
from ml.storage.ledger import Ledger
from ml.storage.locks import is_free, run_lock
from ml.storage.store import Store, open_store
from tasks.site import open_site

DRIVER_READS_SECONDS = 5.0  # within these a running backfill has read a request: it looks every second


def backfill(options: argparse.Namespace) -> int:
    """Runs the function of the action; resume and retry-failed share one."""
    show_sentences_only(options)
    actions = {"plan": _plan, "apply": _apply, "status": _status, "pause": _stop, "cancel": _stop}
    return actions.get(options.action, _go_on)(options)


def _plan(options: argparse.Namespace) -> int:
    """Prints a row for each date, with the reason why it runs or not, and stores the plan under its digest."""
    require_use_case(options.use_case)
    home_settings()
    plan = plan_backfill(
        open_site(options.use_case), options.first, options.last, options.every, options.reprocess, options.promote,
        newest_first=options.newest_first,
    )  # fmt: skip
    rows = [{"as_of": str(row.as_of), "runs": row.runs, "reason": row.reason} for row in plan.rows]
    show(options, {"plan": plan.digest, "use_case": plan.use_case, "dates": rows}, "")
    if not options.json:
        say(*aligned([[str(row["as_of"]), str(row["reason"])] for row in rows]), "")
        command = f": {own_name()} backfill apply {plan.digest[:12]}" if plan.dates else "."
        say(f"{len(plan.dates)} of {counted(len(rows), 'date')} will run{command}")
    return 0


def _apply(options: argparse.Namespace) -> int:
    """Runs exactly the stored plan. Raises UsageError if the data or the code have changed since it was made."""
    settings = home_settings(f"backfill {options.action}")
    plan = read_plan(open_store(settings.store), options.plan)
    refuse_stale_plan(open_site(plan.use_case), plan)
    return _drive(settings, plan, options)


def _go_on(options: argparse.Namespace) -> int:
    """Resume and retry-failed: stores the request, and runs the backfill unless a running one takes the request."""
    settings = home_settings(f"backfill {options.action}")
    store = open_store(settings.store)
    plan = read_plan(store, options.plan)
    add_control(store, plan, options.action)
    if _is_driven(settings, plan):
        show(options, _document(store, settings, plan), f"The running backfill of {plan.use_case} goes on.")
        return 0
    return _drive(settings, plan, options)


def _is_driven(settings: Settings, plan: Plan) -> bool:
    """Whether the backfill runs and will read the request.

    One that was about to end when the request was stored is gone within DRIVER_READS_SECONDS.
    """
    deadline = time.monotonic() + DRIVER_READS_SECONDS
    while is_driven(settings, plan.use_case):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.5)
    return False


def _drive(settings: Settings, plan: Plan, options: argparse.Namespace) -> int:
    """Runs the backfill's flow, under `retrain up` if that runs and otherwise here; then prints every date's state."""
    store = open_store(settings.store)
    request = {
        "use_case": plan.use_case, "first": str(plan.first), "last": str(plan.last), "every": plan.every,
        "reprocess": plan.reprocess, "promote": plan.promote, "newest_first": plan.newest_first,
        "plan": plan.digest, "max_active": options.max_active, "fail_fast": options.fail_fast,
    }  # fmt: skip
    try:
        result = run_flow_here_or_there(settings, "backfill", request)
    except KeyboardInterrupt as interrupt:
        resume = f"{own_name()} backfill resume {plan.digest[:12]}"
        message = interrupt.args or (f"Interrupted; the dates that are done stay done: {resume}",)
        raise KeyboardInterrupt(*message) from None
    _print(options, store, settings, plan)
    return 1 if result["failed"] else 0


def _status(options: argparse.Namespace) -> int:
    """Prints the state of every date."""
    settings = home_to_read("backfill status")
    store = open_store(settings.store)
    _print(options, store, settings, read_plan(store, options.plan))
    return 0


def _stop(options: argparse.Namespace) -> int:
    """Pause and cancel: running dates go on to their end, and no other date is started."""
    settings = home_settings(f"backfill {options.action}")
    store = open_store(settings.store)
    plan = read_plan(store, options.plan)
    if options.action == "pause" and not Progress.of(store, plan).open_dates:
        raise UsageError("a pause stops what is open", "every date has ended", "nothing is to be done")
    add_control(store, plan, options.action)
    _print(options, store, settings, plan)
    return 0


def _document(store: Store, settings: Settings, plan: Plan) -> dict[str, Any]:
    """The state of the backfill and of every date, as `--json` prints it."""
    progress = Progress.of(store, plan)
    driven = is_driven(settings, plan.use_case)
    state = "running" if driven and progress.state == "open" else progress.state
    rows = board_rows(Ledger(store, plan.use_case), progress, _running(settings, progress), {})
    return {
        "plan": plan.digest, "use_case": plan.use_case, "state": state, "done": progress.done,
        "failed": progress.failed, "open": len(progress.open_dates),
        "dates": rows,
    }  # fmt: skip


def _running(settings: Settings, progress: Progress) -> dict[date, str]:
    """The dates that run on this machine now: the lock of such a date is held."""
    name = progress.plan.use_case
    locks = {as_of: run_lock(settings.home, date_name(name, as_of)) for as_of in progress.open_dates}
    return {as_of: "runs" for as_of, lock in locks.items() if lock.exists() and not is_free(lock)}


def _print(options: argparse.Namespace, store: Store, settings: Settings, plan: Plan) -> None:
    document = _document(store, settings, plan)
    show(options, document, "")
    if options.json:
        return
    columns = ("as_of", "stage", "decision", "version", "metric", "candidate", "champion", "reason")
    say(*aligned([list(columns), *([row[name] for name in columns] for row in document["dates"])]), "")
    say(
        f"Backfill {plan.digest[:12]} of {plan.use_case} is {document['state']}: {document['done']} done, "
        f"{document['failed']} failed, {document['open']} open."
    )
