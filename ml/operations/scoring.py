"""A registered model applied to the rows of a file, and what a packaged model says about itself.

A file that could be read in two ways, or whose columns do not fit the model, is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ml.data.dataset import SideTable, Table
from ml.data.handles import JoinCounts
from ml.data.joins import Joined, complete_by_day
from ml.data.reading import (
    Declared,
    UnusablePartition,
    read_with_columns_as_written,
    refuse_missing,
    refuse_other_columns,
)
from ml.errors import DataRejected, printable
from ml.serving.columns import Column, conform, with_tuples
from ml.serving.derived import rewritten
from ml.serving.features import UNKNOWN, CategoryFeature
from ml.serving.output import Output
from ml.serving.rules import Rule, rule_from_dict
from ml.serving.source import Side, Source
from ml.settings import Settings
from ml.storage import registry
from ml.use_case.definition import UseCase


@dataclass(frozen=True)
class Scored:
    """What a model answered to a file.

    `answers` has one row for each row of the file, in its order. `keys` are the key columns that the file has, as they
    stand in it. `joins` says how many rows met each side table. `not_learnt` is column to the number of rows with a
    category that the model has not learned.
    """

    answers: pd.DataFrame
    keys: pd.DataFrame
    ignored_columns: list[str]
    joins: dict[str, JoinCounts]
    not_learnt: dict[str, int]


def score_file(settings: Settings, use_case: UseCase, model_folder: Path, file: Path) -> Scored:
    """The model's answers to the rows of a file.

    The file has raw rows, with all columns that the model takes, or rows of the use case's source. These are derived
    and joined by the version itself. What it does not have is taken from the use case of today: side tables with days,
    or all of it if the version takes raw rows only. Raises DataRejected if the file cannot be read, if its rows may be
    either, or if a column is missing or of another type.
    """
    columns, model = model_columns(model_folder), registry.load_model(model_folder)
    try:
        declared = Declared.of(use_case, use_case.source)
        rows, keys = read_with_columns_as_written(file, declared, use_case.key)
        source = model.get_raw_model().source if _contents(model_folder).get("source") else None
        whole = _raw_rows(settings, use_case, source, rows, columns)
        refuse_other_columns(use_case, whole.rows, columns)
    except UnusablePartition as error:
        raise DataRejected(
            "a file to score has the columns of a raw row", str(error), "mend the file and score again"
        ) from error
    names = {column.name for column in columns}
    ignored = [printable(str(name)) for name in rows.columns if name not in names and name not in keys]
    typed = conform(whole.rows, columns, use_case.time_zone)
    answers = model.predict(typed)
    return Scored(answers, keys, ignored, whole.joins, _not_learnt(model_folder, typed))


def _not_learnt(model_folder: Path, typed: pd.DataFrame) -> dict[str, int]:
    """How many rows have an unknown category, by column. The model answers them like any rare category, so a misspelled
    value would otherwise not be noticed."""
    features = [
        CategoryFeature(column=name, part=None, values=values) for name, values in _learnt(model_folder).items()
    ]
    counts = {feature.column: int((feature.transform(typed) == UNKNOWN).sum()) for feature in features}
    return {name: count for name, count in counts.items() if count}


def _learnt(model_folder: Path) -> dict[str, tuple[str, ...]]:
    """The values that the model has learnt, by category column."""
    contents = _contents(model_folder)
    if "vocabulary" in contents:
        return {name: tuple(values) for name, values in contents["vocabulary"].items()}
    older = contents["categories"]  # of a model that was registered before 2026-11-28
    return {feature["column"]: tuple(feature["values"]) for feature in older if feature["part"] is None}


def _raw_rows(
    settings: Settings, use_case: UseCase, source: Source | None, rows: pd.DataFrame, columns: tuple[Column, ...]
) -> Joined:
    """The rows with all columns that the model takes. Raises DataRejected if they may be read in two ways."""
    if not {column.name for column in columns} <= set(rows.columns):
        return (
            complete_by_day(settings, use_case, rows)
            if source is None
            else _completed(settings, use_case, source, rows)
        )
    derive = use_case.derive if source is None else source.derive
    if changed := rewritten(derive, rows, columns, use_case.time_zone):
        raise DataRejected(
            "a file to score must be read in one way",
            f"derive of {use_case.name} reads and changes {changed}, so its rows may be those before or after",
            "let derive give what it computes a name of its own",
        )
    return Joined(rows, {})


def _completed(settings: Settings, use_case: UseCase, source: Source, rows: pd.DataFrame) -> Joined:
    """Rows of the source as raw rows, by what the version has, and by today's side tables where it has none."""
    if not any(name in rows.columns for name in source.joined):
        table = Table(**{field.name: getattr(use_case, field.name) for field in fields(Table)})
        sides = {side.name: side for side in source.sides}
        of_version = replace(table, derive=source.derive, side_tables=_side_tables(use_case, sides))
        own_rows = {name: side.rows for name, side in sides.items()}
        return complete_by_day(settings, of_version, source.with_blank(rows), own_rows)
    refuse_missing(rows, tuple(source.missing(rows)))
    whole, counts = source.completed(rows)
    return Joined(whole, {name: JoinCounts(rows=len(rows), **asdict(met)) for name, met in counts.items()})


def _side_tables(use_case: UseCase, sides: Mapping[str, Side]) -> tuple[SideTable, ...]:
    """Today's side tables, with those that the version has as they are declared there."""
    today = {table.name: table for table in use_case.side_tables}
    gone = {name: SideTable(name=name, source=use_case.source, on=(), take=()) for name in sides if name not in today}
    return tuple(
        replace(table, on=sides[name].on, take=sides[name].take) if name in sides else table
        for name, table in (today | gone).items()
    )


def model_columns(model_folder: Path) -> tuple[Column, ...]:
    """The raw columns that a packaged model takes."""
    return tuple(Column(**with_tuples(fields)) for fields in _contents(model_folder)["columns"])


def model_rules(model_folder: Path) -> tuple[Rule, ...]:
    """The rules by which a packaged model refuses a row."""
    return tuple(rule_from_dict(fields) for fields in _contents(model_folder)["rules"])


def model_output(model_folder: Path) -> Output:
    """How a packaged model's outputs become answers."""
    return Output(**with_tuples(_contents(model_folder)["output"]))


def model_threshold(model_folder: Path) -> float | None:
    """The probability from which a model of two classes answers the second class; None for any other model."""
    output = model_output(model_folder)
    return float(output.threshold) if output.kind == "binary" else None


def _contents(model_folder: Path) -> dict[str, Any]:
    """The model's description of itself."""
    contents: dict[str, Any] = json.loads((model_folder / "data" / "model" / "model.json").read_text(encoding="utf-8"))
    return contents
