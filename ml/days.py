"""Days that can be reckoned with: a date ends at the years 1 and 9999, and delays and windows have up to 100 years."""

from datetime import date

FIRST_DAY, LAST_DAY = date(1000, 1, 1), date(8000, 1, 1)


def parse_day(text: str) -> date:
    """The day that is written like 2013-10-01. Raises ValueError for anything else."""
    day = date.fromisoformat(text)
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(f"{text} leaves no room for delays and windows")
    return day
