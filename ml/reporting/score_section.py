"""What a report says about scores: tables and lists of them, and the comparison with a rule of thumb."""

import math
from collections.abc import Iterable

from ml.evaluation.handles import short
from ml.metrics.intervals import ONE_SIDED_ERROR, SIMULATED_ERRORS
from ml.metrics.scores import LOWER_IS_BETTER, METRICS
from ml.models.handles import Step
from ml.reporting.document import WHO, Document
from ml.reporting.words import counted

LABELS = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "log_loss": "log loss",
    "brier": "Brier",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R2",
}


def scored(document: Document) -> bool:
    """Whether the night has scores."""
    return document["scores"]["candidate"] is not None


def score_names(document: Document) -> list[str]:
    """The metrics that tables show, the use case's own first."""
    scores = document["scores"]["candidate"]
    named = {name for name in ("brier",) if scores.get(name, {}).get("low") is not None}  # by a gate
    hidden = {"accuracy", "brier", "precision", "recall"} - {document["metric"]} - named
    shown = [name for name in LABELS if name in scores and name not in hidden]
    return sorted(shown, key=lambda name: name != document["metric"])


def score_list(document: Document) -> str:
    """The candidate's scores in one line: `F1 0.771 [0.749, 0.792], ROC AUC 0.915, ...`."""
    scores = document["scores"]["candidate"] or {}
    return ", ".join(f"{LABELS[name]} {cell(scores[name])}" for name in score_names(document)) if scores else ""


def own_score_table(document: Document) -> list[str]:
    """The candidate's scores as a Markdown table with a row for each metric."""
    scores, rows = document["scores"]["candidate"], document["split"]["test"]["rows"]
    head = [f"| score on its {counted(rows, 'test row')} | value [90 % interval] |", "| --- | --- |"]
    return [*head, *(f"| {LABELS[name]} | {cell(scores[name])} |" for name in score_names(document))]


def score_rows(document: Document) -> list[tuple[str, str, list[str]]]:
    """(name, description, cells by `score_names`) of every predictor that was scored on the test rows."""
    names, scores = score_names(document), document["scores"]
    return [
        (WHO[who], scores[who]["description"], [cell(scores[who].get(name)) for name in names])
        for who in WHO
        if scores.get(who) is not None  # nights of before know fewer
    ]


def cell(score: Document | None) -> str:
    """A score as `0.738 [0.721, 0.755]`, `undefined` if it has no value, and `-` if there is no score."""
    if score is None or score["value"] is None:
        return "undefined" if score else "-"
    if score["low"] is None:
        return short(score["value"])
    return f"{short(score['value'])} [{short(score['low'])}, {short(score['high'])}]"


def comparison_sentence(document: Document) -> str:
    """Whether the candidate is better than the best rule on one column, and than default trees; "" if there was
    neither to compare with."""
    sentences = [_against_rule(document), _against(document, "against_trees", "boosted trees with default settings")]
    return " ".join(sentence for sentence in sentences if sentence)


def _against(document: Document, place: str, opponent: str, description: str = "") -> str:
    """Like `In F1 the model is better than the best rule on one column (+0.0301 [+0.0112, +0.0490]).`"""
    against = document.get(place)
    if against is None:
        return ""
    stands = {"PASS": "is better than", "FAIL": "is no better than"}.get(
        against["verdict"], "is not surely better than"
    )
    figures = against["figures"]
    form = "+.1%" if document["metric"] in LOWER_IS_BETTER else "+.4f"
    low, high = (format(figures[name], form) for name in ("low", "high")) if figures else ("", "")
    interval = f" ({figures['difference']:{form}} [{low}, {high}])" if figures else ""
    return f"In {LABELS[document['metric']]} the model {stands} {opponent}{interval}{description}."


def _against_rule(document: Document) -> str:
    against, scores = document["against_rule"], document["scores"]
    if against is None:
        return ""
    words = _against(document, "against_rule", "the best rule on one column", f": {scores['rule']['description']}")
    others = [name for name in ("pr_auc", "log_loss") if name != document["metric"]]
    gains = [f"{LABELS[name]} {_gain(scores, name)}" for name in others if _gains(scores, name)]
    if against["verdict"] != "PASS" and gains:
        words += f" It earns its keep in ranking and probabilities: {', '.join(gains)}."
    return words


def _gains(scores: Document, name: str) -> bool:
    """Whether the candidate is better than the rule in this metric."""
    candidate, rule = (scores[who].get(name, {}).get("value") for who in ("candidate", "rule"))
    if candidate is None or rule is None:
        return False
    return bool(candidate < rule if name in LOWER_IS_BETTER else candidate > rule)


def _gain(scores: Document, name: str) -> str:
    return f"{short(scores['candidate'][name]['value'])} against {short(scores['rule'][name]['value'])}"


def calibration_error_sentence(document: Document) -> str:
    """How far the probabilities of each model are from what came true; "" where there are none, or none were told."""
    errors = {
        WHO[who]: f"{scores['calibration_error']:.3f}"
        for who, scores in document["scores"].items()
        if scores is not None and "calibration_error" in scores and who in {"candidate", "champion", "reference"}
    }
    if not errors:
        return ""
    told = ", ".join(f"{error} ({who})" for who, error in errors.items())
    return f"Expected calibration error, of ten groups of about equally many test rows: {told}."


def resolution_sentence(document: Document) -> str:
    """What the test rows can show in the deciding comparison, and how often its proof errs; "" without a comparison.

    The first gate that allows a loss is the deciding one. Nights of before kept no count of independent days.
    """
    deciding = [v for v in document["verdicts"] if {"max_drop", "independent_units"} <= v["figures"].keys()]
    if not deciding:
        return ""
    metric, figures, units = deciding[0]["gate"].rpartition(" ")[2], deciding[0]["figures"], document["units"]
    smallest, form = figures["smallest_detectable_drop"], ".1%" if metric in LOWER_IS_BETTER else ".4f"
    count, name, equal = units["count"], f"{units['name']}s", round(figures["independent_units"])
    days, (lowest, highest) = units["name"] == "day", SIMULATED_ERRORS
    like = f"{count:,} {name} like these equal {equal:,} independent ones" if days else f"There are {count:,} {name}"
    simulated = f", and of simulated days {lowest:.0%} to {highest:.0%}" if days else ""
    return (
        f"{like}: a loss of {LABELS.get(metric, metric)} under {smallest:{form}} cannot be seen; {2 * count:,} {name} "
        f"would see one of {smallest / math.sqrt(2):{form}}. Of candidates that are worse by exactly what a gate "
        f"allows, {ONE_SIDED_ERROR:.0%} pass by design{simulated}."
    )


def score_table(document: Document) -> list[str]:
    """The scores as a Markdown table, then the descriptions of the predictors as a list.

    The descriptions are not in the table because Prefect's page does not break lines in a wide one.
    """
    names, rows = score_names(document), score_rows(document)
    head = "| predictor | " + " | ".join(LABELS[name] for name in names) + " |"
    lines = [head, "| --- |" + " ---: |" * len(names), *(f"| {who} | {' | '.join(cells)} |" for who, _, cells in rows)]
    units = document["units"]
    note = f"Intervals are 90 % intervals from what each of {units['count']} {units['name']}s changes."
    return [*lines, "", *(f"- {who}: {description}" for who, description, _ in rows), "", note]


def history(steps: Iterable[Step], document: Document) -> dict[str, dict[int, float]]:
    """Every MLflow metric of the run: name to step to value. Losses have the steps of the fit, final scores step 0."""
    metrics: dict[str, dict[int, float]] = {name: {0: value} for name, value in model_metrics(document).items()}
    for step in steps:
        for name in ("train_loss", "validation_loss", "validation_score"):
            value = getattr(step, name)
            if value is not None:
                metrics.setdefault(name, {})[step.number] = value
    return metrics


def model_metrics(document: Document) -> dict[str, float]:
    """The candidate's scores as MLflow metrics."""
    scores = document["scores"]["candidate"] or {}
    names = [name for names in METRICS.values() for name in names]
    defined = [name for name in dict.fromkeys(names) if name in scores and scores[name]["value"] is not None]
    return {f"test_{name}": scores[name]["value"] for name in defined}
