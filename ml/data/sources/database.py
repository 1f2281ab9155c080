"""The rows of a database's query, brought as a file a day.

Which day a row is of is decided here, from the value that the database gave, and nowhere else: a database that is asked
for "from midnight on" compares in its own way, SQLite for one as texts. Values are written in the exact type in which
they came; only a declared timestamp that came as a text or as a declared number becomes a time.
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
from ml.data.declared_sources import DatabaseSource
from ml.data.handles import LeftOut
from ml.data.sources.brought import BroughtFolder, rows_left_out, rows_without_time
from ml.data.sources.database_values import NoTime, OddColumn, array_of, as_times, days_of_values
from ml.data.sources.folder import UnusableEntry, units_of_times
from ml.days import FIRST_DAY, LAST_DAY
from ml.errors import ConfigError, DataRejected, SourceUnavailable, did_you_mean, printable
from ml.serving.columns import Column

ROWS_AT_ONCE = 10_000
SEE_ONE_STATE = {"postgresql", "mysql", "mariadb"}  # within a transaction, where they are told to; SQLite always does


def bring_rows(source: DatabaseSource, columns: tuple[Column, ...], time_zone: str, folder: BroughtFolder) -> None:
    """A day at a time; one whose rows and last change are counted as before is not read again."""
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
    """Raises ConfigError for an address that cannot be read, one of a file that is not there, and one whose driver is
    not installed."""
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
    """SQLite would make an empty database of a mistyped path. Raises ConfigError."""
    name = (url.database or "").removeprefix("file:")
    if url.get_backend_name() != "sqlite" or name in {"", ":memory:"} or url.query.get("mode") == "memory":
        return
    path = Path(name).absolute()
    if not path.is_file():
        raise ConfigError(f"{source.database} names a database that is there", f"there is no file {path}", "mend it")


def _in_words(error: Any, source: DatabaseSource) -> ConfigError | DataRejected | SourceUnavailable:
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
    """By the kinds that drivers share (PEP 249), where sqlite's also stands for a query that is no SQL."""
    wrong_query = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return type(error).__name__ in {"OperationalError", "InterfaceError"} and not wrong_query


def _hold_any_time(connection: Any) -> None:
    """Lets psycopg give the first or the last time that Python knows for one beyond it, such as infinity."""
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
    """What the query has of a day: how many rows, their last change, and their first and last time as it gave them."""

    rows: int
    changed: Any
    first: Any
    last: Any

    def add(self, rows: int, changed: Any, value: Any) -> None:
        self.rows += rows
        if changed is not None:
            self.changed = changed if self.changed is None else max(self.changed, changed)
        self.first, self.last = min(self.first, value), max(self.last, value)


class _Found(NamedTuple):
    """The names of the query's columns, what the database calls their types, and rows by day."""

    names: list[str]
    kinds: list[str]
    rows: dict[str, list[Any]]


def _file(day: str) -> str:
    return f"{day}.parquet"


def _together(days: Mapping[str, _Day], stale: set[str]) -> list[list[str]]:
    """The stale days in batches that one query reads: neighbours with few rows, whose times are of one type.

    A query a day would read the whole table for each where its time column has no index.
    """
    batches, before = list[list[str]](), ""
    for day in sorted(days):
        if day in stale:
            last = batches[-1] if batches else []
            is_neighbour = last[-1:] == [before] and type(days[before].first) is type(days[day].first)
            if is_neighbour and sum(days[each].rows for each in [*last, day]) <= ROWS_AT_ONCE:
                last.append(day)
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
        self.table = text(f"({query}\n) AS source_rows")  # a comment at its end ends with its line
        self.at: Any = column(source.time_column)
        self.declared = {each.name for each in columns}
        self.changed: Any = column(source.changed_column) if source.changed_column else None
        self.units = units_of_times(source, columns)
        self.held = _Found([], [], {})

    def bring(self, folder: BroughtFolder) -> None:
        self._refuse_names()
        days, left_out = self._days()
        before = folder.source["days"] if isinstance(folder.source, dict) and "days" in folder.source else {}
        now, unusable, dropped = dict[str, Any](), dict[str, str](), dict[str, str]()
        seen = {day: [each.rows, str(each.changed), state_code_digest("brought")] for day, each in days.items()}
        stale = {day for day in days if not self._is_as_before(before.get(_file(day)), seen[day], folder, day)}
        together = {batch[0]: batch for batch in _together(days, stale)}
        for day in sorted(days):
            if day in together:
                self.held = self._found({each: days[each] for each in together[day]})
            try:
                odd = self._write(day, days[day], folder) if day in stale else before[_file(day)]["dropped"]
            except UnusableEntry as error:
                unusable[day] = str(error)
                continue
            now[_file(day)] = {"seen": seen[day], "dropped": odd}
            dropped |= {column: kind for column, kind in odd.items() if column not in self.declared}
            unusable |= self._lacking(day, odd)
        folder.keep({"days": now}, now, (*left_out, *self._columns_left_out(dropped)), unusable)

    def _is_as_before(self, known: dict[str, Any] | None, seen: list[Any], folder: BroughtFolder, day: str) -> bool:
        """Without a column that says when a row changed, equal counts say nothing."""
        is_counted = self.changed is not None and known is not None and known["seen"] == seen
        return is_counted and _file(day) in folder.intact

    def _write(self, day: str, seen: _Day, folder: BroughtFolder) -> dict[str, str]:
        """Brings a day; returns the columns that were dropped."""
        data, odd = self._parquet(day, seen)
        folder.write(_file(day), data)
        return odd

    def _lacking(self, day: str, dropped: dict[str, str]) -> dict[str, str]:
        """Why the day cannot be used, where a column was dropped that this use case declares: another one that shares
        the copy may not."""
        odd = {name: kind for name, kind in dropped.items() if name in self.declared}
        name, kind = next(iter(odd.items()), ("", ""))
        why = f"column {printable(name)} of {self.place} is {kind} (cast it in the query)"
        return {day: why} if odd else {}

    def _columns_left_out(self, dropped: dict[str, str]) -> tuple[LeftOut, ...]:
        if not dropped:
            return ()
        names = ", ".join(f"{printable(name)} ({kind})" for name, kind in sorted(dropped.items())[:5])
        why = f"{'is' if len(dropped) == 1 else 'are'} of a type that is not read, and undeclared: {names}"
        return (LeftOut(source=self.place, what="column", count=len(dropped), why=why),)

    def _refuse_names(self) -> None:
        """Raises DataRejected where the query names a column twice, or lacks one that the source names."""
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
        """What it has of each day, from one look at all of its times; and which rows are of no day."""
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
        """The day of each time. Raises DataRejected for what is no time."""
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

    def _parquet(self, day: str, seen: _Day) -> tuple[bytes, dict[str, str]]:
        """A day's rows as Parquet, in an order of their own because a database gives none, so that equal rows give
        equal bytes; and the columns that were dropped. Raises UnusableEntry."""
        names, kinds, by_day = self.held
        if len(by_day.get(day, ())) != seen.rows:
            names, kinds, by_day = self._found({day: seen})
        rows = by_day.get(day, [])
        if len(rows) != seen.rows:
            self._refuse_other_rows(day, seen, len(rows))
        arrays, dropped = dict[str, pa.Array](), dict[str, str]()
        for place, name in enumerate(names):
            try:
                arrays[name] = self._array(name, [row[place] for row in rows])
            except OddColumn as odd:
                dropped[name] = kinds[place] or str(odd)
        table = pa.table(arrays)
        sink = io.BytesIO()
        pq.write_table(table.sort_by([(name, "ascending") for name in table.column_names]), sink)
        return sink.getvalue(), dropped

    def _found(self, days: dict[str, _Day]) -> "_Found":
        """The rows of these days.

        They are asked for by the first and the last time as the database itself gave them. Rows of other days may
        come with them: texts of one day need not stand together.
        """
        from sqlalchemy import bindparam, literal_column, select
        from sqlalchemy.types import NullType

        ends = {"first": min(day.first for day in days.values()), "last": max(day.last for day in days.values())}
        first, last = (bindparam(name, value, NullType()) for name, value in ends.items())
        statement: Any = (
            select(literal_column("*")).select_from(self.table).where((self.at >= first) & (self.at <= last))
        )
        with self._opened(statement) as result:
            names = list(result.keys())
            kinds = [str(getattr(each, "type_display", "") or "") for each in result.cursor.description]
            place = names.index(self.source.time_column)
            found = result.all()
        rows = dict[str, list[Any]]()
        for day, row in zip(self._days_of([row[place] for row in found]), found, strict=True):
            if day in days:
                rows.setdefault(str(day), []).append(row)
        return _Found(names, kinds, rows)

    def _refuse_other_rows(self, day: str, seen: _Day, rows: int) -> None:
        if isinstance(seen.first, str):
            raise UnusableEntry(
                f"{seen.rows} rows of {self.place} are of {day} and {rows} of them are found by their "
                f"{self.source.time_column} (cast it to a timestamp in the query)"
            )
        raise SourceUnavailable(
            f"{self.place} must give the same rows twice", f"it counts {seen.rows} rows of {day} and gives {rows}",
            "run it again when nobody writes to them",
        )  # fmt: skip

    def _array(self, name: str, values: list[Any]) -> pa.Array:
        """The values in the exact type in which they came; those of a declared timestamp as times."""
        return array_of(as_times(values, self.units[name]) if name in self.units else values)


def _as_written(name: str, names: list[str]) -> str:
    """SQLite gives the second of two columns the name amount:1."""
    first, _, number = name.rpartition(":")
    return first if number.isdigit() and first in names else name
