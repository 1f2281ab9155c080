"""Packs of networks over embedded columns: a number becomes a vector by linear interpolation between knots, a category
the vector of its value, and each member of the pack makes an answer of these vectors. Their mean is the pack's answer.

Its sums are exact, as in `ExactLayer`: a row's answer depends neither on the rows beside it, nor on the number of
threads, nor on the processor. It needs NumPy alone.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ..columns import with_tuples
from ..features import CategoryFeature, on_all_cores, vocabulary
from ..integrated import PATH, of_columns
from ..output import TaskKind

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]
CYCLES = {"hour": 24, "weekday": 7, "month": 12}
EXACT_BITS, EXACT_TERMS = 21, 2048  # a sum of 2**11 products of whole numbers up to 2**21 is one up to 2**53
BLOCK_ROWS = 2048  # a layer of 128 units takes 2 MB for them
DESCRIPTION, WEIGHTS = "embedded.json", "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class NumberFeature:
    """A number as the place between two knots and the share of the way from one to the other.

    `part` is empty, or one of CYCLES with "sin" or "cos". Before it meets the knots, a number is read off the line
    through `quantiles` and `scores` if there are any; it is then scaled as (x - center) / scale and clipped. A missing
    number has a vector of its own if train rows miss some (`missing`), and counts as `center` otherwise.
    """

    column: str
    part: str
    quantiles: tuple[float, ...]
    scores: tuple[float, ...]
    center: float
    scale: float
    clip: float
    knots: tuple[float, ...]
    missing: bool

    def scaled(self, values: Floats) -> Floats:
        """(rows,) the scaled numbers; NaN for a missing one."""
        if self.quantiles:
            values = interpolated(values, self.quantiles, self.scores)
        return np.clip((values - self.center) / self.scale, -self.clip, self.clip)

    def located(self, scaled: Floats, places: Codes, shares: Floats) -> None:
        """Fills `places` (rows,) with the knot below each number, and `shares` (rows,) with the way to the next."""
        absent = np.isnan(scaled)
        at, way = between(np.where(absent, 0.0, scaled), np.array(self.knots))
        if self.missing:
            at, way = np.where(absent, len(self.knots), at), np.where(absent, 0.0, way)
        places[:], shares[:] = at, way


def between(values: Floats, knots: Floats) -> tuple[NDArray[np.intp], Floats]:
    """(rows,) the knot below each value, and the share of the way to the next one, from 0 to 1. There are two knots or
    more, and they rise."""
    below = np.clip(np.searchsorted(knots, values, side="right") - 1, 0, len(knots) - 2)
    low = knots[below]
    return below, np.clip((values - low) / (knots[below + 1] - low), 0.0, 1.0)


def interpolated(values: Floats, xs: tuple[float, ...], ys: tuple[float, ...]) -> Floats:
    """(rows,) read off the line through the points; NaN where the value is missing."""
    if len(xs) < 2:
        return np.where(np.isnan(values), np.nan, ys[0])
    heights, absent = np.array(ys), np.isnan(values)
    below, share = between(np.where(absent, xs[0], values), np.array(xs))
    low = heights[below]
    return np.where(absent, np.nan, low + share * (heights[below + 1] - low))


def read_number(frame: pd.DataFrame, column: str, part: str) -> Floats:
    """(rows,) a column of numbers; or the sine or the cosine of a part of a time, whose unit is a whole turn."""
    if not part:
        return frame[column].to_numpy(np.float64)
    name, wave = part.split()
    units = frame[column].dt.day_of_week if name == "weekday" else getattr(frame[column].dt, name)
    turns, period = units.to_numpy(np.float64), CYCLES[name]
    table = [getattr(math, wave)(2 * math.pi * unit / period) for unit in range(period + 1)]
    return np.where(np.isnan(turns), np.nan, np.array(table)[np.nan_to_num(turns).astype(int)])


@dataclass(frozen=True)
class Located:
    """Rows as embeddings take them: (rows, numbers) knots and shares, and (rows, categories) codes."""

    places: Codes
    shares: Floats
    codes: Codes


@dataclass(frozen=True, kw_only=True)
class Features:
    """All features of a use case, in the order in which their vectors stand: numbers, and then categories."""

    numbers: tuple[NumberFeature, ...]
    categories: tuple[CategoryFeature, ...]

    def transform(self, frame: pd.DataFrame) -> Located:
        """The rows as embeddings take them."""
        numbers = on_all_cores(lambda f: read_number(frame, f.column, f.part), self.numbers, len(frame))
        codes = on_all_cores(lambda category: category.transform(frame), self.categories, len(frame))
        return self.located(stack(numbers, len(frame)), stack(codes, len(frame)).astype(np.int32))

    def located(self, numbers: Floats, codes: Codes) -> Located:
        """The same of numbers (rows, numbers) that are not scaled yet, and of codes (rows, categories)."""
        places, shares = np.empty(numbers.shape, np.int32), np.empty(numbers.shape)
        for at, feature in enumerate(self.numbers):
            feature.located(feature.scaled(numbers[:, at]), places[:, at], shares[:, at])
        return Located(places, shares, codes)


def stack(columns: list[Any], rows: int) -> NDArray[Any]:
    """(rows, columns), also where there are no columns."""
    return np.column_stack(columns) if columns else np.empty((rows, 0))


@dataclass(frozen=True, kw_only=True)
class TargetScale:
    """What a regression learns: a value as (y - center) / scale, after it was read off the line through `values` and
    `scores` if there are any."""

    center: float = 0.0
    scale: float = 1.0
    values: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()

    def learnt(self, y: Floats) -> Floats:
        """(rows,) what the network learns."""
        return ((interpolated(y, self.values, self.scores) if self.values else y) - self.center) / self.scale

    def value(self, learnt: Floats) -> Floats:
        """Inverse of `learnt`."""
        y = learnt * self.scale + self.center
        return interpolated(y, self.scores, self.values) if self.values else y

    def slope(self, learnt: Floats) -> Floats:
        """(rows,) the derivative of `value`."""
        if len(self.values) < 2:
            return np.full(len(learnt), 0.0 if self.values else self.scale)
        scores, values = np.array(self.scores), np.array(self.values)
        y = learnt * self.scale + self.center
        below, _ = between(y, scores)
        steps = self.scale * np.diff(values)[below] / np.diff(scores)[below]
        return np.where((y < scores[0]) | (y > scores[-1]), 0.0, steps)


class ExactLayer:
    """A linear layer whose sums are exact, so that they are equal in any order: in any block of rows, on any number of
    threads and on any processor.

    Weights are rounded to whole numbers of a step that is 2**-21 of the largest one of their column, and the inputs of
    a row likewise. Products of such numbers, and sums of EXACT_TERMS of them, are whole numbers that float64 holds.
    """

    def __init__(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        _, exponents = np.frexp(np.abs(weight).max(axis=0, initial=0.0))
        self.weight, self.bias = weight.astype(np.float64), bias.astype(np.float64)
        self.shift = exponents - EXACT_BITS
        self.whole = np.rint(np.ldexp(self.weight, -self.shift))

    def __call__(self, x: Floats) -> Floats:
        """(rows, inputs) -> (rows, outputs)."""
        _, exponents = np.frexp(np.abs(x).max(axis=1, initial=0.0, keepdims=True))
        shift = exponents - EXACT_BITS
        whole, total = np.rint(np.ldexp(x, -shift)), np.tile(self.bias, (len(x), 1))
        for start in range(0, len(self.whole), EXACT_TERMS):
            part = slice(start, start + EXACT_TERMS)
            total += np.ldexp(whole[:, part] @ self.whole[part], shift + self.shift)
        return total


def of_members(kind: TaskKind, answers: Floats) -> Floats:
    """(rows, outputs) from those of each member (members, rows, outputs): of classes, the logit or the logarithms of
    the mean probability; of numbers, the mean. Sums go from the first to the last, so that they repeat."""
    if kind == "regression":
        return _in_order(np.add, answers) / len(answers)
    if kind == "binary":
        return _in_order(np.logaddexp, -np.logaddexp(0, -answers)) - _in_order(np.logaddexp, -np.logaddexp(0, answers))
    return _in_order(np.logaddexp, log_softmax(answers)) - math.log(len(answers))


def log_softmax(answers: Floats) -> Floats:
    """(..., classes) the logarithms of the probabilities."""
    return answers - _in_order(np.logaddexp, np.moveaxis(answers, -1, 0))[..., None]


def _in_order(add: np.ufunc, parts: Floats) -> Floats:
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return total


@dataclass(frozen=True, kw_only=True)
class ServedPack:
    """A fitted pack: its features, its weights by name, and what its outputs mean.

    Weights: `numbers` (copies, numbers, knots, width), `category.N` (copies, codes, width), `weight.N` (members,
    inputs, units), `bias.N` (members, units) and `base` (copies, inputs): the mean vector of the train rows. There is
    a copy for each member, or one for all.
    """

    kind: TaskKind
    features: Features
    target: TargetScale
    weights: Mapping[str, NDArray[np.float32]]

    def outputs(self, typed: pd.DataFrame) -> Floats:
        """(rows, outputs): a logit of the second class, a logit of each class, or the value that was learnt."""
        located = self.features.transform(typed)
        starts = range(0, max(len(typed), 1), BLOCK_ROWS)  # no rows too have a shape
        return np.concatenate([self._of_block(located, slice(start, start + BLOCK_ROWS)) for start in starts])

    def _of_block(self, located: Located, rows: slice) -> Floats:
        vectors = [self._vectors(located, rows, copy) for copy in range(self.copies)]
        return self._answer(np.stack([self._run(member, vectors[member % self.copies]) for member in self.members]))

    def _answer(self, answers: Floats) -> Floats:
        outputs = of_members(self.kind, answers)
        return self.target.value(outputs[:, 0])[:, None] if self.kind == "regression" else outputs

    def _vectors(self, located: Located, rows: slice, copy: int) -> Floats:
        """(rows, inputs) what a member's first layer gets."""
        places, shares = located.places[rows], located.shares[rows][:, :, None]
        tables = self.weights["numbers"][copy].astype(np.float64)
        at = np.arange(tables.shape[0])
        low = tables[at, places]
        numbers = low + shares * (tables[at, np.minimum(places + 1, tables.shape[1] - 1)] - low)
        codes = located.codes[rows]
        categories = [self.weights[f"category.{c}"][copy][codes[:, c]] for c in range(codes.shape[1])]
        flat = numbers.reshape(len(places), tables.shape[0] * tables.shape[2])
        return np.concatenate([flat, *categories], axis=1, dtype=np.float64)

    def _run(self, member: int, x: Floats) -> Floats:
        """(rows, outputs) of one member."""
        for layer in self._layers[member][:-1]:
            x = np.maximum(layer(x), 0.0)
        return self._layers[member][-1](x)

    @property
    def copies(self) -> int:
        return len(self.weights["base"])

    @property
    def members(self) -> range:
        return range(len(self.weights["bias.0"]))

    @cached_property
    def _layers(self) -> list[list[ExactLayer]]:
        """The layers of each member."""
        depth = sum(name.startswith("bias.") for name in self.weights)
        return [
            [ExactLayer(self.weights[f"weight.{n}"][member], self.weights[f"bias.{n}"][member]) for n in range(depth)]
            for member in self.members
        ]

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The values that were learnt, by category column."""
        return vocabulary(self.features.categories)

    # Contributions

    @property
    def base_values(self) -> Floats:
        """(outputs,) the outputs of the mean vector of the train rows, to which contributions are added."""
        base = self.weights["base"].astype(np.float64)
        return self._answer(np.stack([self._run(m, base[[m % self.copies]]) for m in self.members]))[0]

    def contributions(self, typed: pd.DataFrame, output: int = 0) -> pd.DataFrame:
        """What each raw column adds to one of the outputs of each row: integrated gradients (Sundararajan et al. 2017)
        along the line from the mean vector of the train rows to the row's own.

        The integral is taken at 32 points. What it misses of the output is spread over the columns in proportion to
        what they add, so that all of them add up to the output less its base value.
        """
        located, whole = self.features.transform(typed), self.outputs(typed)[:, output]
        starts = range(0, max(len(typed), 1), BLOCK_ROWS)
        parts = np.concatenate([self._integrated(located, slice(s, s + BLOCK_ROWS), output) for s in starts])
        return of_columns(parts, self._column_of_input, whole - self.base_values[output], typed.index)

    @property
    def _column_of_input(self) -> list[str]:
        width = self.weights["numbers"].shape[-1]
        sizes = [width] * len(self.features.numbers)
        sizes += [self.weights[f"category.{n}"].shape[-1] for n in range(len(self.features.categories))]
        columns = [number.column for number in self.features.numbers]
        columns += [category.column for category in self.features.categories]
        return [column for column, size in zip(columns, sizes, strict=True) for _ in range(size)]

    def _integrated(self, located: Located, rows: slice, output: int) -> Floats:
        """(rows, inputs) the integrated gradients of an output, added up over members."""
        away = [self._vectors(located, rows, c) - self.weights["base"][c] for c in range(self.copies)]
        total = np.zeros_like(away[0])
        for node, share in PATH:
            on_way = [self.weights["base"][c] + node * away[c] for c in range(self.copies)]
            runs = [self._remembered(m, on_way[m % self.copies]) for m in self.members]
            slopes = self._slopes(np.stack([layers[-1] for layers in runs]), output)
            for m, layers in zip(self.members, runs, strict=True):
                total += share * away[m % self.copies] * self._back(m, layers, slopes[m])
        return total

    def _remembered(self, member: int, x: Floats) -> list[Floats]:
        """The outputs of each layer of a member, before they are cut at 0."""
        layers = []
        for layer in self._layers[member]:
            layers.append(x @ layer.weight + layer.bias)
            x = np.maximum(layers[-1], 0.0)
        return layers

    def _back(self, member: int, layers: list[Floats], slope: Floats) -> Floats:
        """(rows, inputs) the gradient of a member's outputs, weighted by `slope` (rows, outputs)."""
        for n in reversed(range(len(layers))):
            slope = (slope if n == len(layers) - 1 else slope * (layers[n] > 0)) @ self._layers[member][n].weight.T
        return slope

    def _slopes(self, answers: Floats, output: int) -> Floats:
        """(members, rows, outputs) how much the pack's output rises with each output of each member."""
        if self.kind == "regression":
            slope = self.target.slope(of_members(self.kind, answers)[:, 0]) / len(answers)
            return np.broadcast_to(slope[:, None], answers.shape)
        if self.kind == "binary":
            yes, no = -np.logaddexp(0, -answers), -np.logaddexp(0, answers)
            sums = (_in_order(np.logaddexp, yes), _in_order(np.logaddexp, no))
            return np.exp(yes + no - sums[0]) + np.exp(yes + no - sums[1])
        logs = log_softmax(answers)
        of_output = logs[..., output]
        weight = np.exp(of_output - _in_order(np.logaddexp, of_output))[..., None]
        return weight * ((np.arange(answers.shape[-1]) == output) - np.exp(logs))

    def save(self, folder: Path) -> None:
        """Writes embedded.json and weights.safetensors."""
        save_file({name: np.ascontiguousarray(weight) for name, weight in self.weights.items()}, folder / WEIGHTS)
        contents = {
            "kind": self.kind,
            "numbers": [asdict(feature) for feature in self.features.numbers],
            "categories": [asdict(feature) for feature in self.features.categories],
            "target": asdict(self.target),
        }
        (folder / DESCRIPTION).write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")


def load(folder: Path, threads: int) -> ServedPack:
    """The pack that `ServedPack.save` wrote into the folder. The number of threads changes none of its answers."""
    del threads
    contents = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    features = Features(
        numbers=tuple(NumberFeature(**with_tuples(fields)) for fields in contents["numbers"]),
        categories=tuple(CategoryFeature(**with_tuples(fields)) for fields in contents["categories"]),
    )
    target = TargetScale(**with_tuples(contents["target"]))
    return ServedPack(kind=contents["kind"], features=features, target=target, weights=load_file(folder / WEIGHTS))
