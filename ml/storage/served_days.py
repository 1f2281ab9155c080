"""Which champion served on which day, as the ledger tells it."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import date, datetime

from ml.days import local_date
from ml.storage.ledger import AnyEntry, OperatorEntry
from ml.storage.records import Champion


def champions_on(days: Iterable[str], entries: Sequence[AnyEntry], time_zone: str) -> dict[str, Champion]:
    """The champion that served on each of these days; a day without a champion is left out.

    A day's champion is that of the newest entry dated on that day or before. `entries` are all of the ledger.
    """
    dates = dates_of(entries, time_zone)
    newest = {day: bisect_right(dates, date.fromisoformat(day)) for day in days}
    champions = {day: entries[count - 1].champion for day, count in newest.items() if count}
    return {day: champion for day, champion in champions.items() if champion is not None}


def dates_of(entries: Sequence[AnyEntry], time_zone: str) -> list[date]:
    """From which day on each entry counts. The dates never fall.

    A night counts from its as_of, and an operator's move from its day in the use case's time zone. A night of an
    earlier date than nights before it, as in a backfill, counts from the newest of theirs. An operator's move never
    counts later than the next night: where the past is replayed, its day is long after the days that are replayed.
    """
    newest, dates = date.min, []
    for entry in entries:
        if isinstance(entry, OperatorEntry):
            dates.append(max(newest, local_date(datetime.fromisoformat(entry.at), time_zone)))
        else:
            newest = max(newest, entry.as_of)
            dates.append(newest)
    for place in reversed(range(len(dates) - 1)):
        dates[place] = min(dates[place], dates[place + 1])
    return dates
