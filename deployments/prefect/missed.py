"""Nights that came while nobody served them: which are made up for, and which are skipped.

Prefect makes runs three nights ahead and, by itself, executes all that are late. A night here is a date: two starts on
one date, as of a schedule that daylight saving repeats, are one night.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import Any

from deployments.prefect.client import ask, insisted
from deployments.prefect.crashed import attempt_after, run_again
from ml.days import local_date
from ml.errors import ConfigError
from ml.operations.schedule import starts_after
from ml.reporting.words import counted
from ml.settings import Settings
from ml.use_case.definition import UseCase
from ml.use_case.loading import load_use_case, use_case_files

log = logging.getLogger("retrain.missed")

MADE_UP = "made up for"  # the tag of the runs that we made, for Prefect had not


@dataclass(frozen=True)
class Start:
    """When a night was to start, and its run, if Prefect has one; the next attempt of one that was interrupted."""

    at: datetime
    run: str | None = None
    attempt: int | None = None


@dataclass(frozen=True)
class Choice:
    """Which missed nights will run, oldest first, and which late runs will not."""

    kept: list[Start]
    skipped: list[Start]


def choose(use_case: UseCase, late: Sequence[Start], done: set[date], since: datetime, now: datetime) -> Choice:
    """`late` are runs that nobody took up since then, or that ended with `up`; `done` are dates with any other run.

    A replayed use case takes the day after its last night whatever the time, so that one start is enough.
    """
    nights = {local_date(at, use_case.time_zone): Start(at) for at in ticks(use_case, since, now)}
    nights = {day: start for day, start in nights.items() if day not in done}
    nights |= {local_date(start.at, use_case.time_zone): start for start in sorted(late, key=lambda start: start.at)}
    limit = now - timedelta(days=use_case.missed_within_days)
    recent = [nights[day] for day in sorted(nights) if nights[day].at >= limit]
    all_kept = use_case.missed_nights == "all" and use_case.replay_from is None
    kept = [] if use_case.missed_nights == "skip" else recent if all_kept else recent[-1:]
    return Choice(kept, [start for start in late if start not in kept])


def ticks(use_case: UseCase, since: datetime, now: datetime) -> Iterator[datetime]:
    """The schedule's starts after `since` and up to `now` that are not older than the limit, in the use case's zone."""
    first = max(since, now - timedelta(days=use_case.missed_within_days))
    yield from takewhile(lambda start: start <= now, starts_after(use_case, first))


def make_up(settings: Settings, api: str, now: datetime) -> list[str]:
    """Deals with every night that was missed until now; a sentence for each use case that missed one.

    To be called before the deployments are served. They were last served when they last asked for work: what was late
    then already has been decided about, or waits for its turn. A deployment that never asked has missed nothing.
    """
    deployments = ask(f"{api}/deployments/filter", {"flows": {"name": {"any_": ["retrain"]}}})
    if deployments is None:
        log.warning("Missed nights were not looked for: Prefect's API does not tell its deployments.")
    return [
        sentence
        for deployment in deployments or []
        if deployment["last_polled"] and not deployment["paused"]
        for sentence in _make_up(settings, api, deployment, now)
    ]


def _make_up(settings: Settings, api: str, deployment: dict[str, Any], now: datetime) -> Iterator[str]:
    name = deployment["name"]
    if name not in use_case_files(settings.project):
        return
    try:
        use_case = load_use_case(name, settings.project)
    except ConfigError:  # it is not served either, and said so
        return
    since = datetime.fromisoformat(deployment["last_polled"])
    late, done = _runs(api, deployment["id"], use_case, since, now)
    choice = choose(use_case, late, done, since, now)
    if not choice.kept and not choice.skipped:
        return
    policy = _policy(use_case, choice)
    for start in choice.kept:
        if start.run is None:
            _create(api, deployment, start)
        elif start.attempt is not None:
            run_again(api, start.run, start.attempt, start.at)
    for start in choice.skipped:
        message = f"Skipped: missed while `retrain up` was down; {policy}."
        state = {"type": "CANCELLED", "name": "Cancelled", "message": message}
        insisted(f"{api}/flow_runs/{start.run}/set_state", {"state": state, "force": True})
    made = sum(start.run is None for start in choice.kept)
    yield f"{name} missed {counted(len(choice.skipped) + len(choice.kept), 'night')}: {policy}" + (
        f" ({counted(made, 'run')} of them new)." if made else "."
    )


def _policy(use_case: UseCase, choice: Choice) -> str:
    days = ", ".join(str(local_date(start.at, use_case.time_zone)) for start in choice.kept)
    within = f" within {counted(use_case.missed_within_days, 'day')}" if use_case.missed_nights != "skip" else ""
    return f"missed_nights={use_case.missed_nights}{within} keeps {f'{days} only' if days else 'none'}"


def _runs(
    api: str, deployment: str, use_case: UseCase, since: datetime, now: datetime
) -> tuple[list[Start], set[date]]:
    """Scheduled runs that nobody took up since then, crashed ones that are too old to be run again at once, and the
    dates of all others of that time and the day before."""
    between = {"after_": (since - timedelta(days=1)).isoformat(), "before_": now.isoformat()}
    query = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"expected_start_time": between},
        "sort": "EXPECTED_START_TIME_DESC",
    }
    late, done = [], set()
    for run in insisted(f"{api}/flow_runs/filter", query):
        at = datetime.fromisoformat(run["expected_start_time"]).astimezone(UTC)
        if not run["auto_scheduled"] and MADE_UP not in run["tags"]:
            continue  # somebody's own request
        if run["state_type"] == "SCHEDULED" and run["run_count"] == 0 and at > since:
            late.append(Start(at, run["id"]))
        elif (
            run["state_type"] == "CRASHED" and (attempt := attempt_after(api, run["id"], now, recent=False)) is not None
        ):
            late.append(Start(at, run["id"], attempt))
        else:
            done.add(local_date(at, use_case.time_zone))
    return [each for each in late if each.attempt is None or local_date(each.at, use_case.time_zone) not in done], done


def _create(api: str, deployment: dict[str, Any], start: Start) -> None:
    """The run that Prefect would have made. The key lets a second `up` find it instead of making another."""
    state = {
        "type": "SCHEDULED",
        "message": "Missed while `retrain up` was down.",
        "state_details": {"scheduled_time": start.at.isoformat()},
    }
    key = f"{deployment['name']} {start.at.isoformat()}"
    request = {"state": state, "tags": [MADE_UP], "idempotency_key": key}
    insisted(f"{api}/deployments/{deployment['id']}/create_flow_run", request)
