"""What a use case says about its model."""

from dataclasses import dataclass

from ml.data.dataset import Dataset
from ml.metrics.thresholds import Aim
from ml.models.calibration import Calibration
from ml.models.protocol import Learner


@dataclass(frozen=True, kw_only=True)
class Recipe(Dataset):
    """A dataset and what learns from it: the unfitted `model`, and the `metric` that its threshold is chosen for.

    `weight` names the column that says how much a row counts in the losses of a fit. Scores and gates count every row
    alike. `calibration` says how outputs become probabilities: `auto` leaves the choice to validation rows. `threshold`
    says what the threshold serves, if that is not the metric: another metric, the least cost, or a precision or recall
    to reach; of several classes a matrix of costs decides which one is answered.
    """

    model: Learner
    metric: str
    weight: str | None = None
    calibration: Calibration = "auto"
    threshold: Aim | None = None
