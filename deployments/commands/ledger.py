"""`retrain ledger`: prints every decision about a use case."""

import argparse
from typing import Any

from deployments.terminal import home_to_read, print_json, require_recorded, say, words_of
from ml.storage.ledger import AnyEntry, Ledger, NightEntry, OperatorEntry, version_of
from ml.storage.records import digest_of_files
from ml.storage.store import open_store


def ledger(options: argparse.Namespace) -> int:
    """Prints every entry of a use case's ledger, the oldest first."""
    require_recorded(options.use_case)
    settings = home_to_read("ledger")
    entries = Ledger(open_store(settings.store), options.use_case).by_digest()
    rows = [entry_row(entry, digest) for digest, entry in entries.items()]
    if options.json:
        return print_json({"use_case": options.use_case, "entries": rows})
    if not rows:
        say(f"Nothing was decided about {options.use_case} yet: retrain run {options.use_case}")
    print_entries(rows)
    return 0


def entry_row(entry: AnyEntry, digest: str) -> dict[str, Any]:
    """One entry as `--json` prints it. For an operator's move, the fields that only nights have are null."""
    night = entry if isinstance(entry, NightEntry) else None
    candidate = night.candidate if night else None
    result = night.result if night else {}
    return {
        "entry": entry.seq,
        "at": entry.at,
        "by": entry.by,
        "decision": entry.decision,
        "as_of": str(night.as_of) if night else None,
        "version": version_of(candidate),
        "refit": candidate.refit.version if candidate and candidate.refit else None,
        "champion_before": version_of(entry.champion_before),
        "champion_after": version_of(entry.champion),
        "serves": entry.champion.served.version if entry.champion else None,
        "reference_after": version_of(entry.reference),
        "held": entry.held,
        "excluded": entry.excluded,
        "accepted": entry.accepted,
        "reason": entry.reason,
        "answers": entry.answers if isinstance(entry, OperatorEntry) else None,
        "seed": result.get("seed"),
        "again": result.get("again"),
        "run_key": night.run_key if night else None,
        "snapshot": result.get("snapshot"),
        "digests": {
            "entry": digest,
            "run key": night.run_key if night else None,
            "training key": night.training_key if night else None,
            "snapshot": result.get("snapshot", {}).get("digest"),
            "test": result.get("test_digest"),
            "model": digest_of_files(candidate.files) if candidate else None,
            "refit": digest_of_files(candidate.refit.files) if candidate and candidate.refit else None,
        },
        "verdicts": result.get("verdicts", []),
    }


def print_entries(rows: list[dict[str, Any]]) -> None:
    """Prints a few lines for each of the rows that `entry_row` makes."""
    for row in rows:
        refit = f", refitted as {row['refit']}" if row["refit"] else ""
        version = f"version {words_of(row['version'])}{refit}"
        night = f"as of {row['as_of']}  {version}  seed {row['seed']}  " if row["as_of"] else ""
        again = f"again: {row['again']}  " if row["again"] else ""
        answers = f"answers entry {row['answers']}  " if row["answers"] else ""
        moved = f"champion {words_of(row['champion_before'])} -> {words_of(row['champion_after'])}"
        is_champion = row["serves"] in {None, row["champion_after"]} and row["decision"] != "TAKE_OVER"
        moved += "" if is_champion else f" (version {row['serves']} serves)"
        say(
            "",
            f"{row['entry']}  {row['at']}  by {row['by']}  {row['decision']}  {night}{again}{answers}{moved}",
            f"   {row['reason']}",
            *(f"   {v['verdict']:<15}{v['gate']}: {v['reason']}" for v in row["verdicts"]),
            "   " + ", ".join(f"{name} {digest[:12]}" for name, digest in row["digests"].items() if digest),
        )
