"""When the nights of a use case begin, by its schedule and in its time zone."""

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim

from ml.use_case.definition import UseCase


def starts_after(use_case: UseCase, first: datetime) -> Iterator[datetime]:
    """Every start of a night after that time, without end. Yields nothing if the use case has no schedule."""
    if use_case.schedule is not None:
        yield from CronSim(use_case.schedule, first.astimezone(ZoneInfo(use_case.time_zone)))


def next_night(use_case: UseCase, now: datetime) -> str:
    """When the next night comes, as a sentence."""
    start = next(starts_after(use_case, now), None)
    if start is None:
        return f"{use_case.name} has no schedule: no night comes by itself."
    return f"The next night begins on {start:%Y-%m-%d} at {start:%H:%M} ({use_case.time_zone})."
