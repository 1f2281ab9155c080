"""How an ensemble answers: each part by the module of its own kind, and the weighted mean of what the parts say.

Parts agree on probabilities, so these are averaged, and not their logits. Values of a regression are averaged as they
were learnt: as logarithms, if the target says so.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..output import TaskKind

Floats = NDArray[np.float64]
LoadPart = Callable[[str, Path], Any]  # takes a kind and a folder
HAS_PARTS = True
DESCRIPTION = "ensemble.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of an ensemble: its folder below that of the ensemble, its kind, and its weight. Weights sum to 1."""

    folder: str
    kind: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class ServedEnsemble:
    """Fitted parts, each with its weight, and the kind of target that they answer for."""

    task: TaskKind
    parts: tuple[Any, ...]
    weights: tuple[float, ...]

    def outputs(self, typed: pd.DataFrame) -> Floats:
        """(rows, outputs): a logit of the second class, a logit of each class, or the value that was learnt."""
        return mean_outputs(self.task, [part.outputs(typed) for part in self.parts], self.weights)

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The values that one of the parts learnt, by category column."""
        learnt: dict[str, set[str]] = {}
        for part in self.parts:
            for column, values in part.vocabulary.items():
                learnt.setdefault(column, set()).update(values)
        return {column: tuple(sorted(values)) for column, values in learnt.items()}


class ExplainedEnsemble(ServedEnsemble):
    """An ensemble whose parts all tell what each column adds to their outputs."""

    def contributions(self, typed: pd.DataFrame, output: int = 0) -> pd.DataFrame:
        """What each raw column adds to one of the outputs of each row: a weighted sum of what it adds to the parts'.

        A mean of probabilities is no sum of logits. So what a column adds to a part's logits is carried over by the
        slope between the base value and the output (the rescale rule of DeepLIFT, Shrikumar et al. 2017): all columns
        together then add up to the output less its base value, but for rounding.
        """
        if self.task == "regression":
            frames = [part.contributions(typed, 0) for part in self.parts]
            return _summed(frames, [np.full(len(typed), weight) for weight in self.weights])
        at_rows, at_base = [part.outputs(typed) for part in self.parts], self._bases()
        of_output = self._slope_of_output(at_rows, at_base, output)
        frames, slopes = [], []
        for part, weight, row, base in zip(self.parts, self.weights, at_rows, at_base, strict=True):
            for place, of_part in enumerate(_slopes_of_part(self.task, row, base, output)):
                frames.append(part.contributions(typed, place))
                slopes.append(weight * of_part * of_output)
        return _summed(frames, slopes)

    @property
    def base_values(self) -> Floats:
        """(outputs,) what the ensemble answers if each part answers with its own base value."""
        return mean_outputs(self.task, self._bases(), self.weights)[0]

    def _bases(self) -> list[Floats]:
        return [part.base_values[None] for part in self.parts]

    def _slope_of_output(self, at_rows: Sequence[Floats], at_base: Sequence[Floats], output: int) -> Floats:
        """(rows,) how much the mean probability of the class moves the output: it is that probability's logarithm, and
        of two classes less that of the other one, which moves the other way."""
        slopes = np.zeros(len(at_rows[0]))
        for place in (0, 1) if self.task == "binary" else (output,):
            logarithm, of_base = (
                _mean_log_shares(self.task, each, self.weights)[:, place] for each in (at_rows, at_base)
            )
            larger, apart = np.maximum(logarithm, of_base), np.abs(logarithm - of_base)
            slopes += np.where(apart > 0, apart / -np.expm1(-np.where(apart > 0, apart, 1)), 1.0) * np.exp(-larger)
        return slopes


def _slopes_of_part(task: TaskKind, row: Floats, base: Floats, output: int) -> list[Floats]:
    """For each output of a part (rows,): how much it moves the part's probability of the class of `output`.

    The probability of class c falls from its base value by the sum over the other classes k of
    p0[c] p[k] - p0[k] p[c], and each of these parts follows from how far the logits of k and c moved apart.
    """
    chosen = 1 if task == "binary" else output
    logits, of_base = _logits_of_all(task, row), _logits_of_all(task, base)
    p, p0 = np.exp(_log_shares(logits)), np.exp(_log_shares(of_base))
    apart = (logits - logits[:, [chosen]]) - (of_base - of_base[:, [chosen]])
    size = np.where(apart == 0, 1, np.abs(apart))
    falls = np.where(apart > 0, p * p0[:, [chosen]], p0 * p[:, [chosen]])
    slopes = -falls * np.where(apart == 0, 1.0, -np.expm1(-size) / size)
    slopes[:, chosen] -= slopes.sum(axis=1)
    return [slopes[:, 1]] if task == "binary" else list(slopes.T)


def mean_outputs(task: TaskKind, outputs: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """(rows, outputs) of the ensemble, from those of each part and the parts' weights, which sum to 1."""
    if task == "regression":
        return _weighted_sum(outputs, weights)
    logarithms = _mean_log_shares(task, outputs, weights)
    return logarithms[:, 1:] - logarithms[:, :1] if task == "binary" else logarithms


def _mean_log_shares(task: TaskKind, outputs: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """(rows, classes) the logarithm of the weighted mean of the parts' probabilities."""
    logarithms = [_log_shares(_logits_of_all(task, each)) for each in outputs]
    largest = np.maximum.reduce(logarithms)
    mean: Floats = largest + np.log(_weighted_sum([np.exp(each - largest) for each in logarithms], weights))
    return mean


def _logits_of_all(task: TaskKind, outputs: Floats) -> Floats:
    """(rows, classes): of two classes, the first one's logit is 0."""
    return np.concatenate([np.zeros_like(outputs), outputs], axis=1) if task == "binary" else outputs


def _log_shares(logits: Floats) -> Floats:
    """(rows, classes) the logarithms of the probabilities, which are finite where the probabilities are not 0 and 1."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithms: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logarithms


def _weighted_sum(values: Sequence[Floats], weights: Sequence[float]) -> Floats:
    total = np.zeros_like(values[0])
    for value, weight in zip(values, weights, strict=True):
        total += weight * value
    return total


def _summed(frames: Sequence[pd.DataFrame], slopes: Sequence[Floats]) -> pd.DataFrame:
    """The sum of the frames, each times its slopes (rows,). A column that a frame lacks adds nothing there."""
    columns = list(dict.fromkeys(name for frame in frames for name in frame.columns))
    values = [frame.reindex(columns=columns, fill_value=0.0).to_numpy(np.float64) for frame in frames]
    total = sum((slope[:, None] * value for slope, value in zip(slopes, values, strict=True)), np.zeros_like(values[0]))
    return pd.DataFrame(total, frames[0].index, columns)


def save(folder: Path, task: TaskKind, parts: Sequence[Part]) -> None:
    """Writes ensemble.json. The parts' own files lie in their folders already."""
    contents = {"task": task, "parts": [asdict(part) for part in parts]}
    (folder / DESCRIPTION).write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")


def load(folder: Path, threads: int, load_part: LoadPart) -> ServedEnsemble:
    """The ensemble that `save` wrote into the folder, with its parts, which `load_part` loads with so many threads."""
    del threads
    contents = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    listed = [Part(**fields) for fields in contents["parts"]]
    parts = tuple(load_part(part.kind, folder / part.folder) for part in listed)
    explained = all(hasattr(part, "contributions") for part in parts)
    kind = ExplainedEnsemble if explained else ServedEnsemble
    return kind(task=contents["task"], parts=parts, weights=tuple(part.weight for part in listed))
