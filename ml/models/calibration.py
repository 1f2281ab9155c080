"""Calibration: how the logits of a fitted model become probabilities that may be taken at their word.

Validation rows decide. Each method is fitted to some of their units (days, groups or rows) and judged by log loss on
the others. Outputs stay as they are unless a method is surely better. No method changes the order of the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from ml.metrics.intervals import MIN_CARRIERS, Estimate, make_pair, unit_numbers
from ml.metrics.scores import Answers
from ml.serving.output import Output, TaskKind, probabilities

Floats = NDArray[np.float64]
Calibration = Literal["auto", "none", "temperature", "platt", "isotonic"]
Method = Callable[[Floats, Floats], dict[str, Any]]
FOLDS = 5
FEWEST_DAYS = 56  # of fewer days a calibration takes over the share of positives, which does not stay (docs/models.md)
STEEPEST = 5.0  # of a temperature: e^5 times as sure as the model says, or as unsure


def temperature(logits: Floats, y: Floats) -> dict[str, Any]:
    """One factor for all logits (rows, outputs), with the least log loss for the labels `y` (rows,).

    The labels are smoothed as Platt's are, so that a few well separated rows do not make the model certain.
    """
    kind: TaskKind = "binary" if logits.shape[1] == 1 else "multiclass"
    classes = max(2, logits.shape[1])
    counts = np.bincount(y.astype(int), minlength=classes)
    sure = (counts + 1) / (counts + 2)
    labels = np.eye(classes) * (sure - (1 - sure) / (classes - 1)) + ((1 - sure) / (classes - 1))
    wanted = labels.T[y.astype(int)]

    def loss(log_slope: float) -> float:
        p = probabilities(Output(kind=kind, slope=float(np.exp(log_slope))), logits)
        return -float((wanted * np.log(np.clip(p, 1e-300, 1))).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=(-STEEPEST, STEEPEST), method="bounded")
    return {"slope": float(np.exp(found.x))}


def platt(logits: Floats, y: Floats) -> dict[str, Any]:
    """Slope and offset that make sigmoid(slope * logit + offset) a probability, for two classes.

    This is Platt (1999) with his smoothed targets, so that a few well separated rows do not make the model certain.
    A slope of 0 or less would change the order of the rows; then the logits stay as they are (slope 1, offset 0).
    """
    positives, negatives = float(y.sum()), float(len(y) - y.sum())
    smoothed = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    both, halves = np.concatenate([logits, logits]), np.repeat([1, 0], len(y))
    fitted = LogisticRegression(C=np.inf).fit(both, halves, np.concatenate([smoothed, 1 - smoothed]))
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return {"slope": slope, "offset": offset} if slope > 0 else {}


def isotonic(logits: Floats, y: Floats) -> dict[str, Any]:
    """A rising curve through the means of the blocks of an isotonic regression, for two classes.

    The regression itself is a staircase, whose rows of one step could no longer be told apart. So lines join the middle
    of each step to that of the next. A step with one class alone is as sure as Platt's smoothed targets.
    """
    positives, negatives = float(y.sum()), float(len(y) - y.sum())
    bounds = {"y_min": 1 / (negatives + 2), "y_max": (positives + 1) / (positives + 2)}
    heights, steps = np.unique(
        IsotonicRegression(**bounds).fit(logits[:, 0], y).predict(logits[:, 0]), return_inverse=True
    )
    middles = np.bincount(steps, logits[:, 0]) / np.bincount(steps)
    rising = np.concatenate([[True], np.diff(middles) > 0])  # two neighbouring floats may have one middle
    points = zip(middles[rising], np.log(heights / (1 - heights))[rising], strict=True)
    return {"curve": tuple((float(before), float(after)) for before, after in points)}


METHODS: dict[str, Method] = {"temperature": temperature, "platt": platt, "isotonic": isotonic}
OF_KIND: dict[TaskKind, tuple[str, ...]] = {"binary": tuple(METHODS), "multiclass": ("temperature",), "regression": ()}
NAMES = {"none": "none", "temperature": "temperature", "platt": "Platt's", "isotonic": "isotonic"}


@dataclass(frozen=True)
class HeldOut:
    """What the model says to validation rows: `logits` (rows, outputs), the labels `y` (rows,), and the `units` of the
    rows, of which none is given if each row is one. With `in_order` the units are days."""

    kind: TaskKind
    logits: Floats
    y: Floats
    units: NDArray[np.object_] | None = None
    in_order: bool = False

    def of(self, rows: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        return self.logits[rows], self.y[rows]

    def folds(self) -> NDArray[np.int_]:
        """(rows,) the fold of each row. A unit lies in one fold. Days that follow each other lie together, because good
        days follow good ones."""
        if self.in_order:
            return self._numbers * FOLDS // self.count
        return np.random.default_rng(0).permutation(self.count)[self._numbers] % FOLDS

    @property
    def count(self) -> int:
        """How many units there are."""
        return int(self._numbers.max()) + 1

    @property
    def _numbers(self) -> NDArray[np.int_]:
        """(rows,) the number of each row's unit, by the units' names and so whatever the order of the rows."""
        return unit_numbers(self.units, len(self.y), in_order=True)


def calibrated(held_out: HeldOut, wanted: Calibration, *, probable: bool) -> dict[str, Any]:
    """The fields of an Output that calibrate the model.

    `wanted` is what the use case says. `probable` says whether the model's outputs are meant as probabilities; if they
    are not, one of the methods is used in any case.
    """
    if wanted == "none":
        return {"calibration": "The probabilities are not calibrated, as the use case says."}
    if wanted != "auto":
        return {
            **METHODS[wanted](held_out.logits, held_out.y),
            "calibration": f"The probabilities have {NAMES[wanted]} calibration, as the use case says.",
        }
    return _chosen(held_out, probable=probable)


def _chosen(held_out: HeldOut, *, probable: bool) -> dict[str, Any]:
    """The usual method, unless another is surely better; of several that are, the one with the least log loss.

    Fewer days than FEWEST_DAYS, or fewer groups or rows than MIN_CARRIERS, leave it at the usual method.
    """
    usual = "none" if probable else "platt" if held_out.kind == "binary" else "temperature"
    others = [name for name in OF_KIND[held_out.kind] if name != usual]
    own = "" if probable else "the model's own outputs are no probabilities"
    if not others:
        return _fitted(held_out, usual, own)
    units = held_out.count
    if units < (FEWEST_DAYS if held_out.in_order else MIN_CARRIERS):
        few = f"{units} validation {'days' if held_out.in_order else 'units'} cannot tell whether another is better"
        return _fitted(held_out, usual, own, few)
    answers = {name: _cross_fitted(held_out, name) for name in (usual, *others)}
    gains = {name: _gain(held_out, answers[name], answers[usual]) for name in others}
    sure = [name for name in others if gains[name].low > 0]
    best = max(sure or others, key=lambda name: np.nan_to_num(gains[name].value, nan=-np.inf))
    against = "" if probable else f" against {NAMES[usual]}"
    change = f"changes the log loss of validation rows that it did not see by {_in_words(gains[best])}{against}"
    if sure:
        return _fitted(held_out, best, own, f"it {change}")
    return _fitted(held_out, usual, own, f"{NAMES[best]}, the best of the others, {change}, which is not surely less")


def _in_words(gain: Estimate) -> str:
    """The change of the loss with its interval, as in `-1.2% [-2.0%, -0.4%]`. A gain is the other way round."""
    if np.isnan(gain.value):
        return "an unknown share of 0"
    interval = f"[{-gain.high:+.1%}, {-gain.low:+.1%}]" if np.isfinite(gain.low) else "(with no interval)"
    return f"{-gain.value:+.1%} {interval}"


def _fitted(held_out: HeldOut, name: str, *why: str) -> dict[str, Any]:
    """The fields of an Output with the method, fitted to all validation rows."""
    fields = METHODS[name](held_out.logits, held_out.y) if name in METHODS else {}
    return {**fields, "calibration": f"Calibration: {NAMES[name]}, because {'; '.join(filter(None, why))}."}


def _cross_fitted(held_out: HeldOut, name: str) -> Floats:
    """(rows, classes) the probabilities that the method, fitted to the other folds, gives the rows of each fold."""
    plain, folds = Output(kind=held_out.kind), held_out.folds()
    answers = probabilities(plain, held_out.logits)
    if name == "none":
        return answers
    for fold in np.unique(folds):
        fields = METHODS[name](*held_out.of(folds != fold))
        answers[folds == fold] = probabilities(replace(plain, **fields), held_out.logits[folds == fold])
    return answers


def _gain(held_out: HeldOut, one: Floats, usual: Floats) -> Estimate:
    """By which share the log loss of the one is less than that of the usual one, with its interval."""
    new, other = (Answers(p.argmax(axis=1).astype(np.float64), p) for p in (one, usual))
    y, units = held_out.y, held_out.units
    pair = make_pair(held_out.kind, one.shape[1], y, new, other, units, ("log_loss",), in_order=held_out.in_order)
    return Estimate.of(pair, "log_loss", "candidate", "other")
