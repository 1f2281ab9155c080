"""What each column adds to the outputs of the one network of all tabular models."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from ml.serving.columns import conform
from ml.serving.kinds.network import MeanRow, ServedNetwork
from ml.serving.model import ADDS_UP
from ml.serving.output import TaskKind
from tests.tiny import KINDS, packaged, raw_parcels


def network_of(kind: TaskKind) -> ServedNetwork:
    served: Any = packaged(kind).served
    assert isinstance(served, ServedNetwork)
    return served


def typed_parcels(count: int) -> pd.DataFrame:
    return conform(raw_parcels(count), packaged().columns, "UTC")


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_add_up_and_are_those_of_captum(kind: TaskKind) -> None:
    """Captum integrates from the mean row too, with what each category adds to the first layer as its inputs."""
    served, rows = network_of(kind), typed_parcels(20)
    outputs, exact = served.outputs(rows), served._exact
    x = torch.from_numpy(served.encoder.transform(rows).astype(np.float64))
    width, units = exact.n_numbers, exact.bias.shape[0]
    codes = x[:, width:].long().T
    vectors = [table(of_one) for table, of_one in zip(exact.categories, codes, strict=True)]
    inputs = torch.cat([x[:, :width], *vectors], dim=1)
    base = torch.cat([torch.tensor(served.base.numbers, dtype=torch.float64), *served._mean_vectors])[None]
    names = [*served._column_of_input[:width]]
    names += [name for name in served._column_of_input[width:] for _ in range(units)]
    for output in range(outputs.shape[1]):

        def answer(vector: Tensor, output: int = output) -> Tensor:
            sums = vector[:, width:].reshape(len(vector), -1, units).sum(dim=1)
            told: Tensor = exact.layers(vector[:, :width] @ exact.numbers + exact.bias + sums)[:, output]
            return told * served.std

        told = served.contributions(rows, output)
        assert list(told) == ["weight", "distance", "carrier", "zone"]
        assert np.abs(told.sum(axis=1) + served.base_values[output] - outputs[:, output]).max() < ADDS_UP
        explained = IntegratedGradients(answer).attribute(inputs, baselines=base, n_steps=200, method="gausslegendre")
        wanted = pd.DataFrame(explained.numpy(), columns=names).T.groupby(level=0, sort=False).sum().T
        assert np.abs(told.to_numpy() - wanted.to_numpy()).max() < 0.02 * np.abs(wanted.to_numpy()).max()
    assert served.contributions(rows[:0]).shape == (0, 4)


def test_the_mean_row_has_the_mean_of_each_number_and_the_share_of_each_code() -> None:
    x = np.array([[1.0, 0, 2], [3.0, 0, 0], [5.0, 1, 2], [7.0, 0, 2]], np.float32)
    assert MeanRow.of(x, (2, 3)) == MeanRow(numbers=(4.0,), shares=((0.75, 0.25), (0.25, 0.0, 0.75)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_packaged_network_gives_contributions_and_reasons(kind: TaskKind) -> None:
    told = packaged(kind).contributions(raw_parcels(30))  # which refuses those that do not add up
    assert len(told) == 30
    reasons = packaged(kind).reasons(raw_parcels(30))
    assert reasons["reason_1"].notna().sum() == reasons["broken_rule"].isna().sum() > 0
