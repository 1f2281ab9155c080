"""What is said of a partition that cannot be used: why, and what lets the next night go on."""

import re
import traceback
from collections import Counter
from collections.abc import Iterable
from datetime import date

from ml.data.dataset import Reading, Table
from ml.data.declared_sources import DatabaseSource, FileSource
from ml.data.handles import PartitionCheck, Undeclared
from ml.data.reading import short
from ml.data.validation import MOST_NAMES
from ml.serving.columns import Column

GIVEN = re.compile("(.+) as (a number|a time|text)", re.DOTALL)  # an undeclared column, as ml/snapshots.py names it


def why_unforeseen(error: Exception) -> str:
    """Why a partition cannot be used whose bytes make code fail that is not ours, in a way that nobody foresaw."""
    column = _column_of(error)
    kind, words = type(error).__name__, short(error)
    seen = f" ({words})" if words != kind else ""
    return f"reading it ends in {kind}" + (f" in column {column}" if column else "") + seen


def _column_of(error: Exception) -> str | None:
    """The declared column that was looked at when it happened, where our code looked at one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    columns = [value.name for frame in frames for value in frame.f_locals.values() if isinstance(value, Column)]
    return columns[-1] if columns else None


def cure_of(check: PartitionCheck, *, lost: bool) -> str:
    """The declaration that would let a rejected partition pass."""
    return "set label_delay_days, if its labels come later," if lost and not check.labelled else check.cure


def way_out(use_case: Table, as_of: date, day: str, file: str, cure: str, *, lost: bool) -> str:
    """The next step of a night with a rejected partition. `cure`: the declaration that would let it pass; `lost`: its
    columns lost their meaning, which an operator may accept."""
    name = use_case.name
    again = f"retrain run {name} --as-of {as_of}"
    if not use_case.dated:
        return f"deliver {_delivery(use_case, day, file)} again, or {cure or 'mend the use case'}, then {again}"
    accept = f"; if the change is to last, retrain data include {name} {day} --reason WHY" if lost else ""
    declare = "" if lost and not cure else f", or {cure or 'mend the declaration'} in the use case"
    exclude = f"; or go on without it by retrain data exclude {name} {day} --reason WHY"
    return f"deliver {_delivery(use_case, day, file)} again{declare}{accept}{exclude}; then {again}"


def _delivery(use_case: Reading, day: str, file: str) -> str:
    """What its owner delivers, in the words of the use case: our own copies of a day are nobody else's files."""
    if isinstance(use_case.source, FileSource):
        return f"the rows of {day} in {use_case.source.file}"
    if isinstance(use_case.source, DatabaseSource):
        return f"the rows of {day} in the database {use_case.source.database}"
    return f"{use_case.source.folder}/{file}"


def undeclared(parts: Iterable[Undeclared]) -> Undeclared:
    """Of several days or months together: the names that derive was given in two types, then those of most days."""
    days, most, names = 0, 0, Counter[str]()
    for part in parts:
        days, most = days + part.days, max(most, part.most)
        names.update(part.names)
    two = {name for of_column in of_two_types(names) for name in of_column}
    kept = sorted(names.items(), key=lambda each: (each[0] not in two, -each[1], each[0]))[:MOST_NAMES]
    return Undeclared(days=days, most=most, names=dict(kept))


def of_two_types(names: Iterable[str]) -> list[list[str]]:
    """Of undeclared columns with the type that derive was given, those with several, which values of days decided."""
    found: dict[str, list[str]] = {}
    for name in names:
        if typed := GIVEN.fullmatch(name):
            found.setdefault(typed[1], []).append(name)
    return [sorted(of_column) for of_column in found.values() if len(of_column) > 1]
