"""What each command does. Imported only when a command runs; homes are set before Prefect or MLflow is imported."""

import argparse
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from deployments.environment import prepare_environment
from ml import packaging, report
from ml.config import load_use_case, require_known, use_case_files
from ml.demo import write_demo_data
from ml.errors import ConfigError, UsageError
from ml.ledger import Entry, Ledger
from ml.scoring import score_file
from ml.settings import Settings
from ml.store import Store, open_store

log = logging.getLogger("retrain.commands")
STATUS_COLUMNS = ("use_case", "schedule", "champion", "reference", "last_as_of", "last_decision", "entries")


def run(options: argparse.Namespace) -> int:
    """One night: by the deployment while `retrain up` runs, else in this process."""
    if not options.debug:  # one sentence comes at the end; Prefect would print every traceback before it
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    settings = _settings()
    require_known(options.use_case, settings.project)
    from deployments.night import run_night_here_or_there

    done = run_night_here_or_there(settings, _request(options))
    if done.get("dry_run"):
        _show(options, done, _dry_run_words(done))
        return 0
    entry = _ledger(settings, options.use_case).entry(done["entry"])
    document = {**entry.result, "replayed": done["replayed"]}
    _show(options, document, "")
    if not options.json:
        print_summary(settings, document)
    return 0


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
    return (
        f"{document['use_case']} as of {document['as_of']} would train on {document['device']}: {parts} rows; "
        f"{document['quarantined_rows']} quarantined. Nothing was trained or moved."
    )


def print_summary(settings: Settings, document: dict[str, Any]) -> None:
    """The end of a run as an operator reads it."""
    again = " (finished before; nothing was judged again)" if document["replayed"] else ""
    _say("", f"{report.headline(document)}{again}", document["question"], "", *report.data_sentences(document), "")
    if document["scores"]:
        _say(*_score_lines(document), "")
        _say(*(f"{verdict['verdict']:<15}{verdict['reason']}" for verdict in document["verdicts"]), "")
        _say(report.comparison_sentence(document), "")
    _say(f"{document['decision']}: {document['reason']} {report.champion_sentence(document)}", "", "Where to look")
    me = _own_name()
    _say(f"  {me} ledger {document['use_case']}   every decision", f"  {me} up   the pages of Prefect and MLflow")
    if document["mlflow_run"]:
        _say(f"  {settings.store}/mlflow/{document['mlflow_run']}/artifacts   report.md, figures, model")


def _own_name() -> str:
    """How this command is called from here: `retrain` where it is on the PATH, else its path."""
    here = Path(sys.argv[0])
    if shutil.which("retrain") or not here.exists():
        return "retrain"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)


def _score_lines(document: dict[str, Any]) -> list[str]:
    """A table that fits a terminal, then what each row is."""
    names = report.score_names(document)
    rows = report.score_rows(document)
    head = ["on the same test rows", *(report.LABELS[name] for name in names)]
    table = [head, *([who, *cells] for who, _, cells in rows)]
    described = [f"  {who}: {description}" for who, description, _ in rows]
    return [*_aligned(table), *described]


def _aligned(table: list[list[str]]) -> list[str]:
    """Rows of cells, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in table]


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def status(options: argparse.Namespace) -> int:
    """All use cases, or one: schedule, champion, reference, last decision, disk used."""
    settings = _settings()
    if options.use_case:
        require_known(options.use_case, settings.project)
    names = [options.use_case] if options.use_case else sorted(use_case_files(settings.project))
    store = open_store(settings.store)
    rows = [_status_row(settings, store, name) for name in names]
    document: dict[str, Any] = {"use_cases": rows, "store": settings.store, "store_bytes": store.size()}
    if options.json:
        return _print_json(document)
    cells = [[_words(row[name]) for name in STATUS_COLUMNS] for row in rows]
    _say(*_aligned([[name.replace("_", " ") for name in STATUS_COLUMNS], *cells]))
    _say("", f"Store {settings.store}: {document['store_bytes'] / 1e6:.1f} MB")
    if options.use_case:
        _print_entries(Ledger(store, options.use_case).entries()[-5:])
    return 0


def _status_row(settings: Settings, store: Store, name: str) -> dict[str, Any]:
    entries = Ledger(store, name).entries()
    head = entries[-1] if entries else None
    return {
        "use_case": name,
        "schedule": _schedule(settings, name),
        "champion": head.champion.version if head and head.champion else None,
        "champion_as_of": str(head.champion.as_of) if head and head.champion else None,
        "reference": head.reference.version if head and head.reference else None,
        "last_as_of": str(head.as_of) if head else None,
        "last_decision": head.decision if head else None,
        "entries": len(entries),
    }


def _schedule(settings: Settings, name: str) -> str | None:
    try:
        use_case = load_use_case(name, settings.project)
    except ConfigError as error:
        log.warning("%s", error)
        return "broken file"
    return f"{use_case.schedule} {use_case.time_zone}" if use_case.schedule else None


def _words(value: Any) -> str:
    return "-" if value is None else str(value)


def ledger(options: argparse.Namespace) -> int:
    """Every entry of a use case's ledger, oldest first."""
    settings = _settings()
    require_known(options.use_case, settings.project)
    entries = _ledger(settings, options.use_case).entries()
    if options.json:
        return _print_json({"use_case": options.use_case, "entries": [_entry_row(entry) for entry in entries]})
    if not entries:
        _say(f"Nothing was decided about {options.use_case} yet: retrain run {options.use_case}")
    _print_entries(entries)
    return 0


def _entry_row(entry: Entry) -> dict[str, Any]:
    return {
        "entry": entry.seq,
        "at": entry.at,
        "by": entry.by,
        "as_of": str(entry.as_of),
        "decision": entry.decision,
        "version": entry.version,
        "champion_before": entry.champion_before.version if entry.champion_before else None,
        "champion_after": entry.champion.version if entry.champion else None,
        "reference_after": entry.reference.version if entry.reference else None,
        "reason": entry.reason,
        "run_key": entry.run_key,
        "verdicts": entry.result["verdicts"],
    }


def _print_entries(entries: list[Entry]) -> None:
    for row in map(_entry_row, entries):
        moved = f"champion {_words(row['champion_before'])} -> {_words(row['champion_after'])}"
        _say(
            f"\n{row['entry']}  {row['at']}  by {row['by']}  as of {row['as_of']}  {row['decision']}  "
            f"version {_words(row['version'])}  {moved}",
            f"   {row['reason']}",
        )


def score(options: argparse.Namespace) -> int:
    """Writes one output row per input row, in the same order."""
    settings = _settings()
    use_case = load_use_case(options.use_case, settings.project)
    writer = _writer(Path(options.output))
    if not Path(options.file).is_file():
        raise UsageError("FILE is a file of raw rows", f"there is no {options.file}", "check its path")
    head = _ledger(settings, options.use_case).head()
    if head is None or head.champion is None:
        raise UsageError(
            "score needs a champion", f"{options.use_case} has none", f"retrain run {options.use_case} first"
        )
    store, champion = open_store(settings.store), head.champion
    folder = packaging.fetch_model(store, champion.folder, champion.files, settings.home / "cache")
    answers, extra = score_file(settings, use_case, folder, Path(options.file))
    writer(answers)
    document = {
        "use_case": options.use_case,
        "version": head.champion.version,
        "rows": len(answers),
        "refused_rows": int(answers.broken_rule.notna().sum()),
        "ignored_columns": extra,
        "output": options.output,
    }
    words = (
        f"Scored {document['rows']:,} rows with {options.use_case} version {document['version']} into "
        f"{options.output}; "
        f"{document['refused_rows']:,} break a rule and have no answer."
    )
    _show(options, document, words + (f" Ignored columns: {', '.join(extra)}." if extra else ""))
    return 0


def _writer(path: Path) -> Any:
    """How to write the output. Raises UsageError for an ending that is none of the two, before any work."""
    if path.suffix not in {".parquet", ".csv"}:
        raise UsageError("-o names a .parquet or .csv file", f"it is {path.name}", "change its ending")
    return (
        (lambda frame: frame.to_parquet(path))
        if path.suffix == ".parquet"
        else (lambda frame: frame.to_csv(path, index=False))
    )


def demo_data(options: argparse.Namespace) -> int:
    """Writes the data sets of all use cases, or of one, that are not there yet."""
    settings = _settings()
    names = [options.use_case] if options.use_case else sorted(use_case_files(settings.project))
    for name in names:
        use_case = load_use_case(name, settings.project)
        if options.use_case and use_case.demo is None:
            raise UsageError(
                "demo data comes with the examples", f"{name} brings none", "put its data where its source says"
            )
        write_demo_data(settings, use_case)
    _show(options, {"written": names, "folder": str(settings.data)}, f"Demo data is in {settings.data}")
    return 0


def up(options: argparse.Namespace) -> int:
    """Servers, pages and schedules until Ctrl-C."""
    settings = _settings()
    from deployments.up import run_up

    return run_up(settings, prefect_port=options.prefect_port, mlflow_port=options.mlflow_port)


def _settings() -> Settings:
    settings = Settings.from_environment()
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        (settings.home / ".writable").touch()
        (settings.home / ".writable").unlink()
    except OSError as error:
        raise ConfigError(
            "RETRAIN_HOME is a folder that can be written",
            f"{settings.home}: {error.strerror}",
            "set RETRAIN_HOME to one that can",
        ) from error
    prepare_environment(settings)
    return settings


def _ledger(settings: Settings, use_case: str) -> Ledger:
    return Ledger(open_store(settings.store), use_case)


def _show(options: argparse.Namespace, document: dict[str, Any], words: str) -> None:
    if options.json:
        _print_json(document)
    elif words:
        _say(words)


def _print_json(document: dict[str, Any]) -> int:
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    return 0
