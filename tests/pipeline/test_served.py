"""Which days of which version a night scores: days on which it served, which it has not seen, and which are whole."""

from dataclasses import replace
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ml.data.handles import CleanedPartition, CleanedRows
from ml.pipeline import served
from ml.pipeline.served import PATIENCE
from ml.storage.ledger import AnyEntry
from ml.storage.records import FileRef, Refit
from tests.storage.test_ledger import entry, version
from tests.tiny import night, tills

AS_OF = date(2024, 3, 12)
FILE = FileRef(key="f", size=1, digest="d")


def partition(day: str, whole_from: date = date.min) -> CleanedPartition:
    return CleanedPartition(day=day, cleaned=CleanedRows(file=FILE, whole_from=whole_from), quarantine=None, rows=9)


class Reader:
    """Knows the partitions of the first days of March."""

    def __init__(self, whole_from: date) -> None:
        days = (date(2024, 2, 1) + timedelta(days=number) for number in range(60))
        self.partitions = [partition(str(day), whole_from) for day in days]

    def days(self, first: str, last: str) -> list[CleanedPartition]:
        return [partition for partition in self.partitions if first <= partition.day <= last]


def services(entries: list[AnyEntry], whole_from: date = date.min, as_of: date = AS_OF, **use_case: Any) -> Any:
    """The numbers of the versions that served, with their days in March."""
    site: Any = SimpleNamespace(use_case=tills(**use_case), ledger=None)
    reader: Any = Reader(whole_from)
    made = served._services(site, night(use_case="tills", as_of=as_of), reader, entries)
    return [(each.champion.served.version, [part.day[-2:] for part in each.partitions]) for each in made]


def first_night(champion: Any, as_of: int = 4) -> AnyEntry:
    return entry(1, as_of=date(2024, 3, as_of), candidate=champion, champion=champion)


def test_a_version_has_the_days_since_its_night_up_to_the_last_due_one() -> None:
    expected = [(1, ["04", "05", "06", "07", "08", "09", "10", "11"])]
    assert services([first_night(version(1))]) == expected
    assert services([first_night(version(1))], label_delay_days=3) == [(1, ["04", "05", "06", "07", "08"])]


@pytest.mark.parametrize(("judged_until", "refit_until"), [("2024-03-08", None), ("2024-02-01", "2024-03-08")])
def test_days_that_it_may_have_learnt_from_are_never_scored(judged_until: str, refit_until: str | None) -> None:
    refit = Refit(version=1, run_id="r", fit_until=refit_until, folder="f", files=(), key="k") if refit_until else None
    champion = replace(version(1), fit_until=judged_until, refit=refit)
    assert services([first_night(champion)]) == [(1, ["09", "10", "11"])]
    assert services([first_night(replace(champion, fit_until="2024-03-30"))]) == []


def test_each_version_has_its_own_days() -> None:
    one, two = version(1), version(2)
    later = entry(2, as_of=date(2024, 3, 9), candidate=two, champion_before=one, champion=two)
    assert services([first_night(one), later]) == [(1, ["04", "05", "06", "07", "08"]), (2, ["09", "10", "11"])]


def test_a_champion_without_and_with_its_refit_are_two_services() -> None:
    refit = Refit(version=7, run_id="r", fit_until="2024-03-01", folder="f", files=(), key="k")
    pair = replace(version(1), refit=refit)
    later = entry(2, as_of=date(2024, 3, 9), champion_before=pair, champion=version(1))
    assert services([first_night(pair), later]) == [(7, ["04", "05", "06", "07", "08"]), (1, ["09", "10", "11"])]


def test_a_day_whose_rows_are_not_all_known_waits_for_them_and_not_for_ever() -> None:
    entries = [first_night(version(1))]
    assert services(entries, whole_from=AS_OF) == services(entries)
    assert services(entries, whole_from=AS_OF + timedelta(days=1)) == []
    later = date(2024, 3, 11) + PATIENCE
    assert services(entries, whole_from=date.max, as_of=later) == [(1, ["04", "05", "06", "07", "08", "09", "10"])]


def test_a_long_past_is_not_scored() -> None:
    as_of = date(2024, 3, 4) + timedelta(days=served.NEWEST_DAYS + 2)
    ((_, days),) = services([first_night(version(1))], as_of=as_of)
    assert days[0] == "06", "the first of the newest 98 days"
