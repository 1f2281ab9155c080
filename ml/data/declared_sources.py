"""The kinds of sources that a use case can name."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import StringConstraints

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


@dataclass(frozen=True, kw_only=True)
class CsvForm:
    """How the CSV files of a source are written: what parts fields, fractions and thousands, and the text's encoding.

    The names of encodings are Python's, like "cp1252" or "utf-16".
    """

    separator: str = ","
    decimal: str = "."
    thousands: str = ""
    encoding: str = "utf-8"


@dataclass(frozen=True, kw_only=True)
class Source(CsvForm):
    """A folder of partitions: `YYYY-MM-DD.parquet` (or .csv, .csv.gz) a day, or a folder of such files a day, named
    like `day=2013-09-30` or `2013-09-30.parquet`; or, without days, `all.parquet` or the one table that is there.

    `folder` is absolute, below RETRAIN_HOME/data, or `s3://bucket/prefix` with the standard AWS variables.
    """

    folder: Text


@dataclass(frozen=True, kw_only=True)
class FileSource(CsvForm):
    """One Parquet or CSV (.csv.gz) file of all days, told apart by `time_column`.

    `file` is absolute or below RETRAIN_HOME/data.
    """

    file: str
    time_column: str


@dataclass(frozen=True, kw_only=True)
class DatabaseSource:
    """The rows of a query, read a day at a time by `time_column`, which holds times, dates or texts in ISO 8601.

    `database` names the environment variable with the address, as SQLAlchemy writes it. A day is read again where the
    number of its rows or the last `changed_column` changed; without one, every night.
    """

    database: str
    query: str
    time_column: str
    changed_column: str | None = None
