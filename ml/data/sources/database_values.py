"""Values as a database's driver gives them: the time that a value means, and the exact Arrow type of a column.

A column whose values fit no single plain type is refused (OddColumn), and so is a time that is none (NoTime).
"""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pandas as pd
import pyarrow as pa

from ml.serving.columns import Column, days_of, typed

ISO = re.compile(
    r"(\d{4})-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)? *(?:Z|[+-]\d{2}(?::?\d{2})?)?)?", re.ASCII
)
MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}  # by a column's declared unit
PLAIN = {bool, int, float, Decimal, str, bytes, datetime, date, time}
TOGETHER = ({int, float}, {Decimal, int}, {Decimal, float})  # pairs of types that may stand in one column
OUTSIDE = "outside"  # stands for a time whose year Python does not know


class OddColumn(ValueError):
    """No single plain type holds the values; the message names their types."""


def array_of(values: list[Any]) -> pa.Array:
    """The values in the exact type in which they came. Raises OddColumn if they have no single plain type."""
    values = [_plain(value) for value in values]
    kinds = {type(value) for value in values if value is not None}
    zoned = {value.tzinfo is not None for value in values if isinstance(value, datetime)}
    if len(zoned) > 1:
        raise OddColumn("times with and without a zone")
    if not kinds <= PLAIN or (len(kinds) > 1 and kinds not in TOGETHER):
        raise OddColumn(" and ".join(sorted(kind.__name__ for kind in kinds)))
    if kinds == {Decimal, float}:
        values = [None if value is None else float(value) for value in values]
    try:
        return pa.array(values, _arrow_type(kinds, zoned))
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        raise OddColumn(" and ".join(sorted(kind.__name__ for kind in kinds))) from None


def _arrow_type(kinds: set[type], zoned: set[bool]) -> pa.DataType | None:
    """The type of times, for which pyarrow would only look at the first value; None if pyarrow looks at all values."""
    return pa.timestamp("us", "UTC" if zoned == {True} else None) if kinds == {datetime} else None


def _plain(value: Any) -> Any:
    """The value in a plain type if there is one for it: NaN becomes null, and a UUID a text."""
    if isinstance(value, Decimal) and not value.is_finite():
        return None if value.is_nan() else float(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    return value


class NoTime(ValueError):
    """A value is no time; `kind` is its type."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind.__name__)
        self.kind = kind


def days_of_values(values: list[Any], unit: str, time_zone: str) -> list[str | None]:
    """The day of each time, like 2024-01-31, by the same rules as a night's.

    It is None if there is no time, or if its year is one that names no file. Raises NoTime if a value is no time.
    """
    moments = [None if value is None else _time_of(value, unit) for value in values]
    zoned = [None if moment is None or moment.tzinfo is None else moment for moment in moments]
    plain = [None if moment is None or moment.tzinfo is not None else moment for moment in moments]
    days = (days_of(_typed(times, zone, time_zone)) for times, zone in ((plain, None), (zoned, "UTC")))
    without_zone, with_zone = days
    return [None if pd.isna(day) else day for day in without_zone.fillna(with_zone)]


def _time_of(value: Any, unit: str) -> datetime | None:
    moment = moment_of(value, unit)
    if moment is None:
        raise NoTime(type(value))
    return moment if isinstance(moment, datetime) else None


def _typed(times: list[datetime | None], zone: str | None, time_zone: str) -> pd.Series:
    """The times in the form in which a night reads them."""
    array = pd.arrays.ArrowExtensionArray(pa.array(times, pa.timestamp("us", zone)))
    return typed(Column(name="time", type="timestamp"), pd.Series(array), time_zone)


def as_times(values: list[Any], unit: str) -> list[Any]:
    """Texts, days and numbers with a unit as times; if one of the values is no time, all of them as they are."""
    moments = [None if value is None else moment_of(value, unit) for value in values]
    are_times = all(
        isinstance(moment, datetime) or value is None for value, moment in zip(values, moments, strict=True)
    )
    return moments if are_times else values


def moment_of(value: Any, unit: str) -> datetime | str | None:
    """The time that a database's value means; OUTSIDE if Python does not know its year, None if it is no time.

    `unit`: what a number counts since 1970; empty if numbers are no times.
    """
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    if isinstance(value, str):
        return _moment_of_text(value.strip())
    if unit not in MICROSECONDS or isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    with suppress(OverflowError, ValueError):
        count = value // 1000 if unit == "ns" else value
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(count * MICROSECONDS[unit]))
    return OUTSIDE


def _moment_of_text(text: str) -> datetime | str | None:
    match = ISO.fullmatch(text)
    if match is None:
        return None
    if match[1] == "0000":
        return OUTSIDE
    with suppress(ValueError):
        return datetime.fromisoformat(text.replace(",", ".").replace(" +", "+").replace(" -", "-").replace(" Z", "Z"))
    return None
