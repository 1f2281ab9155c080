"""A registered model applied to the rows of a file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ml.data.derived import is_rewritten
from ml.data.handles import JoinCounts
from ml.data.joins import Joined, complete_by_day
from ml.data.reading import Declared, UnusablePartition, read_with_columns_as_written, refuse_other_columns
from ml.errors import DataRejected, printable
from ml.serving.columns import Column, conform, with_tuples
from ml.serving.features import UNKNOWN, CategoryFeature
from ml.serving.rules import Rule, rule_from_dict
from ml.settings import Settings
from ml.storage import registry
from ml.use_case.definition import UseCase


@dataclass(frozen=True)
class Scored:
    """One answer a row in the file's order; the key columns that the file has, as they stand in it; the columns that
    the model ignored, how rows met each side table, and how many rows have a value of a category that the model has
    not learnt."""

    answers: pd.DataFrame
    keys: pd.DataFrame
    ignored_columns: list[str]
    joins: dict[str, JoinCounts]
    not_learnt: dict[str, int]


def score_file(settings: Settings, use_case: UseCase, model_folder: Path, file: Path) -> Scored:
    """What a model answers to the rows of a file.

    The file holds raw rows, or rows of the source, which are then derived and joined as a night does it. Raises
    DataRejected where it cannot be read, can be read as either, or a column is missing or of another type.
    """
    columns = model_columns(model_folder)
    try:
        declared = Declared.of(use_case, use_case.source)
        rows, keys = read_with_columns_as_written(file, declared, use_case.key)
        whole = _raw_rows(settings, use_case, rows, columns)
        refuse_other_columns(use_case, whole.rows, columns)
    except UnusablePartition as error:
        raise DataRejected(
            "a file to score has the columns of a raw row", str(error), "mend the file and score again"
        ) from error
    names = {column.name for column in columns}
    ignored = [printable(str(name)) for name in rows.columns if name not in names and name not in keys]
    typed = conform(whole.rows, columns, use_case.time_zone)
    answers = registry.load_model(model_folder).predict(typed)
    return Scored(answers, keys, ignored, whole.joins, _not_learnt(model_folder, typed))


def _not_learnt(model_folder: Path, typed: pd.DataFrame) -> dict[str, int]:
    """Rows a category: a value that is spelt otherwise gets an answer too, as any that is unknown or rare."""
    features = [CategoryFeature(**with_tuples(fields)) for fields in _contents(model_folder)["categories"]]
    counts = {each.column: int((each.transform(typed) == UNKNOWN).sum()) for each in features if each.part is None}
    return {name: count for name, count in counts.items() if count}


def _raw_rows(settings: Settings, use_case: UseCase, rows: pd.DataFrame, columns: tuple[Column, ...]) -> Joined:
    if not {column.name for column in columns} <= set(rows.columns):
        return complete_by_day(settings, use_case, rows)
    for column in columns:
        if is_rewritten(use_case, rows, column):
            raise DataRejected(
                "a file to score must be read in one way",
                f"derive of {use_case.name} reads and changes {column.name}, so its rows may be those before or after",
                "let derive give what it computes a name of its own",
            )
    return Joined(rows, {})


def model_columns(model_folder: Path) -> tuple[Column, ...]:
    """The raw columns that a packaged model takes."""
    return tuple(Column(**with_tuples(fields)) for fields in _contents(model_folder)["columns"])


def model_rules(model_folder: Path) -> tuple[Rule, ...]:
    """The rules by which a packaged model refuses a row."""
    return tuple(rule_from_dict(fields) for fields in _contents(model_folder)["rules"])


def model_threshold(model_folder: Path) -> float | None:
    """The probability from which on a model of two classes says the second; others have none."""
    output = _contents(model_folder)["output"]
    return float(output["threshold"]) if output["kind"] == "binary" else None


def _contents(model_folder: Path) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((model_folder / "data" / "model" / "model.json").read_text(encoding="utf-8"))
    return contents
