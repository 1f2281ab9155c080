"""Checks the declarations in a use case's file: the first mistake raises a ConfigError that names its place and field.

The type and the bounds of a field are type hints, which pydantic checks strictly. Demands on several fields together
are rows of tables; each table stands in the package that owns the fields.
"""

import functools
import inspect
import re
import types
from typing import Any, TypeVar, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ml.declarations import Demands, is_estimator
from ml.errors import ConfigError

T = TypeVar("T")
W = TypeVar("W")

NEXT_STEPS: dict[tuple[str, type], str] = {
    ("tuple_type", str): "write it with brackets and a comma, like ('id',)",
    ("tuple_type", list): "write it with ( ) instead of [ ]",
    ("int_type", str): "write it without quotes",
    ("float_type", str): "write it without quotes",
    ("date_type", str): "write it like date(2013, 10, 1)",
}
# Of fields that take values of several types, or of a class that has many kinds.
CHOICES = {
    "calendar": "write one of them, BusinessDays(weekdays=..., holidays=...), or a tuple of dates",
    "source": "write Source(...), FileSource(...), DatabaseSource(...) or one of a class that inherits from DaySource",
    "model": "write an estimator of ml, like Trees(), 'auto', or ScikitLearn(...) around an unfitted one",
    "estimator": "write an unfitted estimator of scikit-learn, with its brackets, like LogisticRegression()",
}


def refuse(table: Demands[T, W], part: T, whole: W, place: str) -> None:
    """Raises ConfigError for the first demand of the table that this part of the use case does not meet."""
    for field, must, is_broken, next_step in table:
        broken = is_broken(part, whole)
        if broken:
            value = broken if isinstance(broken, str) else f"it is {_short(getattr(part, field))}"
            raise ConfigError(f"{field} of {place} must {must}", value, next_step)


def refuse_types(part: Any, place: str) -> None:
    """Raises ConfigError for the first field whose value has the wrong type or is out of its bounds."""
    names, hints = _hints(part.__class__)
    try:
        hints.validate_python(tuple(getattr(part, name) for name in names))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        position, *inner = first["loc"]
        name = names[int(position)]
        field = name + "".join(f"[{index}]" for index in inner if not _is_of_union(index))
        must = re.sub(r"^\w+ should", "must", first["msg"])
        next_step = CHOICES.get(name) or NEXT_STEPS.get((first["type"], type(first["input"])), "mend the file")
        raise ConfigError(f"{field} of {place} {must}", f"it is {_short(first['input'])}", next_step) from error


def _is_of_union(index: int | str) -> bool:
    """Whether this step of an error's place names one of several allowed types, and no position in the value."""
    return "[" in str(index)


@functools.cache
def _hints(kind: type) -> tuple[tuple[str, ...], TypeAdapter[Any]]:
    """The names of a part's fields, and the adapter that checks all their values together as one tuple."""
    hinted: Any = cast(Any, kind).__init__ if is_estimator(kind) else kind
    names = set(inspect.signature(kind).parameters)
    hints = {name: hint for name, hint in get_type_hints(hinted, include_extras=True).items() if name in names}
    together: Any = types.GenericAlias(tuple, tuple(hints.values()))
    strict = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    return tuple(hints), TypeAdapter(together, config=strict)


def _short(value: object) -> str:
    return " ".join(repr(value).split())[:80]
