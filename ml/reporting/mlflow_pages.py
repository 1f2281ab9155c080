"""What MLflow's pages say of a night: its run's scores and report, its version's description and tags.

They tell what was decided in that night, which nothing that comes later changes. Who serves now, the alias says.
"""

from ml.reporting import score_section
from ml.reporting.endings import short_score, shown_name
from ml.reporting.escaping import literal
from ml.storage import paths
from ml.storage.ledger import NightEntry
from ml.storage.registry import Registry


def describe_version(registry: Registry, night: NightEntry, number: int) -> None:
    """Writes the description and the tags of the version that the night made."""
    verdicts = {f"verdict.{v['gate']}": f"{v['verdict']}: {v['reason']}" for v in night.result.get("verdicts", [])}
    decided = {"decision": night.decision, "reason": night.reason, "ledger_entry": str(night.seq)}
    scores = {"scores": score_section.score_list(night.result)} if _is_scored(night) else {}
    registry.tag_version(number, {**decided, **verdicts, **scores})
    registry.describe_version(number, description(night))


def description(night: NightEntry) -> str:
    """The night's decision, and the version's scores as a table: MLflow's page of a version has none of its own."""
    decided = literal(f"The night as of {night.as_of} decided {night.decision}. {night.reason}")
    table = score_section.own_score_table(night.result) if _is_scored(night) else []
    return "\n".join([f"{decided} Which version serves now, the alias champion says.", "", *table])


def tell_run_again(registry: Registry, night: NightEntry) -> None:
    """The scores, verdicts and report of a run that MLflow lost and that was made again."""
    assert night.candidate is not None, night.seq
    run_id = night.candidate.run_id
    text = registry.store.get(f"{paths.run_artifacts(run_id)}/report.md")
    note = {"mlflow.note.content": text.decode()} if text else {}
    scores = score_section.model_metrics(night.result) if _is_scored(night) else {}
    history = {metric: {0: value} for metric, value in scores.items()}
    registry.finish_run(run_id, history, {}, {**run_tags(night), **note}, run_name(night))


def run_name(night: NightEntry) -> str:
    """With the main score: MLflow's list of runs shows names, and no metrics before somebody asks for them."""
    return shown_name(f"{night.use_case} {night.as_of}", short_score(night.result) if _is_scored(night) else "")


def run_tags(night: NightEntry) -> dict[str, str]:
    verdicts = {f"verdict.{v['gate']}": v["verdict"] for v in night.result.get("verdicts", [])}
    return {"decision": night.decision, **verdicts}


def _is_scored(night: NightEntry) -> bool:
    """Whether its document has the scores of its version."""
    return bool(night.result.get("scores", {}).get("candidate"))
