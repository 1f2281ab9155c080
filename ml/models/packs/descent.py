"""The training loop of packs: all copies of a network take a step together, each with its own rows and random numbers.

A copy learns what it would learn alone: its loss, the limit of its gradient, its order of rows and its random numbers
are its own. A `Progress` holds all that the next epoch depends on; its bytes are the checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.digests import canonical_json, digest_bytes, digest_value, sealed, unsealed
from ml.models.checkpoints import from_bytes, moments, restore_moments, to_bytes
from ml.models.handles import Step
from ml.models.packs.layers import Draws, Dropout, Embeddings, Pack, TabMNetwork
from ml.serving.kinds.embedded import TargetScale, of_members
from ml.serving.output import TaskKind

if TYPE_CHECKING:
    from ml.models.packs.features import Learnable
    from ml.models.protocol import Diary, Floats

log = logging.getLogger("retrain.training")
JUDGED_ROWS = 8192  # rows that are judged at once
GRADIENT = 1.0  # the longest gradient of a copy
Stopping = Literal["ensemble", "members"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides a fit besides its rows and its first weights.

    `epochs` are how many there are at most; or, if they are `chosen`, how many each copy gets. Losses of rows are
    multiplied by `class_weights` (classes,).
    """

    kind: TaskKind
    target: TargetScale
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    patience: int
    stopping: Stopping
    chosen: tuple[int, ...] | None
    class_weights: tuple[float, ...] | None
    dropout: float
    label_smoothing: float
    noise_std: float
    mixup: float
    feature_dropout: float


@dataclass
class Progress:
    """The state of a fit between two epochs. Of each copy: its random numbers, its best loss and its best epoch.

    `best` are the weights of the best epoch of each copy. `notes` are sentences about what went wrong.
    """

    network: nn.ModuleList  # the embeddings, and the members
    optimizer: torch.optim.Optimizer
    draws: Draws
    device: str
    best: dict[str, Tensor] = field(default_factory=dict)
    best_losses: list[float | None] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    epochs: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def embeddings(self) -> Embeddings:
        embeddings = self.network[0]
        assert isinstance(embeddings, Embeddings)
        return embeddings

    @property
    def members(self) -> Pack | TabMNetwork:
        members = self.network[1]
        assert isinstance(members, Pack | TabMNetwork)
        return members

    def keep(self, copies: list[bool]) -> None:
        """Keeps the weights of these copies as their best ones."""
        if not any(copies):
            return
        kept = torch.tensor(copies)
        for name, weight in self.network.state_dict().items():
            now = weight.detach().cpu().clone()
            if not all(copies):
                best = self.best.get(name, now)
                now = torch.where(kept.view(-1, *[1] * (now.dim() - 1)), now, best)
            self.best[name] = now

    def to_bytes(self) -> bytes:
        """One line of JSON, and tensors in safetensors' format behind it."""
        facts = {name: getattr(self, name) for name in ("device", "best_losses", "best_epochs", "notes")}
        states = [json.dumps(draw.bit_generator.state) for draw in self.draws]
        line = canonical_json({**facts, "draws": states, "epochs": [vars(epoch) for epoch in self.epochs]})
        groups = {"weights": self.network.state_dict(), "best": self.best, "optimizer": moments(self.optimizer)}
        return line + b"\n" + to_bytes(groups)

    def restore(self, data: bytes) -> None:
        """Inverse of `to_bytes`."""
        line, _, tensors = data.partition(b"\n")
        facts = json.loads(line)
        for name in ("device", "best_losses", "best_epochs", "notes"):
            setattr(self, name, facts[name])
        self.epochs = [Step(**epoch) for epoch in facts["epochs"]]
        for draw, state in zip(self.draws, facts["draws"], strict=True):
            draw.bit_generator.state = json.loads(state)
        groups = from_bytes(tensors)
        self.network.load_state_dict(groups["weights"])
        self.best = groups["best"]
        restore_moments(self.optimizer, groups["optimizer"])


@dataclass(frozen=True)
class Placed:
    """Rows on the device: as embeddings take them, the numbers that noise is added to, labels, and weights of rows."""

    places: Tensor
    shares: Tensor
    codes: Tensor
    scaled: Tensor | None
    labels: Tensor
    weights: Tensor | None

    @classmethod
    def on(cls, device: str, rows: Learnable, plan: Plan, dtype: torch.dtype) -> Placed:
        """The rows on the device. Labels of classes are their codes, those of numbers what the network learns."""

        def real(values: Floats) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        labels = rows.labels if plan.kind != "regression" else plan.target.learnt(rows.labels)
        weights = of_mean_one(weights_of(rows, plan))
        return cls(
            places=torch.tensor(rows.located.places, device=device),
            shares=real(rows.located.shares),
            codes=torch.tensor(rows.located.codes, device=device),
            scaled=real(rows.scaled) if plan.noise_std else None,
            labels=torch.tensor(labels, device=device).long() if plan.kind == "multiclass" else real(labels),
            weights=None if weights is None else real(weights),
        )

    def take(self, rows: Tensor) -> Placed:
        """(copies, batch, ...) of the rows (copies, batch)."""

        def taken(part: Tensor) -> Tensor:
            return part.index_select(0, rows.flatten()).view(*rows.shape, *part.shape[1:])

        return Placed(
            places=taken(self.places),
            shares=taken(self.shares),
            codes=taken(self.codes),
            scaled=None if self.scaled is None else taken(self.scaled),
            labels=taken(self.labels),
            weights=None if self.weights is None else taken(self.weights),
        )


def weights_of(rows: Learnable, plan: Plan) -> Floats | None:
    """(rows,) the weight of each row times that of its class; None if there are neither."""
    if plan.class_weights is None:
        return rows.weights
    of_class = np.array(plan.class_weights)[rows.labels.astype(int)]
    return of_class if rows.weights is None else of_class * rows.weights


def of_mean_one(weights: Floats | None) -> Floats | None:
    """The same proportions with a mean of 1, so that the size of a loss stays what it is."""
    return None if weights is None else weights / weights.mean()


def losses(plan: Plan, answers: Tensor, labels: Tensor) -> Tensor:
    """(members, rows) of answers (members, rows, outputs) and labels (copies, rows)."""
    labels = labels.expand(len(answers), -1)
    if plan.kind == "regression":
        return (answers[:, :, 0] - labels).square()
    if plan.kind == "binary":
        smoothed = labels * (1 - plan.label_smoothing) + plan.label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(answers[:, :, 0], smoothed, reduction="none")
    return functional.cross_entropy(
        answers.permute(0, 2, 1), labels, reduction="none", label_smoothing=plan.label_smoothing
    )


def judge(plan: Plan, rows: Learnable, answers: Floats) -> tuple[float, float | None]:
    """The log loss or RMSE of answers (members, rows, outputs), and the F1 or R2 beside it (None if undefined)."""
    from sklearn.metrics import f1_score, r2_score

    outputs, weights = of_members(plan.kind, answers), weights_of(rows, plan)
    if plan.kind == "regression":
        values = plan.target.value(outputs[:, 0])
        error = float(np.average(np.square(values - rows.labels), weights=weights)) ** 0.5
        return error, float(r2_score(rows.labels, values)) if len(values) > 1 else None
    codes = rows.labels.astype(int)
    if plan.kind == "binary":
        loss = np.average(np.logaddexp(0, np.where(codes == 1, -outputs[:, 0], outputs[:, 0])), weights=weights)
        chosen = (outputs[:, 0] >= 0).astype(int)
        if not codes.any() and not chosen.any():
            return float(loss), None
        return float(loss), float(f1_score(codes, chosen, zero_division=0))
    loss = -np.average(outputs[np.arange(len(codes)), codes], weights=weights)
    return float(loss), float(f1_score(codes, outputs.argmax(axis=1), average="macro", zero_division=0))


class Descent:
    """One fit. It starts from the checkpoint of this very fit, or from first weights if there is none.

    `network` holds the embeddings and the members. Without rows held out, each copy gets the epochs that were `chosen`.
    """

    def __init__(
        self,
        plan: Plan,
        embeddings: Embeddings,
        members: Pack | TabMNetwork,
        draws: Draws,
        train: Learnable,
        held_out: Learnable | None,
        diary: Diary,
        device: str,
    ) -> None:
        self.plan, self.train, self.held_out, self.diary = plan, train, held_out, diary
        network = nn.ModuleList([embeddings, members])
        self.dtype = embeddings.linear.dtype
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
        )
        copies = len(draws)
        self.progress = Progress(network, optimizer, draws, device)
        self.progress.best_losses, self.progress.best_epochs = [None] * copies, [0] * copies
        self._placed: tuple[Placed, Placed | None] | None = None
        self._resume()

    def run(self) -> Progress:
        """Trains until the last epoch, until every copy is out of patience, or until a loss is no number.

        One thread trains, so that sums have one order on every machine.
        """
        with _one_thread():
            while not self._is_over():
                epoch = self._epoch_in_memory()
                if epoch is None:
                    break
                self.diary.step(epoch, self.plan.epochs)
                if not self._is_over():
                    self.diary.save(sealed(self._identity + self.progress.to_bytes()))
        return self.progress

    def _is_over(self) -> bool:
        return len(self.progress.epochs) >= self.plan.epochs or not any(self._goes_on)

    @property
    def _goes_on(self) -> list[bool]:
        """Which copies are not out of patience."""
        done = len(self.progress.epochs)
        if self.plan.chosen is not None:
            return [done < epochs for epochs in self.plan.chosen]
        return [done - best < self.plan.patience for best in self.progress.best_epochs]

    @cached_property
    def _identity(self) -> bytes:
        """Digest of all that decides the fit, so that the checkpoint of another fit is never used."""
        weights = {name: list(weight.shape) for name, weight in self.progress.network.state_dict().items()}
        parts = [part for rows in (self.train, self.held_out) if rows is not None for part in _arrays(rows)]
        states = [json.dumps(draw.bit_generator.state) for draw in self._first_draws]
        return digest_value(
            [repr(self.plan), weights, states, *(digest_bytes(part.tobytes()) for part in parts)]
        ).encode()

    def _resume(self) -> None:
        self._first_draws = [_copy_of(draw) for draw in self.progress.draws]
        kept = self.diary.load()
        if kept is None:
            return
        data, identity = unsealed(kept), self._identity
        if data is None or not data.startswith(identity):
            log.warning("The checkpoint is damaged or of another fit: training starts over.")
            return
        self.progress.restore(data.removeprefix(identity))
        log.info("Resumed after epoch %d of %d.", len(self.progress.epochs), self.plan.epochs)

    def _epoch_in_memory(self) -> Step | None:
        """The next epoch. If the device's memory runs out, the CPU does it and all later ones."""
        start = self.progress.to_bytes() if self.progress.device != "cpu" else b""
        try:
            return self._epoch()
        except torch.OutOfMemoryError:
            if not start:
                raise
        self.progress.restore(start)
        note = f"Memory of {self.progress.device} ran out in epoch {len(self.progress.epochs) + 1}: the CPU trains on."
        log.warning("%s", note)
        self.progress.device, self._placed = "cpu", None
        self.progress.notes.append(note)
        self.progress.network.to("cpu")
        self.progress.restore(self.progress.to_bytes())  # which moves what the optimizer remembers
        return self._epoch()

    def _place(self) -> tuple[Placed, Placed | None]:
        device, network = self.progress.device, self.progress.network
        remembered = self.progress.to_bytes()
        network.to(device)
        self.progress.restore(remembered)
        train = Placed.on(device, self.train, self.plan, self.dtype)
        held_out = None if self.held_out is None else Placed.on(device, self.held_out, self.plan, self.dtype)
        return train, held_out

    def _epoch(self) -> Step | None:
        """Trains one epoch and keeps the weights of copies that got better; None if a loss is no number."""
        train, held_out = self._placed = self._placed or self._place()
        total = torch.zeros((), dtype=self.dtype, device=self.progress.device)
        for batch in self._batches():
            total += self._step(train.take(batch)) * batch.shape[1]
        train_loss = float(total) / len(train.labels)
        if not np.isfinite(train_loss):
            return None
        return self._judged(train_loss, None if held_out is None else self._answers(held_out))

    def _batches(self) -> Iterator[Tensor]:
        """(copies, batch) the rows of each step."""
        rows = len(self.train.labels)
        order = torch.from_numpy(np.stack([draw.permutation(rows) for draw in self.progress.draws]))
        yield from torch.split(order.to(self.progress.device), self.plan.batch_size, dim=1)

    def _step(self, batch: Placed) -> Tensor:
        """Makes one step, and returns the mean loss."""
        self.progress.optimizer.zero_grad(set_to_none=True)
        vectors, others, share = self._mixed(self._vectors(self.progress.embeddings, batch))
        answers = self.progress.members(vectors, Dropout(self.plan.dropout, self.progress.draws))
        of_rows = losses(self.plan, answers, batch.labels)
        if others is not None:
            mixed = losses(self.plan, answers, batch.labels[:, others])
            of_rows = of_rows * share + mixed * (1 - share)
        if batch.weights is not None:
            of_rows = of_rows * batch.weights
        loss = of_rows.mean()
        (loss * len(self.progress.draws)).backward()  # type: ignore[no-untyped-call] # each copy gets its own mean
        self._limit_gradients()
        self.progress.optimizer.step()
        return loss.detach()

    def _vectors(self, embeddings: Embeddings, batch: Placed) -> Tensor:
        places, shares = batch.places, batch.shares
        if batch.scaled is not None:
            places, shares = self._with_noise(embeddings, batch)
        vectors: Tensor = embeddings(places, shares, batch.codes)
        kept = Dropout(self.plan.feature_dropout, self.progress.draws).kept(
            (*vectors.shape[:2], len(embeddings.column_widths)), vectors.device
        )
        return vectors if kept is None else vectors * kept.repeat_interleave(embeddings.column_widths, dim=2)

    def _with_noise(self, embeddings: Embeddings, batch: Placed) -> tuple[Tensor, Tensor]:
        """Places and shares of the numbers with Gaussian noise; a missing number stays missing."""
        assert batch.scaled is not None
        shape = batch.scaled.shape
        noise = np.stack([draw.standard_normal(shape[1:]) for draw in self.progress.draws]) * self.plan.noise_std
        return embeddings.located(batch.scaled + torch.from_numpy(noise).to(batch.scaled), batch.places)

    def _mixed(self, vectors: Tensor) -> tuple[Tensor, Tensor | None, Tensor | float]:
        """The vectors mixed with those of other rows of the batch (Zhang et al. 2018), which these rows are, and the
        share of the first in each copy."""
        if not self.plan.mixup or vectors.shape[1] < 2:
            return vectors, None, 1.0
        drawn = [draw.beta(self.plan.mixup, self.plan.mixup) for draw in self.progress.draws]
        share = torch.tensor(drawn).to(vectors)[:, None]
        others = torch.arange(vectors.shape[1], device=vectors.device).roll(1)  # rows stand in a random order
        return vectors * share[:, :, None] + vectors[:, others] * (1 - share[:, :, None]), others, share

    def _limit_gradients(self) -> None:
        """Shortens the gradient of each copy to GRADIENT, if it is longer."""
        gradients = [weight.grad for weight in self.progress.network.parameters() if weight.grad is not None]
        copies = len(self.progress.draws)
        rows = [gradient.flatten(1) if copies > 1 else gradient.flatten()[None] for gradient in gradients]
        length = torch.stack([row.square().sum(1) for row in rows]).sum(0).sqrt()
        factor = (GRADIENT / (length + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient *= factor.view(-1, *[1] * (gradient.dim() - 1))

    @torch.inference_mode()
    def _answers(self, rows: Placed) -> Floats:
        """(members, rows, outputs) without anything dropped."""
        embeddings, members = self.progress.embeddings, self.progress.members
        blocks = []
        copies = len(self.progress.draws)
        for start in range(0, len(rows.labels), JUDGED_ROWS):
            block = slice(start, start + JUDGED_ROWS)
            parts = (part[block].expand(copies, -1, -1) for part in (rows.places, rows.shares, rows.codes))
            blocks.append(members(embeddings(*parts), Dropout(0.0, None)).cpu().double())
        return torch.cat(blocks, dim=1).numpy()

    @torch.inference_mode()
    def mean_vectors(self) -> Tensor:
        """(copies, inputs) the mean of what the embeddings make of the train rows."""
        located, copies, embeddings = self.train.located, len(self.progress.draws), self.progress.embeddings
        total = torch.zeros(copies, embeddings.width, dtype=torch.float64)
        with _one_thread():
            for start in range(0, len(located.shares), JUDGED_ROWS):
                block = slice(start, start + JUDGED_ROWS)
                parts = (torch.from_numpy(part[block]) for part in (located.places, located.shares, located.codes))
                places, shares, codes = (part.expand(copies, -1, -1) for part in parts)
                total += embeddings(places, shares.to(self.dtype), codes).double().sum(1)
        return total / len(located.shares)

    def _judged(self, train_loss: float, answers: Floats | None) -> Step | None:
        number = len(self.progress.epochs) + 1
        loss, score = (None, None) if answers is None else judge(self.plan, _held(self.held_out), answers)
        if loss is not None and not np.isfinite(loss):
            return None
        step = Step(number=number, train_loss=train_loss, validation_loss=loss, validation_score=score)
        if answers is None:
            assert self.plan.chosen is not None
            better = [number == epochs for epochs in self.plan.chosen]
        else:
            better = self._better(step, answers)
        self.progress.epochs.append(step)
        self.progress.best_epochs = [
            number if is_better else before for before, is_better in zip(self.progress.best_epochs, better, strict=True)
        ]
        self.progress.keep(better)
        return step

    def _better(self, step: Step, answers: Floats) -> list[bool]:
        """Which copies have a smaller loss than ever. One that is out of patience gets no better any more."""
        of_copies = [step.validation_loss] * len(self.progress.draws)
        if self.plan.stopping == "members":
            of_copies = [judge(self.plan, _held(self.held_out), answers[[m]])[0] for m in range(len(answers))]
        better = [
            goes_on and loss is not None and (best is None or loss < best)
            for goes_on, loss, best in zip(self._goes_on, of_copies, self.progress.best_losses, strict=True)
        ]
        self.progress.best_losses = [
            loss if is_better else best
            for is_better, loss, best in zip(better, of_copies, self.progress.best_losses, strict=True)
        ]
        return better


def _held(rows: Learnable | None) -> Learnable:
    assert rows is not None
    return rows


def _arrays(rows: Learnable) -> list[NDArray[np.generic]]:
    located = rows.located
    return [
        located.places,
        located.shares,
        located.codes,
        rows.labels,
        *([] if rows.weights is None else [rows.weights]),
    ]


def _copy_of(draw: np.random.Generator) -> np.random.Generator:
    copy = np.random.Generator(np.random.PCG64())
    copy.bit_generator.state = draw.bit_generator.state
    return copy


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
