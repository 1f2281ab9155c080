"""A registered model: raw rows in, predictions out, with every constant that it needs inside."""

import json
import shutil
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .columns import Column, conform, with_tuples, wrong_type
from .output import Output, probabilities, values
from .refusal import refusal
from .rules import Rule, first_broken, rule_from_dict, rule_to_dict

FORMAT = 2
KIND = "kind"  # the folder with the files of the fitted model


class Served(Protocol):
    """A fitted model of some kind, loaded from its folder."""

    def outputs(self, typed: pd.DataFrame) -> NDArray[np.float64]:
        """(rows, outputs): a logit of the second class, a logit of each class, or the value that was learnt.

        A row's outputs depend neither on the rows beside it nor on their order.
        """

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The values that were learnt, by category column."""


def load_served(kind: str, folder: Path, threads: int) -> Served:
    """The fitted model in the folder, loaded by the module `kind` of `kinds/`."""
    served: Served = import_module(f".kinds.{kind}", __package__).load(folder, threads)
    return served


class PackagedModel:
    """Columns, rules, a fitted model and its output: the whole path from a raw row to an answer.

    `kind` is the module of `kinds/` that loads the fitted model from `folder`.
    """

    def __init__(
        self,
        *,
        columns: tuple[Column, ...],
        rules: tuple[Rule, ...],
        kind: str,
        folder: Path,
        output: Output,
        threads: int,
        time_zone: str = "UTC",
    ) -> None:
        self.columns, self.rules, self.kind, self.folder = columns, rules, kind, folder
        self.output, self.threads, self.time_zone = output, threads, time_zone
        self.served = load_served(kind, folder, threads)

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One answer a row, in the same order and under the same index.

        Columns: `prediction` (class name, or the value), `probability` (binary: of the second class) or
        `probability_<class>` (multiclass), and `broken_rule`: the rule that a row breaks, its answers being null.
        Raises ValueError where a declared column is missing or has another type; extra columns are ignored.
        """
        del params  # MLflow passes it
        self._refuse_other_columns(rows)
        typed = conform(rows, self.columns, self.time_zone)
        broken = first_broken(self.rules, typed)
        answers = self._answers(self.served.outputs(typed), rows.index)
        if broken.notna().any():  # None, not NaN: a server's JSON must say null
            answers = answers.astype("object").where(broken.isna(), None)
        return answers.assign(broken_rule=broken)

    def _refuse_other_columns(self, rows: pd.DataFrame) -> None:
        missing = [column.name for column in self.columns if column.name not in rows.columns]
        if missing:
            raise refusal(f"rows must have the columns that the model was trained on, but {missing} are missing")
        twice = [column.name for column in self.columns if (rows.columns == column.name).sum() > 1]
        twice = twice or [column.name for column in self.columns if _holds_its_name(rows[column.name])]
        if twice:
            raise refusal(f"rows must have each column once, but {twice} are there twice")
        for column in self.columns:
            seen = wrong_type(column, rows[column.name])
            if seen:
                raise refusal(f"column {column.name} must be {column.type}, but it is {_without_fields(seen)}")

    def _answers(self, outputs: NDArray[np.float64], index: pd.Index) -> pd.DataFrame:
        if self.output.kind == "binary":
            probability = probabilities(self.output, outputs)[:, 1]
            chosen = (probability >= self.output.threshold).astype(int)
            return pd.DataFrame({"prediction": self._names(chosen), "probability": probability}, index=index)
        if self.output.kind == "multiclass":
            p = probabilities(self.output, outputs)
            columns = {f"probability_{name}": p[:, i] for i, name in enumerate(self.output.classes)}
            return pd.DataFrame({"prediction": self._names(p.argmax(axis=1)), **columns}, index=index)
        return pd.DataFrame({"prediction": values(self.output, outputs)}, index=index)

    def _names(self, chosen: NDArray[np.int_]) -> NDArray[np.object_]:
        return np.array(self.output.classes, dtype=object)[chosen]

    def save(self, folder: Path) -> None:
        """Writes model.json and a copy of the fitted model's files: no pickle."""
        shutil.copytree(self.folder, folder / KIND)
        contents = {
            "format": FORMAT,
            "kind": self.kind,
            "columns": [asdict(column) for column in self.columns],
            "rules": [rule_to_dict(rule) for rule in self.rules],
            "vocabulary": self.served.vocabulary,
            "output": asdict(self.output),
            "threads": self.threads,
            "time_zone": self.time_zone,
        }
        (folder / "model.json").write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "PackagedModel":
        contents = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        return cls(
            columns=tuple(Column(**with_tuples(fields)) for fields in contents["columns"]),
            rules=tuple(rule_from_dict(fields) for fields in contents["rules"]),
            kind=contents["kind"],
            folder=folder / KIND,
            output=Output(**with_tuples(contents["output"])),
            threads=contents["threads"],
            time_zone=contents["time_zone"],
        )


def _holds_its_name(values: pd.Series) -> bool:
    """Where a request has a column twice, and two rows, MLflow hands over the column's name in place of each value."""
    return len(values) > 1 and all(isinstance(value, str) and value == values.name for value in values)


def _without_fields(seen: str) -> str:
    """The name of a type without those of a struct's fields: whoever sent it named them, maybe by a value."""
    before, struct, _ = seen.partition("struct<")
    return before + struct.rstrip("<")
