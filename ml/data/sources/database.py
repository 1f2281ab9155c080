"""Brings the rows of a database's query as one Parquet file per day.

The day of a row is decided here, from the value that the database gave, and never by the database: asked for times
"from midnight on", each database compares in its own way, and SQLite compares texts. Values are written in the exact
type in which they came; only declared timestamps that came as texts or as numbers with a unit become times. An address
that cannot be used, a query that fails, and a time column that holds no times are refused.
"""

import io
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ml.data.code import state_code_digest
from ml.data.handles import LeftOut
from ml.data.source_kinds import DatabaseSource
from ml.data.sources.brought import BroughtFolder, rows_left_out, rows_without_time
from ml.data.sources.database_values import NoTime, OddColumn, array_of, as_times, days_of_values
from ml.data.sources.folder import UnusableEntry, units_of_times
from ml.days import FIRST_DAY, LAST_DAY
from ml.errors import ConfigError, DataRejected, SourceUnavailable, did_you_mean, printable
from ml.serving.columns import Column

ROWS_AT_ONCE = 10_000
# These show one state of the data during a transaction if they are told to; SQLite always does.
SEE_ONE_STATE = {"postgresql", "mysql", "mariadb"}


def bring_rows(source: DatabaseSource, columns: tuple[Column, ...], time_zone: str, folder: BroughtFolder) -> None:
    """Brings one day at a time. A day is not read again if the number of its rows and its last change are as before.

    Raises ConfigError for an address or a query that cannot be used, DataRejected for values that cannot be read, and
    SourceUnavailable if the database does not answer.
    """
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    address = os.environ.get(source.database)
    if not address:
        raise ConfigError(f"{source.database} holds the address of the database", "it is not set", "set it")
    try:
        engine = _engine(address, source)
        try:
            if engine.dialect.name in SEE_ONE_STATE:
                engine = engine.execution_options(isolation_level="REPEATABLE READ")
            with engine.connect() as connection:
                _hold_any_time(connection)
                _Query(connection, source, columns, time_zone).bring(folder)
        finally:
            engine.dispose()
    except DBAPIError as error:
        raise _in_words(error, source) from None
    except SQLAlchemyError as error:  # its message may hold the address with its password
        raise ConfigError(
            f"{source.database} holds an address that SQLAlchemy knows", type(error).__name__, "mend it"
        ) from None


def _engine(address: str, source: DatabaseSource) -> Any:
    """Raises ConfigError if the address cannot be read, its file is not there, or its driver is not installed."""
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import NoSuchModuleError

    try:
        _require_file(make_url(address), source)
        return create_engine(address)
    except NoSuchModuleError:
        kind = make_url(address).drivername
        known = "postgresql+psycopg" if kind.startswith("postgres") else "one like postgresql+psycopg"
        raise ConfigError(
            f"{source.database} holds an address that SQLAlchemy knows", f"it begins with {kind}://",
            f"write {known}:// in its place",
        ) from None  # fmt: skip
    except ImportError as error:
        raise ConfigError(
            f"{source.database} holds an address whose driver is installed", f"there is no {error.name}",
            "install it, or name another in the address, like postgresql+psycopg://",
        ) from None  # fmt: skip
    except ValueError:  # its message may quote a part of the password
        raise ConfigError(
            f"{source.database} holds an address that SQLAlchemy knows", "what it has for a port is no number",
            "mend it; in a user's name and password, write :, @ and / as %3A, %40 and %2F",
        ) from None  # fmt: skip


def _require_file(url: Any, source: DatabaseSource) -> None:
    """Raises ConfigError if SQLite's file is not there: for a mistyped path, SQLite would make an empty database."""
    name = (url.database or "").removeprefix("file:")
    if url.get_backend_name() != "sqlite" or name in {"", ":memory:"} or url.query.get("mode") == "memory":
        return
    path = Path(name).absolute()
    if not path.is_file():
        raise ConfigError(f"{source.database} names a database that is there", f"there is no file {path}", "mend it")


def _in_words(error: Any, source: DatabaseSource) -> ConfigError | DataRejected | SourceUnavailable:
    """The database's error as one of ours. Its message is quoted only if it cannot hold a value."""
    kind = type(error).__name__
    if kind == "DataError" or str(error.orig).startswith("Could not decode to UTF-8"):  # messages that quote the value
        return DataRejected(
            f"the query on {source.database} must give values that its driver can read", "it cannot read some",
            "cast them in the query",
        )  # fmt: skip
    if error.connection_invalidated or _is_away(error.orig):
        return SourceUnavailable(f"the database of {source.database} must answer", kind, "check it, then run again")
    says = (str(error.orig).splitlines() or [""])[0][:200].replace(": ", " - ")
    return ConfigError(
        f"the query on {source.database} must be one that it can answer", f"{kind} ({says})", "mend the source"
    )


def _is_away(error: BaseException | None) -> bool:
    """Whether the error says that the database is away.

    Drivers share these kinds of errors (PEP 249), but SQLite uses one of them also for a query that is no SQL.
    """
    wrong_query = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return type(error).__name__ in {"OperationalError", "InterfaceError"} and not wrong_query


def _hold_any_time(connection: Any) -> None:
    """Makes psycopg return the first or last time that Python knows in place of one beyond it, such as infinity."""
    driver = connection.connection.driver_connection
    if type(driver).__module__.partition(".")[0] != "psycopg":
        return
    from psycopg import DataError
    from psycopg.types import datetime as loaders

    def bounded(loader: Any, first: date, last: date) -> Any:
        def load(self: Any, data: Any) -> date:
            try:
                loaded: date = loader.load(self, data)
                return loaded
            except DataError:
                text = bytes(data)
                return first if text.startswith(b"-") or text.endswith(b"BC") else last

        return type(loader.__name__, (loader,), {"load": load})

    ends = datetime.min, datetime.max
    driver.adapters.register_loader("date", bounded(loaders.DateLoader, date.min, date.max))
    driver.adapters.register_loader("timestamp", bounded(loaders.TimestampLoader, *ends))
    zoned = (moment.replace(tzinfo=UTC) for moment in ends)
    driver.adapters.register_loader("timestamptz", bounded(loaders.TimestamptzLoader, *zoned))


@dataclass
class _Day:
    """What the query has of one day.

    `changed`: the last change of its rows. `first` and `last`: the smallest and largest time as the database gave them.
    """

    rows: int
    changed: Any
    first: Any
    last: Any

    def add(self, rows: int, changed: Any, value: Any) -> None:
        self.rows += rows
        if changed is not None:
            self.changed = changed if self.changed is None else max(self.changed, changed)
        self.first, self.last = min(self.first, value), max(self.last, value)


class _Rows(NamedTuple):
    """The names of the query's columns, the database's names of their types (`kinds`), and the rows by day."""

    names: list[str]
    kinds: list[str]
    by_day: dict[str, list[Any]]


def _file(day: str) -> str:
    return f"{day}.parquet"


def _together(days: Mapping[str, _Day], stale: set[str]) -> list[list[str]]:
    """The stale days in batches, each read by one query: neighbours with few rows, whose times are of one type.

    With one query per day, a time column without an index would make the database read the whole table for every day.
    """
    batches, before = list[list[str]](), ""
    for day in sorted(days):
        if day in stale:
            batch = batches[-1] if batches else []
            is_neighbour = batch[-1:] == [before] and type(days[before].first) is type(days[day].first)
            if is_neighbour and sum(days[member].rows for member in [*batch, day]) <= ROWS_AT_ONCE:
                batch.append(day)
            else:
                batches.append([day])
        before = day
    return batches


class _Query:
    """A source's query on an open connection."""

    def __init__(self, connection: Any, source: DatabaseSource, columns: tuple[Column, ...], time_zone: str) -> None:
        from sqlalchemy import column, text

        self.connection, self.source, self.time_zone = connection, source, time_zone
        self.place = f"the query on {source.database}"
        query = source.query.strip().rstrip(";").replace(":", r"\:")  # it has no parameters
        self.table = text(f"({query}\n) AS source_rows")  # the line end closes a comment at the query's end
        self.at: Any = column(source.time_column)
        self.declared = {declared.name for declared in columns}
        self.changed: Any = column(source.changed_column) if source.changed_column else None
        self.units = units_of_times(source, columns)
        self.held = _Rows([], [], {})

    def bring(self, folder: BroughtFolder) -> None:
        """Writes the days that changed into the folder, and notes what the query has of each day."""
        self._refuse_names()
        days, left_out = self._days()
        before = folder.source["days"] if isinstance(folder.source, dict) and "days" in folder.source else {}
        now, unusable, dropped = dict[str, Any](), dict[str, str](), dict[str, str]()
        states = {
            day: [summary.rows, str(summary.changed), state_code_digest("brought")] for day, summary in days.items()
        }
        stale = {day for day in days if not self._is_as_before(before.get(_file(day)), states[day], folder, day)}
        together = {batch[0]: batch for batch in _together(days, stale)}
        for day in sorted(days):
            if day in together:
                self.held = self._rows({member: days[member] for member in together[day]})
            try:
                dropped_now = self._write(day, days[day], folder) if day in stale else before[_file(day)]["dropped"]
            except UnusableEntry as error:
                unusable[day] = str(error)
                continue
            now[_file(day)] = {"seen": states[day], "dropped": dropped_now}
            dropped |= {column: kind for column, kind in dropped_now.items() if column not in self.declared}
            unusable |= self._lacking(day, dropped_now)
        folder.keep({"days": now}, now, (*left_out, *self._columns_left_out(dropped)), unusable)

    def _is_as_before(self, known: dict[str, Any] | None, state: list[Any], folder: BroughtFolder, day: str) -> bool:
        """Whether the day is as it was brought.

        Without a column that says when a row changed, equal counts prove nothing.
        """
        is_counted = self.changed is not None and known is not None and known["seen"] == state
        return is_counted and _file(day) in folder.intact

    def _write(self, day: str, summary: _Day, folder: BroughtFolder) -> dict[str, str]:
        """Brings a day; returns the columns that were dropped, each with what its type is."""
        data, dropped = self._parquet(day, summary)
        folder.write(_file(day), data)
        return dropped

    def _lacking(self, day: str, dropped: dict[str, str]) -> dict[str, str]:
        """The day and why it cannot be used, if a column was dropped that this use case declares; else empty.

        Another use case that shares the copy may not declare that column, and can use the day.
        """
        for name, kind in dropped.items():
            if name in self.declared:
                return {day: f"column {printable(name)} of {self.place} is {kind} (cast it in the query)"}
        return {}

    def _columns_left_out(self, dropped: dict[str, str]) -> tuple[LeftOut, ...]:
        if not dropped:
            return ()
        names = ", ".join(f"{printable(name)} ({kind})" for name, kind in sorted(dropped.items())[:5])
        why = f"{'is' if len(dropped) == 1 else 'are'} of a type that is not read, and undeclared: {names}"
        return (LeftOut(source=self.place, what="column", count=len(dropped), why=why),)

    def _refuse_names(self) -> None:
        """Raises DataRejected if the query names a column twice, or lacks a column that the source names."""
        from sqlalchemy import literal_column, select, text

        nothing: Any = select(literal_column("*")).select_from(self.table).where(text("1 = 0"))
        names = list(self.connection.execute(nothing).keys())
        plain = [_as_written(name, names) for name in names]
        twice = sorted({name for name in plain if plain.count(name) > 1})
        if twice:
            raise DataRejected(
                f"{self.place} must name each column once", f"{', '.join(map(printable, twice))} is there twice",
                "name one of them otherwise with AS",
            )  # fmt: skip
        for name in filter(None, (self.source.time_column, self.source.changed_column)):
            if name not in names:
                seen = f"it has {', '.join(map(printable, names[:20]))}"
                raise DataRejected(
                    f"{self.place} must have {name}", seen, did_you_mean(name, names, "name its column in the source")
                )

    def _days(self) -> tuple[dict[str, _Day], tuple[LeftOut, ...]]:
        """What the query has of each day, from one query over all of its times; and how many rows belong to no day."""
        from sqlalchemy import func, select

        changed: list[Any] = [] if self.changed is None else [func.max(self.changed)]
        times = select(self.at, func.count(), *changed).select_from(self.table).group_by(self.at)
        days, without, outside = dict[str, _Day](), 0, 0
        with self._opened(times) as result:
            for part in result.partitions():
                for (value, rows, *change), day in zip(part, self._days_of([row[0] for row in part]), strict=True):
                    if value is None:
                        without += rows
                    elif day is None:
                        outside += rows
                    elif day in days:
                        self._add(days[day], rows, change[0] if change else None, value)
                    else:
                        days[day] = _Day(rows, change[0] if change else None, value, value)
        at = self.source.time_column
        bounds = f"a {at} outside of {FIRST_DAY} to {LAST_DAY}"
        return days, (
            *rows_without_time(self.place, without, at),
            *rows_left_out(self.place, outside, f"have {bounds} and are not read", f"has {bounds} and is not read"),
        )

    def _add(self, day: _Day, rows: int, changed: Any, value: Any) -> None:
        try:
            day.add(rows, changed, value)
        except TypeError:
            names = self.source.time_column + (f" and {self.source.changed_column}" if self.changed is not None else "")
            raise DataRejected(
                f"{names} of {self.place} must each have one type", "values of several types are in it",
                "cast them in the query",
            ) from None  # fmt: skip

    def _days_of(self, values: list[Any]) -> list[str | None]:
        """The day of each time. Raises DataRejected if a value is no time."""
        try:
            return days_of_values(values, self.units[self.source.time_column], self.time_zone)
        except NoTime as error:
            number = error.kind in {int, float, Decimal}
            epoch = f', or declare {self.source.time_column} a timestamp with unit="s" or "ms"' if number else ""
            raise DataRejected(
                f"{self.source.time_column} of {self.place} must be timestamps or like 2013-09-30 00:00:00",
                "some are numbers" if number else "some are neither",
                f"cast them in the query{epoch}",
            ) from None

    def _opened(self, statement: Any) -> Any:
        options = {"stream_results": True, "yield_per": ROWS_AT_ONCE}
        return self.connection.execute(statement, execution_options=options)

    def _parquet(self, day: str, summary: _Day) -> tuple[bytes, dict[str, str]]:
        """A day's rows as Parquet, and the columns that were dropped.

        A database gives rows in no order; they are sorted, so that equal rows give equal bytes. Raises UnusableEntry if
        the rows of the day cannot be found by their times, SourceUnavailable if they changed meanwhile.
        """
        names, kinds, by_day = self.held
        if len(by_day.get(day, ())) != summary.rows:
            names, kinds, by_day = self._rows({day: summary})
        rows = by_day.get(day, [])
        if len(rows) != summary.rows:
            self._refuse_other_rows(day, summary, len(rows))
        arrays, dropped = dict[str, pa.Array](), dict[str, str]()
        for position, name in enumerate(names):
            try:
                values = [row[position] for row in rows]
                arrays[name] = array_of(as_times(values, self.units[name]) if name in self.units else values)
            except OddColumn as odd:
                dropped[name] = kinds[position] or str(odd)
        table = pa.table(arrays)
        sink = io.BytesIO()
        pq.write_table(table.sort_by([(name, "ascending") for name in table.column_names]), sink)
        return sink.getvalue(), dropped

    def _rows(self, days: dict[str, _Day]) -> "_Rows":
        """The rows of these days.

        The query asks for all rows between the first and the last time, in the form in which the database itself gave
        these. Rows of other days may come too, and are dropped: in the order of texts, one day may lie within another.
        """
        from sqlalchemy import bindparam, literal_column, select
        from sqlalchemy.types import NullType

        ends = {
            "first": min(summary.first for summary in days.values()),
            "last": max(summary.last for summary in days.values()),
        }
        first, last = (bindparam(name, value, NullType()) for name, value in ends.items())
        statement: Any = (
            select(literal_column("*")).select_from(self.table).where((self.at >= first) & (self.at <= last))
        )
        with self._opened(statement) as result:
            names = list(result.keys())
            kinds = [str(getattr(column, "type_display", "") or "") for column in result.cursor.description]
            time_position = names.index(self.source.time_column)
            rows = result.all()
        by_day = dict[str, list[Any]]()
        for day, row in zip(self._days_of([row[time_position] for row in rows]), rows, strict=True):
            if day in days:
                by_day.setdefault(str(day), []).append(row)
        return _Rows(names, kinds, by_day)

    def _refuse_other_rows(self, day: str, summary: _Day, rows: int) -> None:
        if isinstance(summary.first, str):
            raise UnusableEntry(
                f"{summary.rows} rows of {self.place} are of {day} and {rows} of them are found by their "
                f"{self.source.time_column} (cast it to a timestamp in the query)"
            )
        raise SourceUnavailable(
            f"{self.place} must give the same rows twice", f"it counts {summary.rows} rows of {day} and gives {rows}",
            "run it again when nobody writes to them",
        )  # fmt: skip


def _as_written(name: str, names: list[str]) -> str:
    """The name as the query has it: of two columns named amount, SQLite calls the second one amount:1."""
    first, _, number = name.rpartition(":")
    return first if number.isdigit() and first in names else name
