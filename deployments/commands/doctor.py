"""`retrain doctor`: finds what is wrong with the installation and its use cases; --mend repairs what is safe to."""

import argparse
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from deployments.environment import discard, left_behind
from deployments.prefect.announcement import Servers, prefect_api, running_servers
from deployments.prefect.client import ask, ask_all
from deployments.prefect.crashed import OURS, is_ours, posting, signs_of
from deployments.prefect.last_night import red_nights
from deployments.terminal import BEGIN, chosen_or_recorded, home_if_any, home_settings, no_file, say, show
from ml.errors import Busy, ConfigError, Corrupt, RetrainError, what_and_where
from ml.evaluation.source_evidence import days_to_exclude
from ml.operations import dead_runs
from ml.operations.backfill import driver_lock
from ml.operations.health import Finding, findings, stray_runs
from ml.pipeline.machine import ask_torch
from ml.reporting.decision_section import ways_to_answer
from ml.reporting.words import counted
from ml.settings import Settings
from ml.storage.databases import lost_mlflow
from ml.storage.ledger import Ledger, open_questions, version_of
from ml.storage.locks import held_lock, is_active, is_free, one_move_at_a_time, run_lock
from ml.storage.registry import Registry
from ml.storage.store import Store, open_store
from ml.use_case.definition import UseCase
from ml.use_case.loading import load_use_case, use_case_files
from tasks.lost import end_lost

LITTLE_SPACE = 2 * 1024**3  # bytes; a first night of the flights needs a tenth of that
HEARTBEAT = "prefect.flow-run.heartbeat"
Check = Callable[[], Iterator[Finding]]


def doctor(options: argparse.Namespace) -> int:
    """Checks everything. The exit code is 1 if something is left that only a person can mend."""
    settings, no_home = (home_settings("doctor"), None) if options.mend else home_if_any()
    names = chosen_or_recorded(options, settings)
    rows = [_without_home(no_home)] if no_home else []
    if not (no_home and settings.keeps_files_at_home):
        rows += found_in(settings, names, mend=options.mend)
    left = [row for row in rows if row["state"] in {"wrong", "unknown"}]
    show(options, {"checks": rows, "left": len(left), "device": ask_torch().device}, "")
    if not options.json:
        _print_rows(rows)
        if not left:
            say(f"All is well: {counted(len(_checks(settings, names)), 'check')} found nothing wrong.")
    return 1 if left else 0


def _without_home(no_home: str) -> dict[str, Any]:
    """The row that says that there is no home: in a wrong folder, nothing must say that all is well."""
    return {"check": "home", "state": "wrong", "seen": no_home, "mend": BEGIN}


def found_in(settings: Settings, names: list[str], *, mend: bool) -> list[dict[str, Any]]:
    """The rows of all checks: one for each finding, or one that says that all is well."""
    checks = _checks(settings, names, mend=mend)
    return [row for title, check in checks.items() for row in _examined(title, check, mend=mend)]


def _checks(settings: Settings, names: list[str], *, mend: bool = False) -> dict[str, Check]:
    """The checks by their titles. Each is run by itself, so that one that fails does not hide the others."""
    store = open_store(settings.store)
    return {
        "versions of the libraries": _versions,
        f"folder {settings.home}": partial(_home, settings.home),
        f"store {settings.store}": partial(_store, store),
        "MLflow and its files": partial(_strays, settings, store),
        "retrain up": partial(_up, settings),
        "runs of Prefect": partial(_runs, settings),
        **{f"use case {name}": partial(_use_case, settings, store, name, mend=mend) for name in names},
        **{f"last night of {name}": partial(_last_night, settings, name) for name in names},
    }


def _examined(title: str, check: Check, *, mend: bool) -> Iterator[dict[str, Any]]:
    """The rows of one check. With `mend`, each finding that has a safe repair is repaired."""
    is_well = True
    try:
        for finding in check():
            is_well = False
            yield _row(title, finding, mended=_mended(finding) if mend else False)
    except RetrainError as error:
        is_well = False
        yield {"check": title, "state": "unknown", "seen": str(error), "mend": error.next_step}
    if is_well:
        yield {"check": title, "state": "well", "seen": "", "mend": ""}


def _mended(finding: Finding) -> bool:
    """Repairs the finding, and says whether it has a repair."""
    if finding.repair is None:
        return False
    finding.repair()
    return True


def _row(title: str, finding: Finding, *, mended: bool) -> dict[str, Any]:
    state = "mended" if mended else "note" if finding.note else "wrong"
    mend = finding.mend if mended or finding.repair is None else f"{finding.mend}: retrain doctor --mend"
    return {"check": title, "state": state, "seen": finding.seen, "mend": mend}


def _print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        say(f"{row['state']:<8}{row['check']}")
        if row["seen"]:
            say(f"        {row['seen']}", f"        -> {row['mend']}")
    say("", f"Device: {ask_torch().device}")


def _versions() -> Iterator[Finding]:
    """Libraries whose installed version is not one that pyproject.toml allows."""
    from packaging.requirements import Requirement

    for line in metadata.requires("nightly-retrain") or []:
        requirement = Requirement(line)
        if requirement.marker is None and not requirement.specifier.contains(metadata.version(requirement.name)):
            yield Finding(
                seen=f"{requirement.name} is {metadata.version(requirement.name)}, and {requirement.specifier} works",
                mend="make setup, in an environment of its own",
            )


def _home(home: Path) -> Iterator[Finding]:
    """Too little disk space, and files that killed processes left in the home's `tmp`."""
    free = shutil.disk_usage(home).free
    if free < LITTLE_SPACE:
        yield Finding(seen=f"{free / 1e9:.1f} GB are free", mend="retrain gc, or a larger disk")
    if not is_free(home / "up.lock"):
        return  # the servers of a running `retrain up` use files there, however old
    for path in left_behind(home):
        sentence = f"{path} was left by a killed process"
        yield Finding(seen=sentence, mend="it is deleted", repair=partial(discard, path))


def _store(store: Store) -> Iterator[Finding]:
    """A store that loses what was written or whose `create` replaces an object, and files that killed writers left."""
    key, data = f"doctor/{uuid4().hex}", b"written by retrain doctor"
    created = store.create(key, data)
    read = store.get(key)
    created_again = store.create(key, b"written over it")
    read_again = store.get(key)
    store.delete(key)
    if not created or read != data:
        yield Finding(seen="it does not give back what was written", mend="look at the disk")
    elif created_again or read_again != data:
        yield Finding(
            seen="it makes an object although there is one (it ignores If-None-Match): a ledger may lose entries",
            mend="let only one machine use it, or move to a store that honours it",
        )
    for name in store.leftovers():
        yield Finding(
            seen=f"{name} was left half-written",
            mend="it is deleted",
            repair=partial(store.delete_leftover, name),
        )


def _strays(settings: Settings, store: Store) -> Iterator[Finding]:
    """Runs in MLflow and files in the store that do not belong together. Nothing of a database that is not there."""
    if lost_mlflow(settings) is None:
        yield from stray_runs(store, Registry(settings, "doctor"))


def _use_case(settings: Settings, store: Store, name: str, *, mend: bool) -> Iterator[Finding]:
    """What is wrong with a use case's file, its ledger, its versions, and the answers of its champion.

    With `mend`, it holds the locks of nights, backfills and moves, so that a finding is still true when it is repaired.
    """
    today = datetime.now(UTC).date() + timedelta(days=1)  # in some time zone it is tomorrow already
    if name not in use_case_files(settings.project):
        sentence = f"{name} has a ledger, and its file is not here: no night of it comes"
        yield Finding(note=True, seen=sentence, mend=no_file(settings, name))
    else:
        yield from _file(settings, name)
    file = lost_mlflow(settings)
    if file is not None and not mend:
        if Ledger(store, name).head() is not None:
            ways = f"retrain restore FILE, or retrain doctor {name} --mend"
            yield Finding(seen=f"MLflow's database {file} is not there", mend=ways)
    else:
        with ExitStack() as locks:
            active = not _at_rest(settings, name, locks) if mend else is_active(settings.home, name)
            yield from findings(store, Registry(settings, name), name, active=active, today=today)
    yield from _champion_answers(settings, store, name)
    yield from _questions(store, name)


def _file(settings: Settings, name: str) -> Iterator[Finding]:
    try:
        load_use_case(name, settings.project)
    except ConfigError as error:
        yield Finding(seen=str(error), mend=error.next_step)


def _last_night(settings: Settings, name: str) -> Iterator[Finding]:
    """What the last night died of, in its own words. Only a good night settles that; there is no repair."""
    for red in red_nights(settings, name):
        yield Finding(seen=red.seen, mend=red.next_step)


def _questions(store: Store, name: str) -> Iterator[Finding]:
    """What nights ask an operator. It is nothing that is wrong, and only a person can answer it."""
    for night in open_questions(Ledger(store, name).entries()):
        version = version_of(night.candidate)
        seen = f"the night as of {night.as_of} asks whether version {version} is to serve: {night.reason.rstrip('.')}"
        answers = ways_to_answer(name, version, has_days=bool(days_to_exclude(night.source_changes)))
        mend = f"press Resume on its run's page, or answer here. {answers}"
        yield Finding(note=True, seen=seen, mend=mend)


def _at_rest(settings: Settings, name: str, locks: ExitStack) -> bool:
    """Whether no run of the use case is active. If so, `locks` holds its locks, so that none begins."""
    locks.enter_context(one_move_at_a_time(settings.home, name))
    busy = Busy(f"{name} is at rest", "a run is active", "wait for it to end")
    try:
        for lock in (run_lock(settings.home, name), driver_lock(settings, name)):
            locks.enter_context(held_lock(lock, 0, busy))
    except Busy:
        return False
    return True


def _champion_answers(settings: Settings, store: Store, name: str) -> Iterator[Finding]:
    """Loads the champion and lets it answer a made-up row."""
    head = Ledger(store, name).head()
    if head is None or head.champion is None:
        return
    from ml.models import packaging
    from ml.models.description import model_columns, model_rules, predict_raw
    from ml.storage.registry import load_model

    model = head.champion.served
    try:
        folder = packaging.fetch_model(store, model.folder, model.files, settings.home / "cache")
        predict_raw(load_model(folder), packaging.synthetic_rows(model_columns(folder), model_rules(folder)))
    except Corrupt:
        return  # the check of the version's files has reported it
    except RetrainError:
        raise
    except Exception as error:  # noqa: BLE001 - the model's own code may raise anything, and each is a finding
        yield Finding(
            seen=f"version {model.version}, which serves, gives no answer ({what_and_where(error)})",
            mend=f"retrain rollback {name} --reason WHY, or retrain promote {name} --version N --reason WHY",
        )


def _up(settings: Settings) -> Iterator[Finding]:
    """A `retrain up` that does not run although use cases have schedules, or that does not serve all of these."""
    servers = running_servers(settings)
    names = [use_case.name for use_case in _loadable(settings) if use_case.schedule]
    if servers is not None:
        yield from _schedules(servers, names)
    elif names:
        sentence = f"it does not run: no night of {', '.join(names)} comes"
        yield Finding(note=True, seen=sentence, mend="retrain up")


def _loadable(settings: Settings) -> Iterator[UseCase]:
    """All use cases but those with a broken file, which the check of the use case reports."""
    for name in use_case_files(settings.project):
        with suppress(ConfigError):
            yield load_use_case(name, settings.project)


def _schedules(servers: Servers, names: list[str]) -> Iterator[Finding]:
    """Which of these use cases are not served, or have a paused schedule."""
    deployments = ask_all(f"{servers.prefect_api}/deployments/filter", {}) or []
    by_name = {deployment["name"]: deployment for deployment in deployments}
    for name in names:
        deployment = by_name.get(name)
        if deployment is None:
            yield Finding(seen=f"{name} is not served", mend="stop `retrain up` and start it again")
        elif deployment["paused"] or not any(schedule["active"] for schedule in deployment["schedules"]):
            yield Finding(seen=f"the schedule of {name} is paused", mend="switch it on at its deployment's page")


def _runs(settings: Settings) -> Iterator[Finding]:
    """Runs that Prefect counts as running although nothing is heard of them: their machine or container is gone."""
    api = prefect_api(settings)
    if api is None:
        return
    before = datetime.now(UTC) - dead_runs.SILENT
    running = {
        "state": {"type": {"any_": ["RUNNING", "CANCELLING"]}},
        "start_time": {"before_": before.isoformat()},
        "deployment_id": {"is_null_": False},  # a command executes the others, and it may send no heartbeat
    }
    for run in ask_all(f"{api}/flow_runs/filter", {"flows": OURS, "flow_runs": running}) or []:
        if is_ours(run, use_case_files(settings.project)) and _is_silent(settings, api, run):
            yield Finding(
                seen=f"{run['name']} is {run['state_name']} since {run['start_time'][:16]} and says nothing any more",
                mend="it is ended",
                repair=partial(end_lost, posting(api), run, "Nothing was heard of this run any more."),
            )


def _is_silent(settings: Settings, api: str, run: dict[str, Any]) -> bool:
    """Whether the run's last heartbeat shows that it is dead. A run that never had one is not called dead."""
    beats = {"event": {"name": [HEARTBEAT]}, "resource": {"id": [f"prefect.flow-run.{run['id']}"]}, "order": "DESC"}
    answer = ask(f"{api}/events/filter", {"filter": beats, "limit": 1})
    if not answer or not answer["events"]:
        return False
    last_heard = datetime.fromisoformat(answer["events"][0]["occurred"])
    return dead_runs.is_dead(settings.home, signs_of(run, last_heard))
