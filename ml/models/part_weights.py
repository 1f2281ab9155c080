"""How much each part of an ensemble counts: equal weights, unless others are surely better on validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml.models.protocol import Floats
from ml.serving.output import TaskKind

ROUNDS = 20  # of the greedy choice: weights are multiples of one over it
FOLDS = 5
FEWEST_UNITS = 5  # that can say how far chance moves a mean
SURE = 0.95
SMALLEST = 1e-15  # the probability that a log loss goes down to
Weights = tuple[float, ...]


@dataclass(frozen=True)
class Held:
    """What the parts say about validation rows.

    `told` (rows, parts) is the probability that a part gives to a row's own class, or the value that it answers.
    `labels` (rows,) are what was to be learnt, `weights` (rows,) those of the rows, and `units` (rows,) number the
    days, groups or rows that depend on nothing else. `dated` says that neighbouring units may be alike.
    """

    task: TaskKind
    told: Floats
    labels: Floats
    weights: Floats
    units: NDArray[np.int_]
    dated: bool

    def losses(self, weights: Sequence[float]) -> Floats:
        """(rows,) the loss of the parts' weighted mean: the log loss, or the squared error."""
        total = sum(weights)
        mean = np.zeros(len(self.told))
        for part, weight in enumerate(weights):
            mean += weight / total * self.told[:, part]
        if self.task == "regression":
            return np.square(mean - self.labels)
        return -np.log(np.maximum(mean, SMALLEST))

    def loss(self, weights: Sequence[float]) -> float:
        """The log loss, or the root of the mean squared error."""
        mean = float(np.average(self.losses(weights), weights=self.weights))
        return mean**0.5 if self.task == "regression" else mean

    def of(self, rows: NDArray[np.bool_]) -> "Held":
        """The same of some of the rows."""
        of_rows = (self.told[rows], self.labels[rows], self.weights[rows], self.units[rows])
        return Held(self.task, *of_rows, self.dated)

    @property
    def folds(self) -> NDArray[np.int_]:
        """(rows,) the fold of each row. A unit is in one fold, and days that follow each other mostly are."""
        units = int(self.units.max()) + 1
        return self.units * FOLDS // units if self.dated else self.units % FOLDS


def weighed(held: Held, how: Literal["equal", "validation"] | Weights, names: Sequence[str]) -> tuple[Weights, str]:
    """The weights of the parts, which sum to 1, and in words how they came about and what each part is worth."""
    count = len(names)
    equal = (1 / count,) * count
    if how == "validation":
        weights, words = _chosen(held, equal)
    else:
        given = equal if how == "equal" else how
        weights = tuple(weight / sum(given) for weight in given)
        words = "Its parts count alike." if how == "equal" else "Its parts count as they were declared."
    return weights, f"{words} {_worth(held, weights, names)}"


def _chosen(held: Held, equal: Weights) -> tuple[Weights, str]:
    """The weights that are best on all validation rows if choosing so is surely better than equal weights.

    Each fold is judged by weights that the others chose.
    """
    found = _greedy(held)
    gained, error = _gain(held, equal)
    shares = ", ".join(f"{weight:.2f}" for weight in found)
    interval = f"gains {gained:.4f} [{gained - error:.4f}, {gained + error:.4f}] in the mean {_loss_name(held.task)}"
    if gained - error > 0:
        return found, f"Weights chosen on validation rows ({shares}) count: that {interval}."
    words = f"choosing weights on validation rows ({shares}) is not surely better ({interval})"
    return equal, f"Its parts count alike: {words}."


def _loss_name(task: TaskKind) -> str:
    return "squared error" if task == "regression" else "log loss"


def _greedy(held: Held) -> Weights:
    """Weights by Caruana et al. (2004): the part with which the mean is best is added, again and again."""
    counts = np.zeros(held.told.shape[1])
    for _ in range(ROUNDS):
        losses = [held.loss([*(counts + more)]) for more in np.eye(len(counts))]
        counts[int(np.argmin(losses))] += 1
    return tuple(float(count) / ROUNDS for count in counts)


def _gain(held: Held, equal: Weights) -> tuple[float, float]:
    """How much smaller the loss is with cross-fitted weights than with equal ones, and half of its 90 % interval."""
    from scipy.stats import t

    units = int(held.units.max()) + 1
    if units < FEWEST_UNITS:
        return 0.0, np.inf
    gains = held.losses(equal)
    for fold in range(FOLDS):
        inside = held.folds == fold
        gains[inside] -= held.of(inside).losses(_greedy(held.of(~inside)))
    rows = np.bincount(held.units, held.weights, units)
    sums = np.bincount(held.units, held.weights * gains, units)
    mean = sums.sum() / rows.sum()
    error = float(np.sqrt(np.square(sums - mean * rows).sum() * units / (units - 1)) / rows.sum())
    return float(mean), error * float(t.ppf(SURE, units - 1))


def _worth(held: Held, weights: Weights, names: Sequence[str]) -> str:
    """What each part scores alone on validation rows, and what the others score without it."""
    name = "RMSE" if held.task == "regression" else "log loss"
    together = held.loss(weights)
    parts = []
    for place, title in enumerate(names):
        others = [0.0 if other == place else weight for other, weight in enumerate(weights)]
        alone = f"{title} {held.loss([float(other == place) for other in range(len(names))]):.4f} alone"
        if weights[place] and any(others):
            cost = held.loss(others) - together
            alone += f" (without it {abs(cost):.4f} {'worse' if cost >= 0 else 'better'})"
        parts.append(alone if weights[place] else f"{alone} (left out)")
    return f"On validation rows the {name} is {together:.4f}: {', '.join(parts)}."
