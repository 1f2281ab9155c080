"""What declarations (a use case and its parts) have in common: how they enter digests, and how demands are written.

They enter digests as plain values. A field that the project added later enters only if it is set, so that old digests
stay as they are. Demands on the fields stand in tables, one or more per package, with rows of: field, what it must be,
when it is broken, next step.
"""

import dataclasses
import inspect
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
W = TypeVar("W")
# What a check answers: False if all is well; a text that says what is wrong; True if the field's own value says it.
Broken: TypeAlias = bool | str
# Demands on a part. A check gets the part and the whole that it belongs to.
Demands: TypeAlias = tuple[tuple[str, str, Callable[[T, W], Broken], str], ...]

# The fields that digests have always held, whatever their value, by class. A field that came later is left out if it
# has its default, so that models that were judged before it came stay comparable.
ALWAYS = {
    "UseCase": "name question source columns target key model gates metric group side_tables derive time_column "
    "time_zone known_at_column window_days label_delay_days test_days validation_days seed outlier_std rare_below "
    "max_quarantined_fraction max_missing_days min_rows schedule replay_from missed_nights missed_within_days "
    "on_inconclusive retention demo",
    "Column": "name type nullable minimum maximum values feature category parts sensitive unit example",
    "Target": "column kind above positive classes log unit",
    "Source": "folder",
    "FileSource": "file time_column",
    "DatabaseSource": "database query time_column changed_column",
    "SideTable": "name source on take",
    "Retention": "versions state_days quarantine_days",
    "Gate": "metric why",
    "MinMetric": "floor",
    "NotWorse": "max_drop",
    "NetworkEstimator": "hidden activation loss optimizer learning_rate weight_decay batch_size epochs patience "
    "class_weight noise_std seed device",
    "Trees": "learning_rate rounds patience num_leaves min_child_samples class_weight monotone subsample "
    "colsample_bytree reg_lambda options",
    "EmbeddedNetwork": "members hidden embedding bins numbers cyclic target learning_rate weight_decay dropout "
    "batch_size epochs patience stopping class_weight label_smoothing noise_std mixup feature_dropout",
    "TabM": "members hidden embedding bins numbers cyclic target learning_rate weight_decay dropout batch_size epochs "
    "patience class_weight label_smoothing noise_std mixup feature_dropout",
}


def plain(value: Any) -> Any:
    """The JSON form of any field of a use case: an estimator by its parameters, a function by its source text."""
    if is_estimator(type(value)):
        fields = plain_fields(value)
        return {"class" if "estimator" in fields else "estimator": type(value).__name__, **fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **plain_fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):  # an array, or one of its numbers
        return plain(value.tolist())
    if callable(value):
        return _plain_callable(value)
    return value


def _plain_callable(value: Any) -> Any:
    """A function or a class by its source text, or by its name if it is written in C; an object with a `__call__` of
    Python by its fields. Raises TypeError for anything else."""
    if inspect.isfunction(type(value).__call__):
        return {"type": type(value).__name__, **{name: plain(field) for name, field in vars(value).items()}}
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        module, name = getattr(value, "__module__", None) or "", getattr(value, "__qualname__", "")
        if getattr(sys.modules.get(module), name, None) is not value:
            raise
        return f"{module}.{name}"


def plain_fields(value: Any) -> dict[str, Any]:
    """The fields of a declaration as plain values, without those that came later and have their default."""
    defaults = _defaults(type(value))
    later = {name for name in defaults if not _stood_always(type(value), name)}
    counted = [name for name in defaults if name not in later or getattr(value, name) is not defaults[name]]
    fields = {name: plain(getattr(value, name)) for name in counted}
    return {name: field for name, field in fields.items() if name not in later or field != plain(defaults[name])}


def later_fields(value: Any) -> dict[str, Any]:
    """The fields of a declaration that came later and are set, as plain values. Each may decide how it is used."""
    return {name: field for name, field in plain_fields(value).items() if not _stood_always(type(value), name)}


def is_estimator(kind: type) -> bool:
    """Whether the class is configured by the parameters of its __init__, as in scikit-learn."""
    return hasattr(kind, "get_params")


def _defaults(kind: type) -> dict[str, Any]:
    """The default of every field or parameter; None for a field that has none."""
    if not dataclasses.is_dataclass(kind):
        parameters = inspect.signature(kind).parameters.items()
        return {name: None if each.default is each.empty else each.default for name, each in parameters}
    made = {f.name: f.default_factory() for f in dataclasses.fields(kind) if callable(f.default_factory)}
    stated = {f.name: None if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(kind)}
    return stated | made


def _stood_always(kind: type, name: str) -> bool:
    """Whether a field stands in every digest: those in ALWAYS do, and all fields of a company's own class.

    A parameter of scikit-learn's own estimators stands in a digest only if it is set.
    """
    for owner in kind.__mro__:
        if name in ALWAYS.get(owner.__name__, "").split():
            return True
        if name in vars(owner).get("__annotations__", {}) or name in _parameters(owner):
            return owner.__module__.partition(".")[0] not in {"ml", "sklearn"}
    return True


def _parameters(kind: type) -> list[str]:
    """The parameters of an estimator's own __init__; none if it only inherits one."""
    own = vars(kind).get("__init__") if is_estimator(kind) else None
    return list(inspect.signature(own).parameters) if own else []


def twice(names: Iterable[str]) -> Broken:
    """The first name that is there more than once, in words; False if none is."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    return bool(repeated) and f"{repeated[0]!r} is there twice"


def cannot_be_called(function: Callable[..., object] | None) -> Broken:
    """Why the function cannot be called with one argument; False if it can, or if there is no function."""
    try:
        return function is not None and not inspect.signature(function).bind(None)
    except (TypeError, ValueError) as error:
        return f"Python says '{error}'"


def default_of(kind: type, field: str) -> object:
    """The default of a dataclass's field."""
    return {f.name: f.default for f in dataclasses.fields(kind)}[field]
