"""Business days: which days are due, what is missing, and what test and validation count."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks.data
from deployments.cli import main
from ml import FileSource, SideTable, Source, UseCase
from ml.data.calendars import BusinessDays, Calendar, days_between, due_days, due_in_gap
from ml.data.handles import PARTS, Split
from ml.data.snapshots import due_of_manifest, survey
from ml.data.split import days_of_part, fit_until
from ml.data.window import stray_days
from ml.errors import ConfigError, DataRejected, RetrainError
from ml.settings import Settings
from tasks.site import open_site
from tests import tiny
from tests.story import SHOP, Shop
from tests.tiny import sales, site, tills

MONDAY = tiny.FIRST_DAY  # 2024-01-01
HOLIDAY = date(2024, 2, 12)  # a Monday
NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def day(number: int) -> date:
    return MONDAY + timedelta(days=number)


def span(days: int) -> list[str]:
    return days_between(MONDAY, day(days - 1))


def weekdays(days: int, *names: str) -> set[str]:
    """Those of so many days that are of these weekdays."""
    return {each for each in span(days) if NAMES[date.fromisoformat(each).weekday()] in (names or NAMES[:5])}


def every_week(first: int, end: int) -> set[str]:
    return {str(day(number)) for number in range(first, end, 7)}


CALENDARS: dict[str, Calendar] = {
    "weekdays": "weekdays",
    "business days": BusinessDays(),
    "rhythm": "rhythm",
    "dates": tuple(date.fromisoformat(each) for each in sorted(weekdays(70))),
}


@pytest.mark.parametrize(
    ("calendar", "due"),
    [
        ("daily", {*span(14)}),
        ("weekdays", weekdays(14)),
        (BusinessDays(), weekdays(14)),
        (BusinessDays(holidays=(day(3), day(5))), weekdays(14) - {str(day(3))}),
        (BusinessDays(weekdays=("sat", "sun")), weekdays(14, "sat", "sun")),
        (BusinessDays(weekdays=("sun", "tue"), holidays=(day(1),)), {str(day(6)), str(day(8)), str(day(13))}),
        ((day(2), day(9), day(30)), {str(day(2)), str(day(9))}),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
def test_a_calendar_says_which_days_are_due(calendar: Calendar, due: set[str]) -> None:
    assert due_days(calendar, span(14), set()) == sorted(due)
    assert due_in_gap(calendar, str(day(-1)), str(day(14))) == len(due)


def rhythm(present: set[str], days: int = 84) -> set[str]:
    return {*due_days("rhythm", span(days), present)}


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.integers(0, 6), st.data())
def test_the_rhythm_of_a_business_is_its_weekdays_from_the_second_week_on_whatever_holiday_it_has(
    names: set[str], begins: int, data: st.DataObject
) -> None:
    """One holiday after five weeks takes no weekday out of the rhythm, and is itself due."""
    open_days = {each for each in weekdays(84, *names) if each >= str(day(begins))}
    holiday = data.draw(st.sampled_from(sorted(each for each in open_days if each >= str(day(begins + 35)))))
    first = date.fromisoformat(min(open_days))
    expected = {each for each in open_days if each >= str(first + timedelta(days=7))}
    assert rhythm(open_days - {holiday}) == expected


@given(st.sets(st.integers(0, 83), min_size=1), st.integers(0, 83))
def test_the_rhythm_of_a_day_follows_from_the_days_before_it_alone(numbers: set[int], until: int) -> None:
    present = {str(day(number)) for number in numbers}
    before = {each for each in present if each < str(day(until))}
    if not before:
        return
    assert {each for each in rhythm(before) if each <= str(day(until))} == {
        each for each in rhythm(present) if each <= str(day(until))
    }


RHYTHMS: list[tuple[str, set[str], set[str], set[str]]] = [
    ("a new source of three weeks", weekdays(21), weekdays(28) - weekdays(7), weekdays(28, "sat", "sun")),
    ("Saturdays that begin later", weekdays(70) | every_week(40, 62), {str(day(68))}, {str(day(61))}),
    ("Saturdays that end", weekdays(70) | every_week(5, 40), every_week(40, 48), {str(day(54))}),
    ("data every second week", {str(day(n)) for n in range(0, 70, 14)}, set(), {str(day(n)) for n in range(14, 70)}),
    ("one day", {str(day(3))}, {str(day(10))}, {str(day(4)), str(day(17))}),
]  # fmt: skip


@pytest.mark.parametrize(("present", "due", "not_due"), [c[1:] for c in RHYTHMS], ids=[c[0] for c in RHYTHMS])
def test_the_rhythm_learns_and_forgets_a_weekday_within_weeks(
    present: set[str], due: set[str], not_due: set[str]
) -> None:
    found = rhythm(present, days=70)
    assert due <= found
    assert not found & not_due


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.integers(0, 3000))
def test_where_every_day_counts_the_parts_end_as_they_always_did(test: int, val: int, delay: int, night: int) -> None:
    use_case = tills(test_days=test, validation_days=val, label_delay_days=delay, window_days=100)
    as_of = day(night)
    last = as_of - timedelta(days=delay + 1)
    learnt, train = last - timedelta(days=test), last - timedelta(days=test + val)
    one = timedelta(days=1)
    expected = [(date.min, train), (train + one, learnt), (learnt + one, last)]
    assert [days_of_part(use_case, as_of, part) for part in PARTS] == [(str(a), str(b)) for a, b in expected]
    assert fit_until(use_case, as_of) == str(learnt)


def test_the_digest_of_a_use_case_is_another_only_where_not_every_day_is_due() -> None:
    assert tills(calendar="daily").digest == tills().digest
    assert tills().digest == "f1c89e58ce86088e104c35998f8df0728aed9e191fd606b1796b6763dac3d388"
    others = [tills(calendar=calendar).digest for calendar in [*CALENDARS.values(), BusinessDays(holidays=(HOLIDAY,))]]
    assert len({tills().digest, *others}) == len(others) + 1
    assert len({tills(calendar=calendar).reading_digest for calendar in ("daily", "weekdays")}) == 1


# The window


def write(home: Path, days: set[str]) -> Settings:
    folder = home / "data" / "tills"
    folder.mkdir(parents=True)
    for each in days:
        tiny.to_parquet(sales(date.fromisoformat(each)), folder / each)
    return site(home)


def remove(settings: Settings, *days: date) -> None:
    for each in days:
        (settings.data / "tills" / f"{each}.parquet").unlink()


@pytest.fixture
def ten_weeks(tmp_path: Path) -> Settings:
    """Mondays to Fridays of ten weeks."""
    return write(tmp_path, weekdays(70))


def seen(settings: Settings, use_case: UseCase, as_of: date, **excluded: str) -> tuple[int, tuple[str, ...]]:
    found = survey(settings, use_case, as_of, {name.replace("_", "-")[1:]: why for name, why in excluded.items()})
    return found.manifest.size, found.missing


@pytest.mark.parametrize("name", CALENDARS)
@pytest.mark.parametrize("delay", [0, 2])
def test_days_that_are_not_due_are_not_missing_and_nights_after_them_see_the_same(
    name: str, delay: int, ten_weeks: Settings
) -> None:
    use_case = tills(calendar=CALENDARS[name], window_days=365, label_delay_days=delay)
    nights = [survey(ten_weeks, use_case, day(n + delay), {}) for n in (61, 62, 63)]  # Saturday to Monday, of Friday
    assert {(found.manifest.size, found.missing) for found in nights} == {(45, ())}
    assert nights[0].manifest == nights[2].manifest
    assert seen(ten_weeks, replace(use_case, window_days=28), day(63 + delay)) == (20, ())


@pytest.mark.parametrize("name", CALENDARS)
@pytest.mark.parametrize("night", [61, 62, 63])
def test_a_missing_friday_is_expected_until_it_comes(name: str, night: int, ten_weeks: Settings) -> None:
    remove(ten_weeks, day(60))
    use_case = tills(calendar=CALENDARS[name], window_days=365)
    with pytest.raises(DataRejected) as caught:
        survey(ten_weeks, use_case, day(night), {})
    assert f"expected {day(60)}, a Friday, which" in caught.value.value
    assert f"the newest that all have is {day(59)}" in caught.value.value
    assert f"--as-of {day(60)}" in caught.value.next_step
    assert f"retrain data exclude tills {day(60)} --reason WHY" in caught.value.next_step
    assert survey(ten_weeks, use_case, day(night), {str(day(60)): "a strike"}).missing == ()
    assert survey(ten_weeks, use_case, day(60), {}).missing == ()


@pytest.mark.parametrize("name", CALENDARS)
def test_an_older_due_day_that_is_missing_is_named_and_a_holiday_is_not(name: str, ten_weeks: Settings) -> None:
    remove(ten_weeks, day(51), HOLIDAY)
    missing = (str(HOLIDAY), str(day(51)))
    assert seen(ten_weeks, tills(calendar=CALENDARS[name], window_days=365), day(63)) == (43, missing)
    with_holiday = BusinessDays(holidays=(HOLIDAY,))
    assert seen(ten_weeks, tills(calendar=with_holiday, window_days=365), day(63)) == (43, (str(day(51)),))


@pytest.mark.parametrize("name", CALENDARS)
def test_a_day_that_is_not_due_is_used_where_it_has_data(name: str, ten_weeks: Settings) -> None:
    tiny.to_parquet(sales(day(61)), ten_weeks.data / "tills" / str(day(61)))
    use_case = tills(calendar=CALENDARS[name], window_days=365)
    assert seen(ten_weeks, use_case, day(63)) == (46, ())
    rates = SideTable(name="rates", source=Source(folder="rates"), on=("sale",), take=("items",))
    (ten_weeks.data / "rates").mkdir()
    for each in weekdays(70):
        tiny.to_parquet(sales(date.fromisoformat(each))[["sale", "items"]], ten_weeks.data / "rates" / each)
    joined = replace(use_case, side_tables=(rates,))
    assert seen(ten_weeks, joined, day(63)) == (45, (str(day(61)),))  # it is there, and lacks its side table


@pytest.mark.parametrize("name", CALENDARS)
def test_one_file_of_all_days_and_days_of_a_folder_are_expected_alike(name: str, ten_weeks: Settings) -> None:
    remove(ten_weeks, day(51))
    rows = pd.concat(pd.read_parquet(path) for path in sorted((ten_weeks.data / "tills").iterdir()))
    rows.to_parquet(ten_weeks.data / "tills.parquet")
    folder = tills(calendar=CALENDARS[name], window_days=365)
    file = replace(folder, source=FileSource(file="tills.parquet", time_column="at"))
    assert seen(ten_weeks, file, day(63)) == seen(ten_weeks, folder, day(63)) == (44, (str(day(51)),))


@pytest.mark.parametrize("lacking", [15, 400])
def test_an_outage_is_never_taken_for_a_rhythm_without_data(lacking: int, tmp_path: Path) -> None:
    settings = write(tmp_path, weekdays(70))
    with pytest.raises(DataRejected, match="expected 20"):
        survey(settings, tills(calendar="rhythm", window_days=100), day(67 + lacking), {})


def test_the_rhythm_follows_from_the_manifest_alone(ten_weeks: Settings) -> None:
    use_case = tills(calendar="rhythm", window_days=50)
    found = survey(ten_weeks, use_case, day(63), {}).manifest
    remove(ten_weeks, *(day(n) for n in range(70) if (ten_weeks.data / "tills" / f"{day(n)}.parquet").exists()))
    assert set(due_of_manifest(use_case, found, day(63))) == {each for each in weekdays(63) if each >= str(day(18))}


def test_an_old_date_knows_only_the_days_before_it(ten_weeks: Settings) -> None:
    """Saturdays begin later: a backfill of an old date does not miss them."""
    for number in range(40, 70, 7):
        tiny.to_parquet(sales(day(number)), ten_weeks.data / "tills" / str(day(number)))
    use_case = tills(calendar="rhythm", window_days=365)
    assert seen(ten_weeks, use_case, day(35)) == (25, ())
    assert seen(ten_weeks, use_case, day(69)) == (50 + 5, ())


SENTENCES: list[tuple[int, Calendar, str, str]] = [
    (61, "daily", "a Saturday", 'set calendar="weekdays" in the use case if it has no data on weekends'),
    (62, "daily", "a Sunday", 'set calendar="weekdays"'),
    (60, "daily", "a Friday", ""),
    (60, "weekdays", "a Friday", "name it among the holidays of calendar=BusinessDays(...)"),
    (60, "rhythm", "a Friday", ""),
    (60, tuple(map(day, range(80))), "a Friday", "mend the dates in the use case's calendar"),
]


@pytest.mark.parametrize(("newest", "calendar", "weekday", "step"), SENTENCES)
def test_the_sentence_of_a_missing_day_names_the_field(
    newest: int, calendar: Calendar, weekday: str, step: str, tmp_path: Path
) -> None:
    settings = write(tmp_path, weekdays(newest))
    with pytest.raises(DataRejected) as caught:
        survey(settings, tills(calendar=calendar, window_days=365), day(newest + 1), {})
    assert f"expected {day(newest)}, {weekday}, which {settings.data / 'tills'} lacks" in caught.value.value
    assert step in caught.value.next_step
    assert step or "calendar" not in caught.value.next_step
    assert RetrainError(str(caught.value)).next_step == caught.value.next_step


def test_a_list_of_dates_that_has_ended_is_refused_by_a_sentence(ten_weeks: Settings) -> None:
    use_case = tills(calendar=(day(0), day(30)), window_days=365)
    with pytest.raises(ConfigError, match=f"up to the last day that a night looks for .* the last is {day(30)}: add"):
        survey(ten_weeks, use_case, day(63), {})


def test_a_month_between_two_dates_of_a_list_makes_no_stray_day() -> None:
    months = tuple(date(2024, month, 1) for month in range(1, 7))
    assert stray_days([str(each) for each in months], 3, months) == []
    assert stray_days(["1970-01-01", *(str(each) for each in months)], 3, "weekdays") == ["1970-01-01"]


@pytest.mark.parametrize("name", CALENDARS)
def test_the_first_date_that_leaves_rows_to_train_on_counts_days_with_data(name: str, ten_weeks: Settings) -> None:
    use_case = tills(calendar=CALENDARS[name], window_days=365)
    with pytest.raises(DataRejected, match=f"use {day(11)} or later"):  # 5 test and 3 validation days after Monday
        survey(ten_weeks, use_case, day(0), {})
    with pytest.raises(DataRejected, match="use a later one, when more than 58 days have data"):
        survey(ten_weeks, replace(use_case, test_days=55), day(0), {})


# The split, by the stages that make it


@pytest.fixture
def split_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Split]:
    """What a night's data stages come to, with a calendar in the use case's file."""
    project = tmp_path / "project" / "use_cases"
    project.mkdir(parents=True)
    for name, value in (("HOME", tmp_path), ("PROJECT", project.parent)):
        monkeypatch.setenv(f"RETRAIN_{name}", str(value))
    monkeypatch.setattr(
        "ml.pipeline.validate._confirm", lambda site, verdict: None
    )  # Great Expectations says the same, slowly

    def split(as_of: date, **fields: Any) -> Split:
        arguments = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        text = "import datetime\nfrom ml.data.calendars import BusinessDays\nfrom tests.tiny import tills\n"
        (project / "tills.py").write_text(f"{text}USE_CASE = tills({arguments})\n")
        night = tiny.night_of(open_site("tills"), as_of)
        snapshot = tasks.data.take_snapshot.fn(night)
        checks = tasks.data.validate_partitions.fn(night, snapshot)
        found: Split = tasks.data.split_rows.fn(night, tasks.data.clean_partitions.fn(night, snapshot, checks))
        return found

    return split


def ends(split: Split) -> list[str]:
    return [
        str(each) for part in (split.train, split.validation, split.test) for each in (part.first_day, part.last_day)
    ]


@pytest.mark.parametrize(("name", "night"), [("weekdays", 61), ("rhythm", 63)])
def test_test_and_validation_count_days_that_have_data(
    name: str, night: int, split_of: Callable[..., Split], ten_weeks: Settings
) -> None:
    del ten_weeks
    split = split_of(day(night), calendar=CALENDARS[name], window_days=60)
    assert ends(split) == [str(day(n)) for n in (1, 50, 51, 53, 56, 60)]
    assert split.fit_until == str(day(55))


@pytest.mark.parametrize("name", ["business days", "rhythm"])
def test_a_missing_due_day_and_a_saturday_with_data_count_and_a_rejected_saturday_does_not(
    name: str, split_of: Callable[..., Split], ten_weeks: Settings
) -> None:
    remove(ten_weeks, day(58))
    folder = ten_weeks.data / "tills"
    fields = {"calendar": CALENDARS[name], "window_days": 60}
    assert ends(split_of(day(63), **fields)) == [str(day(n)) for n in (1, 50, 51, 53, 56, 60)]
    tiny.to_parquet(sales(day(61)), folder / str(day(61)))
    assert ends(split_of(day(63), **fields)) == [str(day(n)) for n in (2, 51, 52, 56, 57, 61)]
    tiny.to_parquet(sales(day(61)).drop(columns="shop"), folder / str(day(61)))
    assert ends(split_of(day(63), **fields)) == [str(day(n)) for n in (2, 50, 51, 53, 56, 60)]
    tiny.to_parquet(sales(day(61)).iloc[:0], folder / str(day(61)))
    assert ends(split_of(day(63), **fields, max_missing_days=1)) == [str(day(n)) for n in (2, 50, 51, 53, 56, 60)]


def test_an_empty_file_on_a_day_that_is_due_is_rejected(split_of: Callable[..., Split], ten_weeks: Settings) -> None:
    tiny.to_parquet(sales(day(60)).iloc[:0], ten_weeks.data / "tills" / str(day(60)))
    with pytest.raises(DataRejected, match=f"newest partition \\({day(60)}\\)"):
        split_of(day(63), calendar="weekdays", window_days=60)


def test_rows_that_come_to_be_known_later_and_a_label_delay_go_with_a_calendar(
    split_of: Callable[..., Split], ten_weeks: Settings
) -> None:
    del ten_weeks
    fields = {"calendar": "weekdays", "window_days": 60}
    late = split_of(day(65), **fields, label_delay_days=2, known_at_column="at")
    assert ends(late) == ends(split_of(day(63), **fields))
    assert late.test_digest != split_of(day(64), **fields, label_delay_days=2, known_at_column="at").test_digest


def test_nights_one_after_the_other_give_what_each_gives_alone(
    split_of: Callable[..., Split], ten_weeks: Settings, tmp_path: Path
) -> None:
    """What is kept of a night's sums does not show in the next one's, where its parts end otherwise."""
    fields = {"calendar": "rhythm", "window_days": 40}
    one_by_one = [split_of(day(n), **fields) for n in (54, 56, 58)]
    for each, as_of in zip(one_by_one, (54, 56, 58), strict=True):
        for path in sorted((tmp_path / "store").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        alone = split_of(day(as_of), **fields)
        assert (alone.digest, alone.test_digest, ends(alone)) == (each.digest, each.test_digest, ends(each))
    assert [a.test_digest == b.test_digest for a, b in pairwise(one_by_one)] == [True, False]


def test_too_few_days_leave_nothing_to_train_on(split_of: Callable[..., Split], ten_weeks: Settings) -> None:
    del ten_weeks
    with pytest.raises(DataRejected, match="train needs rows"):
        split_of(day(8), calendar="rhythm", window_days=60)


CALENDAR = """    calendar={calendar!r},
    max_missing_days=1,
    window_days=60,
"""


@pytest.mark.slow
@pytest.mark.parametrize("calendar", ["weekdays", "rhythm"])
def test_nights_of_a_shop_that_is_closed_on_weekends_and_one_holiday(
    calendar: Any, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Monday's night looks for Friday, which is a holiday once; a Wednesday that is missing is named."""
    holiday = "2024-03-01"  # a Friday
    written = SHOP.replace("    min_rows=10,\n", f"    min_rows=10,\n{CALENDAR.format(calendar=calendar)}")
    written = written.replace("window_days", "test_days=25,\n    validation_days=5,\n    window_days")
    assert shop.settings.project is not None
    (shop.settings.project / "use_cases" / "shop.py").write_text(written)
    for each in {*span(80)} - weekdays(80) | {holiday}:
        shop.file(each).unlink()
    with pytest.raises(DataRejected, match=f"expected {holiday}, a Friday"):
        shop.night("2024-03-04")  # a Monday
    if calendar == "weekdays":
        holidays = f"BusinessDays(holidays=(date.fromisoformat({holiday!r}),))"
        imported = written.replace("from ml import", "from ml import BusinessDays\nfrom ml import", 1)
        (shop.settings.project / "use_cases" / "shop.py").write_text(imported.replace("'weekdays'", holidays))
    else:
        assert main(["data", "exclude", "shop", holiday, "--reason", "a holiday", "--yes"]) == 0
    first = shop.document("2024-03-04")
    assert (first["decision"], first["split"]["test"]["last_day"]) == ("FIRST", "2024-02-29")
    assert {*first["data"]["left_out"]} <= {holiday}
    assert shop.document("2024-03-03")["decision"] == "NOTHING_NEW"
    shop.file("2024-03-13").unlink()  # a Wednesday
    monday = shop.document("2024-03-18")
    assert monday["data"]["left_out"] | {holiday: ""} == {"2024-03-13": "it is missing", holiday: ""}
    assert monday["split"]["test"]["last_day"] == "2024-03-15"
    assert main(["status", "shop"]) == 0
    assert "2024-03-18" in capsys.readouterr().out
