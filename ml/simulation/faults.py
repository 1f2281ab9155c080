"""Faults that are planted in the training copy of a single night. Its test rows, and the days it serves, stay clean.

A fault changes the rows that a fit reads, or the settings of the fit. "Newest" counts back from the last day of the
rows that the fit reads: the judged model's fit ends before the test days, a refit's ends with them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

NEWEST_DAYS, NEWEST_WEEK = 28, 7
FLIPPED = 0.2  # of the labels
MISSING = 0.5  # of the newest positives
UNIT = 60.0  # seconds instead of minutes


@dataclass(frozen=True, kw_only=True)
class TrainingCopy:
    """The rows that one fit reads. `ages` (rows,) says how many days each row is older than the newest one.

    `column` is the feature whose unit changes: the number by which the clean model of the night gains most.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float64]
    ages: NDArray[np.int_]
    classes: int
    column: int | None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault: what it does to the training copy, by which factor it changes the learning rate, and how far
    it moves the seed."""

    name: str
    words: str
    plant: Callable[[TrainingCopy, np.random.Generator], TrainingCopy] | None = None
    learning_rate: float = 1.0
    seed: int = 0


def _flip(copy: TrainingCopy, among: NDArray[np.bool_], generator: np.random.Generator) -> TrainingCopy:
    """Gives a fifth of these rows another class; the rows of a regression swap their labels."""
    chosen = np.flatnonzero(among & (generator.random(len(copy.y)) < FLIPPED))
    y = copy.y.copy()
    if copy.classes:
        y[chosen] = (y[chosen] + generator.integers(1, copy.classes, len(chosen))) % copy.classes
    else:
        y[chosen] = y[generator.permutation(chosen)]
    return replace(copy, y=y)


def _flip_newest(copy: TrainingCopy, generator: np.random.Generator) -> TrainingCopy:
    return _flip(copy, copy.ages < NEWEST_DAYS, generator)


def _flip_all(copy: TrainingCopy, generator: np.random.Generator) -> TrainingCopy:
    return _flip(copy, np.full(len(copy.y), True), generator)


def _not_arrived(copy: TrainingCopy, generator: np.random.Generator) -> TrainingCopy:
    """Half of the newest positives still look like negatives, as a default does before it happens."""
    late = (copy.ages < NEWEST_DAYS) & (copy.y == 1) & (generator.random(len(copy.y)) < MISSING)
    return replace(copy, y=np.where(late, 0.0, copy.y))


def _other_unit(copy: TrainingCopy, generator: np.random.Generator) -> TrainingCopy:
    del generator
    x = copy.x.copy()
    x[copy.ages < NEWEST_WEEK, copy.column] *= UNIT
    return replace(copy, x=x)


FAULTS = (
    Fault(name="newest labels", words="a fifth of the newest 28 days' labels flipped", plant=_flip_newest),
    Fault(name="all labels", words="a fifth of all labels flipped", plant=_flip_all),
    Fault(name="late positives", words="half of the newest 28 days' positives not yet arrived", plant=_not_arrived),
    Fault(name="rate x10", words="a learning rate 10 times as high", learning_rate=10.0),
    Fault(name="rate x100", words="a learning rate 100 times as high", learning_rate=100.0),
    Fault(name="rate /10", words="a learning rate a tenth as high", learning_rate=0.1),
    Fault(name="other unit", words="the best number in another unit (x60) for the newest week", plant=_other_unit),
    Fault(name="other seed", words="another seed", seed=1),
)


def faults_for(classes: int, numbers: int) -> tuple[Fault, ...]:
    """The faults that there can be with so many classes (0: a regression) and number columns."""
    impossible = {"late positives"} if classes != 2 else set()
    impossible |= set() if numbers else {"other unit"}
    return tuple(fault for fault in FAULTS if fault.name not in impossible)
