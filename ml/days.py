"""Days, months and local dates.

A day must lie between FIRST_DAY and LAST_DAY. Python's dates end at the years 1 and 9999, and delays and windows of up
to 100 years must have room; other days are refused.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

FIRST_DAY, LAST_DAY = date(1000, 1, 1), date(8000, 1, 1)


def month_of(day: str) -> str:
    """The month of a day: 2013-09 for 2013-09-30.

    `all`, the only partition of a source without time, is its own month.
    """
    return day[:7]


def months_between(first: date, last: date) -> Iterator[tuple[str, date, date]]:
    """Every month from `first` to `last`: its name, and its first and last day among these."""
    while first <= last:
        next_month = (first.replace(day=1) + timedelta(days=31)).replace(day=1)
        yield month_of(str(first)), first, min(last, next_month - timedelta(days=1))
        first = next_month


def local_date(moment: datetime, time_zone: str) -> date:
    """The moment's date in a time zone, as a plain date: Prefect's moments would make dates of their own class."""
    local = moment.astimezone(ZoneInfo(time_zone))
    return date(local.year, local.month, local.day)


def parse_day(text: str) -> date:
    """The day in a text like 2013-10-01. Raises ValueError for another form, or a day outside of the bounds."""
    day = date.fromisoformat(text)
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(f"{text} leaves no room for delays and windows")
    return day
