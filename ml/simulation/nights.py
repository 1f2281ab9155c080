"""The nights of a simulation: for which dates there is a candidate, and which rows it is trained and tested on."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from ml.data.split import days_of_part
from ml.data.window import last_due_day
from ml.errors import UsageError
from ml.simulation.source import SourceRows
from ml.use_case.definition import UseCase

YEAR = 365


@dataclass(frozen=True, kw_only=True)
class SimulatedNight:
    """The night of one date. `first_day` is the first day of its window, `last_day` the last one whose labels are due.

    `train`, `validation` and `test` are rows of the source, each part directly behind the one before.
    """

    as_of: date
    first_day: str
    last_day: str
    validation_day: str
    test_day: str
    train: slice
    validation: slice
    test: slice

    def __hash__(self) -> int:
        return hash(self.as_of)

    @property
    def fit_until(self) -> str:
        """The last day that the judged model may have seen."""
        return str(date.fromisoformat(self.test_day) - timedelta(days=1))


def nights_of(
    rows: SourceRows, *, first: date | None = None, count: int = YEAR, every: int = 1
) -> list[SimulatedNight]:
    """Every so many nights (`every`) from `first` on, of at most `count` dates; by default of the newest ones.

    There is no night for a date whose newest due day has no rows, or on which a part of the split would lack rows or a
    class: the pipeline refuses such data. Train rows are of at least as many days as validation and test together, or
    of half as many as validation if `first` is given. Raises UsageError if fewer than two nights are left.
    """
    dates = _dates(rows, first, count)
    nights = [night for as_of in dates[::every] if (night := _night(rows, as_of)) is not None]
    if len(nights) < 2:
        _refuse_few_days(rows, len(nights))
    return nights


def _dates(rows: SourceRows, first: date | None, count: int) -> list[date]:
    """The dates for which there may be a night: each is followed by a day that the candidate can serve."""
    begin, end = date.fromisoformat(rows.days[0]), date.fromisoformat(rows.days[-1])
    usable = [
        day for day in (begin + timedelta(days=number) for number in range((end - begin).days + 1))
        if _has_train_days(rows, day, early=first is not None)
    ]  # fmt: skip
    if first is not None:
        return [day for day in usable if day >= first][:count]
    return usable[-count:]


def _has_train_days(rows: SourceRows, as_of: date, *, early: bool) -> bool:
    use_case = rows.use_case
    last = str(last_due_day(use_case, as_of))
    first = str(date.fromisoformat(last) - timedelta(days=use_case.window_days - 1))
    days = rows.days_between(first, last)
    held_out = use_case.test_days + use_case.validation_days
    train_days = use_case.validation_days // 2 if early else held_out
    enough = min(held_out + train_days, use_case.window_days - use_case.max_missing_days)
    return len(days) >= max(1, enough) and days[-1] == _newest_counted(rows, last)


def _newest_counted(rows: SourceRows, last: str) -> str:
    """The newest day up to `last` that must be there."""
    return last if rows.due is None else max((day for day in rows.due if day <= last), default=last)


def _night(rows: SourceRows, as_of: date) -> SimulatedNight | None:
    """The night of this date; None if a part lacks rows or a class."""
    use_case = rows.use_case
    last = str(last_due_day(use_case, as_of))
    counted = None if rows.due is None else [day for day in rows.due if day <= last]
    first = str(date.fromisoformat(last) - timedelta(days=use_case.window_days - 1))
    (_, train_end), (validation, validation_end), (test, test_end) = (
        days_of_part(use_case, as_of, part, counted) for part in ("train", "validation", "test")
    )
    night = SimulatedNight(
        as_of=as_of,
        first_day=max(first, rows.days[0]),
        last_day=test_end,
        validation_day=validation,
        test_day=test,
        train=rows.between(first, train_end),
        validation=rows.between(validation, validation_end),
        test=rows.between(test, test_end),
    )
    return night if all(_is_whole(rows, part) for part in _parts(night)) else None


def _parts(night: SimulatedNight) -> Iterator[slice]:
    yield from (night.train, night.validation, night.test)


def _is_whole(rows: SourceRows, part: slice) -> bool:
    """Whether the part has rows of each class."""
    labels = rows.y[part]
    if rows.use_case.target.kind == "regression":
        return len(labels) > 0
    return len(np.unique(labels)) == len(rows.use_case.target.classes)


def _refuse_few_days(rows: SourceRows, nights: int) -> None:
    use_case: UseCase = rows.use_case
    held_out = use_case.test_days + use_case.validation_days
    raise UsageError(
        f"a simulation of {use_case.name} needs two nights, and for each of them {2 * held_out} days with rows of "
        "every class (twice validation_days and test_days)",
        f"its {len(rows.days)} days from {rows.days[0]} to {rows.days[-1]} leave {nights}",
        "bring more days, choose an earlier --from, or let test_days be fewer",
    )
