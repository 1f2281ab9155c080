"""The learner that suits most tables without being told anything: `Auto`, or `model="auto"` in a use case.

Which parts it has, and how large they are, follows from a fixed table and never from the clock: see `parts_for`.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ml.data.dataset import Dataset
from ml.models.composite import Composite
from ml.models.ensemble import Ensemble, names_of
from ml.models.packs.learners import EmbeddedNetwork
from ml.models.protocol import Fitted, Job, Learner
from ml.models.trees import Trees
from ml.serving.output import TaskKind

MOST_TREES = 3_000  # in all; of several classes each round grows one for each
EPOCHS = ((60_000, 100), (1_000_000, 30))  # at most, by train rows
EPOCHS_OF_VERY_MANY_ROWS = 10
MANY_COLUMNS = 300  # from there on each column becomes a shorter vector, or the first layer would cost the most


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
    """Boosted trees that stop early, a pack of networks, and a linear model of the same embedded columns."""
    rounds = max(50, min(1000, MOST_TREES // (size.classes if kind == "multiclass" else 1)))
    epochs = next((most for below, most in EPOCHS if size.rows < below), EPOCHS_OF_VERY_MANY_ROWS)
    embedding, bins = (2, 8) if size.features >= MANY_COLUMNS else (4, 32)
    steps: dict[str, Any] = {"embedding": embedding, "bins": bins, "weight_decay": 1e-2, "epochs": epochs}
    if size.device == "cpu":  # where dropout's random numbers cost a quarter of a step
        network = EmbeddedNetwork(hidden=(64, 64), dropout=0.0, **steps)
    else:
        network = EmbeddedNetwork(hidden=(128, 128), dropout=0.1, **steps)
    linear = EmbeddedNetwork(members=1, hidden=(), dropout=0.0, learning_rate=5e-3, **steps)
    return Trees(rounds=rounds), network, linear


class Auto(Composite):
    """Boosted trees, a pack of networks and a linear model, whose answers are averaged: what `model="auto"` means.

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
