"""What is said of a partition that cannot be used: why, and how the next night can go on."""

import re
import traceback
from collections import Counter
from collections.abc import Iterable
from datetime import date

from ml.data.dataset import Table
from ml.data.handles import PartitionCheck, Undeclared
from ml.data.reading import short
from ml.data.validation import MOST_NAMES
from ml.serving.columns import Column

GIVEN = re.compile("(.+) as (a number|a time|text)", re.DOTALL)  # as partitions.py words an undeclared column


def why_unforeseen(error: Exception) -> str:
    """Why a partition cannot be used if its bytes make a library fail in a way that nobody foresaw.

    The error's message is quoted only if it cannot hold a value of a row.
    """
    column = _column_of(error)
    kind, words = type(error).__name__, short(error)
    quoted = f" ({words})" if words != kind else ""
    return f"reading it ends in {kind}" + (f" in column {column}" if column else "") + quoted


def _column_of(error: Exception) -> str | None:
    """The declared column that our code was working on when the error happened; None if there was none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    columns = [value.name for frame in frames for value in frame.f_locals.values() if isinstance(value, Column)]
    return columns[-1] if columns else None


def cure_of(check: PartitionCheck, *, lost: bool) -> str:
    """The declaration that would let a rejected partition pass. `lost`: whether its columns lost their meaning."""
    return "set label_delay_days, if its labels come later," if lost and not check.labelled else check.cure


def way_out(use_case: Table, as_of: date, day: str, file: str, cure: str, *, lost: bool) -> str:
    """The next step of a night that ended because of a rejected partition, in words.

    `cure`: the declaration that would let the partition pass; empty if none would. `lost`: its columns lost their
    meaning, which an operator may accept.
    """
    name, delivery = use_case.name, use_case.source.delivery(day, file)
    again = f"retrain run {name} --as-of {as_of}"
    if not use_case.dated:
        return f"deliver {delivery} again, or {cure or 'mend the use case'}, then {again}"
    accept = f"; if the change is to last, retrain data include {name} {day} --reason WHY" if lost else ""
    declare = "" if lost and not cure else f", or {cure or 'mend the declaration'} in the use case"
    exclude = f"; or go on without it by retrain data exclude {name} {day} --reason WHY"
    return f"deliver {delivery} again{declare}{accept}{exclude}; then {again}"


def undeclared(parts: Iterable[Undeclared]) -> Undeclared:
    """The undeclared columns of several days or months together.

    At most `MOST_NAMES` names are kept: first those that derive got in two types, then those of most days.
    """
    days, most, names = 0, 0, Counter[str]()
    for part in parts:
        days, most = days + part.days, max(most, part.most)
        names.update(part.names)
    two_types = {name for of_column in of_two_types(names) for name in of_column}
    ordered = sorted(names, key=lambda name: (name not in two_types, -names[name], name))
    return Undeclared(days=days, most=most, names={name: names[name] for name in ordered[:MOST_NAMES]})


def of_two_types(names: Iterable[str]) -> list[list[str]]:
    """The undeclared columns that derive got in several types on different days: for each, its names with the types."""
    by_column: dict[str, list[str]] = {}
    for name in names:
        if typed := GIVEN.fullmatch(name):
            by_column.setdefault(typed[1], []).append(name)
    return [sorted(of_column) for of_column in by_column.values() if len(of_column) > 1]
