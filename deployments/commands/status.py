"""`retrain status`: prints the state of all use cases, or of one with its last decisions."""

import argparse
import json
import logging
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from deployments.commands.ledger import entry_row, print_entries
from deployments.prefect.last_night import red_nights, running_now
from deployments.terminal import BEGIN, chosen_or_recorded, fitting, home_if_any, no_file, print_json, say, words_of
from ml.errors import ConfigError, RegistryUnavailable
from ml.evaluation.source_evidence import days_to_exclude
from ml.reporting import score_section, served_section
from ml.reporting.decision_section import serving_sentence, ways_to_answer
from ml.reporting.document import served_document
from ml.reporting.endings import moved_by_hand, taken_over
from ml.settings import Settings
from ml.storage.json_form import to_json
from ml.storage.ledger import AnyEntry, Ledger, NightEntry, open_questions, version_of
from ml.storage.store import Store, open_store
from ml.use_case.loading import load_use_case, use_case_files

log = logging.getLogger("retrain.commands")

STATUS_COLUMNS = (
    "use_case", "schedule", "champion", "score", "reference", "last_night", "last_as_of", "last_decision",
    "last_success", "held", "entries",
)  # fmt: skip


def status(options: argparse.Namespace) -> int:
    """Prints, of all use cases or of one: schedule, champion, reference, last decision, hold, and disk space used."""
    settings, no_home = home_if_any()
    names = chosen_or_recorded(options, settings)
    store = open_store(settings.store)
    rows = [_status_row(settings, store, name) for name in names]
    known_store = None if no_home and settings.keeps_files_at_home else settings.store
    document: dict[str, Any] = {
        "use_cases": rows,
        "store": known_store,
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
        print_entries([entry_row(entry, digest) for digest, entry in last])
    return 0


def _print_status(document: dict[str, Any]) -> None:
    """Prints the table, the remarks about single use cases, and where the store is."""
    rows = document["use_cases"]
    cells = [[words_of(row[name]) for name in STATUS_COLUMNS] for row in rows]
    say(*fitting([[name.replace("_", " ") for name in STATUS_COLUMNS], *cells]))
    say(*(f"{row['use_case']}: {serving_sentence(row['serves'])}" for row in rows if row["serves"]))
    say(*(f"{row['use_case']}: {row['moved_by_hand']}" for row in rows if row["moved_by_hand"]))
    say(*(f"{row['use_case']}: {row['taken_over']}" for row in rows if row["taken_over"]))
    say(*(f"{row['use_case']}: {words}" for row in rows for words in row["mlflow"]), "")
    say(*(f"{row['use_case']}: {row['served']['sentence']}" for row in rows if row["served"]))
    say(*(f"{row['use_case']}: {_running_words(row['running'])}" for row in rows if row["running"]))
    say(*(f"{row['use_case']}: {words}" for row in rows for words in _red_words(row)))
    say(*(f"{row['use_case']} has no file here: {row['no_file']}." for row in rows if row["no_file"]))
    if document["no_home"]:
        say(f"There is no home. {document['no_home']}.")
    if document["store"]:
        say(f"Store {document['store']}: {document['store_bytes'] / 1e6:.1f} MB")
    say(*(_question(row, version) for row in rows for version in row["asks"]))
    say(*(_waiting(row["use_case"], row["waits_until"]) for row in rows if row["waits_until"]))


def _red_words(row: dict[str, Any]) -> list[str]:
    """What the last red nights died of, each with the next step."""
    return [f"{red['seen']}: {red['next_step']}{'' if red['next_step'].endswith('?') else '.'}" for red in row["red"]]


def _running_words(night: dict[str, str | None]) -> str:
    since = f"{str(night['since'])[:16].replace('T', ' ')} UTC"
    stage = f", now in the stage {night['stage']}" if night["stage"] else ""
    return f"the night as of {night['as_of']} has been running since {since}{stage}."


def _question(row: dict[str, Any], version: int) -> str:
    use_case = row["use_case"]
    ways = ways_to_answer(use_case, version, has_days=version in row["asks_about_days"])
    answers = f"press Resume on its run's page, or answer here. {ways}"
    return f"{use_case} asks whether version {version} is to serve: {answers}"


def _status_row(settings: Settings, store: Store, name: str) -> dict[str, Any]:
    """The state of one use case, as `--json` prints it."""
    entries = Ledger(store, name).entries()
    questions = open_questions(entries)
    head, nights = entries[-1] if entries else None, [entry for entry in entries if isinstance(entry, NightEntry)]
    night, red = last_of(nights), list(red_nights(settings, name))
    known = name in use_case_files(settings.project)
    return {
        "use_case": name,
        "schedule": _schedule(settings, name) if known else "no file",
        "no_file": None if known else no_file(settings, name),
        "last_night": "red" if red else "good" if night else None,
        "red": [{**json.loads(to_json(red_night)), "seen": red_night.seen} for red_night in red],
        "running": running_now(settings, name),
        "champion": version_of(head.champion) if head else None,
        "serves": served_document(head.champion) if head else None,
        "champion_as_of": str(head.champion.as_of) if head and head.champion else None,
        "score": _score_of(nights, version_of(head.champion)) if head else None,
        "served": _served(nights),
        "reference": version_of(head.reference) if head else None,
        "last_as_of": str(night.as_of) if night else None,
        "last_decision": night.decision if night else None,
        "moved_by_hand": moved_by_hand(entries),
        "taken_over": taken_over(entries),
        "last_success": nights[-1].at if nights else None,
        "mlflow": _mlflow_differs(settings, Ledger(store, name)) if head and head.champion else [],
        "asks": [version_of(night.candidate) for night in questions],
        "asks_about_days": [
            version_of(night.candidate) for night in questions if days_to_exclude(night.source_changes)
        ],
        "held": head.held if head else None,
        "waits_until": _waits_until(head),
        "excluded": head.excluded if head else {},
        "accepted": head.accepted if head else {},
        "entries": head.seq if head else 0,
    }


def last_of(nights: list[NightEntry]) -> NightEntry | None:
    """The night of the newest date. Of nights without dates it is the ledger's last: a clock may have been wrong."""
    if nights and nights[-1].candidate and not nights[-1].candidate.dated:
        return nights[-1]
    return max(nights, key=lambda night: (night.as_of, night.seq), default=None)


def _waits_until(head: AnyEntry | None) -> str | None:
    """The champion's date if it is in the future, which a wrong clock can cause. Until then no night promotes."""
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
    of_version = (night.result for night in nights if night.candidate and night.candidate.version == version)
    result = next(of_version, None)
    if not result:
        return None
    return f"{result['metric']} {score_section.cell(result['scores']['candidate'].get(result['metric']))}"


def _served(nights: list[NightEntry]) -> dict[str, Any] | None:
    """The score of what served as the last night that has one told it, and the sentence about it; None if none has."""
    document = next((night.result["served"] for night in reversed(nights) if night.result.get("served")), None)
    score = served_section.score_in(document) if document else None
    return None if score is None else {**asdict(score), "sentence": served_section.sentence(score)}


def _mlflow_differs(settings: Settings, ledger: Ledger) -> list[str]:
    """Sentences about where MLflow and the ledger differ.

    If MLflow's database is gone, MLflow is not asked, because that would make a new database.
    """
    from ml.operations.health import differences
    from ml.storage.databases import lost_mlflow
    from ml.storage.registry import Registry

    file = lost_mlflow(settings)
    if file is not None:
        mend = f"retrain restore FILE, or retrain doctor {ledger.use_case} --mend"
        return [f"MLflow's database {file} is not there: {mend}"]
    try:
        return differences(ledger, Registry(settings, ledger.use_case))
    except (ConfigError, RegistryUnavailable) as error:
        return [f"whether MLflow agrees is not known: {error}"]


def _schedule(settings: Settings, name: str) -> str | None:
    """The use case's cron line and time zone; None if it has no schedule."""
    try:
        use_case = load_use_case(name, settings.project)
    except ConfigError as error:
        log.warning("%s", error)
        return "broken file"
    return f"{use_case.schedule} {use_case.time_zone}" if use_case.schedule else None
