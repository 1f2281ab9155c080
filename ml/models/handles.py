"""What the training stages hand on."""

from dataclasses import dataclass

from ml.storage.records import FileRef, Handle


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch's mean training loss, validation loss (log loss or RMSE) and validation score (F1 or R2).

    A class weight weighs both losses.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_score: float | None


@dataclass(frozen=True, kw_only=True)
class Fit(Handle):
    """`device` is where the fit ended; `notes` says what else than planned was done, for want of memory or of
    numbers, and whether the loss rose."""

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
        return self.epochs[self.best_epoch - 1]


@dataclass(frozen=True, kw_only=True)
class Upload(Handle):
    """A packaged model where it will stay: every file of it, and the answers it must give."""

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
    files: int
    rows: int
