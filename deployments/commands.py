"""What each command does. Imported only when a command runs; homes are set before Prefect or MLflow is imported."""

import argparse
import json
import logging
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deployments.last_night import red_nights
from deployments.servers import running_servers
from deployments.terminal import (
    BEGIN,
    aligned,
    chosen_names,
    chosen_or_recorded,
    home_if_any,
    home_settings,
    home_to_read,
    no_file,
    own_name,
    print_json,
    require_recorded,
    require_use_case,
    say,
    show,
    show_sentences_only,
    words_of,
)
from ml.digests import write_whole
from ml.errors import Busy, ConfigError, Corrupt, RegistryUnavailable, UsageError
from ml.reporting import report
from ml.reporting.endings import moved_by_hand, since
from ml.reporting.report import counted
from ml.settings import Settings
from ml.storage.json_form import to_json
from ml.storage.ledger import AnyEntry, Ledger, NightEntry, open_questions, version_of
from ml.storage.records import digest_of_files
from ml.storage.store import Store, open_store
from ml.use_case.demo import write_demo_data
from ml.use_case.loading import load_use_case, use_case_files
from tasks.night_notes import red_end_noted

log = logging.getLogger("retrain.commands")
STATUS_COLUMNS = (
    "use_case", "schedule", "champion", "score", "reference", "last_night", "last_as_of", "last_decision",
    "last_success", "held", "entries",
)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """One night: by the deployment while `retrain up` runs, else in this process."""
    show_sentences_only(options)
    require_use_case(options.use_case)
    settings = home_settings()
    with _red_noted(settings, options):
        today = load_use_case(options.use_case, settings.project).today()
        if options.as_of and options.as_of > today:
            raise UsageError("--as-of is a day up to today", f"it is {options.as_of}", f"use {today} or earlier")
        from deployments.night import run_flow_here_or_there

        done = run_flow_here_or_there(settings, "retrain", _request(options))
    if done.get("dry_run"):
        show(options, done, _dry_run_words(done))
        return 0
    ledger = Ledger(open_store(settings.store), options.use_case)
    entry, head = ledger.entry(done["entry"]), ledger.head()
    assert isinstance(entry, NightEntry) and head is not None, done
    became = since(entry, ledger.entries()) if done["replayed"] else None
    document = {**entry.result, "replayed": done["replayed"], "became": became, "stages": done["stages"]}
    show(options, document, "")
    if not options.json:
        answer = ledger.entry(done["answer"]) if done["answer"] else None
        print_summary(settings, document, version_of(head.champion), answer)
    return 0


def _red_noted(settings: Settings, options: argparse.Namespace) -> AbstractContextManager[None]:
    """Keeps what a night dies of before its flow begins. A mistyped command and a dry run are no nights, and those of
    `retrain up` are noted where they run."""
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
    found = (
        f"{document['use_case']} as of {document['as_of']} would train on {document['device']}: {parts} rows; "
        f"{document['quarantined_rows']} quarantined. Nothing was trained or moved."
    )
    if document["finished_before"] is None:
        return found
    return f"{found} It was finished before: entry {document['finished_before']} of the ledger would be replayed."


def print_summary(
    settings: Settings, document: dict[str, Any], champion_today: int | None, answer: AnyEntry | None = None
) -> None:  # fmt: skip
    """The end of a run as an operator reads it."""
    say("", report.headline(document), document["question"], "", *report.data_sentences(document), "")
    if report.scored(document):
        say(*_score_lines(document), "")
        say(*(f"{v['verdict']:<15}{v['gate']}: {v['reason']}" for v in document["verdicts"]), "")
        say(report.comparison_sentence(document), "")
    now = "" if document["replayed"] else report.champion_sentence(document)
    say(f"{report.decision_sentence(document)} {now}".rstrip(), "")
    if answer is not None:
        said = f"Answered: {answer.decision} by {answer.by}, {answer.reason}."
        say(f"{said} Champion today: {words_of(champion_today)}.", "")
    elif document["replayed"]:
        say(f"Finished before; nothing was judged again. {document['became']}", "")
    elif way := report.way_out(document):
        say(way, "")
    say(*_stage_lines(document), "")
    _say_where_to_look(settings, document)


def _stage_lines(document: dict[str, Any]) -> list[str]:
    """What this run reused and computed, a row a stage: partitions where a stage goes by them."""
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
        mlflow = f"{servers.mlflow_ui}/#/?{report.TRAINING_VIEW}"
        say(f"  {servers.prefect_ui} and {mlflow}   the pages of Prefect and MLflow")
        if document["version"]:
            say(f"  {servers.mlflow_ui}/{report.version_page(document)}   the version in MLflow")
    else:
        say(f"  {me} up   the pages of Prefect and MLflow")
    if document["mlflow_run"]:
        say(f"  {settings.store}/mlflow/{document['mlflow_run']}/artifacts   report.md, figures, model")


def _score_lines(document: dict[str, Any]) -> list[str]:
    """A table that fits a terminal, then what each row is."""
    names = report.score_names(document)
    rows = report.score_rows(document)
    head = ["on the same test rows", *(report.LABELS[name] for name in names)]
    table = [head, *([who, *cells] for who, _, cells in rows)]
    described = [f"  {who}: {description}" for who, description, _ in rows]
    return [*aligned(table), *described]


def status(options: argparse.Namespace) -> int:
    """All use cases, or one: schedule, champion, reference, last decision, hold, disk used."""
    settings, no_home = home_if_any()
    names = chosen_or_recorded(options, settings)
    store = open_store(settings.store)
    rows = [_status_row(settings, store, name) for name in names]
    kept = None if no_home and settings.keeps_files_at_home else settings.store
    document: dict[str, Any] = {
        "use_cases": rows,
        "store": kept,
        "store_bytes": sum(store.sizes().values()),
        "no_home": no_home and f"{no_home[0].upper()}{no_home[1:]}: {BEGIN}",
    }
    if options.json:
        return print_json(document)
    _print_status(document)
    if options.use_case is not None:
        say(*(f"Excluded: {day}, {reason}" for day, reason in sorted(rows[0]["excluded"].items())))
        say(*(f"Accepted as it is: {day}, {reason}" for day, reason in sorted(rows[0]["accepted"].items())))
        last = list(Ledger(store, options.use_case).by_digest().items())[-5:]
        _print_entries([entry_row(entry, digest) for digest, entry in last])
    return 0


def _print_status(document: dict[str, Any]) -> None:
    """The table, what is to be known of single use cases, and where all of it lies."""
    rows = document["use_cases"]
    cells = [[words_of(row[name]) for name in STATUS_COLUMNS] for row in rows]
    say(*aligned([[name.replace("_", " ") for name in STATUS_COLUMNS], *cells]))
    say(*(f"{row['use_case']}: {row['moved_by_hand']}" for row in rows if row["moved_by_hand"]))
    say(*(f"{row['use_case']}: {words}" for row in rows for words in row["mlflow"]), "")
    say(*(f"{row['use_case']}: {words}" for row in rows for words in _red_words(row)))
    say(*(f"{row['use_case']} has no file here: {row['no_file']}." for row in rows if row["no_file"]))
    if document["no_home"]:
        say(f"There is no home. {document['no_home']}.")
    if document["store"]:
        say(f"Store {document['store']}: {document['store_bytes'] / 1e6:.1f} MB")
    say(*(_question(row["use_case"], version) for row in rows for version in row["asks"]))
    say(*(_waiting(row["use_case"], row["waits_until"]) for row in rows if row["waits_until"]))


def _red_words(row: dict[str, Any]) -> list[str]:
    """What the last nights died of, with the step that leads on."""
    return [f"{red['seen']}: {red['next_step']}{'' if red['next_step'].endswith('?') else '.'}" for red in row["red"]]


def _question(use_case: str, version: int) -> str:
    answers = f"Resume on its run's page, or retrain promote {use_case} --version {version} --reason WHY"
    return f"{use_case} asks whether version {version} is to serve: {answers}"


def _status_row(settings: Settings, store: Store, name: str) -> dict[str, Any]:
    entries = Ledger(store, name).entries()
    head, nights = entries[-1] if entries else None, [entry for entry in entries if isinstance(entry, NightEntry)]
    night, red = last_of(nights), list(red_nights(settings, name))
    known = name in use_case_files(settings.project)
    return {
        "use_case": name,
        "schedule": _schedule(settings, name) if known else "no file",
        "no_file": None if known else no_file(settings, name),
        "last_night": "red" if red else "good" if night else None,
        "red": [{**json.loads(to_json(each)), "seen": each.seen} for each in red],
        "champion": version_of(head.champion) if head else None,
        "champion_as_of": str(head.champion.as_of) if head and head.champion else None,
        "score": _score_of(nights, version_of(head.champion)) if head else None,
        "reference": version_of(head.reference) if head else None,
        "last_as_of": str(night.as_of) if night else None,
        "last_decision": night.decision if night else None,
        "moved_by_hand": moved_by_hand(entries),
        "last_success": nights[-1].at if nights else None,
        "mlflow": _mlflow_differs(settings, Ledger(store, name)) if head and head.champion else [],
        "asks": [version_of(night.candidate) for night in open_questions(entries)],
        "held": head.held if head else None,
        "waits_until": _waits_until(head),
        "excluded": head.excluded if head else {},
        "accepted": head.accepted if head else {},
        "entries": head.seq if head else 0,
    }


def last_of(nights: list[NightEntry]) -> NightEntry | None:
    """The night of the newest date; of nights without dates the last in the ledger, whatever a clock said."""
    if nights and nights[-1].candidate and not nights[-1].candidate.dated:
        return nights[-1]
    return max(nights, key=lambda night: (night.as_of, night.seq), default=None)


def _waits_until(head: AnyEntry | None) -> str | None:
    """The champion's date where it is to come, for a clock was wrong: until then no night promotes."""
    champion = head.champion if head else None
    later = champion is not None and champion.dated and champion.as_of > datetime.now(UTC).date() + timedelta(days=1)
    return str(champion.as_of) if champion and later else None


def _waiting(name: str, as_of: str) -> str:
    return (
        f"{name} has a champion as of {as_of}, which is to come: until then no night promotes. "
        f"retrain rollback {name} --reason WHY, or retrain promote {name} --version N --reason WHY, ends that."
    )


def _score_of(nights: list[NightEntry], version: int | None) -> str | None:
    """The version's main score in the night that made it, like `f1 0.952 [0.909, 0.988]`."""
    made = next((night.result for night in nights if night.candidate and night.candidate.version == version), None)
    return f"{made['metric']} {report.cell(made['scores']['candidate'].get(made['metric']))}" if made else None


def _mlflow_differs(settings: Settings, ledger: Ledger) -> list[str]:
    """Where MLflow says otherwise than the ledger. A lost database is not made anew by looking."""
    from ml.operations.health import differences
    from ml.storage.databases import database_files
    from ml.storage.registry import Registry

    file = database_files(settings).get("mlflow")
    if file is not None and not file.exists():
        mend = f"retrain restore FILE, or retrain doctor {ledger.use_case} --mend"
        return [f"MLflow's database {file} is not there: {mend}"]
    try:
        return differences(ledger, Registry(settings, ledger.use_case))
    except (ConfigError, RegistryUnavailable) as error:
        return [f"whether MLflow agrees is not known: {error}"]


def _schedule(settings: Settings, name: str) -> str | None:
    try:
        use_case = load_use_case(name, settings.project)
    except ConfigError as error:
        log.warning("%s", error)
        return "broken file"
    return f"{use_case.schedule} {use_case.time_zone}" if use_case.schedule else None


def ledger(options: argparse.Namespace) -> int:
    """Every entry of a use case's ledger, oldest first."""
    require_recorded(options.use_case)
    settings = home_to_read("ledger")
    entries = Ledger(open_store(settings.store), options.use_case).by_digest()
    rows = [entry_row(entry, digest) for digest, entry in entries.items()]
    if options.json:
        return print_json({"use_case": options.use_case, "entries": rows})
    if not rows:
        say(f"Nothing was decided about {options.use_case} yet: retrain run {options.use_case}")
    _print_entries(rows)
    return 0


def entry_row(entry: AnyEntry, digest: str) -> dict[str, Any]:
    """One entry as `--json` prints it; what only nights have is null for an operator's move."""
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
        "champion_before": version_of(entry.champion_before),
        "champion_after": version_of(entry.champion),
        "reference_after": version_of(entry.reference),
        "held": entry.held,
        "excluded": entry.excluded,
        "accepted": entry.accepted,
        "reason": entry.reason,
        "seed": result.get("seed"),
        "again": result.get("again"),
        "run_key": night.run_key if night else None,
        "snapshot": result.get("snapshot"),
        "digests": {
            "entry": digest,
            "run key": night.run_key if night else None,
            "snapshot": result.get("snapshot", {}).get("digest"),
            "test": result.get("test_digest"),
            "model": digest_of_files(candidate.files) if candidate else None,
        },
        "verdicts": result.get("verdicts", []),
    }


def _print_entries(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        night = (
            f"as of {row['as_of']}  version {words_of(row['version'])}  seed {row['seed']}  " if row["as_of"] else ""
        )
        again = f"again: {row['again']}  " if row["again"] else ""
        moved = f"champion {words_of(row['champion_before'])} -> {words_of(row['champion_after'])}"
        say(
            "",
            f"{row['entry']}  {row['at']}  by {row['by']}  {row['decision']}  {night}{again}{moved}",
            f"   {row['reason']}",
            *(f"   {v['verdict']:<15}{v['gate']}: {v['reason']}" for v in row["verdicts"]),
            "   " + ", ".join(f"{name} {digest[:12]}" for name, digest in row["digests"].items() if digest),
        )


def score(options: argparse.Namespace) -> int:
    """Writes one output row per input row, in the same order."""
    require_use_case(options.use_case)
    settings = home_to_read("score")
    use_case = load_use_case(options.use_case, settings.project)
    writer = _writer(Path(options.output))
    if not Path(options.file).is_file():
        raise UsageError("FILE is a file of raw rows", f"there is no {options.file}", "check its path")
    if Path(options.output).exists() and Path(options.output).samefile(options.file):
        raise UsageError("-o names a file of its own", "it is the file to score", "name another, or its rows are lost")
    from ml.models import packaging
    from ml.operations.scoring import model_threshold, score_file

    store = open_store(settings.store)
    head = Ledger(store, options.use_case).head()
    if head is None or head.champion is None:
        name = options.use_case
        step = f"retrain ledger {name} says why" if head else f"retrain run {name} first"
        raise UsageError("score needs a champion", f"{name} has none", step)
    champion = head.champion
    try:
        folder = packaging.fetch_model(store, champion.folder, champion.files, settings.home / "cache")
    except Corrupt as error:
        raise Corrupt(error.rule, error.value, f"retrain doctor {options.use_case} says what leads out") from error
    scored = score_file(settings, use_case, folder, Path(options.file))
    answers, extra = scored.answers, scored.ignored_columns
    keys = scored.keys.drop(columns=[*answers], errors="ignore")  # an answer's name is the answer's
    writer(keys.join(answers))
    document = {
        "use_case": options.use_case,
        "version": champion.version,
        "rows": len(answers),
        "refused_rows": int(answers.broken_rule.notna().sum()),
        "key_columns": [*keys],
        "ignored_columns": extra,
        "joins": {
            name: {"null_keys": c.null_keys, "unmatched": c.unmatched, "side_null_keys": c.side_null_keys}
            for name, c in scored.joins.items()
        },
        "not_learnt": scored.not_learnt,
        "threshold": model_threshold(folder),
        "output": options.output,
    }
    words = (
        f"Scored {counted(document['rows'], 'row')} with {options.use_case} version {document['version']} into "
        f"{options.output}{_with_keys([*keys])}; {document['refused_rows']:,} of them broke a rule and got no answer."
    )
    if document["threshold"] is not None:
        words += f" From probability {document['threshold']:.4g} on it says {use_case.target.classes[1]}."
    words += "".join(
        f" {counted(c.null_keys + c.unmatched, 'row')} met nothing in {name} ({c.null_keys:,} without a key)."
        for name, c in scored.joins.items()
        if c.null_keys + c.unmatched
    )
    words += "".join(
        f" {counted(c.side_null_keys, 'row')} of {name} have no key and met nothing."
        for name, c in scored.joins.items()
        if c.side_null_keys
    )
    words += "".join(
        f" The model has not learnt the {name} of {counted(rows, 'row')}." for name, rows in scored.not_learnt.items()
    )
    show(options, document, words + (f" Ignored columns: {report.listed(extra)}." if extra else ""))
    return 0


def _with_keys(names: list[str]) -> str:
    return f", beside {report.listed(names)}" if names else ""


def _writer(path: Path) -> Any:
    """How to write the output. Raises UsageError for a place where no such file can be, before any work."""
    if path.suffix not in {".parquet", ".csv"}:
        raise UsageError("-o names a .parquet or .csv file", f"it is {path.name}", "change its ending")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("-o names a file in a folder that is there", f"it is {path}", "make the folder")
    is_csv = path.suffix == ".csv"
    return lambda frame: write_whole(path, frame.to_csv(index=False).encode() if is_csv else frame.to_parquet())


def demo_data(options: argparse.Namespace) -> int:
    """Writes the data sets of all use cases, or of one, that are not there yet."""
    names = chosen_names(options, Settings.from_environment())
    settings = home_settings()
    for name in names:
        use_case = load_use_case(name, settings.project)
        if options.use_case is not None and use_case.demo is None:
            raise UsageError(
                "demo data comes with the examples", f"{name} brings none", "put its data where its source says"
            )
        write_demo_data(settings, use_case)
    show(options, {"written": names, "folder": str(settings.data)}, f"Demo data is in {settings.data}")
    return 0


def up(options: argparse.Namespace) -> int:
    """Servers, pages and schedules until Ctrl-C."""
    settings = home_settings()
    from deployments.up import run_up, serving_of

    serving = serving_of(options.work_pool)
    return run_up(settings, options.prefect_port, options.mlflow_port, serving=serving)
