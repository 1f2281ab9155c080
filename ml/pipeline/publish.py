"""The stage that publishes: report, curves and figures go into the night's MLflow run, for data scientists to read."""

from ml.data.cleaning import from_parquet
from ml.pipeline.refit import end_unused_refit
from ml.pipeline.site import Site
from ml.reporting import page, score_section
from ml.reporting.figures import night_figures, served_figure
from ml.reporting.importance_figure import importance_figure
from ml.reporting.mlflow_pages import end_refit_run, run_name, run_tags
from ml.reporting.trail import Trail
from ml.storage import paths
from ml.storage.ledger import NightEntry
from ml.storage.records import Night
from ml.storage.store import get_file, put_file


def publish_to_mlflow(site: Site, night: Night, entry: NightEntry, trail: Trail) -> int:
    """Puts report, curves and figures into the MLflow run. Returns the number of figures."""
    run_id = trail.upload.run_id
    answers = from_parquet(get_file(site.store, trail.evaluations.answers))
    models = trail.evaluations.models
    figures = {
        **night_figures(site.use_case, trail.fit, answers, models),
        **importance_figure(site.use_case, trail.explanation),
        **served_figure(site.use_case, trail.served),
    }
    for name, image in figures.items():
        put_file(site.store, f"{paths.run_artifacts(run_id)}/figures/{name}", image)
    text = page.markdown(entry.result)
    put_file(site.store, f"{paths.run_artifacts(run_id)}/report.md", text.encode())
    fit = trail.fit
    best = {} if fit.best is None else {f"best_{fit.step_name}": fit.best}
    ran = {"model": fit.kind, "seed": night.seed, "device": night.device, "threads": night.threads, **best}
    params = {**site.use_case.model.get_params(), **ran}
    tags = {**run_tags(entry), "mlflow.note.content": text}
    history = score_section.history(fit.steps, entry.result)
    site.registry.finish_run(run_id, history, params, tags, run_name(entry))
    if entry.candidate and entry.candidate.refit:
        end_refit_run(site.registry, entry, entry.candidate.refit)
    else:
        end_unused_refit(site, entry)
    return len(figures)
