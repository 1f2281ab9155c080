"""The layers of packs in torch: embeddings, the members of a pack side by side, and TabM.

A network has one or more copies: parts with weights, an order of rows and random numbers of their own, that are trained
in one computation. The members of a pack are copies; those of TabM share one copy, so that they see the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import tabm
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.models.packs.features import embedding_width

if TYPE_CHECKING:
    from ml.serving.kinds.embedded import Features

Random = np.random.Generator
Draws = list[Random]  # one for each copy
DROPS = 256  # a byte is drawn for each unit that may be dropped


class Dropout:
    """Drops units with a probability of about `share`, by random numbers that each copy draws for itself."""

    def __init__(self, share: float, draws: Draws | None) -> None:
        self.limit = round(share * DROPS)
        self.draws = draws if self.limit else None

    def __call__(self, units: Tensor) -> Tensor:
        """(copies, rows, ...) with 0 in place of units that are dropped; the others grow, so that the mean stays."""
        kept = self.kept(units.shape, units.device)
        return units if kept is None else units * (kept * (DROPS / (DROPS - self.limit)))

    def kept(self, shape: Iterable[int], device: torch.device) -> Tensor | None:
        """Which units are kept; None if all are."""
        if self.draws is None:
            return None
        _, *rest = shape
        drawn = np.stack([np.frombuffer(draw.bytes(int(np.prod(rest))), np.uint8).reshape(rest) for draw in self.draws])
        return torch.from_numpy(drawn >= self.limit).to(device)


class Embeddings(nn.Module):
    """Vectors of numbers and categories. A number's is piecewise linear in it, as version B of rtdl_num_embeddings
    (Gorishniy et al. 2022): `linear` and `bias`, and `bends`, which start at 0 and add up from knot to knot.

    The vectors of unknown and missing values start at 0, so that where train rows have none of them they add nothing.
    """

    knots: Tensor
    behind_knots: Tensor
    starts: Tensor
    column_widths: Tensor
    groups: list[slice]

    def __init__(self, features: Features, width: int, draws: Draws) -> None:
        super().__init__()
        copies, numbers = len(draws), len(features.numbers)
        self._set_knots([feature.knots for feature in features.numbers])
        self.linear = drawn(draws, (numbers, width), width**-0.5)
        self.bias = drawn(draws, (numbers, width), width**-0.5)
        self.bends = nn.Parameter(torch.zeros(copies, numbers, self.knots.shape[1] - 1, width))
        self.missing = nn.Parameter(torch.zeros(copies, numbers, width))
        self.sizes = [category.size for category in features.categories]
        widths = [embedding_width(size) for size in self.sizes]
        self._set_tables(widths, draws)
        self.register_buffer("column_widths", torch.tensor([width] * numbers + widths), persistent=False)
        self.width = numbers * width + sum(widths)

    def _set_knots(self, knots_of: list[tuple[float, ...]]) -> None:
        """Knots (numbers, most of them + 1), and which places are behind the last one of their number."""
        knots = np.zeros((len(knots_of), max(map(len, knots_of), default=2) + 1), np.float32)
        behind = np.ones((*knots.shape, 1), bool)
        for row, of_row, known in zip(knots, behind, knots_of, strict=True):
            row[: len(known)], of_row[: len(known)] = known, False
        self.register_buffer("knots", torch.from_numpy(knots), persistent=False)
        self.register_buffer("behind_knots", torch.from_numpy(behind), persistent=False)

    def _set_tables(self, widths: list[int], draws: Draws) -> None:
        """One table for all categories of a width, which stand side by side, and where each of them starts in it."""
        self.tables, self.groups = nn.ParameterList(), []
        starts: list[int] = []
        for wide in sorted(set(widths)):
            group = slice(widths.index(wide), widths.index(wide) + widths.count(wide))
            sizes = self.sizes[group]
            starts += [0, *np.cumsum(sizes)[:-1].tolist()]
            self.groups.append(group)
            self.tables.append(drawn(draws, (sum(sizes), wide), wide**-0.5))
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.int32), persistent=False)
        self._empty_first_codes()

    @torch.no_grad()
    def _empty_first_codes(self) -> None:
        from ml.serving.features import FIRST_CODE

        for table, group in zip(self.tables, self.groups, strict=True):
            for start in self.starts[group].tolist():
                table[:, start : start + FIRST_CODE] = 0

    def numbers_at_knots(self) -> Tensor:
        """(copies, numbers, knots + 1, width) the vector of each number at each knot, and behind its last knot that of
        a missing number."""
        bends = functional.pad(self.bends.cumsum(2), (0, 0, 1, 0))
        vectors = self.linear[:, :, None] * self.knots[:, :, None] + self.bias[:, :, None] + bends
        return torch.where(self.behind_knots, self.missing[:, :, None], vectors)

    def located(self, scaled: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Places and shares (copies, rows, numbers) of other scaled numbers, where `places` say which are missing."""
        numbers = len(self.knots)
        last = (~self.behind_knots[:, :, 0]).sum(1)
        risen = torch.where(self.behind_knots[:, :, 0], torch.inf, self.knots).to(scaled)
        below = torch.searchsorted(risen, scaled.permute(2, 0, 1).flatten(1).contiguous(), right=True) - 1
        below = below.view(numbers, *scaled.shape[:2]).permute(1, 2, 0).clamp(min=0).minimum(last - 2)
        place = torch.arange(numbers, device=scaled.device)
        low, high = self.knots[place, below], self.knots[place, below + 1]
        absent = places == last
        shares = ((scaled - low) / (high - low)).clamp(0, 1)
        return torch.where(absent, places, below.int()), torch.where(absent, 0.0, shares)

    def forward(self, places: Tensor, shares: Tensor, codes: Tensor) -> Tensor:
        """(copies, rows, width) from (copies, rows, numbers) places and shares and (copies, rows, categories) codes."""
        parts = [self._numbers(places, shares)] if places.shape[2] else []
        for table, group in zip(self.tables, self.groups, strict=True):
            at = codes[:, :, group] + self.starts[group]
            parts.append(_rows_of(table, at).flatten(2))
        return torch.cat(parts, dim=2) if parts else self.bends.new_zeros(*places.shape[:2], 0)

    def _numbers(self, places: Tensor, shares: Tensor) -> Tensor:
        low = self.numbers_at_knots()
        steps = functional.pad(low.diff(dim=2), (0, 0, 0, 1))
        _, numbers, rows, width = low.shape
        pairs = torch.cat([low, steps], dim=3).flatten(1, 2)
        at = places + torch.arange(0, numbers * rows, rows, dtype=torch.int32, device=places.device)
        found = _rows_of(pairs, at)
        return torch.addcmul(found[..., :width], found[..., width:], shares[..., None]).flatten(2)

    @torch.no_grad()
    def served(self) -> dict[str, Tensor]:
        """Its weights by name, as `ml.serving.kinds.embedded.ServedPack` has them."""
        tables = {}
        for table, group in zip(self.tables, self.groups, strict=True):
            places = range(group.start, group.stop)
            for place, rows in zip(places, table.split([self.sizes[p] for p in places], dim=1), strict=True):
                tables[f"category.{place}"] = rows
        return {"numbers": self.numbers_at_knots(), **tables}


def drawn(draws: Draws, shape: tuple[int, ...], bound: float) -> nn.Parameter:
    """(copies, *shape) weights that are uniform between plus and minus the bound; each copy draws its own."""
    weights = [draw.uniform(-bound, bound, shape).astype(np.float32) for draw in draws]
    return nn.Parameter(torch.from_numpy(np.stack(weights)))


def _rows_of(tables: Tensor, at: Tensor) -> Tensor:
    """(copies, rows, n, width) of tables (copies, size, width) at (copies, rows, n)."""
    copies, size, width = tables.shape
    first = torch.arange(0, copies * size, size, dtype=torch.int32, device=at.device)
    return functional.embedding(at + first[:, None, None], tables.reshape(-1, width))


class Pack(nn.Module):
    """Networks of equal shape side by side. Each is a copy with a single member."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, draws: Draws) -> None:
        super().__init__()
        sizes = [*zip((inputs, *hidden), (*hidden, outputs), strict=False)]
        self.weights = nn.ParameterList(drawn(draws, size, max(size[0], 1) ** -0.5) for size in sizes)
        self.biases = nn.ParameterList(drawn(draws, (1, size[1]), max(size[0], 1) ** -0.5) for size in sizes)

    def forward(self, vectors: Tensor, dropped: Dropout) -> Tensor:
        *inner, (last_weight, last_bias) = zip(self.weights, self.biases, strict=True)
        for weight, bias in inner:
            vectors = dropped(torch.baddbmm(bias, vectors, weight).relu())
        return torch.baddbmm(last_bias, vectors, last_weight)

    def member_weights(self) -> dict[str, Tensor]:
        weights = {f"weight.{place}": weight for place, weight in enumerate(self.weights)}
        return weights | {f"bias.{place}": bias[:, 0] for place, bias in enumerate(self.biases)}


class TabMNetwork(nn.Module):
    """TabM (Gorishniy et al. 2025) of the layers of the package tabm: members share the weights of their hidden layers
    and have factors and biases of their own. There is one copy."""

    layers: Any  # the package tells no types
    last: Any

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, members: int, draws: Draws) -> None:
        super().__init__()
        (draw,) = draws
        with torch.device("meta"):  # where nothing is drawn: torch would use the generator that all threads share
            layers = [
                tabm.LinearBatchEnsemble(width_in, width_out, k=members, scaling_init="ones")
                for width_in, width_out in zip((inputs, *hidden), hidden, strict=False)
            ]
            self.last = tabm.LinearEnsemble((inputs, *hidden)[-1], outputs, k=members)
        self.members, self.layers = members, nn.ModuleList(layers)
        self.to_empty(device="cpu")
        self._draw(draw)

    @torch.no_grad()
    def _draw(self, draw: Random) -> None:
        """First weights as the package draws them: factors of the first layer are -1 or 1, all others are 1."""
        for place, layer in enumerate(self.layers):
            bound = max(layer.in_features, 1) ** -0.5
            layer.weight.copy_(_uniform(draw, layer.weight.shape, bound))
            signs = 2 * draw.integers(0, 2, layer.r.shape) - 1 if place == 0 else np.ones(layer.r.shape)
            layer.r.copy_(torch.from_numpy(signs.astype(np.float32)))
            layer.s.fill_(1)
            layer.bias.copy_(_uniform(draw, layer.bias.shape[1:], bound))
        bound = max(self.last.in_features, 1) ** -0.5
        self.last.weight.copy_(_uniform(draw, self.last.weight.shape, bound))
        self.last.bias.copy_(_uniform(draw, self.last.bias.shape, bound))

    def forward(self, vectors: Tensor, dropped: Dropout) -> Tensor:
        units = vectors[0][:, None].expand(-1, self.members, -1)
        for layer in self.layers:
            units = dropped(layer(units).relu()[None])[0]
        answers: Tensor = self.last(units)
        return answers.transpose(0, 1)

    def member_weights(self) -> dict[str, Tensor]:
        weights = {}
        for place, layer in enumerate(self.layers):
            weights[f"weight.{place}"] = layer.r[:, :, None] * layer.weight.T * layer.s[:, None, :]
            weights[f"bias.{place}"] = layer.bias
        last = len(self.layers)
        return {**weights, f"weight.{last}": self.last.weight, f"bias.{last}": self.last.bias}


def _uniform(draw: Random, shape: Iterable[int], bound: float) -> Tensor:
    return torch.from_numpy(draw.uniform(-bound, bound, tuple(shape)).astype(np.float32))
