"""How the sentences of a report write numbers, lists and days."""

from collections.abc import Sequence

MOST_DAYS = 5  # how many days a sentence names
MOST_KEPT = 20  # how many days, rules or moves the document keeps


def newest_of(days: Sequence[str], noun: str, total: int | None = None) -> str:
    """The last few days in their order, and how many earlier ones there are; `total` counts days that are not given."""
    more = (len(days) if total is None else total) - len(days[-MOST_DAYS:])
    return ", ".join(days[-MOST_DAYS:]) + (f" and {counted(more, f'earlier {noun}')}" if more > 0 else "")


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST_KEPT
    return ", ".join(names[:MOST_KEPT]) + (f" and {more:,} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def window_words(partitions: int, first_day: str, last_day: str) -> str:
    """`273 partitions, 2013-01-01 to 2013-09-30`, or `1 partition` where there are no days."""
    count = counted(partitions, "partition")
    return count if first_day == "all" else f"{count}, {first_day} to {last_day}"
