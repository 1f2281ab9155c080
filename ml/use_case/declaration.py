"""What a use case may say: the first thing that it may not is a ConfigError that names the use case and the field.

Types and bounds stand beside the fields, as hints that pydantic judges strictly. The tables here hold what fields must
be together, one row a demand: field, what it must be, whether it is broken, next step.
"""

import dataclasses
import difflib
import functools
import inspect
import re
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_type_hints
from zoneinfo import ZoneInfo

import numpy as np
from cronsim import CronSim, CronSimError
from pydantic import ConfigDict, TypeAdapter, ValidationError
from sklearn.base import is_classifier, is_regressor

from ml.data.calendars import BusinessDays, Calendar
from ml.errors import ConfigError
from ml.evaluation.gates import Comparison, Gate, MinMetric
from ml.metrics.scores import CLASS_METRICS, METRICS
from ml.models.networks.estimators import NetworkEstimator
from ml.serving.columns import TIME_UNITS, Column

if TYPE_CHECKING:
    from ml.data.dataset import SideTable, Target
    from ml.use_case.definition import UseCase

T = TypeVar("T")
# A text says what was seen; True says that the field's own value is what is wrong.
Broken: TypeAlias = bool | str
Table: TypeAlias = tuple[tuple[str, str, Callable[[T, "UseCase"], Broken], str], ...]

SAFE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
SAFE = "have at most 64 small letters, digits and _, a letter first"
PLAIN = "be a path of printable characters without .."
IN_DATA = "write one below the data folder, or an absolute one"
NUMBERS = {"number", "integer"}
BASELINES = ("constant", "rule")
OPPONENTS = (*BASELINES, "champion", "reference")
RANGES = {**dict.fromkeys(CLASS_METRICS, (0, 1)), "r2": (-np.inf, 1), "rmse": (0, np.inf), "mae": (0, np.inf)}
SOURCES = ("Source", "FileSource", "DatabaseSource")  # pydantic names which of them a value is not
DATED_ONLY = (
    "window_days", "test_days", "validation_days", "label_delay_days", "max_unseen_fraction", "max_missing_days",
    "calendar", "replay_from",
)  # fmt: skip
SEPARATOR = re.compile(r"(?![\w\".+-])[\t -~]")
THOUSANDS = re.compile(r"(?![0-9+-])[ -~]?", re.ASCII)
NEXT_STEPS: dict[tuple[str, type], str] = {
    ("tuple_type", str): "write it with brackets and a comma, like ('id',)",
    ("tuple_type", list): "write it with ( ) instead of [ ]",
    ("int_type", str): "write it without quotes",
    ("float_type", str): "write it without quotes",
    ("date_type", str): "write it like date(2013, 10, 1)",
}
UNIONS = {"calendar": "write one of them, BusinessDays(weekdays=..., holidays=...), or a tuple of dates"}


def refuse_impossible(use_case: "UseCase") -> None:
    """Raises ConfigError for the first field of the use case, or of a part of it, that could only fail in a night."""
    _refuse_types(use_case, f"the use case {use_case.name}")
    for place, part, _ in _parts(use_case):
        _refuse_types(part, place)
    _refuse(USE_CASE, use_case, use_case, f"the use case {use_case.name}")
    for place, part, table in _parts(use_case):
        _refuse(table, part, use_case, place)


def _parts(use_case: "UseCase") -> Iterator[tuple[str, Any, Table[Any]]]:
    """Everything that a use case is made of: its name in sentences, itself, and what it must be."""
    name = use_case.name
    yield f"the source of {name}", use_case.source, SOURCE
    yield from ((f"column {column.name} of {name}", column, COLUMN) for column in use_case.columns)
    if isinstance(use_case.calendar, BusinessDays):
        yield f"the calendar of {name}", use_case.calendar, CALENDAR
    yield f"the target of {name}", use_case.target, TARGET
    yield f"the model of {name}", use_case.model, MODEL
    yield from ((f"the gate {gate.name} of {name}", gate, GATE) for gate in use_case.gates)
    for side in use_case.side_tables:
        yield f"side table {side.name} of {name}", side, SIDE_TABLE
        yield f"the source of side table {side.name} of {name}", side.source, SOURCE


def _refuse(table: Table[T], part: T, use_case: "UseCase", place: str) -> None:
    for field, must, is_broken, next_step in table:
        broken = is_broken(part, use_case)
        if broken:
            seen = broken if isinstance(broken, str) else f"it is {_short(getattr(part, field))}"
            raise ConfigError(f"{field} of {place} must {must}", seen, next_step)


def _refuse_types(part: Any, place: str) -> None:
    names, hints = _hints(part.__class__)
    try:
        hints.validate_python(tuple(getattr(part, name) for name in names))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        position, *inner = first["loc"]
        name = names[int(position)]
        field = name + "".join(f"[{index}]" for index in inner if not _is_of_union(index))
        must = re.sub(r"^\w+ should", "must", first["msg"])
        next_step = UNIONS.get(name) or NEXT_STEPS.get((first["type"], type(first["input"])), "mend the file")
        raise ConfigError(f"{field} of {place} {must}", f"it is {_short(first['input'])}", next_step) from error


def _is_of_union(index: int | str) -> bool:
    """Whether pydantic only names which of several types a value is not."""
    return index in SOURCES or "[" in str(index)


@functools.cache
def _hints(kind: type) -> tuple[tuple[str, ...], TypeAdapter[Any]]:
    """Names of a part's fields, and what judges all of their values as one tuple."""
    hinted = kind.__init__ if issubclass(kind, NetworkEstimator) else kind
    names = set(inspect.signature(kind).parameters)
    hints = {name: hint for name, hint in get_type_hints(hinted, include_extras=True).items() if name in names}
    together: Any = types.GenericAlias(tuple, tuple(hints.values()))
    strict = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    return tuple(hints), TypeAdapter(together, config=strict)


def _short(value: object) -> str:
    return " ".join(repr(value).split())[:80]


# What predicates are made of


def _twice(names: Iterable[str]) -> Broken:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    return bool(repeated) and f"{repeated[0]!r} is there twice"


def _undeclared(names: Iterable[str | None], use_case: "UseCase") -> Broken:
    declared = {column.name for column in use_case.columns}
    absent = [name for name in names if name is not None and name not in declared]
    near = difflib.get_close_matches(absent[0], declared, n=1) if absent else []
    more = f" (the nearest is {near[0]})" if near else ""
    return bool(absent) and f"{', '.join(absent)} is not among its columns{more}"


def _is_not_of_type(name: str | None, accepted: set[str], use_case: "UseCase") -> Broken:
    kinds = [column.type for column in use_case.columns if column.name == name]
    return bool(kinds) and kinds[0] not in accepted and f"column {name} is of type {kinds[0]}"


def _target_column(use_case: "UseCase") -> Column:
    return next(column for column in use_case.columns if column.name == use_case.target.column)


def _unmeasured(metric: str, use_case: "UseCase") -> Broken:
    known = METRICS[use_case.target.kind]
    return metric not in known and f"it is {metric!r} where {use_case.target.kind} has {', '.join(known)}"


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


def _is_cron(line: str) -> bool:
    """What both cronsim and Prefect's croniter read: neither seconds nor the last weekday of a month."""
    try:
        CronSim(line, datetime(2024, 1, 1))
    except CronSimError:
        return False
    return len(line.split()) == 5 and re.search(r"[0-9L][LW]", line.upper()) is None


def _cannot_be_called(function: Callable[..., object] | None) -> Broken:
    try:
        return function is not None and not inspect.signature(function).bind(None)
    except (TypeError, ValueError) as error:
        return f"Python says '{error}'"


def _is_asynchronous(function: Callable[..., object] | None) -> bool:
    """Whether a call gives something that makes rows later."""
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    return any(is_kind(function) for is_kind in kinds)


def _has_no_digest(use_case: "UseCase") -> Broken:
    try:
        return not use_case.digest
    except (TypeError, ValueError, OSError) as error:
        return f"one is not ({error})"


def _is_no_plain_path(path: str) -> bool:
    return not path.isprintable() or ".." in PurePath(path).parts


def _is_dated_only(field: str) -> Callable[["UseCase", "UseCase"], Broken]:
    return lambda use_case, _: not use_case.dated and getattr(use_case, field) != _default(type(use_case), field)


def _default(kind: type, field: str) -> object:
    return {f.name: f.default for f in dataclasses.fields(kind)}[field]


def _days_with_data(use_case: "UseCase") -> int:
    """Of a window, by the weekdays that the calendar names, if it names some."""
    calendar, days = use_case.calendar, use_case.window_days
    if calendar == "weekdays" or isinstance(calendar, BusinessDays):
        weekdays = (len(calendar.weekdays) or 7) if isinstance(calendar, BusinessDays) else 5
        return days // 7 * weekdays + min(days % 7, weekdays)
    return days


def _no_different_days(calendar: Calendar) -> Broken:
    """Whether a list of dates is empty or has one twice."""
    if not isinstance(calendar, tuple):
        return False
    return _twice(map(str, calendar)) if calendar else "there is none"


def _parts_both(source: Any) -> bool:
    """Whether one sign parts thousands and fractions alike."""
    return getattr(source, "thousands", "") == getattr(source, "decimal", ".")


def _gives_no_input(column: Column) -> bool:
    return column.type == "timestamp" and not column.parts


def _is_no_example(column: Column) -> bool:
    accepted = {"text": str, "number": float | int, "integer": int}.get(column.type)
    return column.example is not None and (accepted is None or not isinstance(column.example, accepted))


def _has_no_rule(use_case: "UseCase") -> bool:
    """Whether there is no threshold on one column to be better than."""
    numbers = [column for column in use_case.features if column.type in NUMBERS and not column.is_category]
    return use_case.target.kind == "multiclass" or not numbers


def _later_joined(table: "SideTable", use_case: "UseCase") -> set[str]:
    """Names that tables after this one are joined on."""
    later = use_case.side_tables[use_case.side_tables.index(table) + 1 :]
    return {name for other in later for name in other.on}


def _outside(value: float | None, column: Column) -> bool:
    low = -np.inf if column.minimum is None else column.minimum
    high = np.inf if column.maximum is None else column.maximum
    return value is not None and not low <= value < high


def _positive_or_above(target: "Target") -> Broken:
    if target.kind != "binary" or (target.above is None) != (target.positive is None):
        return False
    return "there is neither" if target.above is None else "there are both"


# The tables


USE_CASE: Table["UseCase"] = (
    ("name", SAFE, lambda u, _: not SAFE_NAME.fullmatch(u.name), "rename it and its file"),
    ("columns", "name each column once", lambda u, _: _twice(c.name for c in u.columns), "remove one"),
    (
        "columns",
        "have one that the model is given",
        lambda u, _: all(_gives_no_input(c) for c in u.features) and "there is none (a timestamp needs parts)",
        "declare a feature",
    ),
    *(
        (field, "be declared", lambda u, _, field=field: _undeclared([getattr(u, field)], u), "mend its columns")
        for field in ("group", "time_column", "known_at_column")
    ),
    ("key", "be declared", lambda u, _: _undeclared(u.key, u), "mend its columns"),
    ("key", "name each column once", lambda u, _: _twice(u.key), "remove one"),
    ("key", "not hold the target's column", lambda u, _: u.target.column in u.key, "name what tells rows apart"),
    ("group", "not be the target's column", lambda u, _: u.group == u.target.column, "name another or none"),
    *(
        (
            field,
            "be of type timestamp",
            lambda u, _, field=field: _is_not_of_type(getattr(u, field), {"timestamp"}, u),
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
    (
        "schedule",
        "be a cron line of five fields that comes due",
        lambda u, _: u.schedule is not None and not _is_cron(u.schedule),
        "write one like '30 3 * * *', every night at 03:30",
    ),
    ("metric", "be one that its target has", lambda u, _: _unmeasured(u.metric, u), "choose one of them"),
    ("gates", "have one at least", lambda u, _: not u.gates, "add one: without any nothing is promoted"),
    ("gates", "have no two of one kind and metric", lambda u, _: _twice(gate.name for gate in u.gates), "remove one"),
    (
        "model",
        "fit its target",
        lambda u, _: (
            not (is_regressor if u.target.kind == "regression" else is_classifier)(u.model)
            and f"it is a {type(u.model).__name__} for {u.target.kind}"
        ),
        "use NetworkRegressor for a regression, NetworkClassifier for classes",
    ),
    ("side_tables", "have different names", lambda u, _: _twice(table.name for table in u.side_tables), "rename one"),
    (
        "side_tables",
        "take different columns",
        lambda u, _: _twice(name for table in u.side_tables for name in table.take),
        "rename one in its file",
    ),
    ("derive", "take one table of rows", lambda u, _: _cannot_be_called(u.derive), "define it with one argument"),
    ("derive", "return rows at once", lambda u, _: _is_asynchronous(u.derive), "define it with def, without yield"),
    ("demo", "take one folder", lambda u, _: _cannot_be_called(u.demo), "define it with one argument"),
    ("fields", "be plain data or functions of a file", lambda u, _: _has_no_digest(u), "mend the file"),
)

SOURCE: Table[Any] = (
    ("folder", PLAIN, lambda s, _: _is_no_plain_path(getattr(s, "folder", "")), IN_DATA),
    ("file", PLAIN, lambda s, _: _is_no_plain_path(getattr(s, "file", "")), IN_DATA),
    (
        "separator",
        "be one sign of ASCII that neither numbers, quotes nor line ends have",
        lambda s, _: not SEPARATOR.fullmatch(getattr(s, "separator", ",")),
        "write ',', ';', '\\t' or '|'",
    ),
    ("decimal", "be '.' or ','", lambda s, _: getattr(s, "decimal", ".") not in {".", ","}, "write one of the two"),
    (
        "thousands",
        "be left out, or one sign that neither is a digit nor parts fractions",
        lambda s, _: not THOUSANDS.fullmatch(getattr(s, "thousands", "")) or _parts_both(s),
        "write another, or remove it",
    ),
    (
        "encoding",
        "be one that Python knows",
        lambda s, _: not _is_encoding(getattr(s, "encoding", "utf-8")),
        "write utf-8, utf-16 or cp1252",
    ),
)

CALENDAR: Table[BusinessDays] = (
    ("weekdays", "name one at least", lambda c, _: not c.weekdays, "name those that have data"),
    ("weekdays", "be different", lambda c, _: _twice(c.weekdays), "remove one"),
    ("holidays", "be different", lambda c, _: _twice(map(str, c.holidays)), "remove one"),
)

COLUMN: Table[Column] = (
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
    ("values", "be different", lambda c, _: _twice(c.values), "remove one"),
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
    ("parts", "be different", lambda c, _: _twice(c.parts), "remove one"),
    ("feature", "be False for the target", lambda c, u: c.feature and c.name == u.target.column, "set feature=False"),
    ("example", "be of its column's type", lambda c, _: _is_no_example(c), "write a value of that type"),
)

TARGET: Table["Target"] = (
    ("column", "be declared", lambda t, u: _undeclared([t.column], u), "mend its columns"),
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
        lambda t, u: (t.above is not None or t.kind == "regression") and _is_not_of_type(t.column, NUMBERS, u),
        "set its type, or name another column",
    ),
    (
        "column",
        "be a text for `positive` or several classes",
        lambda t, u: (t.positive is not None or t.kind == "multiclass") and _is_not_of_type(t.column, {"text"}, u),
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

MODEL: Table[NetworkEstimator] = (
    (
        "class_weight",
        "be left out of a regression",
        lambda m, u: u.target.kind == "regression" and m.class_weight is not None,
        "remove it",
    ),
    (
        "loss",
        "be 'mse' or left out in a regression",
        lambda m, u: u.target.kind == "regression" and m.loss == "cross_entropy",
        "remove it",
    ),
)

GATE: Table[Gate] = (
    ("metric", "be one that its target has", lambda g, u: _unmeasured(g.metric, u), "choose one of them"),
    ("why", "give the reason of its figure", lambda g, _: not g.why.strip(), "write a sentence"),
    (
        "metric",
        "be the use case's, by which the best constant and rule are chosen",
        lambda g, u: isinstance(g, Comparison) and g.opponent in BASELINES and g.metric != u.metric,
        "change one of the two",
    ),
    (
        "floor",
        "be a value that its metric can take",
        lambda g, _: isinstance(g, MinMetric) and not RANGES[g.metric][0] <= g.floor <= RANGES[g.metric][1],
        "mend it",
    ),
    (
        "opponent",
        f"be one of {', '.join(OPPONENTS)}",
        lambda g, _: g.opponent not in OPPONENTS,
        "mend the gate",
    ),
    (
        "opponent",
        "be there",
        lambda g, u: g.opponent == "rule" and _has_no_rule(u) and "of several classes, or without a number, no rule is",
        "remove the gate",
    ),
    (
        "_weigh",
        "be defined",
        lambda g, _: type(g)._weigh is Gate._weigh or getattr(type(g), "_decide", None) is Comparison._decide,
        "use one of the gates that the README lists",
    ),
)

SIDE_TABLE: Table["SideTable"] = (
    ("name", SAFE, lambda s, _: not SAFE_NAME.fullmatch(s.name), "rename it"),
    ("on", "name a column or more", lambda s, _: not s.on, "name what rows are joined on"),
    ("on", "name each column once", lambda s, _: _twice(s.on), "remove one"),
    ("take", "name a column or more", lambda s, _: not s.take, "name what rows get from it"),
    ("take", "not hold what it is joined on", lambda s, _: bool({*s.on} & {*s.take}), "remove that"),
    (
        "take",
        "name declared columns",
        lambda s, u: _undeclared([name for name in s.take if name not in _later_joined(s, u)], u),
        "declare them, or take less",
    ),
)
