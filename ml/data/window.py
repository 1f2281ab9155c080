"""Which days a night needs, and the refusal of a window that lacks them."""

from collections.abc import Mapping, Sequence, Set
from datetime import date, timedelta
from typing import NamedTuple, NoReturn

from ml.data.calendars import Calendar, days_between, due_days, due_in_gap, suggestion, weekday_of
from ml.data.dataset import Dataset, Table, UsedDays
from ml.data.handles import LeftOut
from ml.data.sources.bringing import partition_files
from ml.data.sources.folder import ALL, DayFiles, Listing, short_list, source_words
from ml.errors import ConfigError, DataRejected
from ml.settings import Settings

WRITE_DAYS = "write a file a day"


GAP_PER_STRAY = 30  # so many days of nothing for each day that is taken for a stray one: a month for one day


def newest_day(settings: Settings, use_case: Table) -> date:
    """The last day of the source up to today: one in the future is a mistaken time. Raises DataRejected for a source
    without days."""
    days = partition_files(settings, use_case, use_case.source)
    _refuse_undated(settings, use_case, days)
    today = str(use_case.today())
    return date.fromisoformat(max((day for day in days if day <= today), default=today))


def last_due_day(use_case: UsedDays, as_of: date) -> date:
    return as_of - timedelta(days=use_case.label_delay_days + 1)


def unusable_days(tables: dict[str, Listing]) -> dict[str, str]:
    """Why a day cannot be used, where some table has it in a form that cannot be read."""
    found: dict[str, str] = {}
    for name, table in tables.items():
        words = f"side table {name}: " if name else ""
        found = {day: f"{words}{why}" for day, why in table.unusable.items()} | found
    return found


def refuse_unusable_newest(day: str, unusable: Mapping[str, str]) -> NoReturn:
    raise DataRejected(
        f"the newest partition ({day}) must be usable", unusable[day].replace(": ", " - "), "mend it, then run again"
    )


def _refuse_undated(settings: Settings, use_case: Table, files: dict[str, DayFiles]) -> None:
    """Raises DataRejected where a use case with days has one file for all."""
    if ALL not in files:
        return
    place = source_words(settings, use_case.source)
    raise DataRejected(
        f"{use_case.name} has a time column and so a file a day",
        f"there is only {files[ALL].name} in {place}",
        f'{WRITE_DAYS}, or name the file by FileSource(file=..., time_column="{use_case.time_column}")',
    )


class Window(NamedTuple):
    """Its first and its last day, the newest due one, and the stray days before the first."""

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
    _refuse_undated(settings, use_case, tables[""].days)
    last = last_due_day(use_case, as_of)
    files, place = tables[""].days, source_words(settings, use_case.source)
    known = sorted({*files, *tables[""].unusable} - {ALL})
    strays = stray_days([day for day in known if day <= str(last)], use_case.max_missing_days, use_case.calendar)
    first = date.fromisoformat(known[len(strays)])
    if last < first:
        raise DataRejected(
            f"as_of must come after the first data ({first})",
            f"it is {as_of}",
            f"use {_as_of_to_train(use_case, known[len(strays) :])}, which leaves rows to train on",
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
    last = date.fromisoformat(max(newest or str(first), *(day for day in known if day <= str(last))))
    begin = last - timedelta(days=use_case.window_days - 1)
    return Window(max(first, begin), last, newest, _strays_left_out(place, strays, first) if begin < first else ())


def _newest_due(use_case: Dataset, first: date, last: date, present: Set[str]) -> str | None:
    """The newest due day between two; None where none is. Raises ConfigError for a list of dates that has ended."""
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
    """Days far before all others, which mistaken times have made: 1970-01-01 where the data begin in 2024.

    They lie before a gap of more due days than may be missing, which are 30 times as many as they.
    """
    gaps = zip(days, days[1:], strict=False)
    for place, (day, following) in reversed([*enumerate(gaps, start=1)]):
        missing = due_in_gap(calendar, day, following)
        if missing > max_missing_days and missing >= GAP_PER_STRAY * place:
            return days[:place]
    return []


def _strays_left_out(place: str, strays: list[str], first: date) -> tuple[LeftOut, ...]:
    """That the window begins after them is said where it decides the window."""
    if not strays:
        return ()
    why = f"{'lies' if len(strays) == 1 else 'lie'} far before the others, which begin on {first}: {short_list(strays)}"
    return (LeftOut(source=place, what="day", count=len(strays), why=why),)


def _as_of_with(use_case: UsedDays, day: date, days_after: int = 0) -> date:
    """The as_of whose last due day lies so many days after the day."""
    return day + timedelta(days=use_case.label_delay_days + 1 + days_after)


def _as_of_to_train(use_case: UsedDays, known: Sequence[str]) -> str:
    """From which as_of on there are days to train on, in words; `known`: the days with data."""
    held_out = use_case.test_days + use_case.validation_days
    if use_case.calendar == "daily":
        return f"{_as_of_with(use_case, date.fromisoformat(known[0]), held_out)} or later"
    if len(known) > held_out:
        return f"{_as_of_with(use_case, date.fromisoformat(known[held_out]))} or later"
    return f"a later one, when more than {held_out} days have data"


def _refuse_missing_newest(
    use_case: Dataset, newest: str, source: list[str], sides: list[str], whole: set[str]
) -> NoReturn:
    """Raises DataRejected, which names what lacks the day, and every way on: the newest as_of that the data allow, a
    night without the day, and a calendar that does not expect it."""
    before = max((day for day in whole if day < newest), default=None)
    possible = f", or run with --as-of {_as_of_with(use_case, date.fromisoformat(before))}" if before else ""
    absent = ", ".join([*source, *(f"side table {name}" for name in sides)])
    raise DataRejected(
        "the newest due day must be there, in side tables too",
        f"expected {newest}, a {weekday_of(newest)}, which {absent} lacks; the newest that all have is "
        f"{before or 'none'}",
        f"deliver {newest}{possible}{suggestion(use_case.calendar, [newest]) if source else ''}; "
        f"or go on without it by retrain data exclude {use_case.name} {newest} --reason WHY",
    )
