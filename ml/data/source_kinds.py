"""The kinds of sources that a use case can declare, each with what sentences call it. Nothing is read here.

A further kind is one file: a class that inherits from DaySource and gives its rows day by day. docs/use-case.md shows
one. The other kinds here are brought by a module of their own in ml/data/sources, which can do more than one day at a
time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import StringConstraints

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class RowSource:
    """Where rows come from. `data` is the folder RETRAIN_HOME/data, below which relative paths lie."""

    def words(self, data: Path) -> str:
        """What sentences call the source: by the name that its owner knows, not by the place of our copy."""
        raise NotImplementedError

    def delivery(self, day: str, file: str) -> str:
        """What the owner of the data must deliver for a day, in words. `file` is the day's file in our folder."""
        raise NotImplementedError


class DaySource(RowSource):
    """A kind of source that says which days it has, and gives the rows of each of them.

    It is a frozen dataclass. What it gives is kept as a file for each day, and a day is asked for again only if its
    mark changed. An error that it raises is told by its kind and its place, never by its words, which may quote rows.
    """

    def days(self, data: Path) -> Mapping[str, str]:
        """The days that the source has now, like "2024-01-31", or "all" alone if rows have no time.

        Each has a mark: a text that changes whenever a row of the day does, such as a size with a time.
        """
        raise NotImplementedError

    def rows(self, data: Path, day: str) -> pd.DataFrame:
        """The rows of a day as they are now."""
        raise NotImplementedError

    def words(self, _data: Path) -> str:
        return f"the {type(self).__name__}"

    def delivery(self, day: str, _file: str) -> str:
        return f"the rows of {day}"


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
class Source(CsvForm, RowSource):
    """A folder with the rows of each day.

    A day is a file `YYYY-MM-DD.parquet` (or .csv, .csv.gz), or a folder of such files, named like `day=2013-09-30` or
    `2013-09-30.parquet`. A source without days has one file: `all.parquet`, or the only table that is there.

    `folder` is absolute, below RETRAIN_HOME/data, or `s3://bucket/prefix` with the standard AWS variables.
    """

    folder: Text

    def words(self, data: Path) -> str:
        return str(data / self.folder) if self.is_on_disk else self.folder

    def delivery(self, _day: str, file: str) -> str:
        return f"{self.folder}/{file}"

    @property
    def is_on_disk(self) -> bool:
        """Whether its files are read where they lie."""
        return not self.folder.startswith("s3://")


@dataclass(frozen=True, kw_only=True)
class FileSource(CsvForm, RowSource):
    """One Parquet or CSV (.csv.gz) file with the rows of all days; `time_column` says which day a row belongs to.

    `file` is absolute or below RETRAIN_HOME/data.
    """

    file: str
    time_column: str

    def words(self, data: Path) -> str:
        return str(data / self.file)

    def delivery(self, day: str, _file: str) -> str:
        return f"the rows of {day} in {self.file}"


@dataclass(frozen=True, kw_only=True)
class DatabaseSource(RowSource):
    """The rows of a query, read one day at a time by `time_column`, which holds times, dates or texts in ISO 8601.

    `database` names the environment variable with the database's address, in SQLAlchemy's form. A day is read again if
    the number of its rows or its largest `changed_column` changed; without a `changed_column`, every night.
    """

    database: str
    query: str
    time_column: str
    changed_column: str | None = None

    def words(self, _data: Path) -> str:
        return f"the query on {self.database}"

    def delivery(self, day: str, _file: str) -> str:
        return f"the rows of {day} in the database {self.database}"
