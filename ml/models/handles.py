"""What the training stages hand to later stages."""

from dataclasses import dataclass

from ml.storage.records import FileRef, Handle


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch's mean training loss, its validation loss (log loss or RMSE) and its validation score (F1 or R2).

    If the estimator has a class weight, both losses are weighted by it. The score is None where it is undefined.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_score: float | None


@dataclass(frozen=True, kw_only=True)
class Fit(Handle):
    """A finished fit: the stored weights of the best epoch, and the history of all epochs.

    `device` is where the fit ended. `notes` are sentences about what did not go as planned: memory ran out, a loss was
    no number, or a loss rose.
    """

    weights: FileRef
    best_epoch: int
    epochs: tuple[Epoch, ...]
    target_mean: float
    target_std: float
    device: str
    threads: int
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.epochs[self.best_epoch - 1]


@dataclass(frozen=True, kw_only=True)
class Upload(Handle):
    """A packaged model at its final place in the store: all its files, and the answers that it must give (`proof`)."""

    run_id: str
    folder: str
    files: tuple[FileRef, ...]
    digest: str
    threshold: float | None
    proof: FileRef

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Verified(Handle):
    """How many files of the packaged model were verified, and on how many rows a fresh process gave equal answers."""

    files: int
    rows: int
