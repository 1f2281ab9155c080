"""The one network of all tabular models: a linear model is a network without hidden layers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..columns import with_tuples
from ..features import CategoryFeature, Encoder, NumberFeature, vocabulary
from ..integrated import PATH, of_columns

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
BLOCK_ROWS = 256
DESCRIPTION, WEIGHTS = "network.json", "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The size of each hidden layer, the function between layers, and how many numbers the network gives for a row."""

    hidden: tuple[int, ...]
    activation: str
    outputs: int


class EmptyLinear(nn.Linear):
    """A layer without weights: torch would draw them from the generator that all threads share.

    torch's own `skip_init` imports its compiler for that, 2 s in every process that loads a model.
    """

    def reset_parameters(self) -> None:
        """Draws nothing."""


class EmptyEmbedding(nn.Embedding):
    """A layer without weights, as EmptyLinear."""

    def reset_parameters(self) -> None:
        """Draws nothing."""


class TabularNetwork(nn.Module):
    """(n, numbers + categories) float32 -> (n, outputs); trailing columns hold category codes.

    An embedding as wide as the first layer equals that layer over one-hot codes, without the one-hot matrix. A new
    network has no weights yet: they are loaded, or drawn by `ml.models.networks.first_weights`.
    """

    def __init__(
        self,
        *,
        numbers: int,
        category_sizes: tuple[int, ...],
        hidden: tuple[int, ...],
        activation: str,
        outputs: int,
    ) -> None:
        super().__init__()
        widths = (*hidden, outputs)
        self.n_numbers = numbers
        self.bias = nn.Parameter(torch.empty(widths[0]))
        self.numbers = nn.Parameter(torch.empty(numbers, widths[0]))
        self.categories = nn.ModuleList(EmptyEmbedding(size, widths[0]) for size in category_sizes)
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += [ACTIVATIONS[activation](), EmptyLinear(width_in, width_out)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, : self.n_numbers] @ self.numbers + self.bias
        for position, embedding in enumerate(self.categories):
            first = first + embedding(x[:, self.n_numbers + position].long())
        answer: Tensor = self.layers(first)
        return answer

    def answer(self, x: Tensor) -> Tensor:
        """What `forward` computes, with every sum in the order of its columns: no row's answer depends on another.

        The last bits of a matrix product depend on its shape, and on a row's place in it.
        """
        first = _product(x[:, : self.n_numbers], self.numbers, self.bias)
        for position, embedding in enumerate(self.categories):
            first = first + embedding(x[:, self.n_numbers + position].long())
        for layer in self.layers:
            first = _product(first, layer.weight.T, layer.bias) if isinstance(layer, nn.Linear) else layer(first)
        return first


def _product(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    total = bias.repeat(len(x), 1)
    for column, weight in zip(x.T, weights, strict=True):
        total += column[:, None] * weight
    return total


def forward_in_blocks(network: TabularNetwork, x: NDArray[np.float32], threads: int) -> NDArray[np.float64]:
    """(n, width) -> (n, outputs) on the CPU, the same for a row in any company.

    Blocks have one shape, because vectorised activations treat the end of an array otherwise than its middle.
    """
    outputs = []
    with _thread_count(threads), torch.inference_mode():
        for start in range(0, max(len(x), 1), BLOCK_ROWS):  # no rows too have a shape
            block = np.zeros((BLOCK_ROWS, x.shape[1]), np.float32)
            rows = x[start : start + BLOCK_ROWS]
            block[: len(rows)] = rows
            outputs.append(network.answer(torch.from_numpy(block))[: len(rows)].numpy().astype(np.float64))
    return np.concatenate(outputs)


@dataclass(frozen=True, kw_only=True)
class MeanRow:
    """The mean of the encoded train rows: that of each number, and the share of each code of each category."""

    numbers: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, x: NDArray[np.float32], category_sizes: tuple[int, ...]) -> "MeanRow":
        """Of x (rows, numbers + categories)."""
        width = x.shape[1] - len(category_sizes)
        codes = (x[:, width + place].astype(np.intp) for place in range(len(category_sizes)))
        counts = (np.bincount(of_one, minlength=size) for of_one, size in zip(codes, category_sizes, strict=True))
        return cls(
            numbers=tuple(x[:, :width].mean(axis=0, dtype=np.float64).tolist()),
            shares=tuple(tuple((count / len(x)).tolist()) for count in counts),
        )


@dataclass(frozen=True, kw_only=True)
class ServedNetwork:
    """A fitted network with its encoder. A regression's outputs are scaled by `mean` and `std` of the train labels.

    Contributions are counted from `base`.
    """

    encoder: Encoder
    architecture: Architecture
    network: TabularNetwork
    mean: float
    std: float
    threads: int
    base: MeanRow

    def outputs(self, typed: pd.DataFrame) -> NDArray[np.float64]:
        """(rows, outputs): a logit of the second class, a logit of each class, or the value that was learnt."""
        return forward_in_blocks(self.network, self.encoder.transform(typed), self.threads) * self.std + self.mean

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The values that were learnt, by category column."""
        return vocabulary(self.encoder.categories)

    # Contributions

    @property
    def base_values(self) -> NDArray[np.float64]:
        """(outputs,) the outputs of the mean row, to which contributions are added."""
        with torch.no_grad():
            outputs: NDArray[np.float64] = self._exact.layers(self._first_of_base)[0].numpy()
        return outputs * self.std + self.mean

    def contributions(self, typed: pd.DataFrame, output: int = 0) -> pd.DataFrame:
        """What each raw column adds to one of the outputs of each row: integrated gradients along the line from the
        mean of the encoded train rows to the row, at 32 points. They add up to the output less its base value."""
        x = self.encoder.transform(typed)
        starts = range(0, max(len(typed), 1), BLOCK_ROWS)
        with _thread_count(1):  # blocks are small, and more threads would wait for each other
            parts = np.concatenate([self._integrated(x[start : start + BLOCK_ROWS], output) for start in starts])
        whole = self.outputs(typed)[:, output] - self.base_values[output]
        return of_columns(parts * self.std, self._column_of_input, whole, typed.index)

    @property
    def _column_of_input(self) -> list[str]:
        numbers = [number.column for number in self.encoder.numbers for _ in range(number.width)]
        return [*numbers, *(category.column for category in self.encoder.categories)]

    @cached_property
    def _exact(self) -> TabularNetwork:
        """The network in float64: sums of 32 gradients would show the rounding of float32."""
        return deepcopy(self.network).requires_grad_(False).double()

    @cached_property
    def _mean_vectors(self) -> list[Tensor]:
        """For each category (units,) the mean of what it adds to the first layer."""
        tables: Any = self._exact.categories
        shares = (torch.tensor(share, dtype=torch.float64) for share in self.base.shares)
        return [share @ table.weight for share, table in zip(shares, tables, strict=True)]

    @cached_property
    def _first_of_base(self) -> Tensor:
        """(1, units) the first layer's sums of the mean row."""
        numbers = torch.tensor([self.base.numbers], dtype=torch.float64)
        return numbers @ self._exact.numbers + self._exact.bias + sum(self._mean_vectors)

    def _integrated(self, x: NDArray[np.float32], output: int) -> NDArray[np.float64]:
        """(rows, inputs) the integrated gradients of an output; a category is one input."""
        network, rows = self._exact, torch.from_numpy(x.astype(np.float64))
        numbers = rows[:, : network.n_numbers] - torch.tensor([self.base.numbers], dtype=torch.float64)
        codes = rows[:, network.n_numbers :].long().T
        tables = zip(network.categories, codes, self._mean_vectors, strict=True)
        vectors = [table(of_one) - mean for table, of_one, mean in tables]
        away = numbers @ network.numbers + sum(vectors)
        slope = self._mean_slope(away, output)
        of_categories = [(vector * slope).sum(dim=1, keepdim=True) for vector in vectors]
        parts: NDArray[np.float64] = torch.cat([numbers * (slope @ network.numbers.T), *of_categories], dim=1).numpy()
        return parts

    def _mean_slope(self, away: Tensor, output: int) -> Tensor:
        """(rows, units) the gradient of an output by the first layer's sums, in the mean over the way to each row."""
        total = torch.zeros_like(away)
        for place, weight in PATH:
            first = (self._first_of_base + place * away).requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(self._exact.layers(first)[:, output].sum(), first)
            total += weight * slope
        return total

    def save(self, folder: Path) -> None:
        """Writes network.json and weights.safetensors."""
        weights = {name: weight.contiguous() for name, weight in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        contents = {
            "numbers": [asdict(feature) for feature in self.encoder.numbers],
            "categories": [asdict(feature) for feature in self.encoder.categories],
            "architecture": asdict(self.architecture),
            "mean": self.mean,
            "std": self.std,
            "base": asdict(self.base),
        }
        (folder / DESCRIPTION).write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")


def load(folder: Path, threads: int) -> ServedNetwork:
    """The network that `ServedNetwork.save` wrote into the folder."""
    contents = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    encoder = Encoder(
        tuple(NumberFeature(**fields) for fields in contents["numbers"]),
        tuple(CategoryFeature(**with_tuples(fields)) for fields in contents["categories"]),
    )
    architecture = Architecture(**with_tuples(contents["architecture"]))
    network = TabularNetwork(
        numbers=encoder.number_width, category_sizes=encoder.category_sizes, **asdict(architecture)
    ).eval()
    network.load_state_dict(load_file(folder / WEIGHTS))
    mean, std = contents["mean"], contents["std"]
    numbers, shares = contents["base"]["numbers"], contents["base"]["shares"]
    return ServedNetwork(
        encoder=encoder,
        architecture=architecture,
        network=network,
        mean=mean,
        std=std,
        threads=threads,
        base=MeanRow(numbers=tuple(numbers), shares=tuple(tuple(share) for share in shares)),
    )


@contextmanager
def _thread_count(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
