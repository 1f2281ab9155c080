"""Whether a refit is broken: its answers to the test rows beside those of its twin, the judged model.

The refit has learnt these rows, so a good score on them proves nothing, but a far worse one than its twin's does. The
bounds are so wide that they catch a fit that went wrong, and no other. Where the world changed within the test rows, a
sound refit has learnt that and moves from its twin's answers towards the labels. So bounds reach from one to the other.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from ml.evaluation.handles import short
from ml.metrics.scores import Answers, Floats, values_of_rows

FACTOR = 3.0  # a count, a mean or a spread becomes so many times larger or smaller at most
FEW_ROWS, FEW = 10, 0.05  # and so many rows, or this share of all, more
MEAN_MOVES = 0.25  # a mean probability moves by so much at most
LOSS_FACTOR = 1.5  # a loss on rows that were learnt is so many times that of a model that never saw them, at most


def why_broken(classes: Sequence[str], labels: Floats, twin: Answers, refit: Answers) -> str | None:
    """Which bound the refit's answers break, as a clause; None if they keep all of them.

    `labels` (rows,) are class codes, or values where there are no `classes`.
    """
    if not _all_finite(refit):
        return "not all of its answers are finite numbers"
    moved = _of_classes(classes, labels, twin, refit) if classes else _of_values(labels, twin, refit)
    return next(chain(moved, _of_losses(labels, twin, refit)), None)


def _all_finite(answers: Answers) -> bool:
    numbers = answers.chosen if answers.probability is None else answers.probability
    return bool(np.isfinite(numbers).all() and np.isfinite(answers.chosen).all())


def _of_classes(classes: Sequence[str], labels: Floats, twin: Answers, refit: Answers) -> Iterator[str]:
    """For each class, how many rows get it as their answer, and the mean of its probability."""
    rows = len(twin.chosen)
    for code, name in enumerate(classes):
        truth, before, after = (int((of_rows == code).sum()) for of_rows in (labels, twin.chosen, refit.chosen))
        low, high = sorted((before, truth))
        if not low / FACTOR - FEW_ROWS <= after <= FACTOR * high + max(FEW_ROWS, FEW * rows):
            yield f"it says {name} to {after:,} of {rows:,} test rows, and the judged one to {before:,}"
    if twin.probability is None or refit.probability is None:
        return
    means = zip(twin.probability.mean(axis=0), refit.probability.mean(axis=0), strict=True)
    for code, (before, after) in enumerate(means):
        low, high = sorted((before, float((labels == code).mean())))
        lowest, highest = (
            max(low / FACTOR - FEW_ROWS / rows, low - MEAN_MOVES),
            min(FACTOR * high + FEW, high + MEAN_MOVES),
        )
        if not lowest <= after <= highest:
            mean = f"its mean probability of {classes[code]} is {after:.3f} on the test rows"
            yield f"{mean}, and the judged one's {before:.3f}"


def _of_values(labels: Floats, twin: Answers, refit: Answers) -> Iterator[str]:
    """The mean of the values, and their standard deviation."""
    spread = float(labels.std())
    before, after = float(twin.chosen.mean()), float(refit.chosen.mean())
    low, high = sorted((before, float(labels.mean())))
    moves = max(spread, FEW * abs(before))
    if not low - moves <= after <= high + moves:
        yield f"the mean of its answers to the test rows is {short(after)}, and the judged one's {short(before)}"
    before, after = float(twin.chosen.std()), float(refit.chosen.std())
    low, high = sorted((before, spread))
    if not low / FACTOR - FEW * spread <= after <= FACTOR * high + spread:
        yield f"its answers to the test rows spread by {short(after)}, and the judged one's by {short(before)}"


def _of_losses(labels: Floats, twin: Answers, refit: Answers) -> Iterator[str]:
    before, after = _loss(labels, twin), _loss(labels, refit)
    unit = float(labels.std()) if twin.probability is None else 1.0
    if after > LOSS_FACTOR * before + FEW * unit:
        yield f"its loss on the test rows, which it has learnt, is {short(after)}, and the judged one's {short(before)}"


def _loss(labels: Floats, answers: Answers) -> float:
    """The mean log loss; of values the root of the mean squared error."""
    if answers.probability is None:
        return float(np.sqrt(np.square(answers.chosen - labels).mean()))
    binary = answers.probability.shape[1] == 2
    return float(values_of_rows("log_loss", labels, answers.probability, binary=binary).mean())
