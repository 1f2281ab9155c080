"""What a packaged model says about itself, read from its files without loading it; and how it gets raw rows."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from ml.serving.columns import Column, with_tuples
from ml.serving.model import RAW
from ml.serving.output import Output
from ml.serving.rules import Rule, rule_from_dict


def model_columns(model_folder: Path) -> tuple[Column, ...]:
    """The raw columns that a packaged model takes."""
    return tuple(Column(**with_tuples(fields)) for fields in description(model_folder)["columns"])


def model_rules(model_folder: Path) -> tuple[Rule, ...]:
    """The rules by which a packaged model refuses a row."""
    return tuple(rule_from_dict(fields) for fields in description(model_folder)["rules"])


def model_output(model_folder: Path) -> Output:
    """How the outputs of a model that today's code packaged become answers. Older ones have other fields."""
    return Output(**with_tuples(description(model_folder)["output"]))


def model_threshold(model_folder: Path) -> float | None:
    """The probability from which a model of two classes answers the second class; None for any other model."""
    output = description(model_folder)["output"]
    return float(output["threshold"]) if output["kind"] == "binary" else None


def description(model_folder: Path) -> dict[str, Any]:
    """All that the model says about itself, in JSON's types."""
    contents: dict[str, Any] = json.loads((model_folder / "data" / "model" / "model.json").read_text(encoding="utf-8"))
    return contents


def predict_raw(model: Any, rows: pd.DataFrame, **params: str | int) -> pd.DataFrame:
    """What a loaded version answers to rows that are raw rows for certain, whatever its derive would make of them.

    A version of before 2026-11-28 takes no others, and has no parameter to say so.
    """
    schema = model.metadata.get_params_schema()
    said: dict[str, str | int] = (
        {"rows": RAW} if schema is not None and "rows" in {spec.name for spec in schema.params} else {}
    )
    answers: pd.DataFrame = model.predict(rows, params=params | said or None)
    return answers
