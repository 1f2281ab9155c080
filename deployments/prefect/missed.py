"""Missed nights, which were due while nobody served them: decides which of them run later and which are skipped.

Prefect makes runs for three nights ahead, and would execute all of them late. A night is a date here: if daylight
saving repeats an hour, a schedule may start twice on one date, and both starts are one night.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import Any

from deployments.prefect.client import ask_all, insisted
from deployments.prefect.crashed import attempt_after, run_again
from ml.days import local_date
from ml.errors import ConfigError
from ml.operations.schedule import starts_after
from ml.reporting.words import counted
from ml.settings import Settings
from ml.use_case.definition import UseCase
from ml.use_case.loading import load_use_case, use_case_files

log = logging.getLogger("retrain.missed")
MADE_UP = "made up for"  # the tag of runs that Prefect had not made, so that we made them


@dataclass(frozen=True)
class Start:
    """When a night was due, and the id of its run if Prefect has one.

    `attempt` is the number of the next attempt of a run that was interrupted; None for a run that never began.
    """

    at: datetime
    run: str | None = None
    attempt: int | None = None


@dataclass(frozen=True)
class Choice:
    """The missed nights that will run, the oldest first, and the late runs that will not."""

    kept: list[Start]
    skipped: list[Start]


def choose(use_case: UseCase, late: Sequence[Start], done: set[date], since: datetime, now: datetime) -> Choice:
    """Chooses among the nights that were due after `since` and up to `now`.

    `late` are runs that nobody has begun, or that were interrupted when `up` ended; `done` are the dates that have any
    other run. For a use case that replays old data one night is enough: it takes the day after its last night whenever
    it runs.
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
    """The times at which the schedule starts a night after `since` and up to `now`, within `missed_within_days`."""
    first = max(since, now - timedelta(days=use_case.missed_within_days))
    yield from takewhile(lambda start: start <= now, starts_after(use_case, first))


def make_up(settings: Settings, api: str, now: datetime) -> list[str]:
    """Schedules or skips every night that was missed until `now`. Returns a sentence for each use case that missed one.

    Call it before the deployments are served. A deployment was last served when it last asked for work. Runs that were
    late even then have been decided about, or wait for their turn. A deployment that never asked has missed nothing.
    """
    deployments = ask_all(f"{api}/deployments/filter", {"flows": {"name": {"any_": ["retrain"]}}})
    if deployments is None:
        log.warning("Missed nights were not looked for: Prefect's API does not tell its deployments.")
    return [
        sentence
        for deployment in deployments or []
        if deployment["last_polled"] and not deployment["paused"]
        for sentence in _make_up(settings, api, deployment, now)
    ]


def _make_up(settings: Settings, api: str, deployment: dict[str, Any], now: datetime) -> Iterator[str]:
    """Schedules or skips the missed nights of one deployment, and says so in a sentence if there were any."""
    name = deployment["name"]
    if name not in use_case_files(settings.project):
        return
    try:
        use_case = load_use_case(name, settings.project)
    except ConfigError:  # the process that serves the schedules reports it
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
    new_runs = sum(start.run is None for start in choice.kept)
    missed = f"{name} missed {counted(len(choice.skipped) + len(choice.kept), 'night')}: {policy}"
    yield f"{missed} ({counted(new_runs, 'run')} of them new)." if new_runs else f"{missed}."


def _policy(use_case: UseCase, choice: Choice) -> str:
    """Which nights are kept, and by which setting of the use case, in words."""
    days = ", ".join(str(local_date(start.at, use_case.time_zone)) for start in choice.kept)
    within = f" within {counted(use_case.missed_within_days, 'day')}" if use_case.missed_nights != "skip" else ""
    return f"missed_nights={use_case.missed_nights}{within} keeps {f'{days} only' if days else 'none'}"


def _runs(
    api: str, deployment: str, use_case: UseCase, since: datetime, now: datetime
) -> tuple[list[Start], set[date]]:
    """The late runs of a deployment, and the dates that have any other run.

    Late are runs due after `since` that nobody has begun, and crashed runs that are too old for `resubmit_crashed`. The
    dates are looked for from a day before `since`.
    """
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
            continue  # somebody asked for this run: it is no night of the schedule
        if run["state_type"] == "SCHEDULED" and run["run_count"] == 0 and at > since:
            late.append(Start(at, run["id"]))
        elif (
            run["state_type"] == "CRASHED" and (attempt := attempt_after(api, run["id"], now, recent=False)) is not None
        ):
            late.append(Start(at, run["id"], attempt))
        else:
            done.add(local_date(at, use_case.time_zone))
    late = [start for start in late if start.attempt is None or local_date(start.at, use_case.time_zone) not in done]
    return late, done


def _create(api: str, deployment: dict[str, Any], start: Start) -> None:
    """Makes the run that Prefect would have made. By its key, a second `up` finds it instead of making another."""
    state = {
        "type": "SCHEDULED",
        "message": "Missed while `retrain up` was down.",
        "state_details": {"scheduled_time": start.at.isoformat()},
    }
    key = f"{deployment['name']} {start.at.isoformat()}"
    request = {"state": state, "tags": [MADE_UP], "idempotency_key": key}
    insisted(f"{api}/deployments/{deployment['id']}/create_flow_run", request)
