"""Which champion served on which day, by the ledger alone."""

from dataclasses import replace
from datetime import date

import pytest

from ml.storage.ledger import AnyEntry, NightEntry, OperatorEntry, TakeOverEntry, version_of
from ml.storage.records import Champion, Refit
from ml.storage.served_days import champions_on
from tests.storage.test_ledger import entry, version

ONE, TWO, THREE = (version(number) for number in (1, 2, 3))
DAYS = [f"2024-03-{number:02}" for number in range(1, 11)]


def night(seq: int, as_of: int, champion: Champion | None) -> NightEntry:
    return entry(seq, as_of=date(2024, 3, as_of), champion=champion)


def move(seq: int, at: str, champion: Champion | None, decision: str = "ROLLBACK") -> OperatorEntry:
    fields = {"use_case": "tills", "by": "anna", "reason": "so", "champion_before": None, "reference": None}
    return OperatorEntry(seq=seq, at=at, champion=champion, decision=decision, **fields)  # type: ignore[arg-type]


def take_over(seq: int, as_of: int, champion: Champion) -> TakeOverEntry:
    fields = {"use_case": "tills", "by": "anna", "reason": "so", "champion_before": None, "reference": None}
    return TakeOverEntry(
        seq=seq, at="2024-03-01T03:00:00+00:00", champion=champion, as_of=date(2024, 3, as_of), **fields
    )  # type: ignore[arg-type]


def served(entries: list[AnyEntry], time_zone: str = "UTC") -> str:
    """The number of the version that served on each of the first ten days of March, `-` where none did."""
    champions = champions_on(DAYS, entries, time_zone)
    return "".join(str(version_of(champions.get(day)) or "-") for day in DAYS)


NIGHT_AT = "2024-03-05T03:00:00+00:00"
CASES: dict[str, tuple[list[AnyEntry], str]] = {
    "nobody before the first": ([night(1, 3, ONE)], "--11111111"),
    "a promotion counts from its as_of": ([night(1, 3, ONE), night(2, 5, TWO)], "--11222222"),
    "kept nights change nothing": ([night(1, 3, ONE), night(2, 5, ONE), night(3, 6, ONE)], "--11111111"),
    "a rejected first night": ([night(1, 2, None), night(2, 4, ONE)], "---1111111"),
    "a rollback counts from its day": (
        [night(1, 2, ONE), night(2, 4, TWO), move(3, "2024-03-06T15:00:00+00:00", ONE)],
        "-112211111",
    ),
    "the last of two moves on a day": (
        [night(1, 2, ONE), move(2, "2024-03-06T09:00:00+00:00", TWO), move(3, "2024-03-06T15:00:00+00:00", THREE)],
        "-111133333",
    ),
    "a move after the night of the same day": (
        [night(1, 2, ONE), night(2, 5, TWO), move(3, "2024-03-05T15:00:00+00:00", ONE)],
        "-111111111",
    ),
    "a hold": ([night(1, 2, ONE), move(2, NIGHT_AT, ONE, "HOLD"), night(3, 6, ONE)], "-111111111"),
    "a backfill of the past that moves nothing": (
        [night(1, 2, ONE), night(2, 6, TWO), night(3, 3, TWO), night(4, 8, THREE)],
        "-111122333",
    ),
    "a backfill that promotes in the order of dates": (
        [night(1, 2, ONE), night(2, 3, TWO), night(3, 4, THREE)],
        "-123333333",
    ),
    "a move in a replay counts from the next night": (
        [night(1, 2, ONE), night(2, 4, TWO), move(3, "2026-11-28T09:00:00+00:00", ONE), night(4, 5, ONE)],
        "-112111111",
    ),
    "a move in a replay that no night follows yet": (
        [night(1, 2, ONE), night(2, 4, TWO), move(3, "2026-11-28T09:00:00+00:00", ONE)],
        "-112222222",
    ),
    "a night that was made up for": (
        [night(1, 2, ONE), move(2, "2024-03-07T09:00:00+00:00", TWO), night(3, 5, TWO)],
        "-111222222",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_who_served_on_which_day(case: str) -> None:
    entries, expected = CASES[case]
    assert served(entries) == expected


@pytest.mark.parametrize(
    ("time_zone", "expected"),
    [("UTC", "-111122222"), ("Pacific/Auckland", "-111112222"), ("America/New_York", "-111122222")],
)
def test_the_day_of_a_move_is_that_of_the_use_cases_time_zone(time_zone: str, expected: str) -> None:
    entries: list[AnyEntry] = [night(1, 2, ONE), move(2, "2024-03-06T20:30:00+00:00", TWO)]
    assert served(entries, time_zone) == expected


def test_a_twin_that_takes_over_serves_from_the_night_on() -> None:
    refit = Refit(version=9, run_id="r", fit_until="2024-03-01", folder="f", files=(), key="k")
    pair = replace(ONE, refit=refit)
    champions = champions_on(DAYS, [night(1, 2, pair), take_over(2, 5, ONE), night(3, 5, ONE)], "UTC")
    assert "".join(str(champion.served.version) for champion in champions.values()) == "999111111"


def test_no_entry_and_no_day() -> None:
    assert champions_on(DAYS, [], "UTC") == {}
    assert champions_on([], [night(1, 2, ONE)], "UTC") == {}
