"""The window of a night: its first, last and newest due day. A window that lacks the days it needs is refused."""

from collections.abc import Mapping, Sequence, Set
from datetime import date, timedelta
from typing import NamedTuple, NoReturn

from ml.data.calendars import Calendar, days_between, due_days, due_in_gap, suggestion, weekday_of
from ml.data.dataset import Dataset, Table, UsedDays
from ml.data.handles import LeftOut
from ml.data.sources.bringing import partition_files
from ml.data.sources.folder import ALL, DayFiles, Listing, short_list
from ml.errors import ConfigError, DataRejected
from ml.settings import Settings

WRITE_DAYS = "write a file a day"
GAP_PER_STRAY = 30  # the gap behind stray days has at least as many days per stray day: a month for one day


def newest_day(settings: Settings, use_case: Table) -> date:
    """The newest day of the source up to today; a day in the future comes from a mistaken time.

    Raises DataRejected for a source without days.
    """
    days = partition_files(settings, use_case, use_case.source)
    _refuse_undated(settings, use_case, days)
    today = str(use_case.today())
    return date.fromisoformat(max((day for day in days if day <= today), default=today))


def last_due_day(use_case: UsedDays, as_of: date) -> date:
    """The last day whose rows may be used on this date: labels arrive `label_delay_days` later."""
    return as_of - timedelta(days=use_case.label_delay_days + 1)


def unusable_days(tables: dict[str, Listing]) -> dict[str, str]:
    """The days that the source or a side table has in a form that cannot be read, each with the reason."""
    unusable: dict[str, str] = {}
    for name, table in tables.items():
        table_words = f"side table {name}: " if name else ""
        unusable = {day: f"{table_words}{why}" for day, why in table.unusable.items()} | unusable
    return unusable


def refuse_unusable_newest(day: str, unusable: Mapping[str, str]) -> NoReturn:
    raise DataRejected(
        f"the newest partition ({day}) must be usable", unusable[day].replace(": ", " - "), "mend it, then run again"
    )


def _refuse_undated(settings: Settings, use_case: Table, files: dict[str, DayFiles]) -> None:
    """Raises DataRejected if the use case has days, but its source has one file for all of them."""
    if ALL not in files:
        return
    place = use_case.source.words(settings.data)
    raise DataRejected(
        f"{use_case.name} has a time column and so a file a day",
        f"there is only {files[ALL].name} in {place}",
        f'{WRITE_DAYS}, or name the file by FileSource(file=..., time_column="{use_case.time_column}")',
    )


class Window(NamedTuple):
    """The first and the last day, the newest due day (None if no day is due), and the stray days before the first."""

    first: date
    last: date
    newest: str | None
    left_out: tuple[LeftOut, ...]


def window_of(
    settings: Settings,
    use_case: Dataset,
    as_of: date,
    tables: dict[str, Listing],
    excluded: Mapping[str, str],
) -> Window:
    """The window that ends before `as_of`.

    Raises DataRejected if `as_of` lies before all data or if the newest due day is missing or cannot be used, and
    ConfigError if the calendar is a list of dates that has ended.
    """
    _refuse_undated(settings, use_case, tables[""].days)
    last = last_due_day(use_case, as_of)
    files, place = tables[""].days, use_case.source.words(settings.data)
    known_days = sorted({*files, *tables[""].unusable} - {ALL})
    strays = stray_days([day for day in known_days if day <= str(last)], use_case.max_missing_days, use_case.calendar)
    first = date.fromisoformat(known_days[len(strays)])
    if last < first:
        raise DataRejected(
            f"as_of must come after the first data ({first})",
            f"it is {as_of}",
            f"use {_as_of_to_train(use_case, known_days[len(strays) :])}, which leaves rows to train on",
        )
    sides = {name: table.days for name, table in tables.items() if name}
    whole = {day for day in files if all(day in side or ALL in side for side in sides.values())}
    newest = _newest_due(use_case, first, last, whole.union(excluded))
    if newest is not None and newest not in whole and newest not in excluded:
        unusable = unusable_days(tables)
        if newest in unusable:
            refuse_unusable_newest(newest, unusable)
        lacking = [name for name, side in sides.items() if newest not in side and ALL not in side]
        _refuse_missing_newest(use_case, newest, [] if newest in files else [place], lacking, whole)
    last = date.fromisoformat(max(newest or str(first), *(day for day in known_days if day <= str(last))))
    begin = last - timedelta(days=use_case.window_days - 1)
    return Window(max(first, begin), last, newest, _strays_left_out(place, strays, first) if begin < first else ())


def _newest_due(use_case: Dataset, first: date, last: date, present: Set[str]) -> str | None:
    """The newest due day from `first` to `last`; None if none is due.

    Raises ConfigError if the calendar is a list of dates that has ended.
    """
    calendar = use_case.calendar
    if isinstance(calendar, tuple) and max(calendar) < last:
        raise ConfigError(
            f"the dates in the calendar of {use_case.name} reach up to the last day that a night looks for ({last})",
            f"the last is {max(calendar)}",
            "add the next one",
        )
    if calendar == "daily":
        return str(last)
    return max(due_days(calendar, days_between(first, last), present), default=None)


def stray_days(days: list[str], max_missing_days: int, calendar: Calendar = "daily") -> list[str]:
    """The days far before all others, which mistaken times have made: 1970-01-01 while the data begin in 2024.

    `days` are in order. Stray days lie before a gap that has more due days than may be missing, and at least 30 times
    as many due days as there are stray days.
    """
    gaps = zip(days, days[1:], strict=False)
    for days_before, (day, following) in reversed([*enumerate(gaps, start=1)]):
        missing = due_in_gap(calendar, day, following)
        if missing > max_missing_days and missing >= GAP_PER_STRAY * days_before:
            return days[:days_before]
    return []


def _strays_left_out(place: str, strays: list[str], first: date) -> tuple[LeftOut, ...]:
    """What the report says of stray days: that they lie far before the others, which begin on `first`."""
    if not strays:
        return ()
    why = f"{'lies' if len(strays) == 1 else 'lie'} far before the others, which begin on {first}: {short_list(strays)}"
    return (LeftOut(source=place, what="day", count=len(strays), why=why),)


def _as_of_with(use_case: UsedDays, day: date, days_after: int = 0) -> date:
    """The as_of whose last due day lies `days_after` days after `day`."""
    return day + timedelta(days=use_case.label_delay_days + 1 + days_after)


def _as_of_to_train(use_case: UsedDays, days_with_data: Sequence[str]) -> str:
    """From which as_of on there are days to train on, in words."""
    held_out = use_case.test_days + use_case.validation_days
    if use_case.calendar == "daily":
        return f"{_as_of_with(use_case, date.fromisoformat(days_with_data[0]), held_out)} or later"
    if len(days_with_data) > held_out:
        return f"{_as_of_with(use_case, date.fromisoformat(days_with_data[held_out]))} or later"
    return f"a later one, when more than {held_out} days have data"


def _refuse_missing_newest(
    use_case: Dataset, newest: str, source: list[str], sides: list[str], whole: set[str]
) -> NoReturn:
    """Raises DataRejected.

    It names what lacks the day, and every way to go on: deliver the day, use the newest as_of that the data allow, run
    without the day, or declare a calendar that does not expect it.
    """
    before = max((day for day in whole if day < newest), default=None)
    possible = f", or run with --as-of {_as_of_with(use_case, date.fromisoformat(before))}" if before else ""
    absent = ", ".join([*source, *(f"side table {name}" for name in sides)])
    raise DataRejected(
        "the newest due day must be there" + (", in side tables too" if use_case.side_tables else ""),
        f"expected {newest}, a {weekday_of(newest)}, which {absent} lacks; the newest that all have is "
        f"{before or 'none'}",
        f"deliver {newest}{possible}{suggestion(use_case.calendar, [newest]) if source else ''}; "
        f"or go on without it by retrain data exclude {use_case.name} {newest} --reason WHY",
    )
