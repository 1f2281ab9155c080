"""The training loop: gradient descent epoch by epoch, resumed after a kill, and in the memory that there is.

All that the next epoch depends on is a `Progress`. As bytes it is the checkpoint, and the point from which an epoch
that ran out of memory begins again.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Generator, Tensor
from torch.optim import Optimizer

from ml.digests import canonical_json, digest_bytes, digest_value
from ml.models.handles import Epoch
from ml.serving.kinds.network import TabularNetwork

if TYPE_CHECKING:
    from ml.models.networks.estimators import NetworkEstimator, OnEpoch, Rows

log = logging.getLogger("retrain.training")
CHECKPOINT_FORMAT = 1
DIGEST_LENGTH = 64
EXPLODED = 10.0  # times the loss of one answer for all rows; first epochs of working fits stay under 3
SMALL_LOSS = 1e-3  # where nearly all labels are equal
FEW_EPOCHS = 3  # two that rise may be noise
JUDGED_ROWS = 8192  # at once; one layer of 1,000 units takes 33 MB for them
Loss = Callable[[Tensor, Tensor], Tensor]


def divergence(epochs: list[Epoch], constant_loss: float) -> list[str]:
    """What shows that descent went up: a train loss far above that of one answer for all, or a curve that only rose."""
    curves = {"train": [e.train_loss for e in epochs], "validation": [e.validation_loss for e in epochs]}
    highest, lower = max(curves["train"], default=0.0), "a lower learning_rate may help."
    if highest > EXPLODED * max(constant_loss, SMALL_LOSS):
        return [f"The train loss rose to {highest:.3g}, where one answer for all rows has {constant_loss:.3g}: {lower}"]
    return [
        f"The {name} loss only rose, from {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} epochs: {lower}"
        for name, losses in curves.items()
        if len(losses) >= FEW_EPOCHS and bool((np.diff(losses) > 0).all())
    ]


class Checkpoints(Protocol):
    """The place of one fit's last checkpoint."""

    def load(self) -> bytes | None:
        """What was saved last, None if nothing was."""

    def save(self, checkpoint: bytes) -> None: ...


@dataclass
class Progress:
    """How far a fit has come between two epochs.

    `generator` draws batches and noise, on the CPU whatever the `device`. `rows_at_once` bounds the rows that go
    through the network together; None as long as memory did not run out. `notes` says where it did, by epoch.
    """

    network: TabularNetwork
    optimizer: Optimizer
    generator: Generator
    device: str
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    rows_at_once: int | None = None
    notes: dict[int, str] = field(default_factory=dict)

    def record(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        best = min(self.epochs, key=lambda each: each.validation_loss)  # the first of equals
        if best is epoch:
            weights = self.network.state_dict()
            self.best_weights = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
            self.best_epoch = epoch.epoch

    def best_network(self) -> TabularNetwork:
        self.network.load_state_dict(self.best_weights)
        return self.network.to("cpu").eval()

    def tensors(self) -> bytes:
        """Weights, best weights, and the states of optimiser and generator, as safetensors."""
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{index}/{name}": value for index, values in moments.items() for name, value in values.items()}
        groups = {"weights": self.network.state_dict(), "best": self.best_weights, "optimizer": flat}
        named = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        return save({**named, "generator": self.generator.get_state()})

    def restore(self, tensors: bytes) -> None:
        """Inverse of `tensors`, on whichever device the network is; gradients are dropped."""
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, value in load(tensors).items():
            group, _, name = key.partition("/")
            groups[group][name] = value
        self.network.load_state_dict(groups["weights"])
        self.best_weights = groups["best"]
        self.generator.set_state(groups["generator"][""])
        self._restore_optimizer(groups["optimizer"])

    def _restore_optimizer(self, flat: dict[str, Tensor]) -> None:
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in flat.items():
            index, _, name = key.partition("/")
            moments[int(index)][name] = value
        options = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": options})
        self.optimizer.zero_grad(set_to_none=True)

    def facts(self) -> bytes:
        """What is no tensor, as one line of JSON."""
        facts = {name: getattr(self, name) for name in ("best_epoch", "device", "rows_at_once", "notes")}
        return canonical_json({**facts, "epochs": [vars(epoch) for epoch in self.epochs]})

    def restore_facts(self, facts: bytes) -> None:
        found = json.loads(facts)
        self.best_epoch, self.device, self.rows_at_once = found["best_epoch"], found["device"], found["rows_at_once"]
        self.notes = {int(number): note for number, note in found["notes"].items()}
        self.epochs = [Epoch(**epoch) for epoch in found["epochs"]]


@dataclass(frozen=True)
class Placed:
    """The rows where they are computed, and the loss there: mean over (n, outputs), (n,)."""

    rows: Tensor
    labels: Tensor
    judged: Tensor
    loss: Loss


class Descent:
    """One fit: the estimator's options, its rows, and how far it has come.

    Starts where `checkpoints` left this very fit, from the first weights if there is none.
    """

    def __init__(
        self, estimator: NetworkEstimator, train: Rows, held_out: Rows | None, checkpoints: Checkpoints | None
    ) -> None:
        self.estimator, self.train, self.held_out, self.checkpoints = estimator, train, held_out, checkpoints
        network = estimator.new_network()
        generator = Generator().manual_seed(estimator.seed)
        self.progress = Progress(network, estimator.new_optimizer(network), generator, device=estimator.device)
        self._placed: Placed | None = None
        self._resume()
        self._start = self.progress.tensors()

    def run(self, on_epoch: OnEpoch | None) -> Progress:
        while not self._is_over():
            epoch = self._epoch_in_memory()
            if epoch is None:  # what follows would be no number either
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
        done, patience = len(self.progress.epochs), self.estimator.patience
        waited = done - self.progress.best_epoch
        return done >= self.estimator.epochs or (patience is not None and done > 0 and waited >= patience)

    @cached_property
    def _identity(self) -> bytes:
        """Digest of all that decides a fit: a checkpoint of another one must not be used."""
        arrays = [array.tobytes() for part in (self.train, self.held_out or ()) for array in part]
        options = repr(sorted(self.estimator.get_params().items()))
        kind, sizes = type(self.estimator).__name__, self.estimator.category_sizes_
        return digest_value([CHECKPOINT_FORMAT, kind, options, sizes, *map(digest_bytes, arrays)]).encode()

    def _sealed(self, checkpoint: bytes) -> bytes:
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

    def _epoch_in_memory(self) -> Epoch | None:
        """The next epoch, with fewer rows at once where memory runs out."""
        while True:
            try:
                return self._epoch()
            except torch.OutOfMemoryError:
                if not self._can_take_less:
                    raise
            self._take_less()  # not in the except block, whose traceback holds the tensors that must go

    @property
    def _rows_at_once(self) -> int:
        rows = len(self.train[0])
        return self.progress.rows_at_once or min(self.estimator.batch_size or rows, rows)

    @property
    def _can_halve(self) -> bool:
        """Where not even the rows found a place, smaller steps do not help."""
        return self._placed is not None and self._rows_at_once > 1

    @property
    def _can_take_less(self) -> bool:
        return self._can_halve or self.progress.device != "cpu"

    def _take_less(self) -> None:
        """Halves the rows at once, after a single one leaves the device for the CPU; frees what the epoch held."""
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
        """Says of a fit that ran away what the kept weights do not show."""
        number = len(self.progress.epochs) + 1
        early = f"In epoch {number} the loss or the outputs were no numbers: training ended before it."
        found = [early] if ended_early and self.progress.epochs else []
        found += divergence(self.progress.epochs, self.estimator.constant_loss(self.train[1]))
        for place, note in enumerate(found):
            self.progress.notes[self.estimator.epochs + 1 + place] = note
            log.warning("%s", note)

    def _place(self) -> Placed:
        """Moves network and rows to the device, and begins the epoch from its start."""
        device = self.progress.device
        self.progress.network.to(device)
        rows, labels = (torch.tensor(array, device=device) for array in self.train)
        judged = rows if self.held_out is None else torch.tensor(self.held_out[0], device=device)
        self.progress.restore(self._start)
        return Placed(rows, labels, judged, self.estimator.loss_function(device))

    def _epoch(self) -> Epoch | None:
        """The epoch's losses and score; None where the network's answers have run away."""
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
        """One step by the gradient of the batch's mean loss, summed over its parts; returns the sum of the losses."""
        self.progress.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.progress.device)
        for rows, labels in self._parts(placed, batch):
            loss = placed.loss(self.progress.network(rows), labels)
            (loss * (len(rows) / len(batch))).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() * len(rows)
        self.progress.optimizer.step()
        return total

    def _parts(self, placed: Placed, batch: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        noise = self._noise(len(batch))  # drawn for the whole batch: parts must not change it
        size = self.progress.rows_at_once or len(batch)
        for start in range(0, len(batch), size):
            part = batch[start : start + size].to(self.progress.device)
            rows = placed.rows[part]
            if noise is not None:
                rows = rows + noise[start : start + size].to(self.progress.device)
            yield rows, placed.labels[part]

    def _noise(self, rows: int) -> Tensor | None:
        """(rows, width): Gaussian for numbers, 0 for category codes; None without noise."""
        width = self.train[0].shape[1]
        numbers = width - len(self.estimator.category_sizes_)
        if not self.estimator.noise_std:
            return None
        noise = torch.zeros(rows, width)
        noise[:, :numbers].normal_(std=self.estimator.noise_std, generator=self.progress.generator)
        return noise

    def _judged_outputs(self, placed: Placed) -> NDArray[np.float64]:
        size = min(JUDGED_ROWS, self.progress.rows_at_once or JUDGED_ROWS)
        self.progress.network.eval()
        with torch.inference_mode():
            blocks = [self.progress.network(rows).cpu() for rows in torch.split(placed.judged, size)]
        return torch.cat(blocks).numpy().astype(np.float64)

    def _judge(self, train_loss: float, outputs: NDArray[np.float64]) -> Epoch | None:
        if not (np.isfinite(train_loss) and np.isfinite(outputs).all()):
            return None
        loss, score = self.estimator.judge((self.held_out or self.train)[1], outputs)
        number = len(self.progress.epochs) + 1
        return Epoch(epoch=number, train_loss=train_loss, validation_loss=loss, validation_score=score)
