"""The kinds of sources that a use case can declare. Nothing is read here."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import StringConstraints

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


@dataclass(frozen=True, kw_only=True)
class CsvForm:
    """How the CSV files of a source are written.

    `separator` stands between fields, `decimal` before fractions, and `thousands` between groups of digits. `encoding`
    is one of Python's names, like "cp1252" or "utf-16".
    """

    separator: str = ","
    decimal: str = "."
    thousands: str = ""
    encoding: str = "utf-8"


@dataclass(frozen=True, kw_only=True)
class Source(CsvForm):
    """A folder with the rows of each day.

    A day is a file `YYYY-MM-DD.parquet` (or .csv, .csv.gz), or a folder of such files, named like `day=2013-09-30` or
    `2013-09-30.parquet`. A source without days has one file: `all.parquet`, or the only table that is there.

    `folder` is absolute, below RETRAIN_HOME/data, or `s3://bucket/prefix` with the standard AWS variables.
    """

    folder: Text


@dataclass(frozen=True, kw_only=True)
class FileSource(CsvForm):
    """One Parquet or CSV (.csv.gz) file with the rows of all days; `time_column` says which day a row belongs to.

    `file` is absolute or below RETRAIN_HOME/data.
    """

    file: str
    time_column: str


@dataclass(frozen=True, kw_only=True)
class DatabaseSource:
    """The rows of a query, read one day at a time by `time_column`, which holds times, dates or texts in ISO 8601.

    `database` names the environment variable with the database's address, in SQLAlchemy's form. A day is read again if
    the number of its rows or its largest `changed_column` changed; without a `changed_column`, every night.
    """

    database: str
    query: str
    time_column: str
    changed_column: str | None = None
