"""A registered model applied to the rows of a file.

A file that could be read in two ways, or whose columns do not fit the model, is refused.
"""

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
from ml.errors import ConfigError, DataRejected, UsageError, printable
from ml.models.description import description, model_columns, predict_raw
from ml.serving.columns import Column, conform, with_tuples
from ml.serving.derived import rewritten
from ml.serving.features import UNKNOWN, CategoryFeature
from ml.serving.model import CONTRIBUTIONS, REASONS
from ml.serving.reasons import reason_names
from ml.serving.source import Side, Source
from ml.settings import Settings
from ml.storage import registry
from ml.use_case.definition import UseCase


@dataclass(frozen=True)
class Scored:
    """What a model answered to a file.

    `answers` has one row for each row of the file, in its order. `keys` are the key columns that the file has, as they
    stand in it. `joins` says how many rows met each side table. `not_learnt` is column to the number of rows with a
    category that the model has not learned. `contributions` say what each column adds to each answer, if they were
    asked for, and `reasons` are sentences about those that moved a row most.
    """

    answers: pd.DataFrame
    keys: pd.DataFrame
    ignored_columns: list[str]
    joins: dict[str, JoinCounts]
    not_learnt: dict[str, int]
    contributions: pd.DataFrame | None = None
    reasons: pd.DataFrame | None = None


def score_file(
    settings: Settings, use_case: UseCase, model_folder: Path, file: Path, *, explain: bool = False, reasons: int = 0
) -> Scored:
    """The model's answers to the rows of a file. To `explain` them is to say what each column adds; `reasons` are so
    many sentences about the columns that moved a row most.

    The file has raw rows, with all columns that the model takes, or rows of the use case's source. These are derived
    and joined by the version itself. What it does not have is taken from the use case of today: side tables with days,
    or all of it if the version takes raw rows only. Columns have the types that the version knows them by, and times
    its time zone, whatever is declared today. Raises DataRejected if the file cannot be read, if its rows may be
    either, or if a column is missing or of another type; UsageError if the model cannot explain its answers.
    """
    columns, model = model_columns(model_folder), registry.load_model(model_folder)
    if explain or reasons:
        _refuse_unexplained(model, model_folder, reasons)
    table = _as_the_version_knows_it(use_case, model_folder)
    try:
        rows, keys = read_with_columns_as_written(file, Declared.of(table, table.source), table.key)
        source = model.get_raw_model().source if description(model_folder).get("source") else None
        whole = _raw_rows(settings, table, source, rows, columns)
        refuse_other_columns(table, whole.rows, columns)
    except UnusablePartition as error:
        raise DataRejected(
            "a file to score has the columns of a raw row", str(error), "mend the file and score again"
        ) from error
    names = {column.name for column in columns}
    ignored = [printable(str(name)) for name in rows.columns if name not in names and name not in keys]
    typed = conform(whole.rows, columns, table.time_zone)
    answers = predict_raw(model, typed)
    told = predict_raw(model, typed, answer=CONTRIBUTIONS).drop(columns="broken_rule") if explain else None
    words = _reasons(model, typed, table, reasons) if reasons else None
    _refuse_names_of_answers(
        use_case, keys, [name for table in (answers, told, words) if table is not None for name in table]
    )
    return Scored(answers, keys, ignored, whole.joins, _not_learnt(model_folder, typed), told, words)


def _as_the_version_knows_it(use_case: UseCase, model_folder: Path) -> Table:
    """The use case with the version's own columns and time zone; other columns are as they are declared today. What is
    sensitive today stays so."""
    contents = description(model_folder)
    stored = [*(contents.get("source") or {"columns": []})["columns"], *contents["columns"]]
    own = {each["name"]: Column(**with_tuples(each)) for each in stored}
    today = {column.name: column for column in use_case.columns}
    secret = {name for name, column in today.items() if column.sensitive}
    columns = (replace(each, sensitive=each.sensitive or name in secret) for name, each in (today | own).items())
    table = Table(**{field.name: getattr(use_case, field.name) for field in fields(Table)})
    return replace(table, columns=tuple(columns), time_zone=contents.get("time_zone", use_case.time_zone))


def _refuse_unexplained(model: Any, model_folder: Path, reasons: int) -> None:
    """Raises UsageError for a version of a kind that cannot say what each column adds, or of before reasons."""
    raw = model.get_raw_model()
    served = getattr(raw, "served", None)  # versions from before 2026-11-28 have none
    option = "--reasons" if reasons else "--explain"
    if not hasattr(served, "contributions"):
        kind = description(model_folder).get("kind", "network")
        raise UsageError(
            f"{option} needs a kind of model that tells what each column adds to an answer",
            f"the kind {kind} does not",
            f"leave {option} out, or learn with Trees",
        )
    if reasons and not hasattr(raw, "reasons"):
        raise UsageError(
            "--reasons needs a version that gives reasons", "this one was made before there were any", "use --explain"
        )


def _reasons(model: Any, typed: pd.DataFrame, table: Table, reasons: int) -> pd.DataFrame:
    """The reasons of each row. No value of a column that is declared sensitive today is quoted."""
    packaged, secret = model.get_raw_model(), {column.name for column in table.columns if column.sensitive}
    packaged.columns = tuple(
        replace(column, sensitive=column.sensitive or column.name in secret) for column in packaged.columns
    )
    return predict_raw(model, typed, answer=REASONS, reasons=reasons)[reason_names(reasons)]


def _refuse_names_of_answers(use_case: UseCase, keys: pd.DataFrame, names: list[str]) -> None:
    """Raises ConfigError for a key column that has the name of an answer of this version. Today's classes are looked at
    when the use case is read; a version may have had others."""
    twice = [name for name in keys if name in names]
    if twice:
        rule = f"key of {use_case.name} must not name an answer of the version"
        raise ConfigError(rule, f"{twice[0]} is one", "rename the column")


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
    contents = description(model_folder)
    if "vocabulary" in contents:
        return {name: tuple(values) for name, values in contents["vocabulary"].items()}
    older = contents["categories"]  # of a model that was registered before 2026-11-28
    return {feature["column"]: tuple(feature["values"]) for feature in older if feature["part"] is None}


def _raw_rows(
    settings: Settings, table: Table, source: Source | None, rows: pd.DataFrame, columns: tuple[Column, ...]
) -> Joined:
    """The rows with all columns that the model takes. Raises DataRejected if they may be read in two ways."""
    if not {column.name for column in columns} <= set(rows.columns):
        return complete_by_day(settings, table, rows) if source is None else _completed(settings, table, source, rows)
    derive = table.derive if source is None else source.derive
    if changed := rewritten(derive, rows, columns, table.time_zone):
        raise DataRejected(
            "a file to score must be read in one way",
            f"derive of {table.name} reads and changes {changed}, so its rows may be those before or after",
            "let derive give what it computes a name of its own",
        )
    return Joined(rows, {})


def _completed(settings: Settings, table: Table, source: Source, rows: pd.DataFrame) -> Joined:
    """Rows of the source as raw rows, by what the version has, and by today's side tables where it has none."""
    if not any(name in rows.columns for name in source.joined):
        sides = {side.name: side for side in source.sides}
        of_version = replace(table, derive=source.derive, side_tables=_side_tables(table, sides))
        own_rows = {name: side.rows for name, side in sides.items()}
        return complete_by_day(settings, of_version, source.with_blank(rows), own_rows)
    refuse_missing(rows, tuple(source.missing(rows)))
    whole, counts = source.completed(rows)
    return Joined(whole, {name: JoinCounts(rows=len(rows), **asdict(met)) for name, met in counts.items()})


def _side_tables(use_case: Table, sides: Mapping[str, Side]) -> tuple[SideTable, ...]:
    """Today's side tables, with those that the version has as they are declared there."""
    today = {table.name: table for table in use_case.side_tables}
    gone = {name: SideTable(name=name, source=use_case.source, on=(), take=()) for name in sides if name not in today}
    return tuple(
        replace(table, on=sides[name].on, take=sides[name].take) if name in sides else table
        for name, table in (today | gone).items()
    )
