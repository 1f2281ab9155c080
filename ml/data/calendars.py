"""Which days have data where a business rests on some: what a use case's `calendar` says of days.

A due day must have data, and is missing without. A day counts for `test_days` and `validation_days` if it is due or has
data all the same. What is due by the rhythm follows from the days that are there and from nothing else.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKS, WEEKS_WITH_DATA = 5, 4  # a weekday is due that had data in so many of the weeks before


@dataclass(frozen=True, kw_only=True)
class BusinessDays:
    """Due are these weekdays, but for holidays."""

    weekdays: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri")
    holidays: tuple[date, ...] = ()


Calendar: TypeAlias = Literal["daily", "weekdays", "rhythm"] | BusinessDays | tuple[date, ...]


def days_between(first: date, last: date) -> list[str]:
    """Every day from one to another."""
    return [str(first + timedelta(days=number)) for number in range((last - first).days + 1)]


def due_days(calendar: Calendar, days: Sequence[str], present: Set[str]) -> list[str]:
    """Those that must have data, of days one after the other. `present`: those that have data, and those that an
    operator excluded, which says nothing against the rhythm."""
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
    """(days,) whether the weekday had data in four of the five weeks before. Of fewer known weeks it needs all, up to
    four; in the first week nothing is due."""
    since = np.arange(len(has_data)) - int(np.argmax(has_data))
    known = np.clip(since // 7, 0, WEEKS)
    weeks = (np.concatenate([np.zeros(7 * n, bool), has_data])[: len(has_data)] for n in range(1, WEEKS + 1))
    seen = np.sum([*weeks], axis=0)
    due: NDArray[np.bool_] = (known > 0) & (seen >= np.minimum(known, WEEKS_WITH_DATA))
    return due


def _busdays(calendar: Calendar) -> np.busdaycalendar:
    business = calendar if isinstance(calendar, BusinessDays) else BusinessDays()
    mask = " ".join(name.title() for name in business.weekdays)
    return np.busdaycalendar(weekmask=mask, holidays=[np.datetime64(day, "D") for day in business.holidays])


def due_in_gap(calendar: Calendar, before: str, after: str) -> int:
    """How many days between two were due; by the rhythm, which nobody knows there, every one."""
    begin, end = np.datetime64(before) + 1, np.datetime64(after)
    if isinstance(calendar, tuple):
        return sum(before < str(day) < after for day in calendar)
    if calendar in {"daily", "rhythm"}:
        return int((end - begin).astype(int))
    return int(np.busday_count(begin, end, busdaycal=_busdays(calendar)))


def weekday_of(day: str) -> str:
    """Saturday of 2013-09-28."""
    return f"{date.fromisoformat(day):%A}"


def suggestion(calendar: Calendar, missing: Sequence[str]) -> str:
    """What a calendar could say of missing days, as a clause that follows another; nothing where none fits."""
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
