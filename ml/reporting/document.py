"""The result of a night as one document of JSON values, which `--json` prints and the ledger keeps.

Other programs read its fields, and old ledgers keep them for ever, so a field must not be renamed. Lists that grow with
the window are cut to the newest or worst, with their full number beside them.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ml.data.handles import Checks, Snapshot, Split, SplitRows
from ml.evaluation.explanation import Explanation
from ml.evaluation.handles import ModelScores, Verdict
from ml.evaluation.served import Served
from ml.models.handles import Refitted
from ml.reporting.trail import Trail
from ml.reporting.words import MOST_KEPT
from ml.storage.ledger import NightEntry
from ml.storage.records import Champion, Night, Refit, Work
from ml.use_case.definition import UseCase

Document = dict[str, Any]

LONGEST_WORDS, LONGEST_RULE = 400, 200  # letters of a reason and of a rule
STAGE_COLUMNS = ("stage", "reused", "computed", "seconds", "peak_mb")
# Every predictor that is scored, as the document and as sentences call it.
WHO = {
    "candidate": "candidate",
    "champion": "champion",
    "reference": "reference",
    "constant": "best constant",
    "rule": "best one-column rule",
    "trees": "default trees",
}


def result_document(
    use_case: UseCase, night: Night, run_key: str, trail: Trail,
    candidate: Champion, before: Champion | None, after: Champion | None,
) -> Document:  # fmt: skip
    """The document of a night that was judged. `before` and `after` are the champions before and after it."""
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
                {"day": move.day, "kind": move.kind, "name": move.name, "share": move.share, "usual": move.usual}
                for move in sorted(checks.moves, key=lambda move: (move.day, move.share), reverse=True)[:MOST_KEPT]
            ],
            "quarantined_days": dict(sorted(checks.quarantined_days.items())[-MOST_KEPT:]),
            "rules": checks.rules,
            "broken_rules": [
                {
                    "rule": count.rule[:LONGEST_RULE],
                    "scope": count.scope,
                    "severity": count.severity,
                    "unexpected": count.unexpected,
                }
                for count in checks.broken[:MOST_KEPT]
            ],
            "more_broken_rules": max(0, len(checks.broken) - MOST_KEPT),
        },
        "split": {part: _part(getattr(split, part)) for part in ("train", "validation", "test")},
        "training": {
            "model": fit.kind,
            "step": fit.step_name,
            "epochs": len(fit.steps),  # epochs or trees: older programs know these two by these names
            "best_epoch": fit.best,
            "threshold": trail.upload.threshold,
            "calibration": trail.upload.calibration,
            "decides": trail.upload.decides,
            "device": fit.device,
            "notes": list(fit.notes),
        },
        "test_digest": evaluations.test_digest,
        "units": {"name": evaluations.unit, "count": evaluations.units},
        "scores": {who: _scores(evaluations.models.get(who)) for who in WHO},
        "not_comparable": dict(evaluations.not_comparable),
        "constant": asdict(evaluations.constant) if evaluations.constant else None,
        "promise": asdict(evaluations.promise) if evaluations.promise else None,
        **_importance(trail.explanation),
        "served": _served(trail.served),
        "verdicts": [_verdict(verdict) for verdict in trail.judgement.verdicts],
        "against_rule": _verdict(trail.judgement.against_rule) if trail.judgement.against_rule else None,
        **({"against_trees": _verdict(trees)} if (trees := trail.judgement.against_trees) else {}),
        "decision": trail.judgement.decision,
        "reason": trail.judgement.reason,
        "asks": trail.judgement.asks,
        **_source(trail),
        "version": candidate.version,
        "refit": _refit(trail.refitted, candidate.refit) if trail.refitted else None,
        "serves": served_document(after),
        "mlflow_run": trail.upload.run_id,
        "seconds": {work.stage: work.seconds for work in trail.work},
        "reused": {work.stage: work.reused for work in trail.work},
        "computed": {work.stage: work.computed for work in trail.work},
    }


def _served(served: Served | None) -> Document | None:
    """The score of what served, the newest days of the curve, and what could not be scored; None if there is none."""
    if served is None or not (served.score or served.unscored or served.twin):
        return None
    return {
        **(asdict(served.score) if served.score else {"version": None}),
        "newest_days": [asdict(day) for day in served.curve[-MOST_KEPT:]],
        "unscored": dict(served.unscored[-MOST_KEPT:]),
        "unscored_days": len(served.unscored),
        "twin": served.twin,
    }


def _importance(explanation: Explanation | None) -> Document:
    """The columns that matter most, by the use case's metric first; {} if the night measured none."""
    if explanation is None:
        return {}
    singles, groups = explanation.singles, explanation.groups
    columns = [
        {"columns": list(one.columns), "costs": {name: asdict(cost) for name, cost in one.costs.items()}}
        for one in (*singles[:MOST_KEPT], *groups[:MOST_KEPT])
    ]
    counts = ("rows", "test_rows", "shuffles", "unit", "units", "unmeasured", "reason")
    return {
        "importance": {
            "metrics": list(explanation.metrics),
            "columns": columns,
            "more_columns": max(0, len(singles) - MOST_KEPT),
            **{name: getattr(explanation, name) for name in counts},
        }
    }


def _source(trail: Trail) -> Document:
    """What changed in the source and is not answered, and what other code made of the same bytes; each if there is
    any."""
    changes = [
        {"column": change.column, "kind": change.kind, "days": list(change.days[-MOST_KEPT:]), "words": change.words}
        for change in trail.judgement.source_changes[:MOST_KEPT]
    ]
    found = {"source_changes": changes, "rewritten": list(trail.watch.sentences[:MOST_KEPT])}
    return {name: of_kind for name, of_kind in found.items() if of_kind}


def _refit(refitted: Refitted, refit: Refit | None) -> Document:
    """What became of the refit: its version, or why there is none."""
    return {
        "rows": refitted.rows,
        "refused": refitted.refused,
        "version": refit.version if refit else None,
    }


def served_document(champion: Champion | None) -> Document | None:
    """Which version serves after the night, which judged one it is the refit of, and the last day that it learnt."""
    if champion is None:
        return None
    served, of = champion.served, champion.version if champion.refit else None
    return {"version": served.version, "refit_of": of, "fit_until": served.fit_until}


def _left_out(checks: Checks) -> Document:
    """The newest days that were left out, each with its reason, and the number of all of them."""
    newest = sorted(checks.left_out.items())[-MOST_KEPT:]
    return {"left_out": {day: why[:LONGEST_WORDS] for day, why in newest}, "left_out_days": len(checks.left_out)}


def work_rows(work: Iterable[Work]) -> list[Document]:
    """One row for each stage: what it reused and computed, its seconds, and the memory of the process until its end."""
    return [{name: getattr(of_stage, name) for name in STAGE_COLUMNS} for of_stage in work]


def nothing_new_document(
    use_case: UseCase, night: Night, run_key: str, snapshot: Snapshot, reason: str, champion: Champion | None
) -> Document:
    """The document of a night that had nothing new to learn."""
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
        "refit": None,
        "serves": served_document(champion),
        "mlflow_run": None,
        "seconds": {work.stage: work.seconds},
        "reused": {work.stage: work.reused},
        "computed": {work.stage: work.computed},
    }


def dry_run_document(night: Night, run_key: str, checks: Checks, split: Split, finished: NightEntry | None) -> Document:
    """The document of a dry run: what would be trained on which rows, and which entry has it if it was done before."""
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
    """The fields that the document of every night has."""
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
                {"source": part.source, "what": part.what, "count": part.count, "why": part.why}
                for part in snapshot.left_out
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
    error = {} if model.calibration is None else {"calibration_error": model.calibration.error}
    return {"description": model.description, **scores, **error, "confusion": matrix}
