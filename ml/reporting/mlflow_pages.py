"""What MLflow's pages say about a night: scores and report of its run, description and tags of its version.

They say what that night decided, and are not changed later. Which version serves now, the alias champion says.
"""

from ml.reporting import score_section
from ml.reporting.endings import short_score, shown_name
from ml.reporting.escaping import literal
from ml.storage import paths
from ml.storage.ledger import NightEntry
from ml.storage.records import Champion, Refit
from ml.storage.registry import REFIT_OF, Registry


def describe_version(registry: Registry, night: NightEntry, number: int) -> None:
    """Writes the description and the tags of the version that the night made."""
    verdicts = {f"verdict.{v['gate']}": f"{v['verdict']}: {v['reason']}" for v in night.result.get("verdicts", [])}
    decided = {"decision": night.decision, "reason": night.reason, "ledger_entry": str(night.seq)}
    scores = {"scores": score_section.score_list(night.result)} if _is_scored(night) else {}
    registry.tag_version(number, {**decided, **verdicts, **scores})
    registry.describe_version(number, description(night))


def description(night: NightEntry) -> str:
    """The night's decision and the version's scores as Markdown: MLflow's page of a version shows no scores itself."""
    decided = literal(f"The night as of {night.as_of} decided {night.decision}. {night.reason}")
    table = score_section.own_score_table(night.result) if _is_scored(night) else []
    refit = night.candidate.refit if night.candidate else None
    served = f" Its recipe was fitted once more as version {refit.version}, to serve in its place." if refit else ""
    return "\n".join([f"{decided}{served} Which version serves now, the alias champion says.", "", *table])


def describe_refit(registry: Registry, night: NightEntry, number: int) -> None:
    """Writes the description and the tags of the refit that the night made. It has no scores of its own."""
    assert night.candidate is not None, night.seq
    registry.tag_version(number, {"decision": night.decision, "reason": night.reason, "ledger_entry": str(night.seq)})
    registry.describe_version(number, _refit_description(night.candidate))


def _refit_description(judged: Champion) -> str:
    until = f" up to {judged.served.fit_until}" if judged.served.fit_until else ""
    return (
        f"Version {judged.version} was judged. This is its recipe, fitted once more on all due rows{until}, with the "
        f"threshold and the calibration of version {judged.version}. Which version serves now, the alias champion says."
    )


def end_refit_run(registry: Registry, night: NightEntry, refit: Refit) -> None:
    """Ends the run of the refit, and says there of which version it is one."""
    assert night.candidate is not None, night.seq
    tags = {REFIT_OF: str(night.candidate.version), "mlflow.note.content": _refit_description(night.candidate)}
    registry.finish_run(refit.run_id, {}, {}, tags, f"{night.use_case} {night.as_of} refit")


def tell_unused_refit(registry: Registry, night: NightEntry, run_id: str, number: int | None) -> None:
    """Ends the run of a refit that the night made and did not record; it and its version, if there is one, say so."""
    assert night.candidate is not None, night.seq
    judged = night.candidate.version
    text = (
        f"This is the recipe of version {judged}, fitted once more because version {judged} was to be promoted. "
        "Another run was first, and the champion was kept, so no night recorded it and it does not serve."
    )
    tags = {REFIT_OF: str(judged), "mlflow.note.content": text}
    registry.finish_run(run_id, {}, {}, tags, f"{night.use_case} {night.as_of} refit")
    if number is not None:
        registry.describe_version(number, text)


def tell_run_again(registry: Registry, night: NightEntry) -> None:
    """Writes scores, verdicts and report into a run that was made again because MLflow had lost it."""
    assert night.candidate is not None, night.seq
    run_id = night.candidate.run_id
    text = registry.store.get(f"{paths.run_artifacts(run_id)}/report.md")
    note = {"mlflow.note.content": text.decode()} if text else {}
    scores = score_section.model_metrics(night.result) if _is_scored(night) else {}
    history = {metric: {0: value} for metric, value in scores.items()}
    registry.finish_run(run_id, history, {}, {**run_tags(night), **note}, run_name(night))


def run_name(night: NightEntry) -> str:
    """The run's name with its main score, because MLflow's list of runs shows names and, at first, no metrics."""
    return shown_name(f"{night.use_case} {night.as_of}", short_score(night.result) if _is_scored(night) else "")


def run_tags(night: NightEntry) -> dict[str, str]:
    """The decision and every gate's verdict as tags of the run."""
    verdicts = {f"verdict.{v['gate']}": v["verdict"] for v in night.result.get("verdicts", [])}
    return {"decision": night.decision, **verdicts}


def _is_scored(night: NightEntry) -> bool:
    """Whether the night's document has scores of its version."""
    return bool(night.result.get("scores", {}).get("candidate"))
