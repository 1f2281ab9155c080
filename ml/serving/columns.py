"""The columns of a raw row: their names, types and declared limits."""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from pandas.api import types

EXACT = 2**53
ColumnType = Literal["number", "integer", "text", "timestamp"]
DatePart = Literal["hour", "weekday", "month"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One raw column.

    A number or integer becomes a standardised feature, a text (or `category=True`) a category with an unknown bucket,
    a timestamp the named `parts`. `feature=False` keeps the column out of the model. `example` is its value in the
    made-up row that comes with a model: needed where the rules refuse the one that is made up.
    """

    name: str
    type: ColumnType = "number"
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] = ()
    feature: bool = True
    category: bool = False
    parts: tuple[DatePart, ...] = ()
    sensitive: bool = False
    unit: str = ""
    example: str | float | None = None

    @property
    def is_category(self) -> bool:
        return self.category or self.type == "text"


def with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields read from JSON as a frozen dataclass wants them: lists become tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def wrong_type(column: Column, series: pd.Series) -> str | None:
    """The dtype seen, if the series cannot hold the declared type without loss; None if it can."""
    if _surely_holds(column, series):
        return None
    present = series.dropna()
    if present.empty:
        return None  # nulls have every type; whether they may be there is a rule's business
    accepted = {
        "number": types.is_numeric_dtype(series) and not types.is_bool_dtype(series),
        "integer": types.is_integer_dtype(series) or (types.is_float_dtype(series) and bool((present % 1 == 0).all())),
        "text": types.is_string_dtype(present),
        "timestamp": types.is_datetime64_dtype(series),  # one with a time zone would lose it
    }[column.type]
    if accepted and column.type == "integer" and bool((present.abs() > EXACT).any()):
        return f"{series.dtype} over 2**53, which float64 cannot tell apart (declare it text)"
    return None if accepted else str(series.dtype)


def _surely_holds(column: Column, series: pd.Series) -> bool:
    """Seen from the dtype alone; where it is not, values are looked at."""
    if column.type == "number":
        return bool(series.dtype == "float64")
    if column.type == "text":
        return isinstance(series.dtype, pd.StringDtype)
    return column.type == "timestamp" and types.is_datetime64_dtype(series)


def conform(frame: pd.DataFrame, columns: tuple[Column, ...]) -> pd.DataFrame:
    """The declared columns in their order and with one dtype a type: float64, str or datetime64[us]."""
    return pd.DataFrame({column.name: _typed(column, frame[column.name]) for column in columns}, index=frame.index)


def _typed(column: Column, series: pd.Series) -> pd.Series:
    if series.dtype == object and series.isna().all():
        series = pd.Series(None, index=series.index, dtype=object)  # NaN and NA among objects make no timestamps
    if column.type == "text":
        return series.astype("str")
    if column.type == "timestamp":
        return series.astype("datetime64[us]")
    return series.astype("float64")
