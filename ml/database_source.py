"""The rows of a database's query, brought as a file a day."""

import io
import logging
import os
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa

from ml.brought import NO_DAY, BroughtFolder
from ml.config import DatabaseSource
from ml.digests import write_whole
from ml.errors import ConfigError, DataRejected, SourceUnavailable
from ml.serving.columns import Column

log = logging.getLogger("retrain.sources")


def bring_rows(source: DatabaseSource, columns: tuple[Column, ...], folder: BroughtFolder) -> None:
    """A day at a time; one whose rows and last change are counted as before is not read again."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    address = os.environ.get(source.database)
    if not address:
        raise ConfigError(f"{source.database} holds the address of the database", "it is not set", "set it")
    try:
        engine = create_engine(address)
        try:
            _bring_days(engine, source, columns, folder)
        finally:
            engine.dispose()
    except DBAPIError as error:
        if error.connection_invalidated or _is_away(error.orig):
            raise SourceUnavailable(
                f"the database of {source.database} must answer", type(error).__name__, "check it, then run again"
            ) from None
        raise ConfigError(
            f"the query on {source.database} must be one that it can answer", type(error).__name__, "mend the source"
        ) from None
    except SQLAlchemyError as error:  # its message may hold the address with its password
        raise ConfigError(
            f"{source.database} holds an address that SQLAlchemy knows", type(error).__name__, "mend it"
        ) from None


def _is_away(error: BaseException | None) -> bool:
    """By the kinds that drivers share (PEP 249), where sqlite's also stands for a query that is no SQL."""
    wrong_query = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return type(error).__name__ in {"OperationalError", "InterfaceError"} and not wrong_query


def _bring_days(engine: Any, source: DatabaseSource, columns: tuple[Column, ...], folder: BroughtFolder) -> None:
    from sqlalchemy import DateTime, bindparam, column, func, literal_column, select, text

    query = source.query.replace(":", r"\:")  # it has no parameters
    table, at = text(f"({query}) AS source_rows"), column(source.time_column, DateTime)
    of_day = (at >= bindparam("start", type_=DateTime)) & (at < bindparam("end", type_=DateTime))
    changed: list[Any] = [func.max(column(source.changed_column))] if source.changed_column else []
    bounds = select(func.min(at), func.max(at), func.count() - func.count(at)).select_from(table)
    facts = select(func.count(), *changed).select_from(table).where(of_day)
    rows: Any = select(literal_column("*")).select_from(table).where(of_day)
    times = sorted({source.time_column, *(c.name for c in columns if c.type == "timestamp")})
    before, now = folder.source or {}, {}
    with engine.connect() as connection:
        first, last = _bounds(connection, bounds, source)
        for day, span in _days_between(first, last):
            seen = [str(value) for value in connection.execute(facts, span).one()]
            if seen[0] == "0":
                continue
            name = f"{day}.parquet"
            now[name] = [*seen, *times]  # a column that is declared anew is read anew
            if not changed or before.get(name) != now[name] or name not in folder.intact:
                data = _day_bytes(pd.read_sql_query(rows, connection, params=span), day, source.time_column, times)
                if name not in folder.intact or (folder.path / name).read_bytes() != data:
                    write_whole(folder.path / name, data)
    folder.keep(now, now)


def _bounds(connection: Any, bounds: Any, source: DatabaseSource) -> tuple[datetime | None, datetime | None]:
    """The first and the last time."""
    try:
        first, last, lost = connection.execute(bounds).one()
        ends = pd.to_datetime(pd.Series([first, last], dtype=object))  # of a column of dates, too
    except (ValueError, TypeError):  # which quote the value
        raise _no_times(source.time_column, "the query") from None
    if ends.dt.tz is not None:
        raise _no_times(source.time_column, "the query")
    if lost:
        log.warning(NO_DAY, lost, source.database, source.time_column)
    return (None, None) if ends.isna().any() else (ends[0].to_pydatetime(), ends[1].to_pydatetime())


def _no_times(names: str, place: str) -> DataRejected:
    return DataRejected(
        f"{names} of {place} must be timestamps without a time zone, like 2013-09-30 00:00:00", "some are none",
        "cast them in the query",
    )  # fmt: skip


def _days_between(first: datetime | None, last: datetime | None) -> Iterator[tuple[str, dict[str, datetime]]]:
    if first is None or last is None:
        return
    for number in range((last.date() - first.date()).days + 1):
        start = datetime.combine(first.date() + timedelta(days=number), datetime.min.time())
        yield str(start.date()), {"start": start, "end": start + timedelta(days=1)}


def _day_bytes(rows: pd.DataFrame, day: str, time_column: str, times: list[str]) -> bytes:
    """As Parquet, in an order of their own, because a database gives none; equal rows give equal bytes."""
    present = [name for name in times if name in rows]
    try:
        typed = rows.astype(dict.fromkeys(present, "datetime64[us]"))
    except (ValueError, TypeError):  # which quotes the value
        raise _no_times(", ".join(present), day) from None
    if not (typed[time_column].dt.normalize() == pd.Timestamp(day)).all():  # sqlite compares texts
        raise _no_times(time_column, day)
    sink = io.BytesIO()
    try:
        typed.sort_values(list(typed.columns), ignore_index=True).to_parquet(sink, index=False)
    except (ValueError, TypeError, pa.ArrowException):
        raise DataRejected(
            "columns of a query hold plain values of one type", f"{', '.join(_odd_columns(typed))} of {day} do not",
            "cast or drop them in the query",
        ) from None  # fmt: skip
    return sink.getvalue()


def _odd_columns(rows: pd.DataFrame) -> list[str]:
    kinds = {str(name): pd.api.types.infer_dtype(rows[name]) for name in rows}
    return [name for name, kind in kinds.items() if kind in {"mixed", "mixed-integer"}]
