"""The threshold of two classes, chosen on validation rows: for a metric, for the least cost, or to keep a promise."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import Field

from ml.metrics.scores import Floats

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
AIMS = ("f1", "precision", "recall", "accuracy", "balanced_accuracy", "mcc")
WORDS = {"f1": "F1", "balanced_accuracy": "balanced accuracy", "mcc": "Matthews correlation"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an error costs, in any unit: a false positive is an answer of the second class that is wrong."""

    false_positive: Price
    false_negative: Price


@dataclass(frozen=True)
class CostMatrix:
    """What each answer costs, for several classes: a row for each true class, with the cost of each answer.

    The answer is the one with the least expected cost.
    """

    costs: tuple[tuple[Price, ...], ...]


@dataclass(frozen=True, kw_only=True)
class AtLeast:
    """A precision or a recall that answers must have on validation rows. The other one is then as high as it can be."""

    precision: Share | None = None
    recall: Share | None = None


Aim: TypeAlias = str | Cost | AtLeast | CostMatrix


def costs_of(aim: Aim | None) -> tuple[tuple[float, ...], ...]:
    """The costs by which a model of several classes answers; none if it answers the most probable one."""
    return aim.costs if isinstance(aim, CostMatrix) else ()


def chosen_threshold(aim: Aim, y: Floats, probability: Floats) -> dict[str, Any]:
    """The fields of an Output with the threshold, and a sentence that says what it reaches on validation rows."""
    threshold = best_threshold(aim, y, probability)
    cells = _Cells.of(y, probability >= threshold)
    return {"threshold": threshold, "decides": f"Threshold {threshold:.4g}: {_in_words(aim, cells, len(y))}."}


def best_threshold(aim: Aim, y: Floats, probability: Floats) -> float:
    """The threshold that serves the aim best on validation rows; `y` and `probability` are (rows,).

    Thresholds lie midway between two neighbouring probabilities. Of equally good ones the nearest to 0.5 is taken. Many
    thresholds can have a recall of 1, and a single row can have a precision of 1. So, for these two metrics, the
    largest F1 decides between equals. For some aims the threshold may lie above all probabilities. No threshold changes
    a score of probabilities, such as log loss: there it is the one with the best F1.
    """
    cuts, position = np.unique(probability, return_inverse=True)
    chosen, hits = (np.bincount(position, weights)[::-1].cumsum()[::-1] for weights in (np.ones_like(y), y))
    middles = np.concatenate([[cuts[0] / 2], _between(cuts[:-1], cuts[1:])])
    if aim in {"accuracy", "balanced_accuracy", "mcc"} or isinstance(aim, Cost):
        chosen, hits = np.append(chosen, 0.0), np.append(hits, 0.0)
        middles = np.append(middles, max((cuts[-1] + 1) / 2, np.nextafter(cuts[-1], 2)))
    best = np.full(len(middles), True)
    for score in _Cells(hits, chosen - hits, y.sum() - hits, len(y) - y.sum() - chosen + hits).scores(aim):
        best &= score >= score[best].max()
    return float(middles[best][np.argmin(np.abs(middles[best] - 0.5))])


@dataclass(frozen=True)
class _Cells:
    """The confusion matrix of each threshold, each cell (thresholds,)."""

    hits: Floats
    false_alarms: Floats
    missed: Floats
    rejected: Floats

    @classmethod
    def of(cls, y: Floats, positive: Any) -> "_Cells":
        """The cells of the answers `positive` (rows,), each (1,)."""
        cells = (said & true for said, true in ((positive, y == 1), (positive, y == 0), (~positive, y == 1)))
        hits, wrong, missed = (np.array([float(cell.sum())]) for cell in cells)
        return cls(hits, wrong, missed, len(y) - hits - wrong - missed)

    def scores(self, aim: Aim) -> list[Floats]:
        """Scores (thresholds,) of which the first decides, and each next one between equals."""
        if isinstance(aim, Cost):
            return [-self.cost(aim)]
        if isinstance(aim, AtLeast):
            promised, other = ("precision", "recall") if aim.precision is not None else ("recall", "precision")
            kept = self.share(promised) >= getattr(aim, promised)
            if not kept.any():
                return [self.share(promised), self.share(other)]
            return [kept.astype(np.float64), self.share(other), self.share(promised)]
        if aim in {"precision", "recall"}:
            return [self.share(str(aim)), self.share("f1")]
        return [self.share(str(aim) if aim in AIMS else "f1")]

    def cost(self, cost: Cost) -> Floats:
        return cost.false_positive * self.false_alarms + cost.false_negative * self.missed

    def share(self, name: str) -> Floats:
        """The metric of each threshold. Each is at most one division of whole numbers where it can be, so that equal
        scores are equal floats; 0 where it is undefined."""
        hits, wrong, missed, rejected = self.hits, self.false_alarms, self.missed, self.rejected
        with np.errstate(divide="ignore", invalid="ignore"):
            if name == "accuracy":
                share = (hits + rejected) / (hits + wrong + missed + rejected)
            elif name == "balanced_accuracy":
                share = (hits * (wrong + rejected) + rejected * (hits + missed)) / (
                    2 * (hits + missed) * (wrong + rejected)
                )
            elif name == "mcc":
                sizes = (hits + wrong) * (hits + missed) * (rejected + wrong) * (rejected + missed)
                share = (hits * rejected - wrong * missed) / np.sqrt(sizes)
            elif name in {"precision", "recall"}:
                share = hits / (hits + (wrong if name == "precision" else missed))
            else:
                share = 2 * hits / (2 * hits + wrong + missed)
        return np.nan_to_num(share, nan=0.0)


def _in_words(aim: Aim, cells: _Cells, rows: int) -> str:
    """What the threshold reaches on validation rows."""
    where = f"on {rows:,} validation rows"
    if isinstance(aim, Cost):
        return f"the least cost {where}, {float(cells.cost(aim)[0]) / rows:.4g} a row"
    if isinstance(aim, AtLeast):
        promised, other = ("precision", "recall") if aim.precision is not None else ("recall", "precision")
        asked, reached = getattr(aim, promised), float(cells.share(promised)[0])
        reach = f"{other} {float(cells.share(other)[0]):.3f}"
        if reached < asked:
            return (
                f"no threshold reaches the {promised} of {asked:g} {where} that the use case asks for; this one has "
                f"the highest, {reached:.3f}, with {reach}"
            )
        return f"the best {other} {where} with a {promised} of at least {asked:g}: {promised} {reached:.3f}, {reach}"
    name = str(aim) if aim in AIMS else "f1"
    return f"the best {WORDS.get(name, name)} {where}, {float(cells.share(name)[0]):.3f}"


def _between(lower: Floats, upper: Floats) -> Floats:
    """Midpoints that are larger than `lower`.

    The midpoint of two neighbouring floats may round down to the lower one. As a threshold it would make the rows of
    the lower one positive, so the upper one is taken instead.
    """
    middles = (lower + upper) / 2
    return np.where(middles > lower, middles, upper)
