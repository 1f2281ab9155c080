"""A backfill: many dates of one use case, run on an operator's request. Each date sees only what was known then."""

import contextvars
import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import date
from typing import Any

import httpx
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from flows.retrain import RetrainRequest, answered, only_run_of
from ml.errors import Busy, DataRejected, PrefectUnavailable, Unavailable, unforeseen
from ml.operations.backfill import (
    Attempt,
    Known,
    Outcome,
    Plan,
    Progress,
    Promote,
    Reprocess,
    date_name,
    driver_lock,
    driver_name,
    end_attempt,
    start_attempt,
)
from ml.pipeline.site import Site
from ml.settings import Settings
from ml.storage.locks import held_lock
from ml.storage.store import open_store
from ml.use_case.loading import load_use_case
from tasks.backfill import Board, open_plan, plan_backfill
from tasks.flow_run import begin_flow_run, in_our_words

log = logging.getLogger("retrain.backfill")
POLL_SECONDS = 1.0
KEEP_SECONDS = 10.0


class BackfillRequest(BaseModel):
    """The form that starts a backfill. A mistyped field is refused before any work."""

    model_config = ConfigDict(extra="forbid")

    use_case: str = Field(description="Which use case, as `retrain status` lists them.")
    first: date = Field(description="The first as_of.")
    last: date = Field(description="The last as_of.")
    every: str = Field("1d", description="Every so many days or weeks (1d, 2w), or a cron line.")
    reprocess: Reprocess = Field("none", description="Run again what failed before, or even what was completed.")
    promote: Promote = Field("never", description="Only record verdicts; or promote, past the champion's as_of.")
    newest_first: bool = Field(False, description="Begin with the last date.")
    plan: str | None = Field(None, description="The digest of a kept plan to run exactly; empty: a new one.")
    max_active: int = Field(1, ge=1, le=16, description="How many dates may run at once.")
    fail_fast: bool = Field(False, description="Start no date after the first that fails.")

    @property
    def title(self) -> str:
        """The name of the flow run."""
        return f"{self.use_case} {self.first} to {self.last}"


@flow(name="backfill", flow_run_name="{request.title}", persist_result=True, result_serializer="json")
def backfill(request: BackfillRequest) -> State[dict[str, Any]]:
    """Makes a plan, or takes a kept one, and runs its dates. The champion moves only if `promote` says so."""
    settings = Settings.from_environment()
    busy = Busy(f"{request.use_case} has one backfill at a time", "another one runs", "look at retrain backfill status")
    with in_our_words(), held_lock(driver_lock(settings, request.use_case), 0, busy):
        begin_flow_run(driver_name(request.use_case), load_use_case(request.use_case, settings.project))
        site, plan = open_plan(open_store(settings.store), request.plan or _planned(request).digest, driving=True)
        return concluded(run_dates(site, plan, request))


def _planned(request: BackfillRequest) -> Plan:
    return plan_backfill(
        request.use_case, request.first, request.last, request.every, request.reprocess, request.promote,
        newest_first=request.newest_first, driving=True,
    )  # fmt: skip


def run_dates(site: Site, plan: Plan, request: BackfillRequest) -> Progress:
    """Runs the plan's open dates, up to `max_active` at once, until none is open or an operator pauses or cancels it.

    If Prefect's server goes away, no further date starts, and PrefectUnavailable is raised when the running ones have
    ended. If an operator has asked for something since then (such as resume), the backfill goes on instead.
    """
    board, known, running = Board(site, plan), Known(), dict[Future[Attempt], tuple[date, str]]()
    interrupted, controls = None, 0
    with ThreadPoolExecutor(request.max_active) as pool:
        while True:
            progress = Progress.of(site.store, plan, known)
            if progress.controls > controls:
                interrupted, controls = None, progress.controls
            free = request.max_active - len(running) if may_start(progress, request) and not interrupted else 0
            active = {as_of for as_of, _ in running.values()}
            for as_of in [as_of for as_of in progress.open_dates if as_of not in active][: max(free, 0)]:
                attempt = start_attempt(site.store, plan, as_of)
                future = pool.submit(in_this_context(run_date), site, plan, attempt)
                running[future] = (as_of, run_name(plan, attempt))
            _show(board, progress, dict(running.values()))
            if not running and interrupted:
                raise unavailable(plan, interrupted)
            if not running:
                return progress
            for future in wait(running, POLL_SECONDS, FIRST_COMPLETED).done:
                del running[future]
                ended = future.result()
                interrupted = interrupted or (ended if ended.outcome == "interrupted" else None)


def _show(board: Board, progress: Progress, running: dict[date, str]) -> None:
    """Shows the progress. If that fails, it is only logged: the backfill itself must go on."""
    try:
        board.show(progress, running)
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("The table could not be shown: %s", error)


def may_start(progress: Progress, request: BackfillRequest) -> bool:
    """Whether further dates may start."""
    return progress.state == "open" and not (request.fail_fast and progress.failed)


def unavailable(plan: Plan, interrupted: Attempt) -> PrefectUnavailable:
    """The error to raise after Prefect's server went away during this attempt."""
    return PrefectUnavailable(
        "Prefect's server answers until a backfill has ended",
        f"the run of {interrupted.as_of} says '{interrupted.reason}'",
        f"start it, then retrain backfill resume {plan.digest[:12]}",
    )


def in_this_context(function: Callable[..., Attempt]) -> Callable[..., Attempt]:
    """The function with a copy of this context, in which Prefect finds the parent flow run from another thread."""
    context = contextvars.copy_context()
    return lambda *args: context.run(function, *args)


def run_name(plan: Plan, attempt: Attempt) -> str:
    """The name of the flow run of this attempt."""
    return f"{plan.use_case} {attempt.as_of} #{attempt.number}"


def run_date(site: Site, plan: Plan, attempt: Attempt) -> Attempt:
    """Runs one date as a flow run of its own, stores how it ended, and returns the ended attempt."""
    request = RetrainRequest.model_validate({"use_case": plan.use_case, "as_of": attempt.as_of, "again": _again(plan)})
    try:
        state = retrain_date.with_options(flow_run_name=run_name(plan, attempt))(request, plan, return_state=True)
        outcome, entry, reason = _outcome(state)
    except httpx.HTTPError as error:
        outcome, entry, reason = "interrupted", None, f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - Prefect raised it: a date without an end would keep the others waiting
        outcome, entry, reason = "failed", None, str(unforeseen(error))
    ended = replace(attempt, outcome=outcome, entry=entry, reason=reason)
    _keep_end(site, plan, ended)
    log.info("%s: %s. %s", run_name(plan, attempt), outcome, reason)
    return ended


def _keep_end(site: Site, plan: Plan, ended: Attempt) -> None:
    """Stores how the attempt ended. While the store is away it tries again, because later dates wait for this."""
    while True:
        try:
            return end_attempt(site.store, plan, ended)
        except Unavailable as error:
            log.warning("%s (tried again)", error)
            time.sleep(KEEP_SECONDS)


def _again(plan: Plan) -> str | None:
    """The reason to run a completed date again, which is this plan; None if completed dates are not run again."""
    return f"backfill {plan.digest[:12]}" if plan.reprocess == "completed" else None


def _outcome(state: State[Any]) -> tuple[Outcome, int | None, str]:
    """The outcome of a date's flow run, its entry in the ledger if it has one, and the reason in words."""
    if state.is_completed():
        return "done", state.result()["entry"], state.message or ""
    reason, error = state.message or str(state.name), state.result(raise_on_failure=False)
    if isinstance(error, DataRejected):
        return "rejected", None, str(error)
    away = isinstance(error, PrefectUnavailable | httpx.HTTPError)
    return "interrupted" if away else "failed", None, reason


@flow(name="retrain date", persist_result=True, result_serializer="json", validate_parameters=False)
def retrain_date(request: RetrainRequest, plan: Plan) -> State[dict[str, Any]]:
    """The night of one date, as part of a backfill."""
    assert request.as_of is not None, request
    with in_our_words(), only_run_of(date_name(request.use_case, request.as_of), wait=True):
        return answered(request, plan)


def concluded(progress: Progress) -> State[dict[str, Any]]:
    """The backfill's state: green if no date failed, even if an operator stopped it; else red, with the next step."""
    plan, ended = progress.plan, len(progress.attempts)
    digest = plan.digest[:12]
    data = {"plan": plan.digest, "state": progress.state, "done": progress.done, "failed": progress.failed}
    words = f"{progress.done} of {len(plan.dates)} dates are done, {progress.failed} failed"
    if progress.failed:
        return Failed(message=f"{words}: retrain backfill retry-failed {digest}.", data=data)
    if ended < len(plan.dates):
        return Completed(message=f"{words}; it is {progress.state}: retrain backfill resume {digest}.", data=data)
    return Completed(message=f"{words}.", data=data)
