"""How far probabilities may be taken at their word: the calibration curve, and the expected calibration error."""

from dataclasses import dataclass

import numpy as np

from ml.metrics.scores import Answers, Floats
from ml.serving.output import TaskKind

GROUPS = 10


@dataclass(frozen=True, kw_only=True)
class CalibrationCurve:
    """Groups of about equally many rows, by the probability that was said: its mean, how often it came true, and how
    many rows there are.

    The probability is that of the second of two classes. Of more classes it is that of the class that was answered.
    """

    said: tuple[float, ...]
    came_true: tuple[float, ...]
    rows: tuple[int, ...]

    @property
    def error(self) -> float:
        """The expected calibration error: how far said and come true are apart, as a mean over rows."""
        return float(np.average(np.abs(np.subtract(self.said, self.came_true)), weights=self.rows))


def calibration_curve(kind: TaskKind, y: Floats, answers: Answers) -> CalibrationCurve | None:
    """The curve of the answers to rows with labels `y` (rows,); None for answers without probabilities.

    Rows with equal probabilities lie in one group, so there may be fewer than ten.
    """
    if answers.probability is None or not len(y):
        return None
    if kind == "binary":
        said, true = answers.probability[:, 1], y == 1
    else:
        said, true = answers.probability[np.arange(len(y)), answers.chosen.astype(int)], answers.chosen == y
    ends = np.quantile(said, np.arange(1, GROUPS) / GROUPS)
    _, group = np.unique(np.searchsorted(ends, said, "left"), return_inverse=True)
    rows = np.bincount(group)
    return CalibrationCurve(
        said=tuple((np.bincount(group, said) / rows).tolist()),
        came_true=tuple((np.bincount(group, true) / rows).tolist()),
        rows=tuple(rows.tolist()),
    )
