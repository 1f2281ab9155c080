"""Rows of the source inside a version: derived and joined as a night does it, they become raw rows."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .columns import Column, WrongType, typed, with_tuples
from .derived import Derive, derived, rewritten
from .joins import Counts, join
from .own_code import OwnCode
from .refusal import UnusableRows


@dataclass(frozen=True, kw_only=True)
class Side:
    """A side table as it was at the version's date: its rows, with the columns `on` and `take`."""

    name: str
    on: tuple[str, ...]
    take: tuple[str, ...]
    rows: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Source:
    """What rows of the source have, and how they become raw rows.

    `columns` are the declared columns: values get their types before derive is given them. `key` tells rows apart.
    `known` are all columns that the source had. Of these a caller must give those in `needed`; those in `blank` are
    looked for and decide no answer, so they are null where a caller leaves them out. `brought` are columns of side
    tables that do not travel, which a caller gives too.
    """

    columns: tuple[Column, ...]
    key: tuple[str, ...]
    known: tuple[str, ...]
    needed: tuple[str, ...]
    blank: tuple[Column, ...] = ()
    brought: tuple[str, ...] = ()
    derive: Derive | None = None
    sides: tuple[Side, ...] = ()
    time_zone: str = "UTC"

    @property
    def joined(self) -> tuple[str, ...]:
        """All columns that side tables give, whether they travel or not."""
        return (*self.brought, *(name for side in self.sides for name in side.take))

    def missing(self, rows: pd.DataFrame) -> list[str]:
        """The columns that the rows lack. A side table's columns are given all or not at all."""
        begun = [side for side in self.sides if any(name in rows.columns for name in side.take)]
        names = (*self.needed, *self.brought, *(name for side in begun for name in side.take))
        return [name for name in names if name not in rows.columns]

    def completed(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Counts]]:
        """Raw rows: the rows with all that derive and side tables give, in their order and under their index. Also how
        they met each side table that was joined here.

        What a caller gives of a side table is not joined again. Raises UnusableRows if derive or a join fails.
        """
        counts: dict[str, Counts] = {}
        numbered = rows.reset_index(drop=True)
        given = numbered[[name for name in self.joined if name in numbered.columns]]
        whole = derived(self.derive, self._as_read(numbered.drop(columns=list(given.columns))), self._telling(rows))
        for side in self.sides:
            if side.take[0] not in given.columns:
                whole, counts[side.name] = join(whole, side, side.rows)
        twice = [name for name in given.columns if name in whole.columns]
        if twice:
            raise UnusableRows(f"derive gives {', '.join(twice)}, which side tables give already")
        return pd.concat([whole, given], axis=1).set_axis(rows.index), counts

    def rewritten(self, rows: pd.DataFrame, columns: tuple[Column, ...]) -> str | None:
        """The name of a column that derive reads in these rows and would change; None if there is none."""
        numbered = self._as_read(rows.reset_index(drop=True))
        return rewritten(self.derive, numbered, columns, self.time_zone)

    def _telling(self, rows: pd.DataFrame) -> list[str]:
        key = [name for name in self.key if name in rows.columns]
        return key or [column.name for column in self.columns if column.name in rows.columns]

    def _as_read(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows with the types that derive gets in a night, and nulls for what may be left out."""
        declared = {c.name: as_read(c, rows[c.name], self.time_zone) for c in self.columns if c.name in rows.columns}
        return self.with_blank(rows).assign(**declared)

    def with_blank(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows with nulls in the columns that may be left out, where they are."""
        absent = (column for column in self.blank if column.name not in rows.columns)
        return rows.assign(**{column.name: as_read(column, pd.Series(np.nan, rows.index)) for column in absent})

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the side tables into the folder; returns the rest as JSON."""
        for number, side in enumerate(self.sides):
            side.rows.to_parquet(folder / _file_of(number), index=False)
        plain = ("key", "known", "needed", "brought", "time_zone")
        return {
            **{name: getattr(self, name) for name in plain},
            "columns": [asdict(column) for column in self.columns],
            "blank": [asdict(column) for column in self.blank],
            "sides": [{"name": side.name, "on": side.on, "take": side.take} for side in self.sides],
        }

    @classmethod
    def load(cls, contents: dict[str, Any], folder: Path, own: OwnCode) -> "Source":
        """What `save` wrote, with the version's own derive."""
        sides = [
            Side(**with_tuples(side), rows=pd.read_parquet(folder / _file_of(number)))
            for number, side in enumerate(contents["sides"])
        ]
        columns = {name: [Column(**with_tuples(each)) for each in contents[name]] for name in ("columns", "blank")}
        derive = own.derive_function() if own.derive else None
        return cls(**with_tuples({**contents, **columns, "sides": sides, "derive": derive}))


def _file_of(number: int) -> str:
    return f"side-{number}.parquet"


def as_read(column: Column, values: pd.Series, time_zone: str = "UTC") -> pd.Series:
    """The values as derive gets them of a declared column: in its type, or as they are if it cannot hold them.

    Integers without gaps stay integers.
    """
    if column.type in {"number", "integer"} and isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":
        return values
    try:
        return typed(column, values, time_zone)
    except WrongType:
        return values
