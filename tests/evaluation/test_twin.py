"""Bounds that tell a broken refit from one that only learnt more: its answers beside its twin's, on the same rows."""

from typing import Any

import numpy as np
import pytest

from ml.evaluation.twin import why_broken
from ml.metrics.scores import Answers

ROWS = 1_000
TWO, THREE = ("in time", "late"), ("slow", "usual", "quick")


def of_two(probability: Any, threshold: float = 0.5) -> Answers:
    p = np.broadcast_to(np.asarray(probability, float), (ROWS,))
    return Answers((p >= threshold).astype(float), np.column_stack([1 - p, p]))


def of_three(*shares: float) -> Answers:
    chosen = np.repeat([0.0, 1.0, 2.0], [round(share * ROWS) for share in shares])
    return Answers(chosen, np.eye(3)[chosen.astype(int)])


def usual(seed: int = 0, rate: float = 0.25) -> np.ndarray:
    return np.random.default_rng(seed).beta(2 * rate, 2 * (1 - rate), ROWS)


def of_values(values: Any) -> Answers:
    return Answers(np.broadcast_to(np.asarray(values, float), (ROWS,)))


def labels_of(classes: tuple[str, ...]) -> np.ndarray:
    return np.random.default_rng(7).integers(0, len(classes), ROWS).astype(float) if classes else LABELS


LABELS = np.random.default_rng(9).normal(100, 20, ROWS)
PRICES = LABELS + np.random.default_rng(8).normal(0, 5, ROWS)
RARE = np.where(np.arange(ROWS) < 60, 0.9, 0.001)


@pytest.mark.parametrize(
    ("classes", "twin", "refit"),
    [
        (TWO, of_two(usual()), of_two(usual())),
        (TWO, of_two(usual()), of_two(usual(seed=1))),
        (TWO, of_two(usual()), of_two(usual(seed=1, rate=0.38))),
        (TWO, of_two(0.01), of_two(0.012)),
        (TWO, of_two(RARE), of_two(np.where(np.arange(ROWS) < 90, 0.9, 0.001))),
        (TWO, of_two(0.01), of_two(np.where(np.arange(ROWS) < 40, 0.6, 0.01))),
        (THREE, of_three(0.3, 0.4, 0.3), of_three(0.2, 0.4, 0.4)),
        (THREE, of_three(0.0, 0.5, 0.5), of_three(0.03, 0.5, 0.47)),
        ((), of_values(PRICES), of_values(PRICES + 3)),
        ((), of_values(PRICES), of_values(LABELS)),
        ((), of_values(100.0), of_values(LABELS * 0.1 + 90)),
    ],
)
def test_a_refit_that_learnt_more_is_not_broken(classes: tuple[str, ...], twin: Answers, refit: Answers) -> None:
    assert why_broken(classes, labels_of(classes), twin, refit) is None


@pytest.mark.parametrize(
    ("classes", "twin", "refit", "said"),
    [
        (TWO, of_two(usual()), of_two(np.append(usual()[1:], np.nan)), "not all of its answers are finite"),
        (TWO, of_two(usual()), of_two(0.0), "it says late to 0 of 1,000 test rows, and the judged one to 1"),
        (TWO, of_two(usual()), of_two(1.0), "it says in time to 0 of 1,000"),
        (TWO, of_two(usual(rate=0.5)), of_two(0.51), "it says in time to 0 of 1,000"),
        (TWO, of_two(RARE), of_two(0.01), "it says late to 0 of 1,000 test rows, and the judged one to 60"),
        (TWO, of_two(0.2), of_two(0.47), "its mean probability of in time is 0.530 on the test rows"),
        (TWO, of_two(0.1), of_two(0.02), "its mean probability of late is 0.020"),
        (THREE, of_three(0.3, 0.4, 0.3), of_three(1.0, 0.0, 0.0), "it says slow to 1,000 of 1,000"),
        (THREE, of_three(0.5, 0.4, 0.1), of_three(0.6, 0.4, 0.0), "it says quick to 0 of 1,000"),
        (THREE, of_three(0.0, 0.5, 0.5), of_three(0.2, 0.4, 0.4), "it says slow to 200 of 1,000"),
        ((), of_values(PRICES), of_values(PRICES * np.inf), "not all of its answers are finite"),
        ((), of_values(PRICES), of_values(PRICES * 60), "the mean of its answers to the test rows is"),
        ((), of_values(PRICES), of_values(PRICES - 30), "the mean of its answers to the test rows is"),
        ((), of_values(PRICES), of_values(100.0), "its answers to the test rows spread by 0.000"),
        ((), of_values(PRICES), of_values((PRICES - 100) * 5 + 100), "its answers to the test rows spread by"),
    ],
)
def test_a_broken_refit_is_told_by_its_answers(
    classes: tuple[str, ...], twin: Answers, refit: Answers, said: str
) -> None:
    why = why_broken(classes, labels_of(classes), twin, refit)
    assert why is not None
    assert said in why


EXPLODED = np.where(np.random.default_rng(3).random(ROWS) < 0.25, 1 - 1e-9, 1e-9)  # certain, of a quarter, and wrong


@pytest.mark.parametrize(
    ("classes", "labels", "twin", "refit"),
    [
        (TWO, (usual() >= 0.5).astype(float), of_two(usual()), of_two(EXPLODED)),
        ((), LABELS, of_values(PRICES), of_values(np.random.default_rng(2).permutation(PRICES))),
    ],
)
def test_a_refit_that_does_far_worse_on_what_it_learnt_is_broken(
    classes: tuple[str, ...], labels: np.ndarray, twin: Answers, refit: Answers
) -> None:
    why = why_broken(classes, labels, twin, refit)
    assert why is not None
    assert why.startswith("its loss on the test rows, which it has learnt, is ")
    assert why_broken(classes, labels, refit, twin) is None, "doing better proves nothing"
