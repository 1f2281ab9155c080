"""The calibration curve and its error, beside scikit-learn's curve and by hand."""

import numpy as np
import pytest
from sklearn import calibration

from ml.metrics.calibration_curve import calibration_curve
from ml.metrics.scores import Answers


def of_two(y: np.ndarray, p: np.ndarray) -> Answers:
    return Answers((p >= 0.5).astype(float), np.column_stack([1 - p, p]))


def test_the_curve_of_two_classes_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    p = generator.random(997)
    y = (generator.random(997) < p**2).astype(float)
    curve = calibration_curve("binary", y, of_two(y, p))
    assert curve is not None
    came_true, said = calibration.calibration_curve(y, p, n_bins=10, strategy="quantile")
    assert curve.said == pytest.approx(said)
    assert curve.came_true == pytest.approx(came_true)
    assert sum(curve.rows) == 997
    assert curve.error == pytest.approx(np.average(abs(said - came_true), weights=curve.rows))


def test_equal_probabilities_are_one_group() -> None:
    """The best constant is calibrated well, in whatever order the rows are."""
    y = np.array([1.0, 0, 0, 0] * 10)
    curve = calibration_curve("binary", np.sort(y), of_two(y, np.full(40, 0.25)))
    assert curve is not None
    assert (curve.said, curve.came_true, curve.rows, curve.error) == ((0.25,), (0.25,), (40,), 0.0)


def test_of_more_classes_the_answer_counts() -> None:
    probability = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]] * 10)
    curve = calibration_curve("multiclass", np.array([0.0, 1.0] * 10), Answers(probability.argmax(axis=1), probability))
    assert curve is not None
    assert curve.said == pytest.approx((0.5, 0.7))
    assert curve.came_true == (1.0, 0.0)
    assert curve.error == pytest.approx((0.5 + 0.7) / 2)


def test_a_regression_has_none() -> None:
    assert calibration_curve("regression", np.array([1.0]), Answers(np.array([1.0]))) is None
