"""What a use case says about its model."""

from dataclasses import dataclass

from ml.data.dataset import Dataset
from ml.models.networks.estimators import NetworkEstimator


@dataclass(frozen=True, kw_only=True)
class Recipe(Dataset):
    """A dataset and what learns from it: the unfitted `model`, and the `metric` that its threshold is chosen for."""

    model: NetworkEstimator
    metric: str
