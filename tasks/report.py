"""The last stage publishes what operators and data scientists read, in Prefect and in MLflow."""

import logging

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event

from ml.errors import DataRejected
from ml.evaluation.decision import KEPT_EVENT, KEPT_NIGHTS, SOURCE_EVENT
from ml.pipeline import publish
from ml.reporting import decision_section, page
from ml.reporting.escaping import literal, on_a_page
from ml.reporting.trail import Trail
from ml.reporting.words import counted
from ml.storage.ledger import NightEntry
from ml.storage.records import Night
from tasks.flow_run import prefect_errors
from tasks.site import site_of
from tasks.stage import stage

log = logging.getLogger("retrain.report")


@stage("publish report", timeout_seconds=1800)  # Prefect's client waits 7 minutes for a locked database, four times
def publish_report(night: Night, entry: NightEntry, trail: Trail) -> None:
    """Puts the report into Prefect, and report, curves and figures into the MLflow run."""
    site = site_of(night)
    figures = publish.publish_to_mlflow(site, night, entry, trail)
    publish_to_prefect(entry)
    if entry.decision == "KEEP":
        _tell_kept(entry, site.ledger.kept_nights())
    _tell_changed_source(entry)
    site.ledger.mark_published(entry)
    log.info("Published the report and %s.", counted(figures, "figure"))


def publish_to_prefect(entry: NightEntry) -> None:
    """A page of text, and a table of the data checks."""
    broken = entry.result["data"]["broken_rules"]
    table = broken or [{"rule": "every rule holds", "scope": "all", "severity": "none", "unexpected": 0}]
    with prefect_errors():
        create_markdown_artifact(
            page.markdown(entry.result),
            key=page.artifact_key(entry.use_case, "report"),
            description=decision_section.headline(entry.result),
        )
        create_table_artifact(
            on_a_page(table),
            key=page.artifact_key(entry.use_case, "data-checks"),
            description=f"Data checks as of {entry.as_of}",
        )


def _tell_kept(entry: NightEntry, nights: int) -> None:
    """Sends the event that an alert waits for, unless no night has been kept since the champion's own date."""
    if nights:
        name = entry.use_case
        reason = f"The champion of {name} was kept for {counted(nights, 'night')}. {entry.reason}"
        resource = {"prefect.resource.id": f"retrain.use-case.{name}", KEPT_NIGHTS: str(nights)}
        emit_event(KEPT_EVENT, resource, payload={"use_case": name, "nights": nights, "reason": reason})


def _tell_changed_source(entry: NightEntry) -> None:
    """Sends the event that an alert waits for, if the source has changed, or is still broken, and the night asks nobody
    about it. It sends none for an old date, as of a backfill.
    """
    is_new = entry.champion is None or entry.as_of > entry.champion.as_of
    what_next = decision_section.refused_source(entry.result) or decision_section.changed_source(entry.result)
    if is_new and what_next:
        resource = {"prefect.resource.id": f"retrain.use-case.{entry.use_case}"}
        payload = {"use_case": entry.use_case, "reason": entry.reason, "next": f"{what_next}."}
        emit_event(SOURCE_EVENT, resource, payload=payload)


def publish_rejection(use_case: str, error: DataRejected) -> None:
    """Publishes the page of a night whose data were rejected: what was wrong, and what to do."""
    text = (
        f"# {use_case}: data rejected\n\n{literal(str(error))}\n\nNothing was trained, and the champion is as it was.\n"
    )
    with prefect_errors():
        create_markdown_artifact(text, key=page.artifact_key(use_case, "report"))
