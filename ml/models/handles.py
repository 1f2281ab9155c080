"""What the training stages hand to later stages."""

from dataclasses import dataclass, field
from typing import Any

from ml.storage.records import FileRef, Handle


@dataclass(frozen=True, kw_only=True)
class Step:
    """One epoch or tree of a fit: its mean training loss, its validation loss and its validation score.

    The validation loss is a log loss or an RMSE, the score an F1 or an R2. If rows or classes have weights, both losses
    are weighted by them. A figure is None where it is undefined or was not computed.
    """

    number: int
    train_loss: float | None
    validation_loss: float | None
    validation_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fit(Handle):
    """A finished fit: the stored files of the fitted model, and how it went.

    `kind` is the name of the learner's class. `folder` is the key under which its files lie. The other fields are those
    of `ml.models.protocol.Fitted`; `step_name` is what a step is called.
    """

    kind: str
    folder: str
    files: tuple[FileRef, ...]
    chosen: dict[str, Any] = field(default_factory=dict)
    step_name: str = ""
    steps: tuple[Step, ...] = ()
    best: int | None = None
    device: str
    threads: int
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What was fitted and which step was kept, for the log."""
        if self.best is None or not self.steps:
            return f"Fitted {self.kind} on {self.device}."
        loss = self.steps[self.best - 1].validation_loss
        best = f"{self.step_name} {self.best} is best"
        return (
            f"Trained {len(self.steps)} {self.step_name}s on {self.device}; {best}"
            f"{'' if loss is None else f' with validation loss {loss:.4f}'}."
        )


@dataclass(frozen=True, kw_only=True)
class Refitted(Handle):
    """A winner's recipe fitted once more, on `rows` due rows. If `refused` says why the fit is broken, the judged model
    serves; `fit` is None if there is no fit at all.
    """

    rows: int
    fit: Fit | None
    refused: str | None = None


@dataclass(frozen=True, kw_only=True)
class Upload(Handle):
    """A packaged model at its final place in the store: all its files, and the answers that it must give (`proof`).

    `source_proofs` are the same for rows of its source. `takes` says which rows it takes, `calibration` how its outputs
    become probabilities and why, `decides` what its threshold serves.
    """

    run_id: str
    folder: str
    files: tuple[FileRef, ...]
    digest: str
    threshold: float | None
    proof: FileRef
    source_proofs: tuple[FileRef, ...] = ()
    takes: str = ""
    calibration: str = ""
    decides: str = ""

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Verified(Handle):
    """How many files of the packaged model were verified, and on how many rows a fresh process gave equal answers."""

    files: int
    rows: int
