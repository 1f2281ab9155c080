"""Figures of a night: which there are, and that each is a picture."""

import numpy as np
import pandas as pd
import pytest

from ml.evaluation.handles import ModelScores
from ml.metrics.calibration_curve import calibration_curve
from ml.metrics.scores import Answers
from ml.models.handles import Fit, Step
from ml.reporting.figures import night_figures
from ml.serving.output import TaskKind
from tests.tiny import parcels

NAMES: dict[TaskKind, set[str]] = {
    "binary": {"learning_curve.png", "confusion_matrix.png", "precision_recall.png", "calibration.png"},
    "multiclass": {"learning_curve.png", "confusion_matrix.png", "calibration.png"},
    "regression": {"learning_curve.png", "predicted_and_true.png"},
}


def fit_of(steps: tuple[Step, ...]) -> Fit:
    best = 1 if steps else None
    return Fit(kind="Any", folder="", files=(), step_name="epoch", steps=steps, best=best, device="cpu", threads=1)


@pytest.mark.parametrize("kind", NAMES)
def test_each_kind_of_target_has_its_figures(kind: TaskKind) -> None:
    generator = np.random.default_rng(0)
    classes = {"binary": 2, "multiclass": 3, "regression": 0}[kind]
    labels = generator.integers(0, classes, 60).astype(float) if classes else generator.uniform(1, 9, 60)
    p = generator.dirichlet(np.ones(max(classes, 1)), 60)
    answers = pd.DataFrame({"label": labels, "answer": p.argmax(axis=1).astype(float) if classes else labels * 1.1})
    answers = answers.assign(**{f"probability_{i}": p[:, i] for i in range(classes)})
    scores = (None, 0.4) if kind == "binary" else (0.3, 0.4)
    steps = tuple(
        Step(number=number, train_loss=1.0, validation_loss=1.0, validation_score=score)
        for number, score in enumerate(scores, start=1)
    )
    curve = calibration_curve(kind, labels, Answers(answers.answer.to_numpy(), p if classes else None))
    models = {
        who: ModelScores(who=who, description="", scores={}, confusion=None, calibration=curve)
        for who in ("candidate", "champion", "constant")
    }
    figures = night_figures(parcels(kind), fit_of(steps), answers, models)
    assert set(figures) == NAMES[kind]
    assert all(image.startswith(b"\x89PNG") and len(image) > 5000 for image in figures.values())


def test_a_fit_without_steps_has_no_learning_curve() -> None:
    answers = pd.DataFrame({"label": [1.0, 2.0], "answer": [1.5, 2.0]})
    assert set(night_figures(parcels("regression"), fit_of(()), answers, {})) == {"predicted_and_true.png"}
