"""How a model's outputs become probabilities and values; numpy only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TaskKind = Literal["binary", "multiclass", "regression"]
BASE = "base"  # in names of contributions: the output without what any column adds


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a model's outputs become answers.

    The logit of a class is `slope` times the model's output, plus `offset`. If there is a `curve`, it then leads from
    there to the calibrated logit: its points (before, after) rise, straight lines join them, and outside of them the
    logit moves by as much as before. A binary probability is the sigmoid of the logit, and several are the softmax of
    theirs. `calibration` says in a sentence which calibration this is, and why. A regression's output is the answer, in
    the target's `unit`, and is exponentiated if the model learnt logarithms (`log`).

    Of two classes the second one is answered from the `threshold` on. Of more it is the most probable one or, if there
    are `costs` (a row for each true class, with the cost of each answer), the one with the least expected cost.
    `decides` says in a sentence what the threshold serves.
    """

    kind: TaskKind
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    slope: float = 1.0
    offset: float = 0.0
    log: bool = False
    curve: tuple[tuple[float, float], ...] = ()
    calibration: str = ""
    costs: tuple[tuple[float, ...], ...] = ()
    decides: str = ""
    unit: str = ""


def answer_names(kind: TaskKind, classes: Iterable[str]) -> list[str]:
    """The columns of a model's answers, in their order."""
    shares = {"binary": ["probability"], "multiclass": [f"probability_{name}" for name in classes], "regression": []}
    return ["prediction", *shares[kind], "broken_rule"]


def contribution_names(kind: TaskKind, classes: Iterable[str], columns: Iterable[str]) -> list[str]:
    """The columns of contributions: for each output those of the model's columns, and that of the base value."""
    outputs = [f"{name}_" for name in classes] if kind == "multiclass" else [""]
    return [f"contribution_{output}{name}" for output in outputs for name in (*columns, BASE)]


def probabilities(output: Output, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows, classes) from the model's outputs: calibrated sigmoid for two classes, calibrated softmax for more."""
    logits = along(output.curve, output.slope * outputs + output.offset)
    if output.kind == "binary":
        positive = sigmoid(logits[:, 0])
        return np.column_stack([1 - positive, positive])
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def decided(output: Output, probability: NDArray[np.float64]) -> NDArray[np.int_]:
    """(rows,) the index of the class that is answered, from the probabilities (rows, classes)."""
    if output.kind == "binary":
        return (probability[:, 1] >= output.threshold).astype(int)
    expected = probability @ np.array(output.costs, np.float64) if len(output.costs) else -probability
    return expected.argmin(axis=1)


def along(curve: Sequence[Sequence[float]], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logits to which a calibration's curve leads; the same ones if it has no points."""
    if not len(curve):
        return logits
    before, after = np.array(curve, np.float64).T
    nearest = np.clip(logits, before[0], before[-1])
    return np.interp(nearest, before, after) + (logits - nearest)


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + e^-z) without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


def values(output: Output, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows,) in the target's own unit."""
    return np.exp(outputs[:, 0]) if output.log else outputs[:, 0]
