"""The last stage: what operators and data scientists read, in Prefect and in MLflow."""

import logging

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event

from ml.data.cleaning import from_parquet
from ml.errors import DataRejected
from ml.evaluation.decision import KEPT_EVENT, KEPT_NIGHTS
from ml.reporting import decision_section, page, score_section
from ml.reporting.escaping import literal, on_a_page
from ml.reporting.figures import night_figures
from ml.reporting.mlflow_pages import run_name, run_tags
from ml.reporting.trail import Trail
from ml.reporting.words import counted
from ml.storage import paths
from ml.storage.ledger import NightEntry
from ml.storage.records import Night
from ml.storage.store import get_file, put_file
from tasks.flow_run import prefect_errors
from tasks.site import site_of
from tasks.stage import stage

log = logging.getLogger("retrain.report")


@stage("publish report", timeout_seconds=1800)  # Prefect's client waits 7 minutes for a locked database, four times
def publish_report(night: Night, entry: NightEntry, trail: Trail) -> None:
    """Puts the report into Prefect, and report, curves and figures into the MLflow run."""
    site, run_id = site_of(night), trail.upload.run_id
    answers = from_parquet(get_file(site.store, trail.evaluations.answers))
    figures = night_figures(site.use_case, trail.fit.epochs, trail.fit.best_epoch, answers)
    for name, image in figures.items():
        put_file(site.store, f"{paths.run_artifacts(run_id)}/figures/{name}", image)
    text = page.markdown(entry.result)
    put_file(site.store, f"{paths.run_artifacts(run_id)}/report.md", text.encode())
    _log_to_mlflow(night, entry, trail)
    publish_to_prefect(entry)
    if entry.decision == "KEEP":
        _tell_kept(entry, site.ledger.kept_nights())
    site.ledger.mark_published(entry)
    log.info("Published the report and %d figures.", len(figures))


def _log_to_mlflow(night: Night, entry: NightEntry, trail: Trail) -> None:
    site, run_id = site_of(night), trail.upload.run_id
    ran = {"seed": night.seed, "device": night.device, "threads": night.threads, "best_epoch": trail.fit.best_epoch}
    params = {**site.use_case.model.get_params(), **ran}
    tags = {**run_tags(entry), "mlflow.note.content": page.markdown(entry.result)}
    history = score_section.history(trail.fit.epochs, entry.result)
    site.registry.finish_run(run_id, history, params, tags, run_name(entry))


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
    """The event that an alert waits for, if the night is of a date that the champion has not seen."""
    if nights:
        name = entry.use_case
        reason = f"The champion of {name} was kept for {counted(nights, 'night')}. {entry.reason}"
        resource = {"prefect.resource.id": f"retrain.use-case.{name}", KEPT_NIGHTS: str(nights)}
        emit_event(KEPT_EVENT, resource, payload={"use_case": name, "nights": nights, "reason": reason})


def publish_rejection(use_case: str, error: DataRejected) -> None:
    """The page of a night whose data were rejected: what was seen, and what to do."""
    text = (
        f"# {use_case}: data rejected\n\n{literal(str(error))}\n\nNothing was trained, and the champion is as it was.\n"
    )
    with prefect_errors():
        create_markdown_artifact(text, key=page.artifact_key(use_case, "report"))
