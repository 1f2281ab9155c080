"""What a use case says about its data: where rows come from, what they mean, which days are used, what is too odd.

A UseCase is a Dataset, so that functions of this package take the part that they need: a Reading, a Table, or all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ml.data.calendars import Calendar
from ml.data.declared_sources import DatabaseSource, FileSource, Source
from ml.declarations import later_fields, plain, plain_fields
from ml.digests import digest_value
from ml.serving.columns import Column
from ml.serving.output import TaskKind
from ml.serving.rules import LARGEST, LAST_YEAR, Between, Finite, InSet, InYears, NotNull, Rule, UniqueKey

Days = Annotated[int, Field(ge=1, le=36_500)]
Fraction = Annotated[float, Field(ge=0, le=1)]

ROW = "row__"  # the column by which `derive` tells rows apart
NUMBERS = {"number", "integer"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is predicted, by constants that no window changes.

    Binary: the second of `classes` holds where the column is over `above`, or equals `positive`. Multiclass: the column
    holds a class name. Regression: the column's value in `unit`; `log=True` learns its logarithm.
    """

    column: str
    kind: TaskKind = "binary"
    above: float | None = None
    positive: str | None = None
    classes: tuple[str, ...] = ()
    log: bool = False
    unit: str = ""

    def labels(self, series: pd.Series) -> NDArray[np.float64]:
        """(rows,) float64: class index or value; NaN where the row has no label."""
        if self.kind == "regression":
            return series.to_numpy(np.float64)
        if self.kind == "multiclass":
            codes = pd.Index(self.classes).get_indexer(pd.Index(series.astype("object"))).astype(np.float64)
            return np.where(codes < 0, np.nan, codes)
        holds = series > self.above if self.above is not None else series == self.positive
        return np.where(series.isna(), np.nan, holds.astype(np.float64))

    @property
    def digest(self) -> str:
        return digest_value(plain_fields(self))


@dataclass(frozen=True, kw_only=True)
class SideTable:
    """A table joined to the rows on `on`, `take` being added to them; a dated one is joined day by day."""

    name: str
    source: Source | FileSource | DatabaseSource
    on: tuple[str, ...]
    take: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What decides how the bytes of a partition become rows and labels, but for the rules.

    `derive` turns a partition's source rows into rows with more columns: each has a number in `row__`, and must come
    back with it once.
    """

    source: Source | FileSource | DatabaseSource
    columns: tuple[Column, ...]
    target: Target
    side_tables: tuple[SideTable, ...] = ()
    derive: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    time_column: str | None = None
    time_zone: str = "UTC"
    known_at_column: str | None = None

    @property
    def dated(self) -> bool:
        return self.time_column is not None

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns of a raw row that the model is given."""
        return tuple(column for column in self.columns if column.feature)

    @property
    def reading_digest(self) -> str:
        """Digest of all of it; of columns their types alone."""
        types = [[c.name, c.type, *_unit_of_time(c), *_later(c)] for c in self.columns]
        others = [field.name for field in fields(Reading) if field.name != "columns"]
        return digest_value([types, {name: plain(getattr(self, name)) for name in others}])

    @property
    def statistics_digest(self) -> str:
        """Digest of what decides which statistics are taken of rows."""
        taken = [[c.name, c.type, c.is_category, list(c.parts)] for c in self.features]
        return digest_value([taken, self.target.kind])

    def today(self) -> date:
        return datetime.now(ZoneInfo(self.time_zone)).date()


@dataclass(frozen=True, kw_only=True)
class Table(Reading):
    """Rows that can be told apart.

    `key` names the columns that tell rows apart; where it is empty, equal rows are different ones. `group` names what
    rows depend on together: without time, a group lies in one part of the split.
    """

    name: str
    key: tuple[str, ...]
    group: str | None = None

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


@dataclass(frozen=True, kw_only=True)
class UsedDays:
    """Which days are used: `window_days` back from the last due day (as_of - label_delay_days - 1).

    The last `test_days` are test, the `validation_days` before are validation; up to `max_missing_days` may be missing
    or unusable. `calendar` says which days have data (`ml.data.calendars`): only those are due, and test and validation
    count them. Without time, `seed` decides which part a row belongs to.
    """

    window_days: Days = 365
    label_delay_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    test_days: Days = 28
    validation_days: Days = 14
    max_missing_days: NonNegativeInt = 3
    calendar: Calendar = "daily"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is too odd or too little. A day has at least `min_rows` after at most `max_quarantined_fraction` were set
    aside, and at most `max_unseen_fraction` of a column's categories are ones that no day before had
    (`ml.data.meaning`; 1 judges none); a number is clipped at `outlier_std` standard deviations; a category seen on
    fewer than `rare_below` train rows is unknown."""

    outlier_std: PositiveFloat = 8.0
    rare_below: NonNegativeInt = 10
    max_quarantined_fraction: Fraction = 0.05
    max_unseen_fraction: Fraction = 0.5
    min_rows: PositiveInt = 1


@dataclass(frozen=True, kw_only=True)
class Dataset(Table, UsedDays, Limits):
    """All that the stages of data need to know."""


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


def _unit_of_time(column: Column) -> list[str]:
    """It decides how numbers are read as times; of a number it is a word for people."""
    return [column.unit] if column.unit and column.type == "timestamp" else []


def _later(column: Column) -> list[dict[str, object]]:
    later = later_fields(column)
    return [later] if later else []
