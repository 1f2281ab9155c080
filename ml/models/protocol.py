"""What every kind of model has in common: the seam between the pipeline and networks, trees and kinds of one's own.

A `Learner` is an unfitted model. The pipeline gives it a `Job`, and it writes a folder of files. The served half of its
kind, a module that travels inside the registered version, loads this folder and answers rows. No other part of the
pipeline knows what a kind does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from ml.data.cleaning import LABEL
from ml.data.dataset import Dataset
from ml.data.statistics import Statistics
from ml.declarations import Demands
from ml.errors import DataRejected
from ml.models.handles import Step
from ml.serving.output import TaskKind
from ml.serving.own_code import NO_OWN_CODE, OwnCode

Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """Cleaned rows that can be read more than once.

    `read` gives one frame for each partition, in date order. A frame has the declared columns and `label__`. As they
    are stored, texts are categoricals and numbers may be float32.
    """

    read: Callable[[], Iterator[pd.DataFrame]]

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return self.read()


class Diary(Protocol):
    """Where a fit says how far it is, and keeps what it needs to go on after it was killed."""

    def step(self, step: Step, total: int) -> None:
        """Tells people that one of `total` steps is done."""

    def load(self) -> bytes | None:
        """The checkpoint that was saved last; None if there is none."""

    def save(self, checkpoint: bytes) -> None:
        """Replaces the last checkpoint. It may skip one that follows the last too soon."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a learner is given for one fit.

    `folder` is an empty folder for the files of the fitted model. `statistics` are exact sums over the train rows.
    `weight` names the column with the rows' weights. If `chosen` is given, it is what an earlier fit of the same
    learner chose on validation rows; then `validation` is None, and nothing is chosen again. `own` has the
    company's own modules that serve its kinds.
    """

    folder: Path
    table: Dataset
    statistics: Statistics
    train: Rows
    validation: Rows | None
    seed: int
    device: str
    threads: int
    diary: Diary
    weight: str | None = None
    chosen: Mapping[str, Any] | None = None
    own: OwnCode = NO_OWN_CODE

    def labels(self, frame: pd.DataFrame) -> Floats:
        """(rows,) what is learnt: the index of the class, the value, or its logarithm where the target says so."""
        labels = frame[LABEL].to_numpy(np.float64)
        return np.log(labels) if self.table.target.log else labels

    def weights(self, frame: pd.DataFrame) -> Floats | None:
        """(rows,) the weight of each row; None if rows have none."""
        return None if self.weight is None else frame[self.weight].to_numpy(np.float64)

    def read(self, rows: Rows, features: Callable[[pd.DataFrame], T]) -> tuple[list[T], Floats, Floats | None]:
        """What `features` makes of each frame, the labels of all rows (rows,), and their weights (rows,), if they have
        any. Frames without rows are left out. Raises DataRejected if each weight is 0."""
        parts = [(features(frame), self.labels(frame), self.weights(frame)) for frame in rows if len(frame)]
        of_frames, labels, weights = zip(*parts, strict=True)
        return list(of_frames), np.concatenate(labels), self._usable(weights)

    def _usable(self, frames: Iterable[Floats | None]) -> Floats | None:
        if self.weight is None:
            return None
        weights = np.concatenate([weights for weights in frames if weights is not None])
        if not weights.any():
            raise DataRejected(f"some rows must have a weight in {self.weight}", "each has 0", "mend the column")
        return weights

    def class_weights(self) -> Floats:
        """(classes,) weights with which all classes of the train rows count alike; their mean over the rows is 1."""
        classes = len(self.table.target.classes)
        counts = np.array([self.statistics.labels[str(code)] for code in range(classes)], np.float64)
        return self.statistics.rows / (classes * counts)

    def require_every_class(self) -> None:
        """Raises DataRejected if train rows lack a class: no learner can tell what it has not seen."""
        target, found = self.table.target, len(self.statistics.labels)
        if target.kind != "regression" and found < len(target.classes):
            raise DataRejected(
                f"train rows must have every class of {target.column}",
                f"they have {found} of {len(target.classes)}",
                "add rows, or check how the target is recorded",
            )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a fit tells besides the files that it wrote.

    `chosen` is what validation decided about the fit, in JSON's types: a later fit can be given it. `steps` is the
    curve, with a step for each epoch or tree; it is empty for a kind that learns in one go. `best` is the number of the
    step whose model was kept. `device` is where the fit ended. `notes` are sentences about what did not go as planned.
    """

    chosen: Mapping[str, Any]
    steps: tuple[Step, ...] = ()
    best: int | None = None
    device: str = "cpu"
    notes: tuple[str, ...] = ()


class Learner(BaseEstimator):
    """An unfitted model of some kind. Its parameters are those of its `__init__`, as in scikit-learn.

    `learns` are the kinds of targets that it can learn. `served` names the modules of `ml/serving/kinds` that travel
    inside its versions; the first one has `load(folder, threads)`. `code` are further modules of ours, files or folders
    below the checkout, that its fit executes, and `libraries` the installed ones. `needs` are the libraries that a
    served version needs besides numpy, pandas and pyarrow. `step_name` is what a step of its curve is called.
    `uses_gpu` is False if its fit never looks at the job's device. `repeats` is how far apart two answers to the same
    row may lie, in probability; 0.0 means equal bit for bit.
    `demands` are what its parameters must be in a use case. `parts` are the learners that it is made of, if it is.
    """

    learns: ClassVar[tuple[TaskKind, ...]] = ("binary", "multiclass", "regression")
    served: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    step_name: ClassVar[str] = ""
    uses_gpu: ClassVar[bool] = True
    repeats: ClassVar[float] = 0.0
    demands: ClassVar[Demands[Any, Any]] = ()
    parts: ClassVar[tuple["Learner", ...]] = ()

    @property
    def title(self) -> str:
        """What a report and an error call it."""
        return type(self).__name__

    @property
    def gives_probabilities(self) -> bool:
        """Whether its outputs are meant as probabilities of the classes as they occur. A model that learnt them as if
        each occurred as often does not give these, and is calibrated in any case."""
        return getattr(self, "class_weight", None) is None

    def device_on(self, device: str) -> str:
        """Where its fit runs on a machine with this device."""
        return device if self.uses_gpu else "cpu"

    def try_parameters(self, table: Dataset) -> None:
        """Raises ConfigError for a parameter that only its library can refuse. A night calls this before it reads data;
        the demands, which import no library, were met when the use case was read."""

    def fit_rows(self, job: Job) -> Fitted:
        """Learns from the job's rows and writes the fitted model into its folder.

        Raises ConfigError if the rows or the parameters make that impossible.
        """
        raise NotImplementedError
