"""The flow run as Prefect shows it: its name, the end of runs whose process is gone, and a server that is away."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.flow_engine import FlowRunTimeoutError
from prefect.runtime import flow_run
from prefect.states import Crashed
from prefect.task_engine import TaskRunTimeoutError

from ml.artifacts import Work
from ml.errors import PrefectUnavailable, only_our_words
from ml.locks import holder_tag
from ml.report import stages_artifact, work_rows
from ml.settings import Settings

AS_OF = "retrain.as_of"  # a label of the flow run
_WORK: dict[str, dict[str, Work]] = {}  # by flow run and stage: dates of a backfill run side by side


@contextmanager
def prefect_errors() -> Iterator[None]:
    """A server that is gone, locked or busy raises PrefectUnavailable."""
    try:
        yield
    except httpx.HTTPError as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise PrefectUnavailable(
            "Prefect's server answers until a run has ended", said, "start it, then run the same command again"
        ) from error


@contextmanager
def in_our_words() -> Iterator[None]:
    """What a task or a flow raises is ours, so that Prefect's states, events and log hold no words of a library.

    Prefect's own errors and time-outs, and those of the way to its server, stay what they are: it acts on them.
    """
    with ExitStack() as stack:
        try:
            yield
        except (PrefectException, httpx.HTTPError, TaskRunTimeoutError, FlowRunTimeoutError):
            raise
        except Exception:
            stack.enter_context(only_our_words())
            raise


def note_work(work: Work) -> None:
    """Remembers what a stage of the present run cost; the last time counts."""
    run_id = flow_run.get_id()
    if run_id is not None:
        _WORK.setdefault(run_id, {})[work.stage] = work


def publish_work(use_case: str, as_of: date) -> list[dict[str, Any]]:
    """Shows what ran and what was reused as a table of the run, and returns its rows."""
    rows = work_rows(_WORK.pop(flow_run.get_id() or "", {}).values())
    with prefect_errors():
        create_table_artifact(rows, **stages_artifact(use_case, as_of))
    return rows


def name_flow_run(use_case: str, as_of: date) -> None:
    """Names a run that was begun without a date by the one it got, and lets its later attempts know that."""
    run_id = flow_run.get_id()
    if run_id is not None:
        with prefect_errors(), get_client(sync_client=True) as client:
            client.update_flow_run(UUID(run_id), name=f"{use_case} {as_of}")
            client.update_flow_run_labels(UUID(run_id), {AS_OF: str(as_of)})


def begun_as_of() -> date | None:
    """The date of this very run's earlier attempt: a retried, resubmitted or resumed run keeps it."""
    noted = run_label(AS_OF)
    return date.fromisoformat(noted) if noted is not None else None


def run_label(name: str) -> str | None:
    """What an earlier attempt of this very run noted."""
    context = FlowRunContext.get()
    labels = context.flow_run.labels if context and context.flow_run else {}
    return str(labels[name]) if name in labels else None


def end_lost_runs(lock: str) -> None:
    """Ends earlier runs that hold the lock of this name on this machine no more: their process was killed.

    To be called while holding the lock. Without it they would stay Running for ever, and could not be retried.
    """
    run_id = flow_run.get_id()
    if run_id is None:
        return
    tag = holder_tag(Settings.from_environment().home, lock)
    with prefect_errors(), get_client(sync_client=True) as client:
        for lost in _running(client, tag):
            if lost.id != UUID(run_id):
                state: State[Any] = Crashed(
                    message="The process of this run ended without a word; a later run holds its lock."
                )
                client.set_flow_run_state(lost.id, state)  # refused where it has just ended by itself
        others = {each for each in flow_run.get_tags() if not each.startswith("lock:")}  # of an attempt elsewhere
        client.update_flow_run(UUID(run_id), tags={*others, tag})


def _running(client: SyncPrefectClient, tag: str) -> list[FlowRun]:
    chosen = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}, "tags": {"all_": [tag]}})
    return client.read_flow_runs(flow_run_filter=chosen)
