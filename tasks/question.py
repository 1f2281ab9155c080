"""What an operator is asked where gates cannot tell: the run is suspended, and Resume on its page asks."""

import logging
from typing import Annotated
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from pydantic import Field, StringConstraints

from ml import report
from ml.artifacts import Night
from ml.backfill import Plan
from ml.ledger import AnyEntry, NightEntry
from ml.moves import answer
from ml.store import get_file
from tasks.site import site_of
from tasks.stage import stage

log = logging.getLogger("retrain.question")
ONE_LINE = StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")
Words = Annotated[str, ONE_LINE]


class Answer(RunInput):
    """The form that Resume shows."""

    promote: bool = Field(False, description="Make the candidate champion. Otherwise the champion stays.")
    name: Words = Field(description="Who answers; it stands in the ledger.")
    reason: Words = Field(description="Why; it stands in the ledger.")


def answered_by(night: Night, entry: NightEntry, plan: Plan | None) -> AnyEntry | None:
    """The entry that closed the night's question; None where none was asked, or nobody can be asked here.

    Suspends a deployment's run until it is resumed, which ends this process: the resumed one comes here again.
    """
    if plan is not None or not entry.asks:
        return None
    if (closed := look_for_answer(night, entry)) is not None:
        return closed
    if deployment.get_id() is None or _is_asked_by_another(night):
        log.warning("%s", report.way_out(entry.result))
        return None
    given = suspend_flow_run(Answer.with_initial_data(description=_question(entry)), key=f"entry-{entry.seq}")
    return take_answer(night, entry, given)


@stage("look for an answer", timeout_seconds=300)
def look_for_answer(night: Night, entry: NightEntry) -> AnyEntry | None:
    """What closed the question already."""
    return site_of(night).ledger.answer_to(entry)


@stage("take answer", timeout_seconds=300)
def take_answer(night: Night, entry: NightEntry, given: Answer) -> AnyEntry:
    """Records the answer under the operator's name, and lets the aliases follow."""
    site = site_of(night)
    assert entry.candidate is not None, entry.seq
    for file in entry.candidate.files if given.promote else ():
        get_file(site.store, file)
    closed = answer(
        site.ledger, site.registry, entry, promote=given.promote, name=given.name, reason=given.reason
    )  # fmt: skip
    log.info("%s by %s: %s", closed.decision, closed.by, closed.reason)
    return closed


def _is_asked_by_another(night: Night) -> bool:
    """Another run of this date waits for the same answer."""
    wanted = {"name": {"any_": [f"{night.use_case} {night.as_of}"]}, "state": {"type": {"any_": ["PAUSED"]}}}
    own = flow_run.get_id()
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted))
    return any(run.id != UUID(str(own)) for run in found)


def _question(entry: NightEntry) -> str:
    return f"{report.headline(entry.result)}.\n\n{entry.reason}\n\n{report.champion_sentence(entry.result)}"
