"""A registered model applied to the rows of a file."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from ml import registry
from ml.config import UseCase
from ml.errors import DataRejected, printable
from ml.joins import complete_by_day
from ml.reading import UnusablePartition, read_table, refuse_other_columns
from ml.serving.columns import Column, conform, with_tuples
from ml.serving.rules import Rule, rule_from_dict
from ml.settings import Settings


def score_file(settings: Settings, use_case: UseCase, model_folder: Path, file: Path) -> tuple[pd.DataFrame, list[str]]:
    """One answer a row in the file's order, and the names of columns that the model ignored.

    The file holds raw rows, or rows of the source, which are then joined as a night joins them. Raises DataRejected
    where it cannot be read, or a column is missing or of another type.
    """
    columns = model_columns(model_folder)
    names = {column.name for column in columns}
    try:
        rows = read_table(file, use_case.columns)
        whole = rows if names <= set(rows.columns) else complete_by_day(settings, use_case, rows).rows
        refuse_other_columns(use_case, whole, columns)
    except UnusablePartition as error:
        raise DataRejected(
            "a file to score has the columns of a raw row", str(error), "mend the file and score again"
        ) from error
    ignored = [printable(str(name)) for name in rows.columns if name not in names]
    return registry.load_model(model_folder).predict(conform(whole, columns)), ignored


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
