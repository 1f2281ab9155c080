"""What a version needs to take rows of its source: the use case's derive and its side tables, tried on rows of a day.

A version that would not answer rows of the source exactly as a night does takes raw rows only, and says why.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd
import pyarrow as pa

from ml.data.dataset import Dataset, SideTable
from ml.data.joins import complete
from ml.serving.columns import Column, WrongType, conform
from ml.serving.derived import Derive, changed_by
from ml.serving.refusal import UnusableRows
from ml.serving.source import Side, Source

MOST_BYTES = 20_000_000  # of a side table's Parquet file: every process that serves keeps its rows in memory
TRIED_ROWS = 256
ANSWER = "answer__"  # begins the names of the columns with answers in a proof
MOST_TRIED = 300  # columns; with more than these that no model takes, each counts as needed
NOT_AS_IN_A_NIGHT = "derive gives other values where it runs alone"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows of one partition as the source has them, and the rows of the side tables that they are joined to. `undated`
    are the names of the tables that have the same rows for all partitions."""

    rows: pd.DataFrame
    sides: Mapping[str, pd.DataFrame]
    undated: set[str]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Which rows a version takes besides raw rows: those of its `source`; or none, for the reason `raw_only`, which is
    empty if rows of the source are raw rows. `forms` are such rows, of which each form gets the same answers.
    """

    source: Source | None = None
    raw_only: str = ""
    forms: tuple[pd.DataFrame, ...] = ()


def rows_taken(use_case: Dataset, derive: Derive | None, why_not: str | None, sample: Sample) -> Taken:
    """Which rows a version takes.

    `derive` is the function that travels, which cannot be if `why_not` says why.
    """
    if use_case.derive is None and not use_case.side_tables:
        return Taken()
    if why_not:
        return Taken(raw_only=f"derive does not travel: {why_not}")
    rows = sample.rows
    if taken := [name for name in map(str, rows.columns) if name.startswith(ANSWER)]:
        return Taken(raw_only=f"the source has a column {taken[0]}, whose name is kept for proofs of answers")
    changed = changed_by(derive, rows, use_case.features, use_case.time_zone) if derive else []
    if changed:
        return Taken(raw_only=f"derive changes {changed[0]}, so rows with it may be those before derive or after")
    rows = rows.head(TRIED_ROWS).reset_index(drop=True)
    tried = Tried(use_case, rows, complete(use_case, rows, sample.sides).rows)
    source = tried.least(_first(use_case, derive, sample))
    return Taken(source=source, forms=tuple(tried.forms(source))) if source else Taken(raw_only=NOT_AS_IN_A_NIGHT)


def _first(use_case: Dataset, derive: Derive | None, sample: Sample) -> Source:
    """The source half that needs every column."""
    sides = {t.name: _travelling(use_case, t, sample) for t in use_case.side_tables}
    times = [name for name in sample.rows.columns if pd.api.types.is_datetime64_any_dtype(sample.rows[name])]
    declared = {column.name for column in use_case.columns}
    names = tuple(map(str, sample.rows.columns))
    return Source(
        columns=(
            *(column for column in use_case.columns if column.name in names),
            *(Column(name=name, type="timestamp") for name in times if name not in declared),
        ),
        key=use_case.key,
        known=names,
        needed=names,
        brought=tuple(name for t in use_case.side_tables if sides[t.name] is None for name in t.take),
        derive=derive,
        sides=tuple(side for side in sides.values() if side is not None),
        time_zone=use_case.time_zone,
    )


def _travelling(use_case: Dataset, table: SideTable, sample: Sample) -> Side | None:
    """The side table as it travels; None if it does not: it has days, is too large, has a sensitive column, or does not
    come back from a file as it was."""
    sensitive = {column.name for column in use_case.columns if column.sensitive}
    names = list(dict.fromkeys((*table.on, *table.take)))
    if table.name not in sample.undated or sensitive & set(names):
        return None
    rows = sample.sides[table.name][names].reset_index(drop=True)
    try:
        data = rows.to_parquet(index=False)
    except (pa.ArrowException, ValueError, TypeError):  # objects that a Parquet file does not hold
        return None
    back = pd.read_parquet(io.BytesIO(data))
    if len(data) > MOST_BYTES or not back.equals(rows) or not back.dtypes.equals(rows.dtypes):
        return None
    return Side(name=table.name, on=table.on, take=table.take, rows=rows)


@dataclass(frozen=True)
class Tried:
    """Rows of the source, and the raw rows that a night makes of them."""

    use_case: Dataset
    rows: pd.DataFrame
    raw: pd.DataFrame

    def least(self, source: Source) -> Source | None:
        """The source half with the fewest columns that a caller must give; None if it does not make the same raw rows
        as a night does, with the side tables' columns given and without."""
        if not all(self._agrees(source, rows) for rows in self.forms(source)):
            return None
        (rows, _) = self.forms(source)
        features = {column.name for column in self.use_case.features}
        candidates = [name for name in source.known if name not in features]
        free = candidates[:MOST_TRIED] if len(candidates) <= MOST_TRIED else []
        unread = [name for name in free if self._agrees(_without(source, [name]), rows.drop(columns=name))]
        blank = [name for name in free if name not in unread and self._agrees_blank(source, rows, name)]
        less = replace(
            _without(source, [*unread, *blank]), blank=tuple(_column_of(self.rows[name], name) for name in blank)
        )
        left = rows.drop(columns=[*unread, *blank])
        return less if self._agrees(less, left) else source

    def forms(self, source: Source) -> Iterator[pd.DataFrame]:
        """Rows of the source with the columns that a caller must give, then with those of all side tables."""
        rows = self.rows[list(source.needed)]
        yield pd.concat([rows, self.raw[list(source.brought)]], axis=1)
        yield pd.concat([rows, self.raw[list(source.joined)]], axis=1)

    def _agrees(self, source: Source, rows: pd.DataFrame) -> bool:
        features, zone = self.use_case.features, self.use_case.time_zone
        try:
            made, _ = source.completed(rows)
            return conform(made, features, zone).equals(conform(self.raw, features, zone))
        except (UnusableRows, WrongType, KeyError):
            return False

    def _agrees_blank(self, source: Source, rows: pd.DataFrame, name: str) -> bool:
        blank = (_column_of(self.rows[name], name),)
        return self._agrees(replace(_without(source, [name]), blank=blank), rows.drop(columns=name))


def _without(source: Source, names: list[str]) -> Source:
    return replace(source, needed=tuple(name for name in source.needed if name not in names))


def _column_of(values: pd.Series, name: str) -> Column:
    """A column of a type that has the values' nulls."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return Column(name=name, type="timestamp")
    return Column(name=name, type="number" if pd.api.types.is_numeric_dtype(values) else "text")


def sentence(columns: tuple[Column, ...], source: Source | None, raw_only: str) -> str:
    """Which rows a version takes, for its page in MLflow."""
    raw = f"Raw rows need {', '.join(column.name for column in columns)}."
    if source is None:
        return f"{raw} It takes no rows of the source: {raw_only}." if raw_only else raw
    brought = f", and {', '.join(source.brought)} joined to them" if source.brought else ""
    blank = f" {', '.join(column.name for column in source.blank)} may be left out." if source.blank else ""
    joins = f" {', '.join(side.name for side in source.sides)} is joined here." if source.sides else ""
    needed = f"they need {', '.join(source.needed)}{brought}"
    return f"{raw} Rows of the source may be given instead: {needed}.{blank}{joins}"
