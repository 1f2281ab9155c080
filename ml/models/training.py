"""Makes a candidate from cleaned rows: the fit, and what validation rows choose after it.

Validation rows choose the calibration and the threshold. Nothing here sees a test row.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaning import LABEL
from ml.data.split import units_of
from ml.errors import ConfigError, RetrainError, StoreUnavailable, is_passing
from ml.metrics.thresholds import chosen_threshold, costs_of
from ml.models.calibration import HeldOut, calibrated
from ml.models.code import own_kinds
from ml.models.handles import Step
from ml.models.packaging import travelling
from ml.models.protocol import Fitted, Job, Learner
from ml.models.recipe import Recipe
from ml.serving.columns import conform
from ml.serving.model import PackagedModel, load_served
from ml.serving.output import Output, probabilities
from ml.serving.own_code import NO_OWN_CODE, OwnCode
from ml.serving.refusal import failure
from ml.serving.rules import Rule
from ml.storage.store import Store

log = logging.getLogger("retrain.training")
CHECKPOINT_SECONDS = 5.0  # writing one takes 1 to 12 ms on disk, as long as an epoch of a small use case
TOLD_STEPS = 20  # of a longer fit, every so many steps are told that it is about twenty lines
Floats = NDArray[np.float64]
Units = NDArray[np.object_] | None


class StoredDiary:
    """Tells the steps of a fit to the log, and keeps the fit's checkpoint as one object in the store.

    The checkpoint is replaced after a step if the last one was saved at least CHECKPOINT_SECONDS ago. If the store is
    unavailable, the fit goes on without a new checkpoint.
    """

    def __init__(self, store: Store, key: str, step_name: str) -> None:
        self.store, self.key, self.step_name, self.saved_at = store, key, step_name, time.monotonic()

    def step(self, step: Step, total: int) -> None:
        """Logs one step of `total`; of a fit with many steps, about twenty: a night with a refit has two fits."""
        if step.number % (1 + (total - 1) // TOLD_STEPS) == 0 or step.number == total:
            log.info("%s %d of %d: %s.", self.step_name.capitalize(), step.number, total, _figures(step))

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


def _figures(step: Step) -> str:
    figures = {
        "train loss": step.train_loss,
        "validation loss": step.validation_loss,
        "validation score": step.validation_score,
    }
    return ", ".join(f"{name} {figure:.4f}" for name, figure in figures.items() if figure is not None)


def fit(learner: Learner, job: Job) -> Fitted:
    """What the learner tells of its fit. Raises ConfigError if a company's own learner fails, or tells nothing."""
    rule = f"fit_rows of {learner.title} must learn from the rows and return Fitted"
    try:
        fitted: object = learner.fit_rows(job)
    except Exception as error:  # a company's own code; its message may quote a row
        if _is_ours(learner) or isinstance(error, RetrainError) or is_passing(error):
            raise
        raise ConfigError(rule, f"it {failure(error)}", "read it with --debug, and mend it") from error
    if not isinstance(fitted, Fitted):
        raise ConfigError(rule, f"it returns a {type(fitted).__name__}", "return Fitted(chosen={}) at its end")
    return fitted


def _is_ours(learner: Learner) -> bool:
    return type(learner).__module__.partition(".")[0] == "ml"


def package(
    use_case: Recipe,
    rules: tuple[Rule, ...],
    folder: Path,
    threads: int,
    held_out: pd.DataFrame,
    own: OwnCode = NO_OWN_CODE,
    output: Output | None = None,
) -> PackagedModel:
    """The packaged model, which takes raw rows. Its outputs on validation rows choose calibration and threshold, unless
    `output` has those of an earlier fit.

    `folder` has the files of the fitted model, and must stay until the packaged model was saved. `held_out` are
    validation rows with their label. `own` are the company's modules that travel. Raises ConfigError if an output is no
    number, or if there are not as many as the target needs.
    """
    kind = use_case.model.served[0]
    outputs = _outputs(use_case.model, folder, threads, own, conform(held_out, use_case.features))
    _refuse_other_outputs(use_case, outputs, len(held_out))
    return PackagedModel(
        columns=use_case.features,
        rules=travelling(use_case, rules),
        kind=kind,
        folder=folder,
        output=output or _choose_output(use_case, outputs, held_out),
        threads=threads,
        time_zone=use_case.time_zone,
        own=own,
    )


def _choose_output(use_case: Recipe, outputs: Floats, held_out: pd.DataFrame) -> Output:
    y, (units, _) = held_out[LABEL].to_numpy(np.float64), units_of(use_case, held_out)
    return choose_output(use_case, outputs, y, units, probable=use_case.model.gives_probabilities)


def _outputs(learner: Learner, folder: Path, threads: int, own: OwnCode, typed: pd.DataFrame) -> Floats:
    """The outputs of the fitted model in the folder. Raises ConfigError if a company's own module cannot give them."""
    kind = learner.served[0]
    try:
        return load_served(kind, folder, threads, own).outputs(typed)
    except Exception as error:  # a company's own code; its message may quote a row
        if not own_kinds(learner) or isinstance(error, RetrainError) or is_passing(error):
            raise
        rule = f"{kind} must load what was fitted, and answer rows with it"
        raise ConfigError(rule, f"it {failure(error)}", "mend it, then run it again") from None


def _refuse_other_outputs(use_case: Recipe, outputs: Floats, rows: int) -> None:
    """Raises ConfigError unless every row has the target's number of outputs, and all of them are numbers."""
    width = len(use_case.target.classes) if use_case.target.kind == "multiclass" else 1
    shape = getattr(outputs, "shape", None)
    if shape != (rows, width) or outputs.dtype.kind not in "fiu":
        seen = f"is a {type(outputs).__name__}" if shape is None else f"has the shape {shape} and type {outputs.dtype}"
        raise ConfigError(
            f"the model of {use_case.name} must answer each row with {width} number{'s' * (width > 1)}",
            f"its answer to {rows} validation rows {seen}",
            f"mend `outputs` of {use_case.model.served[0]}",
        )
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        raise ConfigError(
            f"the model of {use_case.name} must answer with numbers",
            f"{int((~finite).sum()):,} of its {rows:,} answers to validation rows are no numbers",
            _after_no_numbers(use_case.model),
        )


def _after_no_numbers(learner: Learner) -> str:
    """The next step after a model that answers with no numbers."""
    if learner.step_name:
        return "look at its curve and its parameters: a lower learning_rate may help"
    return f"look at its parameters, and at `outputs` of {learner.served[0]}"


def choose_output(
    use_case: Recipe, outputs: Floats, y: Floats, units: Units = None, *, probable: bool = True
) -> Output:  # fmt: skip
    """How outputs become answers: with the calibration that validation rows choose, and then the threshold.

    `outputs` (rows, outputs), `y` (rows,) and the `units` of the rows are of validation rows. `probable` says whether
    the outputs are meant as probabilities.
    """
    target, classes = use_case.target, use_case.target.classes
    if target.kind == "regression":
        return Output(kind=target.kind, log=target.log, unit=target.unit)
    held_out = HeldOut(target.kind, outputs, y, units, in_order=use_case.dated)
    fields = calibrated(held_out, use_case.calibration, probable=probable)
    output = Output(kind=target.kind, classes=classes, costs=costs_of(use_case.threshold), **fields)
    if target.kind == "multiclass":
        return output
    aim = use_case.threshold or use_case.metric
    return replace(output, **chosen_threshold(aim, y, probabilities(output, outputs)[:, 1]))
