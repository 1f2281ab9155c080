"""What a use case says about its data: where rows come from, what they mean, which days are used, what is too odd.

A UseCase is a Dataset. The functions of this package take the part that they need: a Reading, a Table, UsedDays,
Limits, or the whole Dataset. Which values are allowed together stands in `ml.data.demands`.
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
from ml.data.source_kinds import RowSource
from ml.declarations import later_fields, plain, plain_fields
from ml.digests import digest_value
from ml.serving.columns import Column
from ml.serving.output import TaskKind
from ml.serving.rules import LARGEST, LAST_YEAR, Between, Finite, InSet, InYears, NotNull, Rule, UniqueKey

Days = Annotated[int, Field(ge=1, le=36_500)]
Fraction = Annotated[float, Field(ge=0, le=1)]

ROW = "row__"  # the column with the row numbers that `derive` must return
NUMBERS = {"number", "integer"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is predicted. It is defined by constants, which no window of days changes.

    Binary: a row is of the second of `classes` if the column is over `above`, or equals `positive`. Multiclass: the
    column holds the name of a class. Regression: the column holds the value, in `unit`; `log=True` learns its
    logarithm.
    """

    column: str
    kind: TaskKind = "binary"
    above: float | None = None
    positive: str | None = None
    classes: tuple[str, ...] = ()
    log: bool = False
    unit: str = ""

    def labels(self, series: pd.Series) -> NDArray[np.float64]:
        """(rows,) float64: the index of the class, or the value; NaN if the row has no label."""
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
    """A table that is joined to the rows on the columns `on` and gives them the columns `take`.

    A table with days is joined day by day.
    """

    name: str
    source: RowSource
    on: tuple[str, ...]
    take: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All that decides how the bytes of a partition become rows and labels, except for the rules.

    `derive` turns a partition's source rows into rows with more columns. Each row has a number in the column `row__`,
    and must come back once with that number.
    """

    source: RowSource
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
        """The columns of a raw row that the model gets."""
        return tuple(column for column in self.columns if column.feature)

    @property
    def reading_digest(self) -> str:
        """Digest of all fields of a Reading.

        Columns count with their name and type, and with fields that came later.
        """
        types = [[c.name, c.type, *_unit_of_time(c), *_later(c)] for c in self.columns]
        others = [field.name for field in fields(Reading) if field.name != "columns"]
        return digest_value([types, {name: plain(getattr(self, name)) for name in others}])

    @property
    def statistics_digest(self) -> str:
        """Digest of what decides which statistics are computed from rows."""
        taken = [[c.name, c.type, c.is_category, list(c.parts)] for c in self.features]
        return digest_value([taken, self.target.kind])

    def today(self) -> date:
        """The date of this moment in the use case's time zone."""
        return datetime.now(ZoneInfo(self.time_zone)).date()


@dataclass(frozen=True, kw_only=True)
class Table(Reading):
    """Rows that can be told apart.

    `key` names the columns that tell rows apart. If it is empty, equal rows count as different rows. `group` names the
    column whose rows depend on each other: without time, a group lies in one part of the split.
    """

    name: str
    key: tuple[str, ...]
    group: str | None = None

    @property
    def column_rules(self) -> tuple[Rule, ...]:
        """The row rules that follow from the declared columns and the key."""
        rules = [rule for column in self.columns for rule in _rules_of(column, self.target)]
        unique = (UniqueKey(key=self.key),) if self.key else ()
        return (*rules, *self._time_rules, *unique)

    @property
    def _time_rules(self) -> Iterator[Rule]:
        """Times must lie in years that the project works with.

        In `known_at_column` the far future is allowed: it means that the row is not known yet.
        """
        for column in self.columns:
            if column.type == "timestamp":
                last = date.max.year if column.name == self.known_at_column else LAST_YEAR
                yield InYears(column=column.name, last=last)


@dataclass(frozen=True, kw_only=True)
class UsedDays:
    """Which days are used: `window_days` back from the last due day (as_of - label_delay_days - 1).

    The last `test_days` are test, the `validation_days` before them are validation. Up to `max_missing_days` due days
    may be missing or unusable. `calendar` says which days are due (`ml.data.calendars`); test and validation count
    these. Without time, `seed` decides which part a row belongs to.
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
    """What is too odd or too little.

    A day needs at least `min_rows` rows, after at most a share of `max_quarantined_fraction` was set aside. At most a
    share of `max_unseen_fraction` of its rows may have a category that no earlier day had (`ml.data.meaning`); 1 turns
    this off. The model clips a number at `outlier_std` standard deviations, and treats a category with fewer than
    `rare_below` train rows as unknown.
    """

    outlier_std: PositiveFloat = 8.0
    rare_below: NonNegativeInt = 10
    max_quarantined_fraction: Fraction = 0.05
    max_unseen_fraction: Fraction = 0.5
    min_rows: PositiveInt = 1


@dataclass(frozen=True, kw_only=True)
class Dataset(Table, UsedDays, Limits):
    """All that the stages of data need to know about a use case."""


def _rules_of(column: Column, target: Target) -> list[Rule]:
    """The row rules that follow from one column."""
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
    """Whether the column's limits already refuse values that are not finite."""
    limits = (column.minimum, column.maximum)
    return all(limit is not None and abs(limit) <= LARGEST for limit in limits)


def _values_of(column: Column, target: Target) -> tuple[str, ...]:
    """The values that a text may have.

    A label that is none of the declared classes breaks this rule: it is not missing.
    """
    return target.classes if column.name == target.column and target.kind == "multiclass" else column.values


def _unit_of_time(column: Column) -> list[str]:
    """The unit of a timestamp, which decides how numbers become times.

    The unit of a number is a word for people only.
    """
    return [column.unit] if column.unit and column.type == "timestamp" else []


def _later(column: Column) -> list[dict[str, object]]:
    """The column's fields that came later and are set, as a list of one or none."""
    later = later_fields(column)
    return [later] if later else []
