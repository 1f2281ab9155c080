"""Typed data rules and their vectorised masks.

A mask is True where a row breaks its rule; nulls are judged by NotNull alone, as Great Expectations does.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .columns import with_tuples

Mask: TypeAlias = NDArray[np.bool_]
LARGEST = 1e100  # the square of a larger number, or the sum of many squares, leaves float64
FIRST_YEAR, LAST_YEAR = 1900, 2199
Scope = Literal["row", "partition", "snapshot"]
Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A claim about a frame: of raw rows, or of facts about partitions or a snapshot."""

    scope: Scope = "row"
    severity: Severity = "error"
    columns_used: ClassVar[tuple[str, ...]] = ("column",)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rule reads."""
        return tuple(getattr(self, name) for name in self.columns_used)

    @property
    def sentence(self) -> str:
        raise NotImplementedError

    def unexpected(self, frame: pd.DataFrame) -> Mask:
        """(rows,) True where the row breaks the rule."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NotNull(Rule):
    column: str

    @property
    def sentence(self) -> str:
        return f"{self.column} is present"

    def unexpected(self, frame: pd.DataFrame) -> Mask:
        return frame[self.column].isna().to_numpy(bool)


@dataclass(frozen=True, kw_only=True)
class Between(Rule):
    column: str
    minimum: float | None = None
    maximum: float | None = None

    @property
    def sentence(self) -> str:
        if self.maximum is None:
            return f"{self.column} is at least {self.minimum:g}"
        if self.minimum is None:
            return f"{self.column} is at most {self.maximum:g}"
        return f"{self.column} lies between {self.minimum:g} and {self.maximum:g}"

    def unexpected(self, frame: pd.DataFrame) -> Mask:
        values = frame[self.column].to_numpy(np.float64, na_value=np.nan)
        low = -np.inf if self.minimum is None else self.minimum
        high = np.inf if self.maximum is None else self.maximum
        return (values < low) | (values > high)


@dataclass(frozen=True, kw_only=True)
class Finite(Rule):
    """The number is no infinity, which a division by zero leaves, and not so large that its square would be one."""

    column: str
    minimum: ClassVar[float] = -LARGEST
    maximum: ClassVar[float] = LARGEST

    @property
    def sentence(self) -> str:
        return f"{self.column} is finite (within {LARGEST:g})"

    def unexpected(self, frame: pd.DataFrame) -> Mask:
        return np.abs(frame[self.column].to_numpy(np.float64, na_value=np.nan)) > LARGEST


@dataclass(frozen=True, kw_only=True)
class InYears(Rule):
    """The time is of a year in which things happen: 0001, 1816 or 9999 is a mistake or stands for something else."""

    column: str
    first: int = FIRST_YEAR
    last: int = LAST_YEAR

    @property
    def sentence(self) -> str:
        return f"{self.column} is a time of the years {self.first} to {self.last}"

    @property
    def minimum(self) -> str:
        return f"{self.first}-01-01T00:00:00"

    @property
    def maximum(self) -> str:
        return f"{self.last}-12-31T23:59:59.999999"

    def unexpected(self, frame: pd.DataFrame) -> Mask:
        times = frame[self.column]
        return ((times < pd.Timestamp(self.minimum)) | (times > pd.Timestamp(self.maximum))).to_numpy(bool)


@dataclass(frozen=True, kw_only=True)
class InSet(Rule):
    column: str
    values: tuple[str, ...]

    @property
    def sentence(self) -> str:
        return f"{self.column} is one of {', '.join(self.values)}"

    def unexpected(self, frame: pd.DataFrame) -> Mask:
        series = frame[self.column]
        return (series.notna() & ~series.isin(self.values)).to_numpy(bool)


@dataclass(frozen=True, kw_only=True)
class Matches(Rule):
    """The text holds the regular expression, as `re.search` finds it."""

    column: str
    pattern: str

    @property
    def sentence(self) -> str:
        return f"{self.column} matches {self.pattern}"

    def unexpected(self, frame: pd.DataFrame) -> Mask:
        series = frame[self.column].astype("object")
        found = series.astype("str").str.contains(self.pattern, regex=True).to_numpy(bool)
        return series.notna().to_numpy(bool) & ~found


@dataclass(frozen=True, kw_only=True)
class NotBelow(Rule):
    """`column` is at least `other`, where both are present."""

    column: str
    other: str
    columns_used: ClassVar[tuple[str, ...]] = ("column", "other")

    @property
    def sentence(self) -> str:
        return f"{self.column} is not below {self.other}"

    def unexpected(self, frame: pd.DataFrame) -> Mask:
        return (frame[self.column] < frame[self.other]).to_numpy(bool)


@dataclass(frozen=True, kw_only=True)
class UniqueKey(Rule):
    """No two rows share the key: every row of a clash is unexpected, for nobody knows which one is right."""

    key: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.key

    @property
    def sentence(self) -> str:
        return f"({', '.join(self.key)}) is unique"

    def unexpected(self, frame: pd.DataFrame) -> Mask:
        key = frame[list(self.key)]
        return (key.duplicated(keep=False) & key.notna().all(axis=1)).to_numpy(bool)


RULE_TYPES: dict[str, type[Rule]] = {
    t.__name__: t for t in (NotNull, Between, Finite, InYears, InSet, Matches, NotBelow, UniqueKey)
}


def first_broken(rules: Iterable[Rule], frame: pd.DataFrame) -> pd.Series:
    """(rows,) the sentence of the first row rule of severity error that the row breaks, None where it breaks none."""
    broken = pd.Series(np.full(len(frame), None, dtype=object), index=frame.index)
    for rule in rules:
        if rule.scope == "row" and rule.severity == "error":
            broken[rule.unexpected(frame) & broken.isna().to_numpy(bool)] = rule.sentence
    return broken


def rule_to_dict(rule: Rule) -> dict[str, Any]:
    return {"type": type(rule).__name__, **asdict(rule)}


def rule_from_dict(fields: dict[str, Any]) -> Rule:
    """Inverse of `rule_to_dict`; KeyError for an unknown type."""
    values = with_tuples(fields)
    return RULE_TYPES[str(values.pop("type"))](**values)
