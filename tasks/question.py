"""Asks an operator when the gates cannot tell: the run is suspended, and Resume on its page shows the question."""

import logging
from typing import Annotated, Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import read_flow_run_input
from prefect.input.run_input import keyset_from_paused_state
from prefect.runtime import deployment, flow_run
from prefect.states import Suspended
from pydantic import Field, StringConstraints

from ml.evaluation.gates import ALLOWING
from ml.evaluation.source_evidence import days_to_exclude
from ml.evaluation.source_unchanged import SourceUnchanged
from ml.evaluation.source_words import span_of
from ml.operations.backfill import Plan
from ml.pipeline.register import answer_question
from ml.reporting import decision_section
from ml.reporting.endings import late_answer_sentence
from ml.reporting.escaping import literal
from ml.reporting.source_section import after_no
from ml.storage.ledger import AnyEntry, NightEntry, OperatorEntry, version_of
from tasks.flow_run import prefect_errors, run_label
from tasks.lost import ANSWERS, ASKED, QUESTION
from tasks.site import open_site
from tasks.stage import stage

log = logging.getLogger("retrain.question")
ONE_LINE = StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")
Words = Annotated[str, ONE_LINE]


class Answer(RunInput):
    """The form that Resume shows."""

    promote: bool = Field(
        False, description="On is the answer yes: the version becomes champion. Off is no: all stays."
    )
    exclude: bool = Field(
        False, description="Only with the answer no: leave out the days on which the source changed, from now on."
    )
    name: Words = Field(description="Who answers; it stands in the ledger.")
    reason: Words = Field(description="Why; it stands in the ledger.")


def asked_before(use_case: str) -> NightEntry | None:
    """The night that this run asked about in an earlier attempt, if it has been resumed or tried again; else None."""
    seq = run_label(ASKED)
    entry = open_site(use_case).ledger.entry(int(seq)) if seq is not None else None
    assert entry is None or isinstance(entry, NightEntry), seq
    return entry


def answered_by(entry: NightEntry, plan: Plan | None = None) -> AnyEntry | None:
    """The entry that answers the night's question; None if there is no question, or nobody can be asked here.

    The run of a deployment is suspended until it is resumed, which ends this process; the resumed run calls this again.
    Other runs, and one whose question another run asks already, only log how to answer.
    """
    if plan is not None or not entry.asks:
        return None
    if (closed := look_for_answer(entry)) is not None:
        return closed
    with prefect_errors():
        if deployment.get_id() is None or _is_asked_by_another(entry):
            log.warning("%s", decision_section.way_out(entry.result))
            return None
        answer = suspend_flow_run(Answer.with_initial_data(description=_question(entry)), key=_key(entry))
    return take_answer(entry, answer)


def unused_answer(entry: NightEntry, closed: AnyEntry | None) -> str:
    """A sentence about the answer with which this run was resumed, if something else closed the question; else ""."""
    if closed is None or run_label(ASKED) is None:
        return ""
    with prefect_errors():
        keys = keyset_from_paused_state(Suspended(pause_key=_key(entry)))
        given: Any = read_flow_run_input(keys["response"], flow_run_id=_own_id())
    answer = Answer.model_validate(given) if given is not None else None
    if answer is None or _is_recorded_in(closed, entry, answer):
        return ""
    return late_answer_sentence(answer.name, answer.reason, promote=answer.promote)


def _is_recorded_in(closed: AnyEntry, entry: NightEntry, answer: Answer) -> bool:
    """Whether the entry of the ledger records this answer to the night's question."""
    answers_it = isinstance(closed, OperatorEntry) and closed.answers == entry.seq and closed.by == answer.name
    return answers_it and closed.reason.endswith(f": {answer.reason}")


@stage("look for an answer", timeout_seconds=300)
def look_for_answer(entry: NightEntry) -> AnyEntry | None:
    """The entry that has already answered the question; None if there is none."""
    return open_site(entry.use_case).ledger.answer_to(entry)


@stage("take answer", timeout_seconds=300)
def take_answer(entry: NightEntry, answer: Answer) -> AnyEntry:
    """Records the answer in the ledger under the operator's name, and then moves the aliases."""
    site = open_site(entry.use_case)
    closed = answer_question(site, entry, promote=answer.promote, name=answer.name, reason=answer.reason,
                             exclude=answer.exclude)  # fmt: skip
    log.info("%s by %s: %s.", closed.decision, closed.by, closed.reason.rstrip("."))
    days = days_to_exclude(entry.source_changes)
    if isinstance(closed, OperatorEntry) and closed.decision == "OPERATOR_KEEP" and (then := after_no(closed, days)):
        log.info("%s", then.strip())
    if answer.exclude and (answer.promote or not days):
        log.warning("No day is left out: %s.", "the answer is yes" if answer.promote else "the question names none")
    return closed


def _key(entry: NightEntry) -> str:
    """The key of this question in this run. It stays the same when the run is resumed. Labels of the run say what is
    asked.

    A run that ended and is tried again gets another key and asks again: Prefect has forgotten that it was paused, but
    would give it the old answer.
    """
    own = _own_id()
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(own, _labels(entry))
        ends = sum(state.is_final() for state in client.read_flow_run_states(own))
    return f"entry-{entry.seq}-{ends}"


def _labels(entry: NightEntry) -> dict[str, bool | int | float | str]:
    version = version_of(entry.candidate)
    question = f"Is version {version} to serve? {entry.reason}"
    return {
        ASKED: str(entry.seq),
        QUESTION: question,
        ANSWERS: decision_section.ways_to_answer(
            entry.use_case, version, has_days=bool(days_to_exclude(entry.source_changes))
        ),
    }


def _is_asked_by_another(entry: NightEntry) -> bool:
    """Whether another run waits for the same answer."""
    wanted = {"name": {"like_": f"{entry.use_case} {entry.as_of}"}, "state": {"type": {"any_": ["PAUSED"]}}}
    with get_client(sync_client=True) as client:
        paused = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted))
    others = [run for run in paused if run.id != _own_id() and run.labels.get(ASKED) == str(entry.seq)]
    # One use case's name may end with another's, so that `like_` finds runs of both.
    return any(run.parameters["request"]["use_case"] == entry.use_case for run in others)


def _own_id() -> UUID:
    return UUID(str(flow_run.get_id()))


def _question(entry: NightEntry) -> str:
    """The text above the form: what is asked and why, which version is champion, and what serves.

    The page shows its first ten lines or so, and the others when one scrolls. So a change of the source comes first.
    """
    verdicts = [verdict for verdict in entry.result["verdicts"] if verdict["verdict"] not in ALLOWING]
    verdicts.sort(key=lambda verdict: verdict["gate"] != SourceUnchanged.__name__)
    days = days_to_exclude(entry.source_changes)
    paragraphs = (
        f"Is {entry.use_case} version {version_of(entry.candidate)} (as of {entry.as_of}) to serve?",
        *(f"{verdict['gate']} cannot tell: {verdict['reason']}." for verdict in verdicts),
        f"Exclude leaves out {span_of(days)}." if days else "",
        decision_section.champion_sentence(entry.result),
        decision_section.serving_words(entry.result),
    )
    return "\n\n".join(literal(paragraph) for paragraph in paragraphs if paragraph)
