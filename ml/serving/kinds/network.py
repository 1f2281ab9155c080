"""The one network of all tabular models: a linear model is a network without hidden layers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..columns import with_tuples
from ..features import CategoryFeature, Encoder, NumberFeature, vocabulary

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
class ServedNetwork:
    """A fitted network with its encoder. A regression's outputs are scaled by `mean` and `std` of the train labels."""

    encoder: Encoder
    architecture: Architecture
    network: TabularNetwork
    mean: float
    std: float
    threads: int

    def outputs(self, typed: pd.DataFrame) -> NDArray[np.float64]:
        """(rows, outputs): a logit of the second class, a logit of each class, or the value that was learnt."""
        return forward_in_blocks(self.network, self.encoder.transform(typed), self.threads) * self.std + self.mean

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The values that were learnt, by category column."""
        return vocabulary(self.encoder.categories)

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
    return ServedNetwork(
        encoder=encoder, architecture=architecture, network=network, mean=mean, std=std, threads=threads
    )


@contextmanager
def _thread_count(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
