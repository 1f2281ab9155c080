"""What a use case may say: the first thing that it may not is a ConfigError that names the use case and the field.

Types and bounds stand beside the fields, as hints that pydantic judges strictly. What fields must be together stands in
the tables of the packages that own them.
"""

import functools
import inspect
import re
import types
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from cronsim import CronSim, CronSimError
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ml.data.demands import COLUMN, DATASET, SIDE_TABLE, SOURCE, TARGET
from ml.declarations import Broken, Demands, cannot_be_called, is_estimator, twice
from ml.errors import ConfigError
from ml.evaluation.demands import GATE
from ml.models.demands import MODEL, RECIPE

if TYPE_CHECKING:
    from ml.use_case.definition import UseCase

T = TypeVar("T")

SOURCES = ("Source", "FileSource", "DatabaseSource")  # pydantic names which of them a value is not
NEXT_STEPS: dict[tuple[str, type], str] = {
    ("tuple_type", str): "write it with brackets and a comma, like ('id',)",
    ("tuple_type", list): "write it with ( ) instead of [ ]",
    ("int_type", str): "write it without quotes",
    ("float_type", str): "write it without quotes",
    ("date_type", str): "write it like date(2013, 10, 1)",
}


def refuse_impossible(use_case: "UseCase") -> None:
    """Raises ConfigError for the first field of the use case, or of a part of it, that could only fail in a night."""
    _refuse_types(use_case, f"the use case {use_case.name}")
    for place, part, _ in _parts(use_case):
        _refuse_types(part, place)
    for table in (DATASET, RECIPE, USE_CASE):
        _refuse(table, use_case, use_case, f"the use case {use_case.name}")
    for place, part, table in _parts(use_case):
        _refuse(table, part, use_case, place)


def _parts(use_case: "UseCase") -> Iterator[tuple[str, Any, Demands[Any, Any]]]:
    """Everything that a use case is made of: its name in sentences, itself, and what it must be."""
    name = use_case.name
    yield f"the source of {name}", use_case.source, SOURCE
    yield from ((f"column {column.name} of {name}", column, COLUMN) for column in use_case.columns)
    yield f"the target of {name}", use_case.target, TARGET
    yield f"the model of {name}", use_case.model, MODEL
    yield from ((f"the gate {gate.name} of {name}", gate, GATE) for gate in use_case.gates)
    for side in use_case.side_tables:
        yield f"side table {side.name} of {name}", side, SIDE_TABLE
        yield f"the source of side table {side.name} of {name}", side.source, SOURCE


def _refuse(table: Demands[T, Any], part: T, use_case: "UseCase", place: str) -> None:
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
        field = names[int(position)] + "".join(f"[{index}]" for index in inner if index not in SOURCES)
        must = re.sub(r"^\w+ should", "must", first["msg"])
        next_step = NEXT_STEPS.get((first["type"], type(first["input"])), "mend the file")
        raise ConfigError(f"{field} of {place} {must}", f"it is {_short(first['input'])}", next_step) from error


@functools.cache
def _hints(kind: type) -> tuple[tuple[str, ...], TypeAdapter[Any]]:
    """Names of a part's fields, and what judges all of their values as one tuple."""
    hinted: Any = cast(Any, kind).__init__ if is_estimator(kind) else kind
    names = set(inspect.signature(kind).parameters)
    hints = {name: hint for name, hint in get_type_hints(hinted, include_extras=True).items() if name in names}
    together: Any = types.GenericAlias(tuple, tuple(hints.values()))
    strict = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    return tuple(hints), TypeAdapter(together, config=strict)


def _short(value: object) -> str:
    return " ".join(repr(value).split())[:80]


def _is_cron(line: str) -> bool:
    """What both cronsim and Prefect's croniter read: neither seconds nor the last weekday of a month."""
    try:
        CronSim(line, datetime(2024, 1, 1))
    except CronSimError:
        return False
    return len(line.split()) == 5 and re.search(r"[0-9L][LW]", line.upper()) is None


def _has_no_digest(use_case: "UseCase") -> Broken:
    try:
        return not use_case.digest
    except (TypeError, ValueError, OSError) as error:
        return f"one is not ({error})"


USE_CASE: Demands["UseCase", "UseCase"] = (
    ("gates", "have one at least", lambda u, _: not u.gates, "add one: without any nothing is promoted"),
    ("gates", "have no two of one kind and metric", lambda u, _: twice(gate.name for gate in u.gates), "remove one"),
    (
        "schedule",
        "be a cron line of five fields that comes due",
        lambda u, _: u.schedule is not None and not _is_cron(u.schedule),
        "write one like '30 3 * * *', every night at 03:30",
    ),
    ("demo", "take one folder", lambda u, _: cannot_be_called(u.demo), "define it with one argument"),
    ("fields", "be plain data or functions of a file", lambda u, _: _has_no_digest(u), "mend the file"),
)
