"""The columns of a raw row: their names, types and declared limits; and the one place where values get those types.

Nights, side tables, files to score and served models all give values their declared type here. A value that the type
cannot hold exactly is refused, because a conversion that loses something would go on as another value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

EXACT = 2**53  # float64 holds every integer up to here
FIRST_TIME, LAST_TIME = pd.Timestamp("0001-01-01"), pd.Timestamp("9999-12-31T23:59:59.999999")
FIRST_DATED, LAST_DATED = pd.Timestamp("1000-01-01"), pd.Timestamp("8000-01-01T23:59:59.999999")
DAY_ROUND = pd.Timedelta(days=1)
ENDS = tuple(int(time.asm8.view("i8")) for time in (FIRST_TIME, LAST_TIME))  # in microseconds
TIME_UNITS = ("s", "ms", "us", "ns")
MICROSECONDS = {"d": 86_400 * 10**6, "s": 10**6, "ms": 10**3, "us": 1}
NOT_COUNTED = "numbers are times where the column declares their unit: 's', 'ms', 'us' or 'ns'"
NOT_ISO = "not all in ISO 8601 like 2024-01-31T12:00:00, or not all with an offset"
TRUTHS = "true and false are 1 and 0 of a column that is declared integer"
TOO_WIDE = "over 2**53, which float64 cannot tell apart (declare it text)"
ColumnType = Literal["number", "integer", "text", "timestamp"]
DatePart = Literal["hour", "weekday", "month"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One raw column.

    A number or integer becomes a standardised feature, a text (or `category=True`) a category with an unknown bucket,
    a timestamp the named `parts`. `feature=False` keeps the column out of the model. `example` is its value in the
    made-up row that comes with a model: needed where the rules refuse the one that is made up. The `unit` of a
    timestamp, "s", "ms", "us" or "ns", says what numbers in it count since 1970; without it numbers are refused.
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


class WrongType(ValueError):
    """Values that the declared type cannot hold; the message says what they are instead."""


def with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields read from JSON as a frozen dataclass wants them: lists become tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def wrong_type(column: Column, series: pd.Series) -> str | None:
    """What the values are, if the declared type cannot hold them without loss; None if it can."""
    try:
        typed(column, series, "UTC")
    except WrongType as error:
        return str(error)
    return None


def conform(frame: pd.DataFrame, columns: tuple[Column, ...], time_zone: str | None = None) -> pd.DataFrame:
    """The declared columns in their order and with one dtype a type: float64, str or datetime64[us].

    Times with a zone become the wall clock's in `time_zone`. Raises WrongType where values would be lost, and for a
    time with a zone where no `time_zone` is given.
    """
    return pd.DataFrame(
        {column.name: typed(column, frame[column.name], time_zone) for column in columns}, index=frame.index
    )


def typed(column: Column, series: pd.Series, time_zone: str | None) -> pd.Series:
    """The values in the column's type, under the same index. Raises WrongType."""
    if column.type == "text":
        return _texts(series)
    if column.type == "timestamp":
        return _times(column, series, time_zone)
    return _numbers(column, series)


def _arrow(series: pd.Series) -> pa.Array:
    """The values as Arrow sees them, each by itself. Where all are null they have every type."""
    try:
        array = pa.array(_plain(series), from_pandas=True)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, NotImplementedError):  # objects of several types
        raise WrongType(str(series.dtype)) from None
    if pa.types.is_timestamp(array.type) and series.dtype == "object":
        _refuse_other_clocks(series)
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    if array.null_count == len(array):
        return pa.nulls(len(array))
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole


def _refuse_other_clocks(series: pd.Series) -> None:
    """Arrow would take times without a zone for UTC's where others have one, or take the zone from those that do."""
    if len({getattr(value, "tzinfo", None) is None for value in series.dropna()}) > 1:
        raise WrongType("times of which some have a zone and some have none")


def _plain(series: pd.Series) -> pd.Series:
    """The same values in a form that Arrow takes: times of a zone by UTC's clock, and sparse ones with their gaps."""
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        return series.dt.tz_convert("UTC").dt.tz_localize(None)
    return series.astype(series.dtype.subtype) if isinstance(series.dtype, pd.SparseDtype) else series


def _seen(series: pd.Series, array: pa.Array) -> str:
    """The name of a type in a sentence: pandas' own, but Arrow's where pandas says no more than `object`."""
    dtype = series.dtype.categories.dtype if isinstance(series.dtype, pd.CategoricalDtype) else series.dtype
    if dtype == "object" or isinstance(dtype, pd.ArrowDtype):
        return str(array.type)
    return str(dtype)


def _is_text(array: pa.Array) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(array.type) for is_kind in kinds)


def is_wide(series: pd.Series) -> bool:
    """Whether the column holds integers that are too large for float64 to tell apart."""
    return series.dtype.kind in "iu" and bool(((series > EXACT) | (series < -EXACT)).any())


def days_of(times: pd.Series) -> pd.Series:
    """(rows,) the day of each time, like 2024-01-31; null where there is no time, or one of a year that no files are
    named by. A time is that of a row as a night reads it (`typed`), so that every source finds the same day."""
    dated = times.where(times.between(FIRST_DATED, LAST_DATED)).to_numpy().astype("datetime64[D]")
    return pd.Series(pa.array(dated).cast(pa.string()), index=times.index, dtype="str")


def _texts(series: pd.Series) -> pd.Series:
    if isinstance(series.dtype, pd.StringDtype):
        return series.astype("str")
    array = _arrow(series)
    if pa.types.is_boolean(array.type):
        raise WrongType(f"{_seen(series, array)} ({TRUTHS})")
    if not _is_text(array) and not pa.types.is_null(array.type):
        raise WrongType(_seen(series, array))
    return pd.Series(array.cast(pa.large_string()), index=series.index, dtype="str", name=series.name)


def _numbers(column: Column, series: pd.Series) -> pd.Series:
    """float64. An infinity stays one: whether a row may have it is a rule's business."""
    if series.dtype == "float64":
        numbers, seen = series.to_numpy(), "float64"
    else:
        array = _arrow(series)
        seen = _seen(series, array)
        numbers = exact_numbers(array, seen)
    if column.type == "integer":
        finite = numbers[np.isfinite(numbers)]
        if (finite % 1 != 0).any():
            raise WrongType(seen)
        if (np.abs(finite) > EXACT).any():
            raise WrongType(f"{seen} {TOO_WIDE}")
    return series if series.dtype == "float64" else pd.Series(numbers, index=series.index, name=series.name)


def exact_numbers(array: pa.Array, seen: str) -> Any:
    """(rows,) float64, NaN for null: the nearest to a fraction, and every integer itself, or WrongType."""
    kind = array.type
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    elif pa.types.is_decimal(kind):
        array = array.cast(pa.string())  # from which each is rounded once; Arrow's own cast may be off by one place
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise WrongType(seen)
    numbers = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(kind) or pa.types.is_integer(kind):
        wide = np.flatnonzero(np.abs(numbers) >= EXACT)
        if any(Decimal(str(array[place])) != Decimal(numbers[place]) for place in map(int, wide)):
            raise WrongType(f"{seen} {TOO_WIDE}")
    return numbers


def _times(column: Column, series: pd.Series, time_zone: str | None) -> pd.Series:
    """datetime64[us] without a zone."""
    if series.dtype == "datetime64[us]":
        return _within_calendar(series)
    array = _arrow(series)
    moments = _moments(column, array, _seen(series, array))
    times = pd.Series(moments.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False), index=series.index)
    if moments.type.tz is not None:
        if time_zone is None:
            raise WrongType(_seen(series, array))
        near = times.clip(FIRST_TIME + DAY_ROUND, LAST_TIME - DAY_ROUND)  # whose year is a calendar's in all zones
        times = near.dt.tz_localize("UTC").dt.tz_convert(time_zone).dt.tz_localize(None)
    return _within_calendar(times.rename(series.name))


def _within_calendar(times: pd.Series) -> pd.Series:
    """Each time before the year 1 or after 9999 as the first or the last that is not, so that all have a date."""
    return times.clip(FIRST_TIME, LAST_TIME) if times.min() < FIRST_TIME or times.max() > LAST_TIME else times


def _moments(column: Column, array: pa.Array, seen: str) -> pa.Array:
    """Timestamps in microseconds, with UTC as zone where they are instants."""
    kind = array.type
    if _is_text(array):
        moments = iso_times(array)
        if moments is None:
            raise WrongType(f"{seen}, {NOT_ISO}")
        return moments
    if pa.types.is_null(kind):
        return array.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(kind):
        return _in_microseconds(array, kind.unit, kind.tz and "UTC")
    if pa.types.is_date(kind):
        return _in_microseconds(array, "d" if pa.types.is_date32(kind) else "ms", None)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _counted(column, array, seen)
    raise WrongType(seen)


def _in_microseconds(array: pa.Array, unit: str, zone: str | None) -> pa.Array:
    """What lies outside the years 1 to 9999, and maybe outside of what microseconds can count, becomes their end."""
    counts = array.cast(pa.int32()) if unit == "d" else array.cast(pa.int64())
    counts = counts.cast(pa.int64())
    if unit == "ns":
        micros = pc.divide(counts, 1000)
    else:
        low, high = (end // MICROSECONDS[unit] for end in ENDS)
        held = pc.max_element_wise(pc.min_element_wise(counts, high, skip_nulls=False), low, skip_nulls=False)
        micros = pc.multiply(held, MICROSECONDS[unit])
    return micros.cast(pa.timestamp("us", zone))


def _counted(column: Column, array: pa.Array, seen: str) -> pa.Array:
    """Instants that are counted from 1970 on in the column's declared unit."""
    if column.unit not in TIME_UNITS:
        raise WrongType(f"{seen} ({NOT_COUNTED})")
    if pa.types.is_integer(array.type):
        try:
            return _in_microseconds(array.cast(pa.int64()), column.unit, "UTC")
        except pa.ArrowInvalid:
            raise WrongType(f"{seen} {TOO_WIDE}") from None
    micros = exact_numbers(array, seen) * (1e-3 if column.unit == "ns" else MICROSECONDS[column.unit])
    held = np.rint(np.clip(micros, ENDS[0], ENDS[1]))
    return pa.array(held, from_pandas=True).cast(pa.int64(), safe=False).cast(pa.timestamp("us", "UTC"))


def iso_times(texts: pa.Array) -> pa.Array | None:
    """Timestamps of texts in ISO 8601, with UTC as zone where all have an offset; None where some are none."""
    kinds = (pa.timestamp("us"), pa.timestamp("us", "UTC"))
    found = (cast_texts(form, kind) for form in _forms_of_times(texts.cast(pa.large_string())) for kind in kinds)
    return next((times for times in found if times is not None), None)


def _forms_of_times(texts: pa.Array) -> Iterator[pa.Array]:
    """As they are, and as Arrow reads them: with at most six digits of a second, and days with hyphens."""
    yield texts
    texts = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")
    yield pc.replace_substring_regex(texts, r"^(\d{4})(\d{2})(\d{2})$", r"\1-\2-\3")


def cast_texts(texts: Any, kind: pa.DataType) -> Any:
    """The texts as another type, or None. A few are tried first: Arrow goes on behind an error, and slowly."""
    try:
        texts.slice(0, 100).cast(kind)
        return texts.cast(kind)
    except pa.ArrowInvalid:
        return None
