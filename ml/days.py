"""Days that can be reckoned with: a date ends at the years 1 and 9999, and delays and windows have up to 100 years."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

FIRST_DAY, LAST_DAY = date(1000, 1, 1), date(8000, 1, 1)


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
