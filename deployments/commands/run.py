"""`retrain run`: runs one night and prints what came of it."""

import argparse
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from deployments.prefect.announcement import running_servers
from deployments.terminal import (
    aligned,
    home_settings,
    own_name,
    require_use_case,
    say,
    show,
    show_sentences_only,
    words_of,
)
from ml.errors import Busy, UsageError
from ml.reporting import data_section, decision_section, score_section
from ml.reporting.endings import answer_sentence, answered_yes, since
from ml.settings import Settings
from ml.storage.ledger import AnyEntry, Ledger, NightEntry, version_of
from ml.storage.store import open_store
from ml.use_case.loading import load_use_case
from tasks.night_notes import red_end_noted


def run(options: argparse.Namespace) -> int:
    """Runs one night: by its deployment if `retrain up` runs, otherwise in this process."""
    show_sentences_only(options)
    require_use_case(options.use_case)
    settings = home_settings()
    with _red_noted(settings, options):
        today = load_use_case(options.use_case, settings.project).today()
        if options.as_of and options.as_of > today:
            raise UsageError("--as-of is a day up to today", f"it is {options.as_of}", f"use {today} or earlier")
        from deployments.prefect.night import run_flow_here_or_there

        result = run_flow_here_or_there(settings, "retrain", _request(options))
    if result.get("dry_run"):
        show(options, result, _dry_run_words(result))
        return 0
    ledger = Ledger(open_store(settings.store), options.use_case)
    entry, head = ledger.entry(result["entry"]), ledger.head()
    assert isinstance(entry, NightEntry) and head is not None, result
    became = since(entry, ledger.entries()) if result["replayed"] else None
    document = {**entry.result, "replayed": result["replayed"], "became": became, "stages": result["stages"]}
    show(options, document, "")
    if not options.json:
        answer = ledger.entry(result["answer"]) if result["answer"] else None
        print_summary(settings, document, entry, version_of(head.champion), answer)
    return 0


def _red_noted(settings: Settings, options: argparse.Namespace) -> AbstractContextManager[None]:
    """If a night fails before its flow begins, stores a note of the error.

    Nothing is noted of a mistyped command or a dry run, which are no nights. A night of `retrain up` is noted where it
    runs.
    """
    if options.dry_run or running_servers(settings) is not None:
        return nullcontext()
    return red_end_noted(settings, options.use_case, lambda: options.as_of, no_ends=(Busy, UsageError))


def _request(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "use_case": options.use_case,
        "as_of": str(options.as_of) if options.as_of else None,
        "seed": options.seed,
        "again": options.again,
        "dry_run": options.dry_run,
        "wait": not options.no_wait,
    }


def _dry_run_words(document: dict[str, Any]) -> str:
    parts = ", ".join(f"{part['rows']:,} {name}" for name, part in document["split"].items())
    words = (
        f"{document['use_case']} as of {document['as_of']} would train on {document['device']}: {parts} rows; "
        f"{document['quarantined_rows']} quarantined. Nothing was trained or moved."
    )
    if document["finished_before"] is None:
        return words
    return f"{words} It was finished before: entry {document['finished_before']} of the ledger would be replayed."


def print_summary(
    settings: Settings, document: dict[str, Any], entry: NightEntry, champion_today: int | None,
    answer: AnyEntry | None = None,
) -> None:  # fmt: skip
    """Prints what an operator reads at the end of a run."""
    headline = decision_section.headline(document, answered_yes=answered_yes(entry, answer))
    say("", headline, document["question"], "", *data_section.data_sentences(document), "")
    if score_section.scored(document):
        say(*_score_lines(document), "")
        say(*(f"{v['verdict']:<15}{v['gate']}: {v['reason']}" for v in document["verdicts"]), "")
        if resolution := score_section.resolution_sentence(document):
            say(resolution, "")
        say(score_section.comparison_sentence(document), "")
    now = "" if document["replayed"] or answer else decision_section.champion_sentence(document)
    serves = decision_section.serving_words(document) if now else ""
    say(" ".join(filter(None, (decision_section.decision_sentence(document), now, serves))), "")
    if answer is not None:
        say(f"{answer_sentence(answer)} Champion today: {words_of(champion_today)}.", "")
    elif document["replayed"]:
        say(f"Finished before; nothing was judged again. {document['became']}", "")
    elif way := decision_section.way_out(document):
        say(way, "")
    say(*_stage_lines(document), "")
    _say_where_to_look(settings, document)


def _stage_lines(document: dict[str, Any]) -> list[str]:
    """A table with a row for each stage: how much it reused and computed, counted in partitions if it has such."""
    rows = [
        [
            row["stage"],
            *(f"{row[name]:,}" for name in ("reused", "computed")),
            f"{row['seconds']:.1f}",
            f"{row['peak_mb']:,}",
        ]
        for row in document["stages"]
    ]
    return aligned([["stage", "reused", "computed", "seconds", "peak MB"], *rows])


def _say_where_to_look(settings: Settings, document: dict[str, Any]) -> None:
    me, servers = own_name(), running_servers(settings)
    say("Where to look", f"  {me} ledger {document['use_case']}   every decision")
    if servers:
        mlflow = f"{servers.mlflow_ui}/#/?{decision_section.TRAINING_VIEW}"
        say(f"  {servers.prefect_ui} and {mlflow}   the pages of Prefect and MLflow")
        if document["version"]:
            say(f"  {servers.mlflow_ui}/{decision_section.version_page(document)}   the version in MLflow")
    else:
        say(f"  {me} up   the pages of Prefect and MLflow")
    if document["mlflow_run"]:
        say(f"  {settings.store}/mlflow/{document['mlflow_run']}/artifacts   report.md, figures, model")


def _score_lines(document: dict[str, Any]) -> list[str]:
    """The table of scores, which fits a terminal, and a line for each of its rows that says what the row is."""
    names = score_section.score_names(document)
    rows = score_section.score_rows(document)
    head = ["on the same test rows", *(score_section.LABELS[name] for name in names)]
    table = [head, *([who, *cells] for who, _, cells in rows)]
    described = [f"  {who}: {description}" for who, description, _ in rows]
    return [*aligned(table), *described]
