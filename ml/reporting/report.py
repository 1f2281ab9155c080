"""A night in words: the one document that `--json` prints, and what people read of it.

Everything shown is drawn from that document, so that terminal, Prefect page, MLflow report and ledger say the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from ml.data.handles import Checks, LeftOut, Snapshot, Split, SplitRows
from ml.data.rejections import of_two_types
from ml.evaluation.gates import ALLOWING, short
from ml.evaluation.handles import ModelScores, Verdict
from ml.metrics.scores import LOWER_IS_BETTER, METRICS
from ml.models.handles import Epoch
from ml.reporting.pages import on_a_page
from ml.reporting.trail import Trail
from ml.storage.ledger import NightEntry
from ml.storage.records import Champion, Night, Work
from ml.use_case.definition import UseCase

Document = dict[str, Any]
MOST_DAYS = 5  # that a sentence names
MOST_KEPT = 20  # days, rules or moves that the document names
LONGEST_WORDS, LONGEST_RULE = 400, 200
TRAINING_VIEW = "workflowType=machine_learning"  # without it, MLflow's pages begin with traces of language models
STAGE_COLUMNS = ("stage", "reused", "computed", "seconds", "peak_mb")
WHO = {
    "candidate": "candidate",
    "champion": "champion",
    "reference": "reference",
    "constant": "best constant",
    "rule": "best one-column rule",
}
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
HEADLINES = {
    "FIRST": "is the first champion",
    "PROMOTE": "is the new champion",
    "KEEP": "was not promoted; the champion stays",
    "REJECT": "was not promoted; there is no champion yet",
}
HEADLINES_THEN = {
    "FIRST": "became the first champion",
    "PROMOTE": "became the new champion",
    "KEEP": "was not promoted; the champion stayed",
    "REJECT": "was not promoted; there was no champion yet",
}


def result_document(
    use_case: UseCase, night: Night, run_key: str, trail: Trail,
    version: int, before: Champion | None, after: Champion | None,
) -> Document:  # fmt: skip
    """What `--json` prints and the ledger keeps of a judged night: plain JSON values only."""
    checks, split, fit, evaluations = trail.checks, trail.split, trail.fit, trail.evaluations
    return {
        **_head(use_case, night, run_key, trail.snapshot, checks.rows, before, after),
        "quarantined_rows": checks.quarantined,
        "data": {
            "rows": checks.rows,
            "duplicate_rows": checks.duplicates,
            "unlabelled_rows": checks.unlabelled,
            "unmatched_rows": checks.unmatched,
            **_left_out(checks),
            "undeclared_columns": {
                "days": checks.undeclared.days,
                "most": checks.undeclared.most,
                "names": dict(checks.undeclared.names),
            },
            "moves": [
                {"day": m.day, "kind": m.kind, "name": m.name, "share": m.share, "usual": m.usual}
                for m in sorted(checks.moves, key=lambda move: (move.day, move.share), reverse=True)[:MOST_KEPT]
            ],
            "quarantined_days": dict(sorted(checks.quarantined_days.items())[-MOST_KEPT:]),
            "rules": checks.rules,
            "broken_rules": [
                {
                    "rule": c.rule[:LONGEST_RULE],
                    "scope": c.scope,
                    "severity": c.severity,
                    "unexpected": c.unexpected,
                }
                for c in checks.broken[:MOST_KEPT]
            ],
            "more_broken_rules": max(0, len(checks.broken) - MOST_KEPT),
        },
        "split": {part: _part(getattr(split, part)) for part in ("train", "validation", "test")},
        "training": {
            "epochs": len(fit.epochs),
            "best_epoch": fit.best_epoch,
            "threshold": trail.upload.threshold,
            "device": fit.device,
            "notes": list(fit.notes),
        },
        "test_digest": evaluations.test_digest,
        "units": {"name": evaluations.unit, "count": evaluations.units},
        "scores": {who: _scores(evaluations.models.get(who)) for who in WHO},
        "not_comparable": dict(evaluations.not_comparable),
        "verdicts": [_verdict(verdict) for verdict in trail.judgement.verdicts],
        "against_rule": _verdict(trail.judgement.against_rule) if trail.judgement.against_rule else None,
        "decision": trail.judgement.decision,
        "reason": trail.judgement.reason,
        "asks": trail.judgement.asks,
        "version": version,
        "mlflow_run": trail.upload.run_id,
        "seconds": {work.stage: work.seconds for work in trail.work},
        "reused": {work.stage: work.reused for work in trail.work},
        "computed": {work.stage: work.computed for work in trail.work},
    }


def _left_out(checks: Checks) -> Document:
    """The newest days that were left out, each with its reason, and how many there are."""
    newest = sorted(checks.left_out.items())[-MOST_KEPT:]
    return {"left_out": {day: why[:LONGEST_WORDS] for day, why in newest}, "left_out_days": len(checks.left_out)}


def work_rows(work: Iterable[Work]) -> list[Document]:
    """What ran and what was reused, a row a stage, and the most memory that the process held until its end."""
    return [{name: getattr(each, name) for name in STAGE_COLUMNS} for each in work]


def artifact_key(use_case: str, what: str) -> str:
    """Prefect's keys know no _."""
    return f"{use_case.replace('_', '-')}-{what}"


def stages_artifact(use_case: str, as_of: date) -> dict[str, str]:
    """Key and description of the page's table of what ran and what was reused."""
    return {
        "key": artifact_key(use_case, "stages"),
        "description": f"Stages as of {as_of}",
    }


def nothing_new_document(
    use_case: UseCase, night: Night, run_key: str, snapshot: Snapshot, reason: str, champion: Champion | None
) -> Document:
    """The same document for a night that had nothing to learn."""
    work = snapshot.work
    return {
        **_head(use_case, night, run_key, snapshot, None, champion, champion),
        "quarantined_rows": None,
        "test_digest": None,
        "not_comparable": {},
        "against_rule": None,
        "scores": dict.fromkeys(WHO),
        "verdicts": [],
        "decision": "NOTHING_NEW",
        "reason": reason,
        "asks": False,
        "version": None,
        "mlflow_run": None,
        "seconds": {work.stage: work.seconds},
        "reused": {work.stage: work.reused},
        "computed": {work.stage: work.computed},
    }


def dry_run_document(night: Night, run_key: str, checks: Checks, split: Split, finished: NightEntry | None) -> Document:
    """What a dry run found: what would be trained on what, and whether it was before."""
    return {
        "dry_run": True,
        "use_case": night.use_case,
        "as_of": str(night.as_of),
        "run_key": run_key,
        "finished_before": finished.seq if finished else None,
        "device": night.device,
        "quarantined_rows": checks.quarantined,
        **_left_out(checks),
        "split": {part: _part(getattr(split, part)) for part in ("train", "validation", "test")},
    }


def _head(
    use_case: UseCase, night: Night, run_key: str, snapshot: Snapshot, rows: int | None,
    before: Champion | None, after: Champion | None,
) -> Document:  # fmt: skip
    return {
        "use_case": night.use_case,
        "question": use_case.question,
        "metric": use_case.metric,
        "group": use_case.group,
        "as_of": str(night.as_of),
        "run_key": run_key,
        "replayed": False,
        "seed": night.seed,
        "again": night.again,
        "snapshot": {
            "digest": snapshot.digest,
            "rows": rows,
            "partitions": snapshot.partitions,
            "first_day": snapshot.first_day,
            "last_day": snapshot.last_day,
            "changed_days": list(snapshot.changed_days[-MOST_KEPT:]),
            "changed": len(snapshot.changed_days),
            "left_out": [
                {"source": each.source, "what": each.what, "count": each.count, "why": each.why}
                for each in snapshot.left_out
            ],
        },
        "champion_before": before.version if before else None,
        "champion_after": after.version if after else None,
        "device": night.device,
        "threads": night.threads,
    }


def _part(part: SplitRows) -> Document:
    return {
        "rows": part.rows,
        "positive_share": part.positive_share,
        "first_day": part.first_day,
        "last_day": part.last_day,
        "group_in_train": part.group_in_train,
    }


def _verdict(verdict: Verdict) -> Document:
    return {
        "gate": verdict.gate,
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "figures": dict(verdict.figures),
    }


def _scores(model: ModelScores | None) -> Document | None:
    if model is None:
        return None
    scores = {
        name: {"value": score.value, "low": score.low, "high": score.high, "reason": score.reason}
        for name, score in model.scores.items()
    }
    matrix = [list(row) for row in model.confusion] if model.confusion else None
    return {"description": model.description, **scores, "confusion": matrix}


def headline(document: Document) -> str:
    """The night in one sentence, in the past where it was finished before."""
    name, decision = document["use_case"], document["decision"]
    if decision == "NOTHING_NEW":
        return f"{name} as of {document['as_of']}: nothing new to learn"
    words = (HEADLINES_THEN if document["replayed"] else HEADLINES)[decision]
    return f"{name} version {document['version']} (as of {document['as_of']}) {words}"


def scored(document: Document) -> bool:
    """Whether anything was evaluated in that night."""
    return document["scores"]["candidate"] is not None


def score_names(document: Document) -> list[str]:
    """The metrics worth a column: the use case's own first."""
    scores = document["scores"]["candidate"]
    beside = {"accuracy", "brier", "precision", "recall"} - {document["metric"]}
    shown = [name for name in LABELS if name in scores and name not in beside]
    return sorted(shown, key=lambda name: name != document["metric"])


def score_list(document: Document) -> str:
    """The candidate's scores in one line: `F1 0.771 [0.749, 0.792], ROC AUC 0.915, ...`."""
    scores = document["scores"]["candidate"] or {}
    return ", ".join(f"{LABELS[name]} {cell(scores[name])}" for name in score_names(document)) if scores else ""


def own_score_table(document: Document) -> list[str]:
    """The candidate's scores as a table of Markdown, a row a metric."""
    scores, rows = document["scores"]["candidate"], document["split"]["test"]["rows"]
    head = [f"| score on its {counted(rows, 'test row')} | value [90 % interval] |", "| --- | --- |"]
    return [*head, *(f"| {LABELS[name]} | {cell(scores[name])} |" for name in score_names(document))]


def score_rows(document: Document) -> list[tuple[str, str, list[str]]]:
    """(who, description, a cell a metric) for everyone who was scored on these rows."""
    names, scores = score_names(document), document["scores"]
    return [
        (WHO[who], scores[who]["description"], [cell(scores[who].get(name)) for name in names])
        for who in WHO
        if scores[who] is not None
    ]


def cell(score: Document | None) -> str:
    """`0.738 [0.721, 0.755]`."""
    if score is None or score["value"] is None:
        return "undefined" if score else "-"
    if score["low"] is None:
        return short(score["value"])
    return f"{short(score['value'])} [{short(score['low'])}, {short(score['high'])}]"


def data_sentences(document: Document) -> list[str]:
    """What came in, what was set aside, and what was trained on."""
    snapshot, data, split = document["snapshot"], document.get("data"), document.get("split")
    window = window_words(snapshot["partitions"], snapshot["first_day"], snapshot["last_day"])
    not_read = [LeftOut(**each).sentence for each in snapshot.get("left_out", [])]  # older entries have none
    if data is None or split is None:
        return [f"{window}.", *not_read]
    sentences = [
        f"{counted(data['rows'], 'row')} in {window}.",
        f"{counted(document['quarantined_rows'], 'row')} quarantined, "
        f"{counted(data['duplicate_rows'], 'exact duplicate')} dropped, "
        f"{data['unlabelled_rows']:,} without a label left out.",
        f"Trained on {counted(split['train']['rows'], 'row')}, validated on {split['validation']['rows']:,}, "
        f"tested on {_test_words(document)}.",
    ]
    sentences += [  # older entries of the ledger have none
        f"{counted(count, 'row')} met nothing in side table {name}: without a key, or with one that it lacks."
        for name, count in data.get("unmatched_rows", {}).items()
    ]
    known = split["test"].get("group_in_train")  # older entries of the ledger have none
    if known is not None:
        sentences.append(f"{known:.1%} of the test rows are of a {document['group']} that has train rows too.")
    sentences += [
        f"Quarantined on {day}: {counted(count, 'row')}."
        for day, count in list(data["quarantined_days"].items())[-MOST_DAYS:]
        if day != "all"
    ]
    sentences += [f"Broken {counted(rule['unexpected'], 'time')}: {rule['rule']}." for rule in data["broken_rules"]]
    if more := data.get("more_broken_rules"):  # older entries of the ledger lack what came later
        sentences.append(f"{counted(more, 'more rule')} broken, by fewer rows.")
    sentences += move_sentences(data.get("moves", []))
    sentences += document["training"].get("notes", [])
    sentences += _left_out_sentences(data)
    sentences += _undeclared_sentences(data)
    sentences += not_read
    if snapshot["changed_days"]:
        many = snapshot.get("changed", len(snapshot["changed_days"]))
        sentences.append(f"Changed since the last night: {newest_of(snapshot['changed_days'], 'day', many)}.")
    return sentences


def newest_of(days: Sequence[str], noun: str, many: int | None = None) -> str:
    """The last few of days in their order, and how many more there are."""
    more = (len(days) if many is None else many) - len(days[-MOST_DAYS:])
    return ", ".join(days[-MOST_DAYS:]) + (f" and {counted(more, f'earlier {noun}')}" if more > 0 else "")


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST_KEPT
    return ", ".join(names[:MOST_KEPT]) + (f" and {more:,} more" if more > 0 else "")


def _left_out_sentences(data: Document) -> list[str]:
    newest = list(data["left_out"].items())[-MOST_DAYS:]
    more = data.get("left_out_days", len(data["left_out"])) - len(newest)
    said = [f"Left out: {day}, {why}." for day, why in newest]
    return said + ([f"Left out: {counted(more, 'more day')}."] if more > 0 else [])


def _undeclared_sentences(data: Document) -> list[str]:
    """Every name once, with its days."""
    found = data.get("undeclared_columns") or _undeclared_before(data.get("unknown_columns", {}))
    if not found["days"]:
        return []
    names = {name: f"{name} ({counted(days, 'day')})" for name, days in found["names"].items()}
    more = found["most"] - len(names)
    return [
        f"Columns that nobody declared: {', '.join(names.values())}{f' and {more:,} more' if more > 0 else ''}.",
        *(
            f"derive was given {' and '.join(names[name] for name in of_column)}: declare the column, which gives it "
            "one type."
            for of_column in of_two_types(names)
        ),
    ]


def _undeclared_before(by_day: dict[str, list[str]]) -> Document:
    """Of an older entry of the ledger, which has all names by day."""
    names = Counter(name for names in by_day.values() for name in names)
    most = max((len(names) for names in by_day.values()), default=0)
    return {"days": len(by_day), "most": most, "names": dict(names.most_common(MOST_KEPT))}


def move_sentences(moves: Sequence[Document]) -> list[str]:
    """What moved on the newest days, a sentence for every column: its newest day, and how many others."""
    by_column: dict[tuple[str, str], list[Document]] = {}
    for move in sorted(moves, key=lambda move: move["day"], reverse=True):
        by_column.setdefault((move["kind"], move["name"]), []).append(move)
    said = [_move_sentence(of) for of in by_column.values()]
    more = len(said) - MOST_DAYS
    return said[:MOST_DAYS] + ([f"{counted(more, 'more column')} moved."] if more > 0 else [])


def _move_sentence(moves: Sequence[Document]) -> str:
    newest, others = moves[0], len(moves) - 1
    share, usual = f"{newest['share']:.0%} of the rows of {newest['day']}", f"{newest['usual']:.0%}"
    words = {
        "null": f"{newest['name']} is missing in {share}",
        "unseen": f"{share} have a value in {newest['name']} that no earlier day had",
        "unmatched": f"Side table {newest['name']} does not match {share}",
    }[newest["kind"]]
    also = f"; it moved on {counted(others, 'other day')} too" if others else ""
    return f"{words} (on days before, at most {usual}{also})."


def counted(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def window_words(partitions: int, first_day: str, last_day: str) -> str:
    """`273 partitions, 2013-01-01 to 2013-09-30`, or `1 partition` where there are no days."""
    count = counted(partitions, "partition")
    return count if first_day == "all" else f"{count}, {first_day} to {last_day}"


def _test_words(document: Document) -> str:
    test, units = document["split"]["test"], document["units"]
    words = f"{test['rows']:,}" + (f" ({test['first_day']} to {test['last_day']})" if test["first_day"] else "")
    share = test["positive_share"]
    return (
        words
        + (f", {share:.1%} of them positive" if share is not None else "")
        + f"; {counted(units['count'], units['name'])}"
    )


def comparison_sentence(document: Document) -> str:
    """How the candidate stands against a rule of thumb, said whichever way it is."""
    against, scores = document["against_rule"], document["scores"]
    if against is None:
        return ""
    stands = {"PASS": "is better than", "FAIL": "is no better than"}.get(
        against["verdict"], "is not surely better than"
    )
    figures = against["figures"]
    form = "+.1%" if document["metric"] in LOWER_IS_BETTER else "+.4f"
    low, high = (format(figures[name], form) for name in ("low", "high")) if figures else ("", "")
    interval = f" ({figures['difference']:{form}} [{low}, {high}])" if figures else ""
    words = (
        f"In {LABELS[document['metric']]} the model {stands} the best rule on one column{interval}: "
        f"{scores['rule']['description']}."
    )
    gains = [f"{LABELS[name]} {_gain(scores, name)}" for name in ("pr_auc", "log_loss") if _gains(scores, name)]
    if against["verdict"] != "PASS" and gains:
        words += f" It earns its keep in ranking and probabilities: {', '.join(gains)}."
    return words


def _gains(scores: Document, name: str) -> bool:
    mine, rule = (scores[who].get(name, {}).get("value") for who in ("candidate", "rule"))
    return mine is not None and rule is not None and (mine < rule if name == "log_loss" else mine > rule)


def _gain(scores: Document, name: str) -> str:
    return f"{short(scores['candidate'][name]['value'])} against {short(scores['rule'][name]['value'])}"


def decision_sentence(document: Document) -> str:
    """What was decided and why. Beside the gates' own sentences it only names the gates that kept the candidate."""
    blocking = [f"{v['gate']} says {v['verdict']}" for v in document["verdicts"] if v["verdict"] not in ALLOWING]
    quoted = blocking and document["reason"].startswith(blocking[0])
    why = f"{', '.join(blocking)}." if quoted else document["reason"]
    return f"{document['decision']}: {why}" + (" An operator is asked." if quoted and document["asks"] else "")


def version_page(document: Document) -> str:
    """The page of the night's version below MLflow's address, in its view of trained models."""
    return f"#/models/{document['use_case']}/versions/{document['version']}?{TRAINING_VIEW}"


def champion_sentence(document: Document) -> str:
    before, after = document["champion_before"], document["champion_after"]
    if after is None:
        return "There is no champion."
    if before == after:
        return f"Champion is still version {after}."
    return f"Champion is now version {after}" + (f", before it was version {before}." if before else ".")


def champion_then(document: Document) -> str:
    """The same on a page, which is read when the champion may be another one."""
    before, after = document["champion_before"], document["champion_after"]
    if after is None:
        return "This night left no champion."
    if before == after:
        return f"This night left version {after} champion."
    return f"This night made version {after} champion" + (f" in place of version {before}." if before else ".")


def way_out(document: Document) -> str:
    """How an operator promotes a candidate that gates could not judge: asked to, or as no later night can either."""
    left = document["not_comparable"] and document["decision"] == "KEEP"
    if document["version"] is None or not (left or document["asks"]):
        return ""
    return (
        f"If version {document['version']} is to serve all the same: "
        f"retrain promote {document['use_case']} --version {document['version']} --reason WHY"
    )


def markdown(document: Document) -> str:
    """The night for people who never saw the code."""
    document = on_a_page(document)
    lines = [
        f"# {headline({**document, 'replayed': True})}",
        "",
        f"*{document['question']}*",
        "",
        f"**{document['decision']}.** {document['reason']}",
    ]
    lines += [
        "",
        champion_then(document),
        *([way_out(document)] if way_out(document) else []),
    ]  # what MLflow would cut off a long note comes last
    if scored(document):
        lines += ["", "## Scores on the same test rows", "", *_score_table(document), "", comparison_sentence(document)]
        lines += ["", "## Gates", "", *_verdict_list(document)]
    lines += ["", "## Data", "", *(f"- {line}" for line in data_sentences(document))]
    lines += ["", "## Cost", "", "| stage | seconds | reused | computed |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {stage} | {seconds:.1f} | {document['reused'][stage]} | {document['computed'][stage]} |"
        for stage, seconds in document["seconds"].items()
    ]
    lines += ["", f"Device {document['device']}, {document['threads']} thread(s), seed {document['seed']}."]
    lines += ["", f"Run key `{document['run_key']}`, snapshot `{document['snapshot']['digest']}`."]
    return "\n".join(lines) + "\n"


def _score_table(document: Document) -> list[str]:
    """The scores, then what each predictor is: Prefect's page does not break the lines of a wide table."""
    names, rows = score_names(document), score_rows(document)
    head = "| predictor | " + " | ".join(LABELS[name] for name in names) + " |"
    lines = [head, "| --- |" + " ---: |" * len(names), *(f"| {who} | {' | '.join(cells)} |" for who, _, cells in rows)]
    units = document["units"]
    note = f"Intervals are 90 % percentile intervals of a paired bootstrap over {units['count']} {units['name']}s."
    return [*lines, "", *(f"- {who}: {description}" for who, description, _ in rows), "", note]


def _verdict_list(document: Document) -> list[str]:
    return [f"- **{v['verdict']}** {v['gate']}: {v['reason']}" for v in document["verdicts"]]


def history(epochs: Iterable[Epoch], document: Document) -> dict[str, dict[int, float]]:
    """Every MLflow metric of the run, by step: curves an epoch, and the final scores as step 0."""
    found: dict[str, dict[int, float]] = {name: {0: value} for name, value in model_metrics(document).items()}
    for epoch in epochs:
        for name in ("train_loss", "validation_loss", "validation_score"):
            value = getattr(epoch, name)
            if value is not None:
                found.setdefault(name, {})[epoch.epoch] = value
    return found


def model_metrics(document: Document) -> dict[str, float]:
    """The candidate's scores as MLflow metrics."""
    scores = document["scores"]["candidate"] or {}
    names = [name for names in METRICS.values() for name in names] + ["roc_auc", "pr_auc", "log_loss", "brier"]
    return {
        f"test_{n}": scores[n]["value"] for n in dict.fromkeys(names) if n in scores and scores[n]["value"] is not None
    }
