"""The metrics: from counts and sums to scores, and from probabilities to scores. Undefined scores are NaN or None."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.serving.output import TaskKind

LOWER_IS_BETTER = {"rmse", "mae", "log_loss", "brier"}
CLASS_METRICS = ("f1", "precision", "recall", "accuracy")
AREAS = ("roc_auc", "pr_auc")
PROBABILITY_SCORES = (*AREAS, "log_loss", "brier")
METRICS: dict[TaskKind, tuple[str, ...]] = {
    "binary": CLASS_METRICS + PROBABILITY_SCORES,
    "multiclass": CLASS_METRICS + PROBABILITY_SCORES,
    "regression": ("rmse", "mae", "r2"),
}
RANGES = {
    **dict.fromkeys((*CLASS_METRICS, *AREAS), (0.0, 1.0)),
    **dict.fromkeys(("log_loss", "rmse", "mae"), (0.0, np.inf)),
    "brier": (0.0, 2.0),
    "r2": (-np.inf, 1.0),
}
Floats = NDArray[np.float64]


def loss_of(kind: TaskKind) -> str:
    """The loss that says most of all that a model answers: log loss, or of a regression the RMSE."""
    return "rmse" if kind == "regression" else "log_loss"


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

    binary = kind == "binary"
    one_hot, columns = _one_hot(y, probability), _judged_classes(probability, binary=binary)
    defined = all(0 < one_hot[:, c].sum() < len(y) for c in columns)
    area = [roc_auc_score(one_hot[:, c], probability[:, c]) for c in columns] if defined else []
    precision = [average_precision_score(one_hot[:, c], probability[:, c]) for c in columns] if defined else []
    return {
        "roc_auc": float(np.mean(area)) if defined else None,
        "pr_auc": float(np.mean(precision)) if defined else None,
        "log_loss": float(values_of_rows("log_loss", y, probability, binary=binary).mean()),
        "brier": float(values_of_rows("brier", y, probability, binary=binary).mean()),
    }


def values_of_rows(name: str, y: Floats, probability: Floats, *, binary: bool) -> Floats:
    """(rows,) values whose mean is the score of the probabilities (rows, classes) for the labels `y` (rows,).

    Log loss and Brier score are means by themselves. An area is made one: a row's value is the area plus the number of
    rows times the row's influence, which is the derivative of the area by the row's weight. So the mean over fewer rows
    is their area to first order: the infinitesimal jackknife (Efron 1982, chapter 6). The values are
    0 where a class has no rows, and the area is undefined.
    """
    if name == "log_loss":
        return -np.log(np.clip(probability[np.arange(len(y)), y.astype(int)], 1e-15, 1))
    one_hot = _one_hot(y, probability)
    if name == "brier":
        return np.square(probability - one_hot).sum(axis=1) / (2 if binary else 1)
    values = {"roc_auc": _roc_values, "pr_auc": _precision_values}[name]
    if not one_hot.any(axis=0).all():
        return np.zeros(len(y))
    columns = _judged_classes(probability, binary=binary)
    return np.mean([values(one_hot[:, c] == 1, probability[:, c]) for c in columns], axis=0)


def _one_hot(y: Floats, probability: Floats) -> Floats:
    return np.eye(probability.shape[1])[y.astype(int)]


def _judged_classes(probability: Floats, *, binary: bool) -> list[int]:
    """The classes over which an area is the mean: of two the second, of more all, each against the rest."""
    return [1] if binary else list(range(probability.shape[1]))


def _roc_values(is_class: NDArray[np.bool_], probability: Floats) -> Floats:
    """The area under the ROC curve as values of rows (rows,).

    The influence of a row comes from its structural component: the share of the rows of the other side that it is
    ranked rightly against, ties by half (DeLong, DeLong and Clarke-Pearson 1988). Obuchowski (1997) sums them by unit.
    """
    inside, outside = np.sort(probability[is_class]), np.sort(probability[~is_class])
    below = _rank(outside, probability) / len(outside)
    above = 1 - _rank(inside, probability) / len(inside)
    component = np.where(is_class, below, above)
    area = component[is_class].mean()
    return area + len(is_class) * (component - area) / np.where(is_class, len(inside), len(outside))


def _rank(ordered: Floats, probability: Floats) -> Floats:
    """(rows,) how many of the ordered values lie below each probability, equal ones counted by half."""
    return (np.searchsorted(ordered, probability, "left") + np.searchsorted(ordered, probability, "right")) / 2


def _precision_values(is_class: NDArray[np.bool_], probability: Floats) -> Floats:
    """The average precision as values of rows (rows,).

    It is the mean, over the rows i of the class, of hits_i / answers_i: of the rows that are at least as probable as i,
    how many are of the class. A row k weighs in its own term, and in those of all i that are at most as probable, each
    of which it changes by ([k is of the class] - hits_i / answers_i) / answers_i.
    """
    inside, everything = np.sort(probability[is_class]), np.sort(probability)
    answers = len(everything) - np.searchsorted(everything, inside, "left")
    precision = (len(inside) - np.searchsorted(inside, inside, "left")) / answers
    area = precision.mean()
    up_to = np.searchsorted(inside, probability, "right")
    if_of_class, in_any_case = (
        np.concatenate([[0.0], np.cumsum(x)])[up_to] for x in (1 / answers, precision / answers)
    )
    own = precision[np.searchsorted(inside, probability, "left").clip(max=len(inside) - 1)] - area
    return area + len(is_class) / len(inside) * (np.where(is_class, own + if_of_class, 0.0) - in_any_case)


def confusion(y: Floats, chosen: Floats, classes: int) -> tuple[tuple[int, ...], ...]:
    """The confusion matrix: how many rows there are by label (outer tuples) and prediction (inner)."""
    matrix = np.bincount((y * classes + chosen).astype(int), minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(int(count) for count in row) for row in matrix)
