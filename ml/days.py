"""Days that can be reckoned with: a date ends at the years 1 and 9999, and delays and windows have up to 100 years."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

FIRST_DAY, LAST_DAY = date(1000, 1, 1), date(8000, 1, 1)


def month_of(day: str) -> str:
    """2013-09 of 2013-09-30; `all`, the one partition of a source without time, is a month of its own."""
    return day[:7]


def months_between(first: date, last: date) -> Iterator[tuple[str, date, date]]:
    """Every month from one day to another, with its first and last day among them."""
    while first <= last:
        next_month = (first.replace(day=1) + timedelta(days=31)).replace(day=1)
        yield month_of(str(first)), first, min(last, next_month - timedelta(days=1))
        first = next_month


def local_date(moment: datetime, time_zone: str) -> date:
    """The moment's date in a time zone; a plain one, for Prefect's moments make dates of a kind of their own."""
    local = moment.astimezone(ZoneInfo(time_zone))
    return date(local.year, local.month, local.day)


def parse_day(text: str) -> date:
    """The day that is written like 2013-10-01. Raises ValueError for anything else."""
    day = date.fromisoformat(text)
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(f"{text} leaves no room for delays and windows")
    return day
