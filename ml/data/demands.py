"""What a use case may say about its data: one row per demand.

Each table belongs to one part of the declaration. A row says: field, what it must be, when it is broken, next step. The
checks get the part first and the whole Dataset second.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from ml.data.calendars import BusinessDays, Calendar
from ml.data.dataset import NUMBERS, Dataset, SideTable, Target
from ml.data.source_kinds import CsvForm, DatabaseSource, DaySource, FileSource, RowSource, Source
from ml.declarations import Broken, Demands, cannot_be_called, default_of, twice
from ml.serving.columns import TIME_UNITS, Column
from ml.serving.output import answer_names, contribution_names

SAFE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
SAFE = "have at most 64 small letters, digits and _, a letter first"
PLAIN = "be a path of printable characters without .."
OWN_KIND = 'see "A source of your own" in docs/use-case.md'
IN_DATA = "write one below the data folder, or an absolute one"
DATED_ONLY = (
    "window_days", "test_days", "validation_days", "label_delay_days", "max_unseen_fraction", "max_missing_days",
    "calendar", "replay_from",
)  # fmt: skip
SEPARATOR = re.compile(r"(?![\w\".+-])[\t -~]")
THOUSANDS = re.compile(r"(?![0-9+-])[ -~]?", re.ASCII)


def undeclared(names: Iterable[str | None], dataset: Dataset) -> Broken:
    """Which of these names are no declared column, in words; None is not a name."""
    declared = {column.name for column in dataset.columns}
    absent = [name for name in names if name is not None and name not in declared]
    near = difflib.get_close_matches(absent[0], declared, n=1) if absent else []
    more = f" (the nearest is {near[0]})" if near else ""
    return bool(absent) and f"{', '.join(absent)} is not among its columns{more}"


def is_not_of_type(name: str | None, accepted: set[str], dataset: Dataset) -> Broken:
    """Which other type a declared column has, in words; False if its type is accepted or it is not declared."""
    kinds = [column.type for column in dataset.columns if column.name == name]
    return bool(kinds) and kinds[0] not in accepted and f"column {name} is of type {kinds[0]}"


def _target_column(dataset: Dataset) -> Column:
    return next(column for column in dataset.columns if column.name == dataset.target.column)


def _is_time_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _is_encoding(name: str) -> bool:
    try:
        return "a,1\n".encode(name).decode(name) == "a,1\n"
    except (LookupError, UnicodeError, ValueError):
        return False


def _is_asynchronous(function: Callable[..., object] | None) -> bool:
    """Whether a call returns something that only makes rows later: a coroutine or a generator."""
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    return any(is_kind(function) for is_kind in kinds)


def _is_no_plain_path(path: str) -> bool:
    return not path.isprintable() or ".." in PurePath(path).parts


def _is_dated_only(field: str) -> Callable[[Dataset, Dataset], Broken]:
    """A check whether this field, which only means something with days, is set in a use case without time."""
    return lambda dataset, _: not dataset.dated and getattr(dataset, field) != default_of(type(dataset), field)


def _days_with_data(dataset: Dataset) -> int:
    """How many days of a window have data: fewer than `window_days` if the calendar names weekdays."""
    calendar, days = dataset.calendar, dataset.window_days
    if calendar == "weekdays" or isinstance(calendar, BusinessDays):
        weekdays = (len(calendar.weekdays) or 7) if isinstance(calendar, BusinessDays) else 5
        return days // 7 * weekdays + min(days % 7, weekdays)
    return days


def _no_different_days(calendar: Calendar) -> Broken:
    """Whether a calendar that is a list of dates is empty, or has a date twice."""
    if not isinstance(calendar, tuple):
        return False
    return twice(map(str, calendar)) if calendar else "there is none"


def _is_no_kind(source: RowSource) -> Broken:
    """What the class of a source lacks, in words; False if nothing."""
    kind = type(source)
    if not isinstance(source, CsvForm | DatabaseSource | DaySource):
        return f"{kind.__name__} inherits from none that can be read"
    made: Any = getattr(kind, "__dataclass_params__", None)
    if made is None or not made.frozen:
        return f"{kind.__name__} is no frozen dataclass"
    lacking = [name for name in ("days", "rows") if getattr(kind, name, None) is vars(DaySource)[name]]
    return bool(lacking) and f"{kind.__name__} lacks {' and '.join(lacking)}"


def _gives_no_input(column: Column) -> bool:
    return column.type == "timestamp" and not column.parts


def _is_no_example(column: Column) -> bool:
    accepted = {"text": str, "number": float | int, "integer": int}.get(column.type)
    return column.example is not None and (accepted is None or not isinstance(column.example, accepted))


def _later_joined(table: SideTable, dataset: Dataset) -> set[str]:
    """The columns that tables after this one are joined on. They need not be declared."""
    later = dataset.side_tables[dataset.side_tables.index(table) + 1 :]
    return {name for other in later for name in other.on}


def _outside(value: float | None, column: Column) -> bool:
    """Whether a threshold lies where no value of the column, or all of them, could be over it."""
    low = -np.inf if column.minimum is None else column.minimum
    high = np.inf if column.maximum is None else column.maximum
    return value is not None and not low <= value < high


def _positive_or_above(target: Target) -> Broken:
    if target.kind != "binary" or (target.above is None) != (target.positive is None):
        return False
    return "there is neither" if target.above is None else "there are both"


def _named_like_an_answer(dataset: Dataset) -> Broken:
    """The first column of the key that has the name of an answer or of a contribution, in words."""
    kind, classes = dataset.target.kind, dataset.target.classes
    contributions = contribution_names(kind, classes, [column.name for column in dataset.features])
    taken = [name for name in dataset.key if name in {*answer_names(kind, classes), *contributions}]
    return bool(taken) and f"{taken[0]} is one"


# The tables

DATASET: Demands[Dataset, Dataset] = (
    ("name", SAFE, lambda u, _: not SAFE_NAME.fullmatch(u.name), "rename it and its file"),
    ("columns", "name each column once", lambda u, _: twice(c.name for c in u.columns), "remove one"),
    (
        "columns",
        "have one that the model is given",
        lambda u, _: all(_gives_no_input(c) for c in u.features) and "there is none (a timestamp needs parts)",
        "declare a feature",
    ),
    *(
        (field, "be declared", lambda u, _, field=field: undeclared([getattr(u, field)], u), "mend its columns")
        for field in ("group", "time_column", "known_at_column")
    ),
    ("key", "be declared", lambda u, _: undeclared(u.key, u), "mend its columns"),
    ("key", "name each column once", lambda u, _: twice(u.key), "remove one"),
    ("key", "not hold the target's column", lambda u, _: u.target.column in u.key, "name what tells rows apart"),
    (
        "key",
        "have other names than answers, which `retrain score` writes beside it",
        lambda u, _: _named_like_an_answer(u),
        "rename the column in the source or in `derive`",
    ),
    ("group", "not be the target's column", lambda u, _: u.group == u.target.column, "name another or none"),
    *(
        (
            field,
            "be of type timestamp",
            lambda u, _, field=field: is_not_of_type(getattr(u, field), {"timestamp"}, u),
            "set its column's type='timestamp', or name another",
        )
        for field in ("time_column", "known_at_column")
    ),
    *(
        (field, "be left out without a time_column", _is_dated_only(field), "remove it, or name the time_column")
        for field in DATED_ONLY
    ),
    (
        "window_days",
        "leave days for train after test_days and validation_days",
        lambda u, _: (
            u.dated
            and _days_with_data(u) <= u.test_days + u.validation_days
            and f"{u.test_days} + {u.validation_days} of {_days_with_data(u)} days are taken"
        ),
        "widen the window",
    ),
    ("calendar", "name days that are different", lambda u, _: _no_different_days(u.calendar), "mend the dates"),
    ("time_zone", "be one that the system knows", lambda u, _: not _is_time_zone(u.time_zone), "write Europe/Berlin"),
    ("side_tables", "have different names", lambda u, _: twice(table.name for table in u.side_tables), "rename one"),
    (
        "side_tables",
        "take different columns",
        lambda u, _: twice(name for table in u.side_tables for name in table.take),
        "rename one in its file",
    ),
    ("derive", "take one table of rows", lambda u, _: cannot_be_called(u.derive), "define it with one argument"),
    ("derive", "return rows at once", lambda u, _: _is_asynchronous(u.derive), "define it with def, without yield"),
)

SOURCE: Demands[RowSource, Dataset] = (
    ("folder", PLAIN, lambda s, _: isinstance(s, Source) and _is_no_plain_path(s.folder), IN_DATA),
    ("file", PLAIN, lambda s, _: isinstance(s, FileSource) and _is_no_plain_path(s.file), IN_DATA),
    (
        "separator",
        "be one sign of ASCII that neither numbers, quotes nor line ends have",
        lambda s, _: isinstance(s, CsvForm) and not SEPARATOR.fullmatch(s.separator),
        "write ',', ';', '\\t' or '|'",
    ),
    (
        "decimal",
        "be '.' or ','",
        lambda s, _: isinstance(s, CsvForm) and s.decimal not in {".", ","},
        "write one of the two",
    ),
    (
        "thousands",
        "be left out, or one sign that neither is a digit nor parts fractions",
        lambda s, _: isinstance(s, CsvForm) and (not THOUSANDS.fullmatch(s.thousands) or s.thousands == s.decimal),
        "write another, or remove it",
    ),
    (
        "encoding",
        "be one that Python knows",
        lambda s, _: isinstance(s, CsvForm) and not _is_encoding(s.encoding),
        "write utf-8, utf-16 or cp1252",
    ),
    ("kind", "be a frozen dataclass with days and rows", lambda s, _: _is_no_kind(s), OWN_KIND),
)

CALENDAR: Demands[BusinessDays, Dataset] = (
    ("weekdays", "name one at least", lambda c, _: not c.weekdays, "name those that have data"),
    ("weekdays", "be different", lambda c, _: twice(c.weekdays), "remove one"),
    ("holidays", "be different", lambda c, _: twice(map(str, c.holidays)), "remove one"),
)

COLUMN: Demands[Column, Dataset] = (
    (
        "name",
        "be a text that neither ends in __ nor begins with answer__",
        lambda c, _: not c.name or c.name.endswith("__") or c.name.startswith("answer__"),
        "rename it in the source or in `derive`",
    ),
    ("minimum", "limit a number", lambda c, _: c.minimum is not None and c.type not in NUMBERS, "remove it"),
    ("maximum", "limit a number", lambda c, _: c.maximum is not None and c.type not in NUMBERS, "remove it"),
    (
        "minimum",
        "not exceed its maximum",
        lambda c, _: c.minimum is not None and c.maximum is not None and c.minimum > c.maximum,
        "mend one of the two",
    ),
    ("values", "be those of a text", lambda c, _: bool(c.values) and c.type != "text", "set type='text'"),
    ("values", "be different", lambda c, _: twice(c.values), "remove one"),
    (
        "values",
        "be named for a sensitive category, as its models name them",
        lambda c, _: c.sensitive and c.feature and c.is_category and not c.values,
        "declare them (of a number: as texts), or set feature=False",
    ),
    ("category", "be of a text or a number", lambda c, _: c.category and c.type == "timestamp", "use parts"),
    (
        "unit",
        "be 's', 'ms', 'us', 'ns' or left out for a timestamp: what its numbers count since 1970",
        lambda c, _: c.type == "timestamp" and bool(c.unit) and c.unit not in TIME_UNITS,
        "write one of them, or remove it",
    ),
    ("parts", "be those of a timestamp", lambda c, _: bool(c.parts) and c.type != "timestamp", "set type='timestamp'"),
    ("parts", "be different", lambda c, _: twice(c.parts), "remove one"),
    ("feature", "be False for the target", lambda c, u: c.feature and c.name == u.target.column, "set feature=False"),
    ("example", "be of its column's type", lambda c, _: _is_no_example(c), "write a value of that type"),
)

TARGET: Demands[Target, Dataset] = (
    ("column", "be declared", lambda t, u: undeclared([t.column], u), "mend its columns"),
    (
        "classes",
        "be two different texts, the second the positive one",
        lambda t, _: t.kind == "binary" and (len(t.classes) != 2 or len(set(t.classes)) != 2),
        "name two",
    ),
    (
        "classes",
        "be three different texts or more",
        lambda t, _: t.kind == "multiclass" and (len(t.classes) < 3 or len(set(t.classes)) < len(t.classes)),
        "name all, or set kind='binary' for two",
    ),
    (
        "classes",
        "be left out of a regression",
        lambda t, _: t.kind == "regression" and bool(t.classes),
        "remove them, or set its kind",
    ),
    ("above", "be there, or else positive", lambda t, _: _positive_or_above(t), "set one of the two"),
    (
        "above",
        "be left out but for two classes",
        lambda t, _: t.kind != "binary" and t.above is not None,
        "remove it, or set kind='binary'",
    ),
    (
        "positive",
        "be left out but for two classes",
        lambda t, _: t.kind != "binary" and t.positive is not None,
        "remove it, or set kind='binary'",
    ),
    ("log", "be left out but for a regression", lambda t, _: t.log and t.kind != "regression", "remove it"),
    (
        "column",
        "be a number for `above` or a regression",
        lambda t, u: (t.above is not None or t.kind == "regression") and is_not_of_type(t.column, NUMBERS, u),
        "set its type, or name another column",
    ),
    (
        "column",
        "be a text for `positive` or several classes",
        lambda t, u: (t.positive is not None or t.kind == "multiclass") and is_not_of_type(t.column, {"text"}, u),
        "set its type='text', or name another column",
    ),
    (
        "positive",
        "be one of the declared values of its column",
        lambda t, u: t.positive is not None and t.positive not in _target_column(u).values,
        "mend it, or the column's values",
    ),
    (
        "classes",
        "be among the declared values of their column",
        lambda t, u: (
            t.kind == "multiclass"
            and bool(_target_column(u).values)
            and not set(t.classes) <= {*_target_column(u).values}
        ),
        "mend them, or the column's values",
    ),
    ("above", "lie inside its column's limits", lambda t, u: _outside(t.above, _target_column(u)), "mend one of them"),
    (
        "log",
        "have a column with a minimum over 0",
        lambda t, u: t.log and (_target_column(u).minimum or 0) <= 0 and f"that of {t.column} is none or too low",
        "set the column's minimum: 0 has no logarithm",
    ),
)

SIDE_TABLE: Demands[SideTable, Dataset] = (
    ("name", SAFE, lambda s, _: not SAFE_NAME.fullmatch(s.name), "rename it"),
    ("on", "name a column or more", lambda s, _: not s.on, "name what rows are joined on"),
    ("on", "name each column once", lambda s, _: twice(s.on), "remove one"),
    ("take", "name a column or more", lambda s, _: not s.take, "name what rows get from it"),
    ("take", "not hold what it is joined on", lambda s, _: bool({*s.on} & {*s.take}), "remove that"),
    (
        "take",
        "name declared columns",
        lambda s, u: undeclared([name for name in s.take if name not in _later_joined(s, u)], u),
        "declare them, or take less",
    ),
)
