"""The metrics: from counts and sums to scores, and from probabilities to scores. Undefined scores are NaN or None."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.serving.output import TaskKind

LOWER_IS_BETTER = {"rmse", "mae"}
CLASS_METRICS = ("f1", "precision", "recall", "accuracy")
METRICS: dict[TaskKind, tuple[str, ...]] = {
    "binary": CLASS_METRICS,
    "multiclass": CLASS_METRICS,
    "regression": ("rmse", "mae", "r2"),
}
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """One predictor's answers: `chosen` (rows,) has class indices or values, `probability` is (rows, classes)."""

    chosen: Floats
    probability: Floats | None = None


def class_metric(name: str, matrix: Floats, *, binary: bool) -> Floats:
    """The metric (draws,) of confusion matrices (draws, label, prediction); NaN where it is undefined.

    `binary` gives it for the second class; otherwise it is the mean over the classes.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "accuracy":
            return np.trace(matrix, axis1=1, axis2=2) / matrix.sum(axis=(1, 2))
        hit = np.diagonal(matrix, axis1=1, axis2=2)
        actual, chosen = matrix.sum(axis=2), matrix.sum(axis=1)
        by_class = {"precision": hit / chosen, "recall": hit / actual, "f1": 2 * hit / (actual + chosen)}[name]
        if name == "f1":
            by_class = np.where(actual > 0, by_class, np.nan)  # without rows of the class F1 is undefined, not 0
    return by_class[:, 1] if binary else by_class.mean(axis=1)


def value_metric(name: str, totals: Floats, side: int) -> Floats:
    """The metric (draws,) of a regression from a pair's `totals` (draws, 7), for the other (0) or the candidate (1).

    R2 is NaN if all labels are equal.
    """
    n, total, squares = totals[:, 0], totals[:, 1], totals[:, 2]
    squared, absolute = totals[:, 3 + side], totals[:, 5 + side]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = squares - total**2 / n
        return {
            "rmse": np.sqrt(squared / n),
            "mae": absolute / n,
            "r2": np.where(spread > 0, 1 - squared / spread, np.nan),
        }[name]


def probability_scores(kind: TaskKind, y: Floats, probability: Floats | None) -> dict[str, float | None]:
    """ROC AUC, PR AUC (average precision), log loss and Brier score; nothing without probabilities (rows, classes).

    For more than two classes the first two are means over one class against the rest. They are None if a class has no
    rows or has all of them.
    """
    if kind == "regression" or probability is None:
        return {}
    from sklearn.metrics import average_precision_score, roc_auc_score

    classes = probability.shape[1]
    one_hot = np.eye(classes)[y.astype(int)]
    columns = [1] if kind == "binary" else list(range(classes))
    defined = all(0 < one_hot[:, c].sum() < len(y) for c in columns)
    own = np.clip(probability[np.arange(len(y)), y.astype(int)], 1e-15, 1)
    area = [roc_auc_score(one_hot[:, c], probability[:, c]) for c in columns] if defined else []
    precision = [average_precision_score(one_hot[:, c], probability[:, c]) for c in columns] if defined else []
    brier = np.square(probability - one_hot).sum(axis=1).mean() / (2 if kind == "binary" else 1)
    return {
        "roc_auc": float(np.mean(area)) if defined else None,
        "pr_auc": float(np.mean(precision)) if defined else None,
        "log_loss": float(-np.log(own).mean()),
        "brier": float(brier),
    }


def confusion(y: Floats, chosen: Floats, classes: int) -> tuple[tuple[int, ...], ...]:
    """The confusion matrix: how many rows there are by label (outer tuples) and prediction (inner)."""
    matrix = np.bincount((y * classes + chosen).astype(int), minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(int(count) for count in row) for row in matrix)
