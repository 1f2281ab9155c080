"""What a use case is: one typed object that says what to learn, from which rows, and what a model must prove.

A use case is a file `ml/use_cases/<name>.py`, or `<RETRAIN_PROJECT>/use_cases/<name>.py`, that defines `USE_CASE`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pandas as pd
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ml.data.calendars import Calendar
from ml.data.dataset import SideTable, Target
from ml.data.declared_sources import DatabaseSource, FileSource, Source, Text
from ml.digests import digest_value
from ml.evaluation.gates import Gate
from ml.models.networks.estimators import NetworkEstimator
from ml.serving.columns import Column
from ml.serving.rules import LARGEST, LAST_YEAR, Between, Finite, InSet, InYears, NotNull, Rule, UniqueKey
from ml.use_case.declaration import NUMBERS, refuse_impossible
from ml.use_case.operation import Retention

Days = Annotated[int, Field(ge=1, le=36_500)]


Fraction = Annotated[float, Field(ge=0, le=1)]


OPERATIONAL = {  # decide no result
    "schedule", "replay_from", "missed_nights", "missed_within_days", "retention", "on_inconclusive",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """One thing to learn.

    Days: `window_days` back from the last due day (as_of - label_delay_days - 1) are used, the last `test_days` as
    test, the `validation_days` before as validation; up to `max_missing_days` may be missing or unusable. `calendar`
    says which days have data (ml/calendars.py): only those are due, and test and validation count them. Rows: a day
    has at least `min_rows` after at most `max_quarantined_fraction` were set aside, and at most `max_unseen_fraction`
    of a column's categories are ones that no day before had (ml/meaning.py; 1 judges none); a number is clipped at
    `outlier_std` standard deviations; a category seen on fewer than `rare_below` train rows is unknown. `derive`
    turns a partition's source rows into rows with more columns: each has a number in `row__`, and must come back with
    it once. `key` names the columns that tell rows apart; where it is empty, equal rows are different ones. `group`
    names what rows depend on together: without time, a group lies in one part of the split. `replay_from` makes
    scheduled nights walk through old data, from that date on. `missed_nights` says which of the nights are made up for
    that came while the machine was down, `missed_within_days` how old they may be. `on_inconclusive` says whether the
    champion just stays where gates cannot tell, or an operator is asked. `question` is the title of reports; `demo`
    writes example data.
    """

    name: str
    question: Text
    source: Source | FileSource | DatabaseSource
    columns: tuple[Column, ...]
    target: Target
    key: tuple[str, ...]
    model: NetworkEstimator
    gates: tuple[Gate, ...]
    metric: str
    group: str | None = None
    side_tables: tuple[SideTable, ...] = ()
    derive: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    time_column: str | None = None
    time_zone: str = "UTC"
    known_at_column: str | None = None
    window_days: Days = 365
    label_delay_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    test_days: Days = 28
    validation_days: Days = 14
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    outlier_std: PositiveFloat = 8.0
    rare_below: NonNegativeInt = 10
    max_quarantined_fraction: Fraction = 0.05
    max_unseen_fraction: Fraction = 0.5
    max_missing_days: NonNegativeInt = 3
    calendar: Calendar = "daily"
    min_rows: PositiveInt = 1
    schedule: str | None = None
    replay_from: date | None = None
    missed_nights: Literal["latest", "skip", "all"] = "latest"
    missed_within_days: PositiveInt = 7
    on_inconclusive: Literal["keep", "ask"] = "keep"
    retention: Retention = Retention()
    demo: Callable[[Path], None] | None = None

    def __post_init__(self) -> None:
        refuse_impossible(self)

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns of a raw row that the model is given."""
        return tuple(column for column in self.columns if column.feature)

    @property
    def dated(self) -> bool:
        return self.time_column is not None

    @property
    def column_rules(self) -> tuple[Rule, ...]:
        """The row rules that the declared columns and the key imply."""
        rules = [rule for column in self.columns for rule in _rules_of(column, self.target)]
        unique = (UniqueKey(key=self.key),) if self.key else ()
        return (*rules, *self._time_rules, *unique)

    @property
    def _time_rules(self) -> Iterator[Rule]:
        """A time of known_at_column in the far future means that the row is not known yet."""
        for column in self.columns:
            if column.type == "timestamp":
                last = date.max.year if column.name == self.known_at_column else LAST_YEAR
                yield InYears(column=column.name, last=last)

    @property
    def reading_digest(self) -> str:
        """Digest of what decides how a partition's bytes become rows and labels, but for the rules."""
        names = ("source", "target", "time_column", "time_zone", "known_at_column", "derive", "side_tables")
        types = [[c.name, c.type, *_unit_of_time(c), *_newer(c)] for c in self.columns]
        return digest_value([types, {name: _plain(getattr(self, name)) for name in names}])

    @property
    def statistics_digest(self) -> str:
        """Digest of what decides which statistics are taken of rows."""
        fields = [[c.name, c.type, c.is_category, list(c.parts)] for c in self.features]
        return digest_value([fields, self.target.kind])

    @functools.cached_property
    def digest(self) -> str:
        """Digest of all that decides a result: functions count by their source, the estimator by its parameters."""
        return digest_value({name: value for name, value in _fields(self).items() if name not in OPERATIONAL})

    def today(self) -> date:
        return datetime.now(ZoneInfo(self.time_zone)).date()


def _rules_of(column: Column, target: Target) -> list[Rule]:
    rules: list[Rule] = []
    if not column.nullable and column.name != target.column:
        rules.append(NotNull(column=column.name))
    if column.minimum is not None or column.maximum is not None:
        rules.append(Between(column=column.name, minimum=column.minimum, maximum=column.maximum))
    if column.type in NUMBERS and not _is_bounded(column):
        rules.append(Finite(column=column.name))
    if values := _values_of(column, target):
        rules.append(InSet(column=column.name, values=values))
    return rules


def _is_bounded(column: Column) -> bool:
    """Whether its limits alone refuse what is not finite."""
    limits = (column.minimum, column.maximum)
    return all(limit is not None and abs(limit) <= LARGEST for limit in limits)


def _values_of(column: Column, target: Target) -> tuple[str, ...]:
    """What a text may be. A label of no declared class is not a missing one: it breaks the rule."""
    return target.classes if column.name == target.column and target.kind == "multiclass" else column.values


# What digests have always held, whatever its value. A field that came later is left out where it has its default, so
# that models which were judged before it came stay comparable.
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
}


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a part of a use case, in JSON's types, without later ones that have their default."""
    defaults = _defaults(type(value))
    fields = {name: _plain(getattr(value, name)) for name in defaults}
    newer = {name for name in fields if not _stood_always(type(value), name)}
    return {name: field for name, field in fields.items() if name not in newer or field != _plain(defaults[name])}


def _unit_of_time(column: Column) -> list[str]:
    """It decides how numbers are read as times; of a number it is a word for people."""
    return [column.unit] if column.unit and column.type == "timestamp" else []


def _newer(column: Column) -> list[Any]:
    """What a column says by later fields: each may decide how its values are read."""
    found = {name: field for name, field in _fields(column).items() if not _stood_always(type(column), name)}
    return [found] if found else []


def _defaults(kind: type) -> dict[str, Any]:
    """Every field or parameter with its default; None where it has none."""
    if not dataclasses.is_dataclass(kind):
        return {name: each.default for name, each in inspect.signature(kind).parameters.items()}
    made = {f.name: f.default_factory() for f in dataclasses.fields(kind) if callable(f.default_factory)}
    plain = {f.name: None if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(kind)}
    return plain | made


def _stood_always(kind: type, name: str) -> bool:
    """A field of a company's own class stands in every digest."""
    for owner in kind.__mro__:
        if name in ALWAYS.get(owner.__name__, "").split():
            return True
        if name in vars(owner).get("__annotations__", {}) or name in _parameters(owner):
            return owner.__module__.partition(".")[0] != "ml"
    return True


def _parameters(kind: type) -> list[str]:
    """Those of an estimator's own __init__."""
    own = vars(kind).get("__init__") if issubclass(kind, NetworkEstimator) else None
    return list(inspect.signature(own).parameters) if own else []


def _plain(value: Any) -> Any:
    """A JSON form of any field of a use case."""
    if isinstance(value, NetworkEstimator):
        return {"estimator": type(value).__name__, **_fields(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **_fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if callable(value):
        return inspect.getsource(value)
    return value
