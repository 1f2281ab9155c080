"""Makes a candidate from cleaned rows: encoding, the fit, and what validation rows choose after it.

Validation rows choose the calibration and the threshold. Nothing here sees a test row.
"""

import logging
import time
from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from ml.data.cleaning import LABEL
from ml.data.dataset import Reading
from ml.errors import ConfigError, StoreUnavailable
from ml.models.handles import Fit
from ml.models.networks.descent import Checkpoints
from ml.models.networks.estimators import Diverged, NetworkEstimator, OnEpoch
from ml.models.packaging import travelling
from ml.models.recipe import Recipe
from ml.serving.features import Encoder
from ml.serving.kinds.network import TabularNetwork, forward_in_blocks
from ml.serving.model import Architecture, PackagedModel
from ml.serving.output import Output, sigmoid
from ml.serving.rules import Rule
from ml.storage.records import Night
from ml.storage.store import Store

log = logging.getLogger("retrain.training")
CHECKPOINT_SECONDS = 5.0  # writing one takes 1 to 12 ms on disk, as long as an epoch of a small use case
Floats = NDArray[np.float64]


def encode(use_case: Reading, encoder: Encoder, frames: Iterable[pd.DataFrame]) -> tuple[NDArray[np.float32], Floats]:
    """X (rows, width) and the labels that the network learns (rows,), which are logarithms if `target.log` is set."""
    parts = [(encoder.transform(frame), frame[LABEL].to_numpy(np.float64)) for frame in frames]
    y = np.concatenate([labels for _, labels in parts])
    return np.concatenate([rows for rows, _ in parts]), np.log(y) if use_case.target.log else y


def fit_candidate(
    use_case: Recipe,
    night: Night,
    encoder: Encoder,
    train: tuple[NDArray[np.float32], Floats],
    validation: tuple[NDArray[np.float32], Floats],
    on_epoch: OnEpoch,
    checkpoints: Checkpoints | None = None,
) -> NetworkEstimator:
    """Fits the use case's estimator on train rows; it keeps the weights of the epoch with the best validation loss.

    Raises ConfigError if the loss is no number after the first epoch.
    """
    estimator = clone(use_case.model).set_params(seed=night.seed, device=night.device)
    try:
        return estimator.fit(
            *train,
            validation=validation,
            category_sizes=encoder.category_sizes,
            on_epoch=on_epoch,
            checkpoints=checkpoints,
        )
    except Diverged:
        value = f"with learning_rate {estimator.learning_rate:g} it is none after the first epoch"
        raise ConfigError(f"the loss of {use_case.name}'s model must stay a number", value, "lower it") from None


class StoredCheckpoints:
    """Keeps the checkpoint of a fit as one object in the store.

    It is replaced after an epoch if the last one was saved at least CHECKPOINT_SECONDS ago. If the store is
    unavailable, the fit goes on without a new checkpoint.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.key, self.saved_at = store, key, time.monotonic()

    def load(self) -> bytes | None:
        """The checkpoint that was saved last; None if there is none."""
        return self.store.get(self.key)

    def save(self, checkpoint: bytes) -> None:
        """Replaces the checkpoint, unless the last one is younger than CHECKPOINT_SECONDS."""
        if time.monotonic() - self.saved_at < CHECKPOINT_SECONDS:
            return
        try:
            self.store.put(self.key, checkpoint)
        except StoreUnavailable as error:
            log.warning("%s (training goes on without a new checkpoint)", error)
        self.saved_at = time.monotonic()


def package(
    use_case: Recipe, rules: tuple[Rule, ...], encoder: Encoder, network: TabularNetwork, night: Night,
    fit: Fit, validation: tuple[NDArray[np.float32], Floats],
) -> PackagedModel:  # fmt: skip
    """The packaged model, which takes raw rows. Its outputs on validation rows choose calibration and threshold.

    These outputs are computed on the CPU, as served answers are. Raises ConfigError if one of them is no number.
    """
    outputs = forward_in_blocks(network, validation[0], night.threads)
    if not np.isfinite(outputs).all():
        count = int((~np.isfinite(outputs).all(axis=1)).sum())
        raise ConfigError(
            f"the model of {use_case.name} must answer with numbers",
            f"what it says to {count} of {len(outputs)} validation rows is none",
            "lower its learning_rate",
        )
    return PackagedModel(
        columns=use_case.features,
        rules=travelling(use_case, rules),
        encoder=encoder,
        architecture=architecture(use_case),
        network=network,
        output=choose_output(use_case, outputs, validation[1], fit),
        threads=night.threads,
        time_zone=use_case.time_zone,
    )


def architecture(use_case: Recipe) -> Architecture:
    """The shape of the network, which a packaged model needs to load its weights."""
    model, classes = use_case.model, len(use_case.target.classes)
    outputs = classes if use_case.target.kind == "multiclass" else 1
    return Architecture(hidden=tuple(model.hidden), activation=model.activation, outputs=outputs)


def choose_output(use_case: Recipe, outputs: Floats, y: Floats, fit: Fit) -> Output:
    """How outputs become answers: the scale of a regression, or the calibration and the threshold of a binary target.

    `outputs` (rows, outputs) and `y` (rows,) are of validation rows.
    """
    target = use_case.target
    if target.kind == "regression":
        return Output(kind=target.kind, mean=fit.target_mean, std=fit.target_std, log=target.log)
    if target.kind == "multiclass":
        return Output(kind=target.kind, classes=target.classes)
    slope, offset = calibrate(outputs[:, 0], y)
    threshold = best_threshold(use_case.metric, y, sigmoid(slope * outputs[:, 0] + offset))
    return Output(kind=target.kind, classes=target.classes, threshold=threshold, slope=slope, offset=offset)


def calibrate(logits: Floats, y: Floats) -> tuple[float, float]:
    """Slope and offset that make sigmoid(slope * logit + offset) a probability; `logits` and `y` (rows,) of validation.

    This is Platt (1999) with his smoothed targets, so that a few well separated rows do not make the model certain.
    A slope of 0 or less would change the order of the rows; then the logits stay as they are (slope 1, offset 0).
    """
    positives, negatives = float(y.sum()), float(len(y) - y.sum())
    smoothed = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    both, halves = np.concatenate([logits, logits])[:, None], np.repeat([1, 0], len(y))
    fitted = LogisticRegression(C=np.inf).fit(both, halves, np.concatenate([smoothed, 1 - smoothed]))
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return (slope, offset) if slope > 0 else (1.0, 0.0)


def best_threshold(metric: str, y: Floats, probability: Floats) -> float:
    """The threshold with the best metric on validation rows; `y` and `probability` are (rows,).

    Thresholds lie midway between two neighbouring probabilities. Of equally good ones the nearest to 0.5 is taken. Many
    thresholds can have a recall of 1, and a single row can have a precision of 1. So, for these two metrics, the
    largest F1 decides between equals. For accuracy the threshold may lie above all probabilities.
    """
    cuts, position = np.unique(probability, return_inverse=True)
    chosen, hits = (np.bincount(position, weights)[::-1].cumsum()[::-1] for weights in (np.ones_like(y), y))
    middles = np.concatenate([[cuts[0] / 2], _between(cuts[:-1], cuts[1:])])
    if metric == "accuracy":
        chosen, hits = np.append(chosen, 0.0), np.append(hits, 0.0)
        middles = np.append(middles, max((cuts[-1] + 1) / 2, np.nextafter(cuts[-1], 2)))
    # Each score is at most one division of whole numbers, so that equal scores are equal floats.
    f1 = 2 * hits / (y.sum() + chosen)
    if metric == "f1":
        score = f1
    elif metric == "accuracy":
        score = 2 * hits - chosen
    else:
        score = hits / (chosen if metric == "precision" else y.sum())
    best = score >= score.max()
    if metric in {"precision", "recall"}:
        best &= f1 >= f1[best].max()
    return float(middles[best][np.argmin(np.abs(middles[best] - 0.5))])


def _between(lower: Floats, upper: Floats) -> Floats:
    """Midpoints that are larger than `lower`.

    The midpoint of two neighbouring floats may round down to the lower one. As a threshold it would make the rows of
    the lower one positive, so the upper one is taken instead.
    """
    middles = (lower + upper) / 2
    return np.where(middles > lower, middles, upper)
