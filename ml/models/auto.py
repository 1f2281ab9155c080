"""The learner that suits most tables without being told anything: `Auto`, or `model="auto"` in a use case.

Which parts it has, and how large they are, follows from a fixed table and never from the clock: see `parts_for`.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ml.data.dataset import Dataset
from ml.models.composite import Composite
from ml.models.ensemble import Ensemble, names_of
from ml.models.networks.estimators import (
    NetworkClassifier,
    NetworkRegressor,
    linear_regression,
    logistic_regression,
)
from ml.models.protocol import Fitted, Job, Learner
from ml.models.trees import Trees
from ml.serving.output import TaskKind

# Rows a step, by train rows: with more of them a step is cheaper for each row and there are still enough steps.
BATCH_SIZES = ((5_000, 128), (30_000, 256), (60_000, 512))
LARGE_BATCH = 1024
MANY_ROWS = 60_000  # from there on an epoch has so many steps that fewer epochs are waited for
MOST_TREES = 3_000  # in all; of several classes each round grows one for each
PATIENCE, PATIENCE_OF_MANY_ROWS = 12, 4


@dataclass(frozen=True)
class Size:
    """What the parts are sized by: train rows, features, classes (0 for a regression), and the device of the fit."""

    rows: int
    features: int
    classes: int
    device: str

    @classmethod
    def of(cls, job: Job) -> "Size":
        """The size of a job."""
        table = job.table
        return cls(job.statistics.rows, len(table.features), len(table.target.classes), job.device)

    def in_words(self) -> str:
        """Like `3,231 train rows, 13 columns and 2 classes on cpu`."""
        classes = f" and {self.classes} classes" if self.classes else ""
        between = "," if classes else " and"
        return f"{self.rows:,} train rows{between} {self.features} columns{classes} on {self.device}"


def parts_for(kind: TaskKind, size: Size) -> tuple[Learner, ...]:
    """Boosted trees that stop early, a network, and a linear model, sized for these rows."""
    rounds = max(50, min(1000, MOST_TREES // max(1, size.classes if size.classes > 2 else 1)))
    batch_size = next((batch for below, batch in BATCH_SIZES if size.rows < below), LARGE_BATCH)
    patience = PATIENCE if size.rows < MANY_ROWS else PATIENCE_OF_MANY_ROWS
    steps: dict[str, Any] = {"batch_size": batch_size, "epochs": 100, "patience": patience}
    regression = kind == "regression"
    network = NetworkRegressor if regression else NetworkClassifier
    linear = linear_regression if regression else logistic_regression
    return (
        Trees(rounds=rounds),
        network(hidden=(64, 32), optimizer="adamw", weight_decay=1e-2, **steps),
        linear(learning_rate=5e-3, **steps),
    )


class Auto(Composite):
    """Boosted trees, a network and a linear model, whose answers are averaged: what `model="auto"` means.

    Their sizes follow from the number of train rows, columns and classes, and from the device. They count alike, unless
    validation rows say that other weights are surely better.
    """

    own_served = ("ensemble",)
    own_code = ("ml/models/auto.py", *Ensemble.own_code)
    own_libraries = Ensemble.own_libraries
    step_name = "step"

    @property
    def parts(self) -> tuple[Learner, ...]:  # type: ignore[override]
        """Parts of every kind that it may have, in some size."""
        return parts_for("binary", Size(0, 0, 2, "cpu"))

    @property
    def learns(self) -> tuple[TaskKind, ...]:  # type: ignore[override]
        return Learner.learns

    def try_parameters(self, table: Dataset) -> None:
        """Has none that a user wrote."""

    def fit_rows(self, job: Job) -> Fitted:
        """Fits the parts that suit the job's rows, as an ensemble. A refit has the parts of the fit that it repeats."""
        size = Size.of(job) if job.chosen is None else Size(**job.chosen["sized_by"])
        ensemble = Ensemble(parts_for(job.table.target.kind, size), weights="validation")
        fitted = ensemble.fit_rows(job if job.chosen is None else replace(job, chosen=job.chosen["ensemble"]))
        *names, last = names_of(ensemble.learners)
        choice = f"Auto averages {', '.join(names)} and {last}, sized for {size.in_words()}."
        return replace(
            fitted,
            chosen={"sized_by": asdict(size), "ensemble": dict(fitted.chosen)},
            notes=(choice, *fitted.notes),
        )
