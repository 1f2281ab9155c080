"""One night of one use case: from the snapshot of its data to the alias of the champion.

This module only says in which order the stages run and how a night ends; the work is in ml/pipeline.
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import date
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from ml.errors import Busy, DataRejected
from ml.evaluation.decision import DATA_REJECTED
from ml.operations.backfill import Plan
from ml.pipeline.run_key import run_key, training_key
from ml.reporting.document import dry_run_document
from ml.reporting.endings import Ending, ending, run_title
from ml.reporting.trail import Trail
from ml.settings import Settings
from ml.storage.ledger import AnyEntry, NightEntry
from ml.storage.locks import held_lock, run_lock
from ml.storage.nights import note_beginning, note_red, settle
from ml.use_case.loading import load_use_case
from tasks.backfill import await_turn
from tasks.data import clean_partitions, split_rows, take_snapshot, validate_partitions
from tasks.flow_run import (
    begin_flow_run,
    begun_as_of,
    decided_in_this_run,
    in_our_words,
    name_flow_run,
    publish_work,
    show_ending,
)
from tasks.model import (
    compare_with_trees,
    evaluate_models,
    explain_candidate,
    judge_gates,
    score_what_serves,
    train_candidate,
    try_parameters,
    upload_candidate,
    verify_candidate,
    watch_source,
)
from tasks.night_notes import beginning_forgotten, red_end_noted
from tasks.question import answered_by, asked_before, unused_answer
from tasks.refit import refit_winner
from tasks.registration import (
    find_finished,
    find_what_became,
    move_alias,
    open_night,
    read_head,
    record_decision,
    register_candidate,
    skip_if_nothing_new,
)
from tasks.report import publish_rejection, publish_report

log = logging.getLogger("retrain.flow")


class RetrainRequest(BaseModel):
    """The form that starts a run. A mistyped field is refused before any work."""

    model_config = ConfigDict(extra="forbid")

    use_case: str = Field(description="Which use case, as `retrain status` lists them.")
    as_of: date | None = Field(None, description="Use data before this day only. Empty: tonight.")
    seed: int | None = Field(None, ge=0, le=2**31 - 1, description="Another seed than the use case's.")
    again: str | None = Field(None, max_length=200, description="Why a finished night is to be run once more.")
    dry_run: bool = Field(False, description="Check the data and say what would be trained; train and move nothing.")
    wait: bool = Field(True, description="Wait for another run of the use case; otherwise fail at once.")

    @property
    def title(self) -> str:
        """The name of the flow run until `name_flow_run` gives it one with the date."""
        return run_title(self.use_case, self.as_of, dry_run=self.dry_run)


@flow(name="retrain", flow_run_name="{request.title}", persist_result=True, result_serializer="json")
def retrain(request: RetrainRequest) -> State[dict[str, Any]]:
    """Snapshot, validate, clean, split, train, verify, register, judge, refit, record, promote or keep, report."""
    with in_our_words(), red_noted(request), only_night_of(request):
        asked_night = asked_before(request.use_case)
        return answered(request) if asked_night is None else resumed(asked_night)


def red_noted(request: RetrainRequest) -> AbstractContextManager[None]:
    """If the night ends with an error, stores a note of it. Nothing is noted of a dry run, which is no night."""
    if request.dry_run:
        return nullcontext()
    settings, run_id = Settings.from_environment(), flow_run.get_id()
    return red_end_noted(settings, request.use_case, lambda: request.as_of or begun_as_of(), run_id)


@contextmanager
def only_night_of(request: RetrainRequest) -> Iterator[None]:
    """Holds the use case's lock while the night runs. At the end it first removes the note that the night runs."""
    with ExitStack() as stack:
        stack.enter_context(only_run_of(request.use_case, wait=request.wait, dry_run=request.dry_run))
        if not request.dry_run:
            stack.enter_context(beginning_forgotten(Settings.from_environment(), request.use_case))
        yield


def resumed(night: NightEntry) -> State[dict[str, Any]]:
    """Ends a run that was suspended with a question about this night. Nothing is judged again, whatever has changed."""
    name_flow_run(night.use_case, night.as_of)
    answer = answered_by(night)
    late = unused_answer(night, answer)
    end = ending(night, answer)
    return concluded(night, replace(end, reason=f"{end.reason} {late}") if late else end, answer)


def answered(request: RetrainRequest, plan: Plan | None = None) -> State[dict[str, Any]]:
    """Runs the night and returns its state. If the data are rejected, the state is red and begins with DataRejected."""
    try:
        return run_night(request, plan)
    except DataRejected as error:
        if request.dry_run:  # its page would replace that of the last night
            return Failed(message=f"Dry run, {DATA_REJECTED}: {error}", data=error)
        if plan is None:
            as_of = request.as_of or begun_as_of()
            note_red(Settings.from_environment(), request.use_case, as_of, error, flow_run=flow_run.get_id())
        publish_rejection(request.use_case, error)
        end = Ending(DATA_REJECTED, str(error))
        show_ending(end)
        return Failed(message=end.message, data=error)


def run_night(request: RetrainRequest, plan: Plan | None) -> State[dict[str, Any]]:
    """Runs the whole night, alone or as one date of a backfill's plan."""
    as_of = request.as_of or begun_as_of()
    night = open_night(request.use_case, as_of, flow_run.scheduled_start_time, request.seed, request.again)
    if request.as_of is None:
        name_flow_run(night.use_case, night.as_of, dry_run=request.dry_run)
    if plan is None and not request.dry_run:
        note_beginning(Settings.from_environment(), night.use_case, night.as_of, flow_run.get_id())
    snapshot = take_snapshot(night)
    key = run_key(night, snapshot.digest)
    finished, published = find_finished(night, key, plan)
    if finished and published and not request.dry_run:
        answer = answered_by(finished, plan)
        return replayed(finished, answer)
    idle = None if finished or request.dry_run else skip_if_nothing_new(night, key, snapshot)
    if idle:
        return concluded(idle, ending(idle))
    try_parameters(night)
    checks = validate_partitions(night, snapshot)
    cleaned = clean_partitions(night, snapshot, checks)
    split = split_rows(night, cleaned)
    if request.dry_run:
        document = dry_run_document(night, key, checks, split, finished)
        stages = publish_work(night.use_case, night.as_of)
        return Completed(message="Dry run: nothing was trained or moved.", data={**document, "stages": stages})
    trained = training_key(night, snapshot.digest)  # without the gates: other ones judge the same model
    fit = train_candidate(night, trained, cleaned, split, nightly=plan is None)
    upload = upload_candidate(night, trained, cleaned, fit)
    verified = verify_candidate(night, trained, upload)
    registered = register_candidate(night, trained, snapshot, split, upload)
    if plan and plan.promote == "if-newer":
        await_turn(night, plan)
    served = score_what_serves(night, cleaned, finished, plan)
    trees = compare_with_trees(night, snapshot, cleaned, split, nightly=plan is None)
    explanation = explain_candidate(night, cleaned, split, upload)
    entry = None
    while entry is None:  # if another run reaches the ledger first, all is judged again, and nothing is fitted again
        head, blocked = read_head(night, snapshot, finished, plan)
        watched = watch_source(night, trained, snapshot, checks, cleaned, head)
        evaluations = evaluate_models(night, trained, cleaned, split, upload, head, trees)
        judgement = judge_gates(night, evaluations, watched, head, blocked)
        trail = Trail(
            snapshot=snapshot, checks=checks, cleaned=cleaned, split=split, fit=fit, upload=upload, verified=verified,
            served=served, default_trees=trees, explanation=explanation, watch=watched, evaluations=evaluations,
            judgement=judgement,
        )  # fmt: skip
        candidate, trail = refit_winner(night, trained, registered, trail, finished, nightly=plan is None)
        entry = finished or record_decision(night, key, candidate, trail, head)
    move_alias(night, entry)
    publish_report(night, entry, trail)
    answer = answered_by(entry, plan)
    return replayed(entry, answer) if finished else concluded(entry, ending(entry, answer), answer)


def replayed(entry: NightEntry, answer: AnyEntry | None) -> State[dict[str, Any]]:
    """Ends a run of a night that the ledger had already. If this very run decided it and died, it is no replay."""
    if decided_in_this_run(entry):
        return concluded(entry, ending(entry, answer), answer)
    return concluded(entry, find_what_became(entry), answer)


def concluded(entry: NightEntry, end: Ending, answer: AnyEntry | None = None) -> State[dict[str, Any]]:
    """Ends the night with a green state that says what the gates, or then an operator, decided.

    Its data name the entries of the ledger and the stages that ran. Notes of older red nights are settled.
    """
    still_red = settle(Settings.from_environment(), entry)
    data = {
        "use_case": entry.use_case, "entry": entry.seq, "replayed": end.is_replay,
        "answer": answer.seq if answer else None, "stages": publish_work(entry.use_case, entry.as_of),
    }  # fmt: skip
    show_ending(replace(end, still_red=still_red))
    return Completed(message=end.message, data=data)


@contextmanager
def only_run_of(name: str, *, wait: bool, dry_run: bool = False) -> Iterator[None]:
    """Holds this machine's lock of a use case, or of one of its dates, and ends earlier runs that died holding it.

    `name` is the use case's, or that of the date. Raises Busy if another run holds the lock and `wait` is false.
    """
    settings = Settings.from_environment()
    use_case = load_use_case(name.split(".")[0], settings.project)
    path = run_lock(settings.home, name)
    busy = Busy(f"{name} runs once at a time", "another run is active", "wait for it to end")
    with ExitStack() as stack:
        try:
            stack.enter_context(held_lock(path, 0, busy))
        except Busy:
            if not wait:
                raise
            log.info("Waiting for another run of %s to end.", name)
            stack.enter_context(held_lock(path, -1, busy))
        begin_flow_run(name, use_case, dry_run=dry_run)
        yield
