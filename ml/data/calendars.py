"""Which days must have data, by a use case's `calendar`: a business may be closed on some days.

A day that is due must have data; without data it is missing. `test_days` and `validation_days` count the days that are
due, and other days that have data. The calendar "rhythm" decides from the days that have data, and from nothing else.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKS, WEEKS_WITH_DATA = 5, 4  # by the rhythm, a weekday is due if it had data in 4 of the 5 weeks before


@dataclass(frozen=True, kw_only=True)
class BusinessDays:
    """These weekdays are due, except on holidays."""

    weekdays: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri")
    holidays: tuple[date, ...] = ()


Calendar: TypeAlias = Literal["daily", "weekdays", "rhythm"] | BusinessDays | tuple[date, ...]


def days_between(first: date, last: date) -> list[str]:
    """Every day from `first` to `last`, both included, in ISO 8601."""
    return [str(first + timedelta(days=number)) for number in range((last - first).days + 1)]


def due_days(calendar: Calendar, days: Sequence[str], present: Set[str]) -> list[str]:
    """Those of `days` that must have data. The days must follow each other without a gap.

    `present`: the days that have data, and the days that an operator excluded: they do not break the rhythm.
    """
    if calendar == "daily" or not days:
        return list(days)
    if calendar == "rhythm":
        due = _due_by_rhythm(np.array([day in present for day in days]))
    elif isinstance(calendar, tuple):
        due = np.isin(days, [str(day) for day in calendar])
    else:
        due = np.is_busday(np.array(days, "datetime64[D]"), busdaycal=_busdays(calendar))
    return [day for day, is_due in zip(days, due, strict=True) if is_due]


def _due_by_rhythm(has_data: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(days,) bool: whether the day is due, because its weekday had data in four of the five weeks before.

    If fewer than five weeks are known, the weekday needs data in all of them, up to four. In the first week no day is
    due.
    """
    days_since_first = np.arange(len(has_data)) - int(np.argmax(has_data))
    known = np.clip(days_since_first // 7, 0, WEEKS)
    weeks = (np.concatenate([np.zeros(7 * n, bool), has_data])[: len(has_data)] for n in range(1, WEEKS + 1))
    weeks_with_data = np.sum([*weeks], axis=0)
    due: NDArray[np.bool_] = (known > 0) & (weeks_with_data >= np.minimum(known, WEEKS_WITH_DATA))
    return due


def _busdays(calendar: Calendar) -> np.busdaycalendar:
    business = calendar if isinstance(calendar, BusinessDays) else BusinessDays()
    mask = " ".join(name.title() for name in business.weekdays)
    return np.busdaycalendar(weekmask=mask, holidays=[np.datetime64(day, "D") for day in business.holidays])


def due_in_gap(calendar: Calendar, before: str, after: str) -> int:
    """How many days strictly between two were due. The rhythm is not known in a gap, so by it every day counts."""
    begin, end = np.datetime64(before) + 1, np.datetime64(after)
    if isinstance(calendar, tuple):
        return sum(before < str(day) < after for day in calendar)
    if calendar in {"daily", "rhythm"}:
        return int((end - begin).astype(int))
    return int(np.busday_count(begin, end, busdaycal=_busdays(calendar)))


def weekday_of(day: str) -> str:
    """The weekday of a day, like Saturday for 2013-09-28."""
    return f"{date.fromisoformat(day):%A}"


def suggestion(calendar: Calendar, missing: Sequence[str]) -> str:
    """The declaration by which the missing days would not be due, as a clause of a next step; empty if none fits."""
    if calendar == "daily":
        weekends = sum(date.fromisoformat(day).weekday() >= 5 for day in missing)
        if 2 * weekends > len(missing):
            return ', or set calendar="weekdays" in the use case if it has no data on weekends'
        return ""
    if calendar == "rhythm":
        return ""
    if isinstance(calendar, tuple):
        return ", or mend the dates in the use case's calendar"
    return ", or name it among the holidays of calendar=BusinessDays(...) in the use case" if len(missing) == 1 else ""
