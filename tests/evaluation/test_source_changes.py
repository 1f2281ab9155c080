"""What counts as a change of the source: of numbers, categories and shares, and never of what follows the clock."""

from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pytest

from ml.data.day_counts import BinCounts, DayCounts, Kind, count_numbers
from ml.evaluation import source_changes
from ml.evaluation.source_changes import (
    FEWEST_BEFORE,
    SETTLED,
    changes_of,
    delivered_otherwise,
    limit_of,
    loss_changes,
    middle_of,
)
from ml.evaluation.source_evidence import DayLoss
from ml.evaluation.source_words import told, told_delivered, told_loss

DAYS = 100
NEW = 95  # the first day that the champion has not seen
Make = Callable[[int], BinCounts]
FIRST = date(2024, 1, 1)
NAMES = [str(FIRST + timedelta(days=number)) for number in range(DAYS)]


def draws(day: int, rows: int = 300) -> np.random.Generator:
    return np.random.default_rng(day * 1000 + rows)


def delays(day: int, rows: int = 300) -> "np.typing.NDArray[np.float64]":
    """Most are small, some are long, and on some days all are longer."""
    generator = draws(day, rows)
    return np.rint(generator.normal(-3, 4, rows) + generator.exponential(20 + 25 * (day % 9 == 0), rows))


def of_numbers(day: int) -> BinCounts:
    return count_numbers(delays(day))


def share(rows: int, counted: float) -> BinCounts:
    return {0: rows - int(rows * counted), 1: int(rows * counted)}


def of_categories(day: int) -> BinCounts:
    chosen, counts = np.unique(draws(day).choice(20, 300, p=np.arange(1, 21) / 210), return_counts=True)
    return dict(zip(chosen.tolist(), counts.tolist(), strict=True))


def of_shares(day: int) -> BinCounts:
    return share(300, 0.02 + 0.02 * draws(day).random())


def of_temperatures(day: int) -> BinCounts:
    """All rows of a day are alike, and each day is warmer than the one before by a little."""
    level = 280 + 0.1 * day + 3 * float(draws(day).normal())
    return count_numbers(level + draws(day).normal(0, 1, 300))


BROKEN: list[tuple[str, Kind, Make, Make]] = [
    ("shifted", "number", of_numbers, lambda day: count_numbers(delays(day) + 60)),
    ("in another unit", "number", of_numbers, lambda day: count_numbers(delays(day) / 60)),
    ("all zero", "number", of_numbers, lambda day: count_numbers(delays(day) * 0)),
    ("another unit of what drifts", "number", of_temperatures, lambda day: count_numbers(np.full(300, 12.0))),
    ("one category", "category", of_categories, lambda _: {3: 300}),
    ("a category that was never there", "category", of_categories, lambda day: {**of_categories(day), 99: 300}),
    ("half is missing", "missing", of_shares, lambda _: share(300, 0.5)),
    ("a table matches half", "unmatched", of_shares, lambda _: share(300, 0.5)),
    ("half is set aside", "quarantined", of_shares, lambda _: share(300, 0.5)),
    ("nothing is missing any more", "missing", lambda day: share(300, 0.4), lambda _: share(300, 0.0)),
]


def days_of(make: Make, broken: Make | None = None, first: int = NEW, days: int = DAYS) -> dict[str, BinCounts]:
    return {NAMES[day]: (broken if broken and day >= first else make)(day) for day in range(days)}


@pytest.mark.parametrize(("kind", "make", "broken"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_column_is_found_on_its_first_new_day(kind: Kind, make: Make, broken: Make) -> None:
    (change,) = changes_of(kind, "a column", days_of(make, broken, days=NEW + 1), NAMES[NEW])
    assert (change.column, change.kind, change.days) == ("a column", kind, (NAMES[NEW],))
    assert change.share > limit_of(change.usual, 300)
    assert (
        f"on {NAMES[NEW]}" in told(change, sensitive=False).words
        or f"of {NAMES[NEW]}" in told(change, sensitive=False).words
    )


@pytest.mark.parametrize("make", [of_numbers, of_temperatures, of_categories, of_shares])
def test_nothing_has_changed_where_nothing_did(make: Make) -> None:
    kind: Kind = "number" if make in {of_numbers, of_temperatures} else "category"
    assert changes_of(kind, "a column", days_of(make), NAMES[NEW]) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda day: count_numbers(np.arange(300.0) + 1e6 * day),
        lambda day: count_numbers(np.full(300, float(day))),
        lambda day: count_numbers(86_400.0 * day + np.arange(300.0)),
    ],
    ids=["a number of the row", "the day of the year", "the time"],
)
def test_a_column_that_follows_the_clock_is_exempt(make: Make) -> None:
    assert changes_of("number", "a clock", days_of(make), NAMES[NEW]) == []


def test_a_category_that_is_new_every_day_is_exempt() -> None:
    assert changes_of("category", "an identifier", days_of(lambda day: {day: 300}), NAMES[NEW]) == []


def test_a_change_is_one_change_however_long_it_lasts_until_it_is_what_is_usual() -> None:
    broken = BROKEN[0][3]
    days = days_of(of_numbers, broken, first=60)
    (change,) = changes_of("number", "delay", days, NAMES[60])
    assert change.days == tuple(NAMES[60 : 60 + SETTLED])


def test_a_day_between_that_is_as_ever_ends_a_change() -> None:
    days = days_of(of_numbers, BROKEN[0][3])
    days[NAMES[NEW + 2]] = of_numbers(NEW + 2)
    found = changes_of("number", "delay", days, NAMES[NEW])
    assert found[0].days == tuple(NAMES[NEW : NEW + 2])


@pytest.mark.parametrize("kind", ["number", "category"])
@pytest.mark.parametrize("days", [57, 58, 64, 130])
def test_looking_at_all_days_in_one_go_finds_the_same_shares(kind: Kind, days: int) -> None:
    make = of_numbers if kind == "number" else of_categories
    history = source_changes._History(kind, [make(day) for day in range(days)], 60)
    for view in source_changes.VIEWS:
        one_by_one = []
        for position in range(days):
            one_by_one.append(history.excess(view, position))
            history.usable[position] = True
        history.usable[:] = False
        found = [excess for excess in one_by_one if excess is not None]
        assert history._excesses(view) == pytest.approx(found, abs=1e-12)


def test_too_few_days_or_rows_are_not_judged() -> None:
    few_days = dict(list(days_of(of_numbers, BROKEN[0][3]).items())[-2 * FEWEST_BEFORE :])
    assert changes_of("number", "delay", few_days, NAMES[NEW]) == []
    days = days_of(of_numbers)
    days[NAMES[-1]] = count_numbers(np.full(9, 500.0))
    assert changes_of("number", "delay", days, NAMES[NEW]) == []
    assert changes_of("number", "delay", {}, NAMES[NEW]) == []
    assert changes_of("number", "never there", {name: {} for name in NAMES}, NAMES[NEW]) == []


def test_the_words_name_the_column_the_days_and_how_far_it_moved() -> None:
    (change,) = changes_of("number", "delay", days_of(of_numbers, BROKEN[0][3]), NAMES[NEW])
    words = told(change, sensitive=False).words
    assert words.startswith("on 2024-04-05 to 2024-04-09 (5 days) delay is spread as on no day of the weeks before: ")
    assert f"its median was {change.before:.4g} and is {change.after:.4g}" in words
    assert change.before is not None and change.after is not None and 55 < change.after - change.before < 65
    assert "median" not in told(change, sensitive=True).words


def counted(values: "np.typing.NDArray[np.float64]") -> DayCounts:
    return DayCounts(rows=len(values), counts={"number": {"delay": count_numbers(values)}})


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda day: -delays(day), True),
        (lambda day: delays(day) * 1.5, True),
        (lambda day: delays(day), False),
        (lambda day: delays(day)[:280], False),
    ],
    ids=["the sign turned", "half as much again", "as before", "some rows are gone"],
)
def test_days_that_were_delivered_again_are_compared_with_themselves(
    make: Callable[[int], object], found: bool
) -> None:
    days = {NAMES[day]: (counted(delays(day)), counted(np.asarray(make(day)))) for day in range(28)}
    changes = delivered_otherwise(days)
    assert bool(changes) is found
    if found:
        words = told_delivered(changes[0], sensitive=False).words
        assert words.startswith("delay of 2024-01-01 to 2024-01-28 (28 days) was delivered again with other values in ")


def losses(newest: float) -> dict[str, DayLoss]:
    usual = {day: DayLoss(rows=900, relative=0.6 + 0.2 * float(draws(day).random())) for day in range(NEW)}
    return {NAMES[day]: usual.get(day, DayLoss(rows=900, relative=newest)) for day in range(NEW + 2)}


@pytest.mark.parametrize(("newest", "found"), [(0.7, False), (0.85, False), (1.6, True), (0.2, True)])
def test_the_champions_loss_is_looked_at_in_both_directions(newest: float, found: bool) -> None:
    changes = loss_changes(losses(newest), NAMES[NEW])
    assert bool(changes) is found
    if found:
        (change,) = map(told_loss, changes)
        assert change.words.startswith(f"on 2024-04-05 to 2024-04-06 (2 days) the champion's loss was {newest:.2f} of")


def test_a_loss_without_weeks_before_it_is_not_judged() -> None:
    assert loss_changes({}, NAMES[NEW]) == []
    assert loss_changes(dict(list(losses(9.0).items())[-20:]), NAMES[NEW]) == []


def test_the_middle_of_counts_is_a_median_or_a_share() -> None:
    assert middle_of("number", [count_numbers(np.array([1.0, 2.0, 3.0])), count_numbers(np.array([2.0]))]) == 2.0
    assert middle_of("missing", [{0: 3, 1: 1}]) == 0.25
    assert middle_of("category", [{5: 3}]) is None
    assert middle_of("number", [{}]) is None
