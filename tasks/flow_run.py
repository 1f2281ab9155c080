"""What the present flow run says of itself to Prefect: its name, its labels, its tags and its table of stages.

It also ends earlier runs whose process is gone, and turns errors of Prefect's server into PrefectUnavailable.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.flow_engine import FlowRunTimeoutError
from prefect.runtime import flow_run
from prefect.task_engine import TaskRunTimeoutError

from ml.errors import PrefectUnavailable, RetrainError, Unforeseen, only_our_words
from ml.evaluation.decision import ALL_END_WORDS
from ml.operations.dead_runs import Signs, is_dead
from ml.operations.schedule import next_night
from ml.reporting.document import work_rows
from ml.reporting.endings import REPLAY, Ending, run_title, shown_name
from ml.reporting.page import stages_artifact
from ml.settings import Settings
from ml.storage.ledger import NightEntry
from ml.storage.locks import holder_name
from ml.storage.records import Work
from ml.use_case.definition import UseCase
from tasks.lost import FLOWS, LOCK, Post, end_lost

AS_OF, NEXT_NIGHT = "retrain.as_of", "retrain.next_night"  # labels of the flow run; its page does not show them
DRY_RUN = "dry run"
ENDING_TAGS = {*ALL_END_WORDS, REPLAY}
LOST = "The process of this run ended without a word; a later run holds its lock."
_WORK: dict[str, dict[str, Work]] = {}  # by flow run, then by stage: a backfill runs dates side by side
_DATES: dict[str, date] = {}  # the date of each flow run that was begun without one


@contextmanager
def prefect_errors() -> Iterator[None]:
    """Raises PrefectUnavailable if Prefect's server is gone, locked or busy."""
    try:
        yield
    except httpx.HTTPError as error:
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise PrefectUnavailable(
            "Prefect's server answers until a run has ended", message, "start it, then run the same command again"
        ) from error


@contextmanager
def in_our_words() -> Iterator[None]:
    """Turns a library's error into one of ours, so that Prefect's states, events and logs hold no words of libraries.

    A library's message may quote data. Prefect's own errors and time-outs, and errors of the connection to its server,
    stay as they are, because Prefect acts on them.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(is_worth_a_line)  # it adds the same filter only once
    with ExitStack() as stack:
        try:
            yield
        except (PrefectException, httpx.HTTPError, TaskRunTimeoutError, FlowRunTimeoutError):
            raise
        except Exception:
            stack.enter_context(only_our_words())
            raise


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Shortens Prefect's log, so that the page of a red run shows on its first screen what is to be done.

    An error of ours becomes one line, its kind and its sentence: Prefect adds a traceback of 80 lines. Tasks that ended
    well get no line, for each logs one itself.
    """
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, RetrainError) and not isinstance(error, Unforeseen):
        record.msg, record.args, record.exc_info = "%s: %s", (type(error).__name__, error), None
    return record.getMessage() != "Finished in state Completed()"


def note_work(work: Work) -> None:
    """Remembers what a stage of the present run cost. If the stage runs again, the last time counts."""
    run_id = flow_run.get_id()
    if run_id is not None:
        _WORK.setdefault(run_id, {})[work.stage] = work


def publish_work(use_case: str, as_of: date) -> list[dict[str, Any]]:
    """Shows which stages ran and what they reused as a table on the run's page, and returns its rows."""
    rows = work_rows(_WORK.pop(flow_run.get_id() or "", {}).values())
    with prefect_errors():
        create_table_artifact(rows, **stages_artifact(use_case, as_of))
    return rows


def name_flow_run(use_case: str, as_of: date, *, dry_run: bool = False) -> None:
    """Names a run that was begun without a date after the date it got. A label keeps the date for later attempts."""
    if (run_id := flow_run.get_id()) is not None:
        _DATES[run_id] = as_of
    _show({"name": run_title(use_case, as_of, dry_run=dry_run)}, {AS_OF: str(as_of)})


def show_ending(end: Ending) -> None:
    """Makes the word a tag of the run and puts the score behind its name: lists of runs show these, and no messages."""
    run = _own_run()
    if run is None:
        return
    name = shown_name(run.name, end.score, end.mark)
    _show({"name": name, "tags": {*(set(run.tags) - ENDING_TAGS), *end.tags}})


def decided_in_this_run(entry: NightEntry) -> bool:
    """Whether an earlier attempt of the present flow run added this entry to the ledger, and died before its end."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.start_time is None or run.run_count < 2:
        return False
    return datetime.fromisoformat(entry.at) >= run.start_time.replace(microsecond=0)


def _show(changes: dict[str, Any], labels: dict[str, Any] | None = None) -> None:
    """Changes fields and labels of the present flow run, if there is one."""
    run_id = flow_run.get_id()
    if run_id is None:
        return
    with prefect_errors(), get_client(sync_client=True) as client:
        client.update_flow_run(UUID(run_id), **changes)
        if labels:
            client.update_flow_run_labels(UUID(run_id), labels)


def _own_run() -> FlowRun | None:
    """The present flow run as Prefect's server has it now. The one in the context is as old as its start."""
    run_id = flow_run.get_id()
    if run_id is None:
        return None
    with prefect_errors(), get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(run_id))


def begun_as_of() -> date | None:
    """The date that this run got, now or in an earlier attempt: a retried or resumed run keeps its date."""
    if (known := _DATES.get(flow_run.get_id() or "")) is not None:
        return known
    label = run_label(AS_OF)
    return date.fromisoformat(label) if label is not None else None


def run_label(name: str) -> str | None:
    """A label that an earlier attempt of this run set; None if there is none."""
    context = FlowRunContext.get()
    labels = context.flow_run.labels if context and context.flow_run else {}
    return str(labels[name]) if name in labels else None


def begin_flow_run(lock: str, use_case: UseCase, *, dry_run: bool = False) -> None:
    """Ends earlier runs that held this lock, then labels the present run.

    Call it while holding the lock: then the process of any other run that is labelled with it must have been killed.
    The labels and tags say which lock the run holds, whose run it is, and when the next night comes.
    """
    run = _own_run()
    if run is None:
        return
    home = Settings.from_environment().home
    holder = holder_name(home, lock)
    with prefect_errors(), get_client(sync_client=True) as client:
        for lost in _running(client):
            if lost.id != run.id and lost.labels.get(LOCK) == holder and is_dead(home, Signs(lock=holder), held=lock):
                lost_run = {"id": str(lost.id), "state_type": "RUNNING"}
                end_lost(_post(client), lost_run, LOST, force=False)
        before = set(run.tags) - ENDING_TAGS  # this attempt may end in another way than an earlier one
        tags = {*before, use_case.name, *([DRY_RUN] if dry_run else [])}
        client.update_flow_run(run.id, tags=tags)
        client.update_flow_run_labels(run.id, {LOCK: holder, NEXT_NIGHT: next_night(use_case, datetime.now(UTC))})


def _running(client: SyncPrefectClient) -> list[FlowRun]:
    """The runs of our flows that are running according to Prefect."""
    ours = FlowFilter.model_validate({"name": {"any_": FLOWS}})
    chosen = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}})
    return client.read_flow_runs(flow_filter=ours, flow_run_filter=chosen)


def _post(client: SyncPrefectClient) -> Post:
    def post(path: str, body: dict[str, Any]) -> Any:
        response = client._client.post(path, json=body)  # no public method ends a task of another run
        response.raise_for_status()
        return response.json()

    return post
