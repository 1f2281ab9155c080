"""What operators see of a backfill: a table with one row for each date."""

from collections import Counter
from collections.abc import Mapping
from datetime import date

from ml.operations.backfill import Progress
from ml.reporting.score_section import cell
from ml.storage.ledger import Ledger, NightEntry, named


def board_rows(
    ledger: Ledger, progress: Progress, running: Mapping[date, str], known: dict[int, NightEntry]
) -> list[dict[str, str]]:
    """One row for each date of the plan: stage, decision, version, scores, counted verdicts, and the reason if it
    failed or does not run.

    `running` is date to the stage that it is in. `known` are nights by entry number, which are not read again; nights
    that are read are added to it.
    """
    return [_board_row(ledger, progress, row.as_of, row.reason, running, known) for row in progress.plan.rows]


def _night(ledger: Ledger, seq: int, known: dict[int, NightEntry]) -> NightEntry:
    if seq not in known:
        entry = ledger.entry(seq)
        assert isinstance(entry, NightEntry), seq
        known[seq] = entry
    return known[seq]


def _board_row(
    ledger: Ledger, progress: Progress, as_of: date, reason: str, running: Mapping[date, str],
    known: dict[int, NightEntry],
) -> dict[str, str]:  # fmt: skip
    attempt = progress.attempts.get(as_of)
    planned = as_of in progress.plan.dates
    waits = progress.state if progress.state in {"paused", "cancelled"} else "waits"
    stage = attempt.outcome if attempt else running.get(as_of, waits if planned else "not run")
    night = _night(ledger, attempt.entry, known) if attempt and attempt.entry else None
    verdicts = Counter(verdict["verdict"] for verdict in night.result["verdicts"]) if night else Counter[str]()
    return {
        "as_of": str(as_of),
        "stage": str(stage),
        "decision": night.decision if night else "",
        "version": named(night.candidate) if night and night.candidate else "",
        **_scores(night),
        "verdicts": ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()),
        "reason": attempt.reason if attempt else "" if planned else reason,
    }


def _scores(night: NightEntry | None) -> dict[str, str]:
    """The use case's metric, and its value and interval for candidate and champion on the date's test rows."""
    if night is None:
        return {"metric": "", "candidate": "", "champion": ""}
    metric, scores = night.result["metric"], night.result["scores"]
    return {"metric": metric} | {who: cell((scores[who] or {}).get(metric)) for who in ("candidate", "champion")}
