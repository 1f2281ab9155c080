"""Brings the days of a DaySource, a kind of source that a company may write itself, as one Parquet file per day.

A day is brought again only if its mark changed or its copy is damaged. An error of the system or of a network may pass,
and the night is tried again. Any other error, and rows that no Parquet file can hold, cost their own day and no more.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ml.data.code import state_code_digest
from ml.data.source_kinds import DaySource
from ml.data.sources.brought import BroughtFolder
from ml.data.sources.folder import ALL
from ml.errors import ConfigError, DataRejected, SourceUnavailable, printable, what_and_where

T = TypeVar("T")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def bring_days(source: DaySource, data: Path, folder: BroughtFolder) -> None:
    """Brings the days whose marks changed.

    Raises DataRejected if the source is not there, SourceUnavailable if it does not answer, and ConfigError if its
    `days` cannot be used.
    """
    marks = _marks(source, data)
    code = state_code_digest("brought")
    before = folder.source["marks"] if isinstance(folder.source, dict) and folder.source.get("code") == code else {}
    now, unusable = dict[str, str](), dict[str, str]()
    for day, mark in marks.items():
        name = f"{day}.parquet"
        if before.get(name) != mark or name not in folder.intact:
            try:
                folder.write(name, _bytes_of(source, data, day))
            except _OwnError as error:
                unusable[day] = f"reading it ends in {error}"
                continue
        now[name] = mark
    folder.keep({"code": code, "marks": now}, now, (), unusable)


class _OwnError(Exception):
    """What a company's own code raised, by its kind and its place."""


def _marks(source: DaySource, data: Path) -> dict[str, str]:
    """The mark of each day, in date order."""
    kind = type(source).__name__
    try:
        days = _answer(source, data, lambda: source.days(data))
    except _OwnError as error:
        raise ConfigError(f"{kind}.days must say which days there are", f"it ends in {error}", "mend it") from error
    odd = f"a {type(days).__name__}" if not isinstance(days, Mapping) else _first_odd(days)
    if odd:
        rule = f"{kind}.days must give a mark for each day, like {{'2024-01-31': '...'}}, or for 'all' alone"
        raise ConfigError(rule, f"it gives {odd}", "mend it")
    return {str(day): str(days[day]) for day in sorted(days, key=str)}


def _first_odd(days: Iterable[object]) -> str:
    """The first of these that names no day, in words; empty if each does."""
    odd = (str(day) for day in days if str(day) != ALL and not DAY.fullmatch(str(day)))
    return next((repr(printable(day)[:40]) for day in odd), "")


def _answer(source: DaySource, data: Path, ask: Callable[[], T]) -> T:
    """What the company's own code answers."""
    try:
        return ask()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataRejected(
            f"{source.words(data)} must be there", f"the system says '{error.strerror}'", "make it, or mend the source"
        ) from error
    except MemoryError:
        raise
    except OSError as error:  # of the system or of a network: it may pass
        raise SourceUnavailable(f"{source.words(data)} must answer", what_and_where(error), "run again") from error
    except Exception as error:
        raise _OwnError(what_and_where(error)) from error


def _bytes_of(source: DaySource, data: Path, day: str) -> bytes:
    """A day's rows as a Parquet file. Raises _OwnError if there are none that such a file can hold."""
    rows = _answer(source, data, lambda: source.rows(data, day))
    if not isinstance(rows, pd.DataFrame):
        raise _OwnError(f"a {type(rows).__name__}, where rows gives a DataFrame")
    sink = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None), sink)
    except (pa.ArrowException, ValueError) as error:  # their messages quote values
        raise _OwnError(f"{type(error).__name__}, for no Parquet file can hold its rows") from error
    return sink.getvalue()
