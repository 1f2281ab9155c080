"""A registered model: raw rows in, predictions out, with every constant that it needs inside."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from .columns import Column, conform, with_tuples, wrong_type
from .features import CategoryFeature, Encoder, NumberFeature
from .kinds.network import TabularNetwork, forward_in_blocks
from .output import Output, probabilities, values
from .refusal import refusal
from .rules import Rule, first_broken, rule_from_dict, rule_to_dict


@dataclass(frozen=True, kw_only=True)
class Architecture:
    hidden: tuple[int, ...]
    activation: str
    outputs: int


class PackagedModel:
    """Columns, rules, encoder, network and output: the whole path from a raw row to an answer."""

    def __init__(
        self,
        *,
        columns: tuple[Column, ...],
        rules: tuple[Rule, ...],
        encoder: Encoder,
        architecture: Architecture,
        network: TabularNetwork,
        output: Output,
        threads: int,
        time_zone: str = "UTC",
    ) -> None:
        self.columns, self.rules, self.encoder = columns, rules, encoder
        self.architecture, self.network, self.output, self.threads = architecture, network, output, threads
        self.time_zone = time_zone

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
        answers = self._answers(self.raw_outputs(typed), rows.index)
        if broken.notna().any():  # None, not NaN: a server's JSON must say null
            answers = answers.astype("object").where(broken.isna(), None)
        return answers.assign(broken_rule=broken)

    def raw_outputs(self, typed: pd.DataFrame) -> NDArray[np.float64]:
        """(rows, outputs) of the network, before calibration, threshold and scale."""
        return forward_in_blocks(self.network, self.encoder.transform(typed), self.threads)

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
        """Writes model.json and weights.safetensors: no pickle."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: t.contiguous() for name, t in self.network.state_dict().items()}, folder / "weights.safetensors"
        )
        contents = {
            "columns": [asdict(column) for column in self.columns],
            "rules": [rule_to_dict(rule) for rule in self.rules],
            "numbers": [asdict(feature) for feature in self.encoder.numbers],
            "categories": [asdict(feature) for feature in self.encoder.categories],
            "architecture": asdict(self.architecture),
            "output": asdict(self.output),
            "threads": self.threads,
            "time_zone": self.time_zone,
        }
        (folder / "model.json").write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "PackagedModel":
        contents = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        encoder = Encoder(
            tuple(NumberFeature(**fields) for fields in contents["numbers"]),
            tuple(CategoryFeature(**with_tuples(fields)) for fields in contents["categories"]),
        )
        architecture = Architecture(**with_tuples(contents["architecture"]))
        network = build_network(architecture, encoder)
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        return cls(
            columns=tuple(Column(**with_tuples(fields)) for fields in contents["columns"]),
            rules=tuple(rule_from_dict(fields) for fields in contents["rules"]),
            encoder=encoder,
            architecture=architecture,
            network=network,
            output=Output(**with_tuples(contents["output"])),
            threads=contents["threads"],
            time_zone=contents.get("time_zone", "UTC"),  # older models took no time with a zone
        )


def _holds_its_name(values: pd.Series) -> bool:
    """Where a request has a column twice, and two rows, MLflow hands over the column's name in place of each value."""
    return len(values) > 1 and all(isinstance(value, str) and value == values.name for value in values)


def _without_fields(seen: str) -> str:
    """The name of a type without those of a struct's fields: whoever sent it named them, maybe by a value."""
    before, struct, _ = seen.partition("struct<")
    return before + struct.rstrip("<")


def build_network(architecture: Architecture, encoder: Encoder) -> TabularNetwork:
    return TabularNetwork(
        numbers=encoder.number_width, category_sizes=encoder.category_sizes, **asdict(architecture)
    ).eval()
