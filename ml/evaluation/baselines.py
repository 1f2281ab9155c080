"""The baselines that a model must beat: the best constant answer and the best threshold on one column.

Both are chosen on train rows alone.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaning import LABEL
from ml.data.dataset import Reading
from ml.metrics.scores import PROBABILITY_SCORES, Answers, class_metric
from ml.models.recipe import Recipe

Floats = NDArray[np.float64]
CUTS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Constant:
    """One answer for every row. For classes, the probabilities are the classes' shares of train rows (`shares`)."""

    answer: float
    shares: tuple[float, ...]
    description: str

    def answers(self, rows: pd.DataFrame) -> Answers:
        """The same answer for each of the rows."""
        chosen = np.full(len(rows), self.answer)
        return Answers(chosen, np.tile(self.shares, (len(rows), 1)) if self.shares else None)


@dataclass(frozen=True)
class OneColumnRule:
    """One answer where `column > threshold` (`above`), another elsewhere and for missing values (`below`).

    For classes, `shares` has the probabilities on each side: the classes' shares of the train rows there. They are
    smoothed if the use case's metric is a score of probabilities.
    """

    column: str
    threshold: float
    below: float
    above: float
    shares: tuple[tuple[float, float], tuple[float, float]] | None
    description: str

    def answers(self, rows: pd.DataFrame) -> Answers:
        """The rule's answers to the rows, which need only its one column."""
        side = (rows[self.column].to_numpy(np.float64) > self.threshold).astype(int)
        chosen = np.array([self.below, self.above])[side]
        return Answers(chosen, np.array(self.shares)[side] if self.shares else None)


def best_constant(use_case: Recipe, labels: Floats) -> Constant:
    """The constant with the best metric on train labels (rows,). For a regression the mean, or the median for MAE.

    Where the metric is a score of probabilities, no other constant than the classes' shares is better on train; the
    answer is then the one with the best F1.
    """
    if use_case.target.kind == "regression":
        value = float(np.median(labels) if use_case.metric == "mae" else labels.mean())
        return Constant(value, (), f"always {value:,.0f} {use_case.target.unit}".rstrip())
    classes = len(use_case.target.classes)
    counts = np.bincount(labels.astype(int), minlength=classes).astype(np.float64)
    matrices = np.stack([counts[:, None] * (np.arange(classes) == chosen) for chosen in range(classes)])
    of_probabilities = use_case.metric in PROBABILITY_SCORES
    metric = "f1" if of_probabilities else use_case.metric
    scores = np.nan_to_num(class_metric(metric, matrices, binary=use_case.target.kind == "binary"))
    best = int(scores.argmax())
    shares = tuple(float(share) for share in counts / counts.sum())
    words = "the classes' shares of the train rows" if of_probabilities else f"'{use_case.target.classes[best]}'"
    return Constant(float(best), shares, f"always {words}")


def rule_columns(use_case: Reading) -> list[str]:
    """The columns that a rule may use: all numeric features, and none if there are more than two classes."""
    features = use_case.features
    names = [column.name for column in features if column.type in {"number", "integer"} and not column.is_category]
    return [] if use_case.target.kind == "multiclass" else names


def best_rule(use_case: Recipe, train: pd.DataFrame) -> OneColumnRule | None:
    """The best threshold on any one of the columns that a rule may use; None if there is no such column."""
    names = rule_columns(use_case)
    if not names:
        return None
    labels = train[LABEL].to_numpy(np.float64)
    best_cut = _best_cut_of_values if use_case.target.kind == "regression" else _best_cut_of_classes
    cuts = [(*best_cut(use_case.metric, train[name].to_numpy(np.float64), labels), name) for name in names]
    _, threshold, rising, name = max(cuts, key=lambda cut: cut[0])
    return _rule(use_case, name, threshold, rising, train[name].to_numpy(np.float64) > threshold, labels)


def _rule(
    use_case: Recipe, name: str, threshold: float, rising: bool, above: NDArray[np.bool_], labels: Floats
) -> OneColumnRule:
    """The rule with this threshold; `above` (rows,) says which train rows lie above it.

    `rising` means that the second class is answered above the threshold. It does not matter for a regression.
    """
    of_probabilities = use_case.metric in PROBABILITY_SCORES
    extra = 1 if of_probabilities else 0
    low, high = (_share(labels[side], extra) for side in (~above, above))
    cut = _cut_words(use_case, name, threshold)
    if use_case.target.kind == "regression":
        words = f"{high:,.0f} where {name} > {cut}, else {low:,.0f}"
        return OneColumnRule(name, threshold, low, high, None, words)
    second = use_case.target.classes[1]
    words = f"'{second}' where {name} {'>' if rising else '<='} {cut}"
    if of_probabilities:
        words = f"a probability of {high:.3f} for '{second}' where {name} > {cut}, else {low:.3f} (smoothed shares)"
    shares = ((1 - low, low), (1 - high, high))
    return OneColumnRule(name, threshold, float(not rising), float(rising), shares, words)


def _share(labels: Floats, extra: int) -> float:
    """The mean of the labels (rows,) and of `extra` more rows of each class, by which no class is impossible."""
    rows = len(labels) + 2 * extra
    return float((labels.sum() + extra) / rows) if rows else 0.0


def _cut_words(use_case: Reading, name: str, threshold: float) -> str:
    """The threshold in words. It would reveal the values of single rows, so it is not shown for a sensitive column."""
    sensitive = any(column.sensitive for column in use_case.columns if column.name == name)
    return "a threshold that is not shown" if sensitive else f"{threshold:.6g}"


def _cuts(column: Floats) -> tuple[NDArray[np.int_], Floats, NDArray[np.int_]]:
    """The rows' order by value, the sorted values, and the positions after which a cut may lie.

    Missing values are sorted below all others, as minus infinity.
    """
    filled = np.where(np.isfinite(column), column, -np.inf)
    order = np.argsort(filled, kind="stable")
    ordered = filled[order]
    ends = np.flatnonzero(ordered[1:] > ordered[:-1])
    return order, ordered, ends


def _middle(ordered: Floats, end: int) -> float:
    """The threshold between the sorted values at `end` and after it; 1 below the latter if the former is missing."""
    low, high = ordered[end], ordered[end + 1]
    return float((low + high) / 2) if np.isfinite(low) else float(high) - 1.0


def _best_cut_of_classes(metric: str, column: Floats, labels: Floats) -> tuple[float, float, bool]:
    """The best score, its threshold, and whether the rule answers the second class above the threshold."""
    order, ordered, ends = _cuts(column)
    if not len(ends):
        return -np.inf, 0.0, True
    positives = np.cumsum(labels[order])
    below_p, below_n = positives[ends], (ends + 1) - positives[ends]
    above_p, above_n = positives[-1] - below_p, len(labels) - positives[-1] - below_n
    rising = np.array([[below_n, above_n], [below_p, above_p]])
    starts = range(0, len(ends), CUTS_AT_ONCE)
    scores = np.concatenate([_scores(metric, rising[:, :, start : start + CUTS_AT_ONCE]) for start in starts], axis=1)
    direction, position = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores.max()), _middle(ordered, ends[position]), bool(direction == 0)


def _scores(metric: str, rising: Floats) -> Floats:
    """Scores (2, cuts) from counts (label, side, cuts): first with the second class above the cut, then below it.

    The sides' probabilities say themselves where the second class is answered: the score of the other way is minus
    infinity.
    """
    if metric in PROBABILITY_SCORES:
        share = (rising[1] + 1) / (rising.sum(axis=0) + 2)
        upwards, score = share[1] > share[0], _score_of_shares(metric, rising, share)
        return np.stack([np.where(upwards, score, -np.inf), np.where(upwards, -np.inf, score)])
    matrices = np.moveaxis(rising, -1, 0)
    directions = (matrices, matrices[:, :, ::-1])
    return np.nan_to_num(np.stack([class_metric(metric, direction, binary=True) for direction in directions]))


def _score_of_shares(metric: str, rising: Floats, share: Floats) -> Floats:
    """The score (cuts,), minus it for a loss, if a row's probability of the second class is its side's `share`.

    `rising` has counts (label, side, cuts), and `share` is (side, cuts).
    """
    if metric == "log_loss":
        return (rising[1] * np.log(share) + rising[0] * np.log(1 - share)).sum(axis=0)
    if metric == "brier":
        return -(rising[1] * (1 - share) ** 2 + rising[0] * share**2).sum(axis=0)
    more = np.where(share[1] > share[0], rising[:, 1], rising[:, 0])  # the counts on the side of the larger share
    negatives, positives = rising.sum(axis=1)
    found = more[1] / positives
    if metric == "roc_auc":
        return (found + 1 - more[0] / negatives) / 2
    return found * more[1] / more.sum(axis=0) + (1 - found) * positives / (negatives + positives)


def _best_cut_of_values(metric: str, column: Floats, labels: Floats) -> tuple[float, float, bool]:
    """The best score, its threshold, and True. The score is minus the squared error that is left, for every metric."""
    del metric
    order, ordered, ends = _cuts(column)
    if not len(ends):
        return -np.inf, 0.0, True
    total, squares = np.cumsum(labels[order]), float(np.square(labels).sum())
    n = np.arange(1, len(labels) + 1)
    explained = total[ends] ** 2 / n[ends] + (total[-1] - total[ends]) ** 2 / (n[-1] - n[ends])
    best = int(explained.argmax())
    return float(explained[best] - squares), _middle(ordered, ends[best]), True
