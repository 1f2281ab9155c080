"""The training loop: gradient descent, epoch by epoch.

A `Progress` holds everything that the next epoch depends on. Its bytes serve twice: as the checkpoint from which a
killed fit resumes, and as the starting point to which the loop goes back if memory runs out during an epoch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.optim import Optimizer

from ml.digests import canonical_json, digest_bytes, digest_value
from ml.models.checkpoints import from_bytes, moments, restore_moments, to_bytes
from ml.models.handles import Step
from ml.serving.kinds.network import TabularNetwork

if TYPE_CHECKING:
    from ml.models.networks.estimators import NetworkEstimator, OnEpoch, Rows, Weights

log = logging.getLogger("retrain.training")
CHECKPOINT_FORMAT = 2
DIGEST_LENGTH = 64
EXPLODED = 10.0  # a train loss so many times that of one answer for all rows; working fits stay under 3
SMALL_LOSS = 1e-3  # the loss of one answer for all rows counts as at least this: nearly all labels may be equal
FEW_EPOCHS = 3  # a curve of fewer epochs that only rises may be noise
JUDGED_ROWS = 8192  # rows that are judged at once; one layer of 1,000 units takes 33 MB for them
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # outputs, labels and the weights of the rows


def divergence(epochs: list[Step], constant_loss: float) -> list[str]:
    """Sentences that say how the loss rose; none if it did not.

    Either the train loss was far above that of one answer for all rows, or a curve rose in every epoch.
    """
    train = [epoch.train_loss for epoch in epochs if epoch.train_loss is not None]
    curves = {"train": train, "validation": [_validation_loss(epoch) for epoch in epochs]}
    highest, lower = max(curves["train"], default=0.0), "a lower learning_rate may help."
    if highest > EXPLODED * max(constant_loss, SMALL_LOSS):
        return [f"The train loss rose to {highest:.3g}, where one answer for all rows has {constant_loss:.3g}: {lower}"]
    return [
        f"The {name} loss only rose, from {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} epochs: {lower}"
        for name, losses in curves.items()
        if len(losses) >= FEW_EPOCHS and bool((np.diff(losses) > 0).all())
    ]


class Checkpoints(Protocol):
    """Where the last checkpoint of one fit is kept: the part of a `Diary` that the loop needs."""

    def load(self) -> bytes | None:
        """The checkpoint that was saved last; None if there is none."""

    def save(self, checkpoint: bytes) -> None:
        """Replaces the last checkpoint. It may skip one that follows the last too soon."""


def _validation_loss(epoch: Step) -> float:
    assert epoch.validation_loss is not None, epoch.number
    return epoch.validation_loss


@dataclass
class Progress:
    """The state of a fit between two epochs.

    `generator` draws batches and noise; it is on the CPU whatever the `device` is. `rows_at_once` limits how many rows
    go through the network together; it is None until memory runs out. `notes` maps the number of an epoch to a sentence
    about what went wrong in it.
    """

    network: TabularNetwork
    optimizer: Optimizer
    generator: Generator
    device: str
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    epochs: list[Step] = field(default_factory=list)
    rows_at_once: int | None = None
    notes: dict[int, str] = field(default_factory=dict)
    keeps_last: bool = False

    def record(self, epoch: Step) -> None:
        """Adds a finished epoch, and keeps the weights if its validation loss is the best so far, or always the last
        ones (`keeps_last`)."""
        self.epochs.append(epoch)
        best = min(self.epochs, key=_validation_loss)  # the first of equals
        if best is epoch or self.keeps_last:
            weights = self.network.state_dict()
            self.best_weights = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
            self.best_epoch = epoch.number

    def best_network(self) -> TabularNetwork:
        """The network with the weights of the best epoch, on the CPU."""
        self.network.load_state_dict(self.best_weights)
        return self.network.to("cpu").eval()

    def tensors(self) -> bytes:
        """The weights, the best weights and the states of optimizer and generator, as bytes in safetensors' format."""
        weights, generator = self.network.state_dict(), {"": self.generator.get_state()}
        groups = {"weights": weights, "best": self.best_weights, "optimizer": moments(self.optimizer)}
        return to_bytes({**groups, "generator": generator})

    def restore(self, tensors: bytes) -> None:
        """Inverse of `tensors`. The network stays on its device; gradients are dropped."""
        groups = from_bytes(tensors)
        self.network.load_state_dict(groups["weights"])
        self.best_weights = groups["best"]
        self.generator.set_state(groups["generator"][""])
        restore_moments(self.optimizer, groups["optimizer"])

    def facts(self) -> bytes:
        """The fields that are no tensors, as one line of JSON."""
        facts = {name: getattr(self, name) for name in ("best_epoch", "device", "rows_at_once", "notes")}
        return canonical_json({**facts, "epochs": [vars(epoch) for epoch in self.epochs]})

    def restore_facts(self, line: bytes) -> None:
        """Inverse of `facts`."""
        facts = json.loads(line)
        self.best_epoch, self.device, self.rows_at_once = facts["best_epoch"], facts["device"], facts["rows_at_once"]
        self.notes = {int(number): note for number, note in facts["notes"].items()}
        self.epochs = [Step(**epoch) for epoch in facts["epochs"]]


@dataclass(frozen=True)
class Placed:
    """What is on the device during an epoch: train rows, labels and weights, the rows that are judged, and the loss
    function."""

    rows: Tensor
    labels: Tensor
    weights: Tensor | None
    judged: Tensor
    loss: Loss


class Descent:
    """One fit: the estimator's options, its rows and its progress.

    It starts from the checkpoint of this very fit, or from the first weights if there is none. `weights` are those of
    the train rows and of the rows held out. Without rows held out, the train loss chooses the epoch whose weights are
    kept; with `keeps_last` it is the last one.
    """

    def __init__(
        self,
        estimator: NetworkEstimator,
        train: Rows,
        held_out: Rows | None,
        checkpoints: Checkpoints | None,
        weights: Weights = (None, None),
        *,
        keeps_last: bool = False,
    ) -> None:
        self.estimator, self.train, self.held_out, self.checkpoints = estimator, train, held_out, checkpoints
        self.weights, self.judged_weights = weights[0], weights[0 if held_out is None else 1]
        network = estimator.new_network()
        generator = Generator().manual_seed(estimator.seed)
        optimizer = estimator.new_optimizer(network)
        self.progress = Progress(network, optimizer, generator, device=estimator.device, keeps_last=keeps_last)
        self._placed: Placed | None = None
        self._resume()
        self._start = self.progress.tensors()

    def run(self, on_epoch: OnEpoch | None) -> Progress:
        """Trains until the last epoch, until `patience` has run out, or until an epoch ends without numbers."""
        while not self._is_over():
            epoch = self._epoch_in_memory()
            if epoch is None:  # later epochs would have no numbers either
                break
            self.progress.record(epoch)
            if on_epoch is not None:
                on_epoch(epoch)
            if not self._is_over():
                self._start = self.progress.tensors()
                self._save()
        self._note_curve(ended_early=not self._is_over())
        return self.progress

    def _is_over(self) -> bool:
        """Whether all epochs are done, or `patience` epochs have passed since the best one."""
        done, patience = len(self.progress.epochs), self.estimator.patience
        waited = done - self.progress.best_epoch
        return done >= self.estimator.epochs or (patience is not None and done > 0 and waited >= patience)

    @cached_property
    def _identity(self) -> bytes:
        """Digest of everything that decides the fit, so that the checkpoint of another fit is never used."""
        weights = [array for array in (self.weights, self.judged_weights) if array is not None]
        arrays = [array.tobytes() for part in (self.train, self.held_out or (), weights) for array in part]
        options = repr(sorted(self.estimator.get_params().items()))
        kind, sizes = type(self.estimator).__name__, self.estimator.category_sizes_
        last = self.progress.keeps_last
        return digest_value([CHECKPOINT_FORMAT, kind, options, sizes, last, *map(digest_bytes, arrays)]).encode()

    def _sealed(self, checkpoint: bytes) -> bytes:
        """The checkpoint after a digest of itself and of this fit's identity."""
        return digest_bytes(self._identity + checkpoint).encode() + checkpoint

    def _save(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(self._sealed(self.progress.facts() + b"\n" + self._start))

    def _resume(self) -> None:
        sealed = self.checkpoints.load() if self.checkpoints else None
        if sealed is None:
            return
        checkpoint = sealed[DIGEST_LENGTH:]
        if self._sealed(checkpoint) != sealed:
            log.warning("The checkpoint is damaged or of another fit: training starts over.")
            return
        facts, _, tensors = checkpoint.partition(b"\n")
        self.progress.restore(tensors)
        self.progress.restore_facts(facts)
        log.info("Resumed after epoch %d of %d.", len(self.progress.epochs), self.estimator.epochs)

    def _epoch_in_memory(self) -> Step | None:
        """Runs the next epoch. If memory runs out, it runs again with fewer rows at once, and at last on the CPU."""
        while True:
            try:
                return self._epoch()
            except torch.OutOfMemoryError:
                if not self._can_take_less:
                    raise
            self._take_less()  # outside of the except block, whose traceback keeps the tensors to be freed alive

    @property
    def _rows_at_once(self) -> int:
        rows = len(self.train[0])
        return self.progress.rows_at_once or min(self.estimator.batch_size or rows, rows)

    @property
    def _can_halve(self) -> bool:
        """Whether fewer rows at once can help. They cannot if not even the data fitted into memory."""
        return self._placed is not None and self._rows_at_once > 1

    @property
    def _can_take_less(self) -> bool:
        return self._can_halve or self.progress.device != "cpu"

    def _take_less(self) -> None:
        """Halves the rows at once, or moves to the CPU if that cannot help; then frees what the epoch held."""
        if self._can_halve:
            self.progress.rows_at_once = self._rows_at_once // 2
            self._note_memory(f"{self.progress.rows_at_once:,} rows go through the network at once")
        else:
            self.progress.device, self.progress.rows_at_once = "cpu", None
            self._note_memory("the CPU trains")
        self._placed = None
        self.progress.optimizer.state.clear()
        self.progress.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()

    def _note_memory(self, consequence: str) -> None:
        number = len(self.progress.epochs) + 1
        note = f"Memory of {self.estimator.device} ran out in epoch {number}: from there on {consequence}."
        self.progress.notes[number] = note
        log.warning("%s", note)

    def _note_curve(self, ended_early: bool) -> None:
        """Notes that training ended early or that a loss rose: the weights that are kept do not show it."""
        number = len(self.progress.epochs) + 1
        early = f"In epoch {number} the loss or the outputs were no numbers: training ended before it."
        notes = [early] if ended_early and self.progress.epochs else []
        notes += divergence(self.progress.epochs, self.estimator.constant_loss(self.train[1]))
        for place, note in enumerate(notes):
            self.progress.notes[self.estimator.epochs + 1 + place] = note
            log.warning("%s", note)

    def _place(self) -> Placed:
        """Moves the network and the rows to the device, and sets the progress back to the start of the epoch."""
        device = self.progress.device
        self.progress.network.to(device)
        rows, labels = (torch.tensor(array, device=device) for array in self.train)
        judged = rows if self.held_out is None else torch.tensor(self.held_out[0], device=device)
        self.progress.restore(self._start)
        weights = None if self.weights is None else torch.tensor(self.weights, device=device)
        return Placed(rows, labels, weights, judged, self.estimator.loss_function(device))

    def _epoch(self) -> Step | None:
        """Trains one epoch and returns its losses and score; None if a weight, a loss or an output is no number."""
        placed = self._placed = self._placed or self._place()
        self.progress.network.train()
        total = torch.zeros((), device=self.progress.device)
        for batch in self._batches():
            total += self._step(placed, batch)
        if not all(bool(weight.isfinite().all()) for weight in self.progress.network.parameters()):
            return None
        return self._judge(float(total) / len(placed.rows), self._judged_outputs(placed))

    def _batches(self) -> tuple[Tensor, ...]:
        rows = len(self.train[0])
        order = torch.randperm(rows, generator=self.progress.generator)
        return torch.split(order, self.estimator.batch_size or rows)

    def _step(self, placed: Placed, batch: Tensor) -> Tensor:
        """Makes one step and returns the sum of the batch's losses.

        The batch goes through the network in parts; their gradients add up to that of the batch's mean loss.
        """
        self.progress.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.progress.device)
        for rows, labels, weights in self._parts(placed, batch):
            loss = placed.loss(self.progress.network(rows), labels, weights)
            (loss * (len(rows) / len(batch))).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() * len(rows)
        self.progress.optimizer.step()
        return total

    def _parts(self, placed: Placed, batch: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        noise = self._noise(len(batch))  # drawn for the whole batch, so that it is the same in any number of parts
        size = self.progress.rows_at_once or len(batch)
        for start in range(0, len(batch), size):
            part = batch[start : start + size].to(self.progress.device)
            rows = placed.rows[part]
            if noise is not None:
                rows = rows + noise[start : start + size].to(self.progress.device)
            yield rows, placed.labels[part], None if placed.weights is None else placed.weights[part]

    def _noise(self, rows: int) -> Tensor | None:
        """(rows, width): Gaussian noise in the columns of numbers, 0 in those of category codes; None without noise."""
        width = self.train[0].shape[1]
        numbers = width - len(self.estimator.category_sizes_)
        if not self.estimator.noise_std:
            return None
        noise = torch.zeros(rows, width)
        noise[:, :numbers].normal_(std=self.estimator.noise_std, generator=self.progress.generator)
        return noise

    def _judged_outputs(self, placed: Placed) -> NDArray[np.float64]:
        """(rows, outputs) of the network on the rows that are judged: validation rows, or else train rows."""
        size = min(JUDGED_ROWS, self.progress.rows_at_once or JUDGED_ROWS)
        self.progress.network.eval()
        with torch.inference_mode():
            blocks = [self.progress.network(rows).cpu() for rows in torch.split(placed.judged, size)]
        return torch.cat(blocks).numpy().astype(np.float64)

    def _judge(self, train_loss: float, outputs: NDArray[np.float64]) -> Step | None:
        if not (np.isfinite(train_loss) and np.isfinite(outputs).all()):
            return None
        loss, score = self.estimator.judge((self.held_out or self.train)[1], outputs, self.judged_weights)
        number = len(self.progress.epochs) + 1
        return Step(number=number, train_loss=train_loss, validation_loss=loss, validation_score=score)
