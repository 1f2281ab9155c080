"""Missed nights: which are made up for, as a table and on a real Prefect server; and what daylight saving does."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from deployments.prefect.client import ask, insisted
from deployments.prefect.missed import MADE_UP, Choice, Start, choose, make_up, ticks
from deployments.prefect.upcoming import name_upcoming
from ml import UseCase
from ml.days import local_date
from ml.use_case.loading import load_use_case
from tests.story import SHOP, Shop

NOW = datetime(2024, 3, 15, 12, 0, tzinfo=UTC)
SINCE = datetime(2024, 3, 5, 12, 0, tzinfo=UTC)


@dataclass
class Night:
    """The fields of a use case that the choice reads."""

    missed_nights: str = "latest"
    missed_within_days: int = 7
    schedule: str | None = "0 3 * * *"
    time_zone: str = "UTC"
    replay_from: date | None = None


def at(day: int, hour: int = 3) -> datetime:
    return datetime(2024, 3, day, hour, tzinfo=UTC)


def chosen(
    late: list[int], done: tuple[int, ...] = (), since: datetime = SINCE, **fields: Any
) -> tuple[list[int], list[int], list[int]]:
    """Days of March: what runs of those that Prefect has, what is new, and what is skipped."""
    starts = [Start(at(day), f"run of {day}") for day in late]
    use_case: Any = Night(**fields)
    choice = choose(use_case, starts, {date(2024, 3, day) for day in done}, since, NOW)
    assert [start.at for start in choice.kept] == sorted(start.at for start in choice.kept)
    return (
        [start.at.day for start in choice.kept if start.run],
        [start.at.day for start in choice.kept if not start.run],
        [start.at.day for start in choice.skipped],
    )


THREE_AHEAD = [6, 7, 8]  # Prefect had made these, and the schedule had seven more until the 15th


@pytest.mark.parametrize(
    ("late", "fields", "expected"),
    [
        ([13, 14, 15], {"schedule": None}, ([15], [], [13, 14])),
        ([15, 14, 13], {"schedule": None}, ([15], [], [14, 13])),
        ([13, 14, 15], {"schedule": None, "missed_nights": "all"}, ([13, 14, 15], [], [])),
        ([13, 14, 15], {"missed_nights": "skip"}, ([], [], [13, 14, 15])),
        (THREE_AHEAD, {}, ([], [15], [6, 7, 8])),
        (THREE_AHEAD, {"missed_nights": "all"}, ([], [9, 10, 11, 12, 13, 14, 15], [6, 7, 8])),
        (THREE_AHEAD, {"missed_nights": "all", "missed_within_days": 9}, ([7, 8], [9, 10, 11, 12, 13, 14, 15], [6])),
        (THREE_AHEAD, {"missed_nights": "all", "replay_from": date(2013, 1, 1)}, ([], [15], [6, 7, 8])),
        ([14, 15], {"missed_nights": "all", "since": at(13), "missed_within_days": 1}, ([15], [], [14])),
        ([], {"since": at(15)}, ([], [], [])),
        ([], {"since": at(14), "done": (15,)}, ([], [], [])),
        ([], {"since": at(14)}, ([], [15], [])),
        ([], {"schedule": "0 3 * * 1", "missed_nights": "all"}, ([], [11], [])),
        ([6], {"schedule": "0 3 * * 1", "missed_within_days": 3}, ([], [], [6])),
    ],
)
def test_which_nights_are_made_up_for(
    late: list[int], fields: dict[str, Any], expected: tuple[list[int], list[int], list[int]]
) -> None:
    assert chosen(late, **fields) == expected


def test_two_starts_on_one_date_are_one_night() -> None:
    use_case: Any = Night(missed_nights="all", schedule="0 3,15 * * *")
    twice = [Start(at(14, 3), "first"), Start(at(14, 15), "second")]
    choice = choose(use_case, twice, set(), at(14, 1), NOW)
    assert choice == Choice([Start(at(14, 15), "second"), Start(at(15, 3))], [Start(at(14, 3), "first")])


CHANGES = {
    "America/New_York": (date(2024, 3, 10), date(2024, 11, 3)),
    "Europe/Berlin": (date(2024, 3, 31), date(2024, 10, 27)),
}
CASES = [(zone, day) for zone, days in CHANGES.items() for day in days]


@pytest.mark.parametrize("cron", ["30 1 * * *", "0 2 * * *", "30 2 * * *", "0 3 * * *"])
@pytest.mark.parametrize(("zone", "change"), CASES)
def test_daylight_saving_neither_doubles_nor_drops_a_night(zone: str, change: date, cron: str) -> None:
    """Whenever Prefect looks ahead. In the hour that is skipped it starts an hour early, and we at that hour's end."""
    from prefect.server.schemas.schedules import CronSchedule

    use_case: Any = Night(schedule=cron, time_zone=zone, missed_within_days=9)
    first = datetime(change.year, change.month, change.day, tzinfo=ZoneInfo(zone)) - timedelta(days=2)
    last = datetime.combine(change + timedelta(days=2), first.time(), ZoneInfo(zone)) + timedelta(hours=23)
    dates = [change + timedelta(days=number) for number in range(-2, 3)]
    assert [local_date(tick, use_case.time_zone) for tick in ticks(use_case, first, last)] == dates
    schedule = CronSchedule(cron=cron, timezone=zone)
    looks = [first.astimezone(UTC) + timedelta(minutes=30 * number) for number in range(3 * 48)]
    seen = {
        datetime.fromisoformat(str(start)).astimezone(UTC)
        for look in looks
        for start in asyncio.run(schedule.get_dates(n=3, start=look, end=last.astimezone(UTC)))
    }
    assert [local_date(start, use_case.time_zone) for start in sorted(seen)] == dates


def test_where_clocks_change_at_midnight_prefect_starts_a_night_on_the_day_before() -> None:
    """So a schedule in that hour runs twice as of the 25th, where the second finds nothing to do, and never as of the
    26th. Ours does not."""
    from prefect.server.schemas.schedules import CronSchedule

    use_case: Any = Night(schedule="30 0 * * *", time_zone="Africa/Cairo")
    first, last = datetime(2024, 4, 24, tzinfo=UTC), datetime(2024, 4, 27, 12, tzinfo=UTC)
    starts = asyncio.run(CronSchedule(cron="30 0 * * *", timezone="Africa/Cairo").get_dates(n=9, start=first, end=last))
    assert [local_date(start, use_case.time_zone).day for start in starts] == [25, 25, 27]
    assert [local_date(tick, use_case.time_zone).day for tick in ticks(use_case, first, last)] == [25, 26, 27]


def shop_that(shop: Shop, **fields: Any) -> UseCase:
    """The shop without a replay, with these fields."""
    path = shop.settings.project / "use_cases" / "shop.py"  # type: ignore[operator]
    added = "".join(f"    {name}={value!r},\n" for name, value in fields.items())
    path.write_text(SHOP.replace("    replay_from=date(2024, 3, 1),\n", added))
    return load_use_case("shop", shop.settings.project)


def served(shop: Shop, prefect: str) -> dict[str, Any]:
    """The shop's deployment after it has asked for work once, with the runs that Prefect makes ahead."""
    from deployments.prefect.serve import deployments
    from tests.deployments.test_schedules import wait_for

    (deployment,) = [each for each in deployments(shop.settings) if each.name == "shop"]
    identifier = str(deployment.apply())
    ask(f"{prefect}/deployments/get_scheduled_flow_runs", {"deployment_ids": [identifier]})

    def ready() -> Any:
        (found,) = ask(f"{prefect}/deployments/filter", {"deployments": {"id": {"any_": [identifier]}}})
        return found if found["last_polled"] and len(runs(prefect, found)) >= 3 else None

    found = wait_for(ready, 90)
    assert found, "Prefect makes three runs ahead"
    return dict(found)


def runs(prefect: str, deployment: dict[str, Any]) -> list[dict[str, Any]]:
    query = {"deployments": {"id": {"any_": [deployment["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    found = ask(f"{prefect}/flow_runs/filter", query)
    return [run for run in found if run["auto_scheduled"] or MADE_UP in run["tags"]]  # not what other tests submitted


def test_nights_missed_for_longer_than_prefect_looks_ahead(shop: Shop, prefect: str) -> None:
    """The first is late, an operator cancelled the second, the third ended with `up`, three were never made; what was
    chosen is what the runs say, and again it is the same."""
    use_case = shop_that(shop, missed_nights="all", missed_within_days=4, time_zone="Europe/Berlin")
    deployment = served(shop, prefect)
    made = runs(prefect, deployment)
    assert make_up(shop.settings, prefect, datetime.now(UTC)) == [], "nothing is late yet"
    name_upcoming(shop.settings, prefect)
    starts = [datetime.fromisoformat(run["expected_start_time"]) for run in made]
    dates = [f"shop {local_date(start, use_case.time_zone)}" for start in starts]
    assert [run["name"] for run in runs(prefect, deployment)] == dates
    for run, end in ((made[1], "CANCELLED"), (made[2], "CRASHED")):
        for state in ("RUNNING", end):
            insisted(f"{prefect}/flow_runs/{run['id']}/set_state", {"state": {"type": state}, "force": True})
    now = datetime.fromisoformat(made[0]["expected_start_time"]) + timedelta(days=5, hours=1)
    (sentence,) = [line for line in make_up(shop.settings, prefect, now) if line.startswith("shop ")]
    after = [run for run in runs(prefect, deployment) if datetime.fromisoformat(run["expected_start_time"]) <= now]
    days = [str(local_date(datetime.fromisoformat(run["expected_start_time"]), use_case.time_zone)) for run in after]
    assert len(set(days)) == 6
    skipped, cancelled, interrupted, *new = after
    assert [run["id"] for run in after[:3]] == [run["id"] for run in made[:3]]
    policy = f"missed_nights=all within 4 days keeps {', '.join(days[2:])} only"
    assert (skipped["state_type"], skipped["state_name"]) == ("CANCELLED", "Cancelled")
    assert skipped["state"]["message"] == f"Skipped: missed while `retrain up` was down; {policy}."
    assert cancelled["state_name"] == "Cancelled"
    assert sentence == f"shop missed 5 nights: {policy} (3 runs of them new)."
    assert interrupted["state"]["message"] == "Attempt 2 of 3 after a crash."
    assert interrupted["next_scheduled_start_time"] == made[2]["expected_start_time"], "oldest first"
    kept = [interrupted, *new]
    assert {run["state_type"] for run in kept} == {"SCHEDULED"}
    assert [MADE_UP in run["tags"] for run in kept] == [False, True, True, True]
    assert {str(run["parameters"]) for run in after} == {"{'request': {'use_case': 'shop'}}"}
    make_up(shop.settings, prefect, now)
    again = [run for run in runs(prefect, deployment) if datetime.fromisoformat(run["expected_start_time"]) <= now]
    assert [(run["id"], run["state_name"]) for run in again] == [(run["id"], run["state_name"]) for run in after]
