"""How a model's outputs become probabilities and values; numpy only."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TaskKind = Literal["binary", "multiclass", "regression"]
BASE = "base"  # in names of contributions: the output without what any column adds


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a model's outputs become answers.

    A binary probability is sigmoid(slope * logit + offset). A regression's output is the answer, and is exponentiated
    if the model learnt logarithms (`log`).
    """

    kind: TaskKind
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    slope: float = 1.0
    offset: float = 0.0
    log: bool = False


def answer_names(kind: TaskKind, classes: Iterable[str]) -> list[str]:
    """The columns of a model's answers, in their order."""
    shares = {"binary": ["probability"], "multiclass": [f"probability_{name}" for name in classes], "regression": []}
    return ["prediction", *shares[kind], "broken_rule"]


def contribution_names(kind: TaskKind, classes: Iterable[str], columns: Iterable[str]) -> list[str]:
    """The columns of contributions: for each output those of the model's columns, and that of the base value."""
    outputs = [f"{name}_" for name in classes] if kind == "multiclass" else [""]
    return [f"contribution_{output}{name}" for output in outputs for name in (*columns, BASE)]


def probabilities(output: Output, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows, classes) from the model's outputs: calibrated sigmoid for two classes, softmax for more."""
    if output.kind == "binary":
        positive = sigmoid(output.slope * outputs[:, 0] + output.offset)
        return np.column_stack([1 - positive, positive])
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + e^-z) without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


def values(output: Output, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows,) in the target's own unit."""
    return np.exp(outputs[:, 0]) if output.log else outputs[:, 0]
