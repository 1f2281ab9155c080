"""Packs of embedded networks, and TabM. Declaring one imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ml.declarations import Demands
from ml.digests import digest_value
from ml.errors import ConfigError
from ml.models.packs.features import Columns, Learnable, Scaling, fit_features, fit_target, read_all, scaled_numbers
from ml.models.protocol import Fitted, Floats, Job, Learner

if TYPE_CHECKING:
    import torch

    from ml.models.packs.descent import Descent, Plan, Progress, Stopping
    from ml.models.packs.layers import Draws, Pack, TabMNetwork
    from ml.serving.kinds.embedded import Features, ServedPack, TargetScale

Share = Annotated[float, Field(ge=0, lt=1)]
# Rows a step, by train rows: with more of them a step is cheaper for each row and there are still enough steps.
BATCH_SIZES = ((5_000, 128), (30_000, 256), (60_000, 512))
LARGE_BATCH, MANY_ROWS = 1024, 60_000
PATIENCE, PATIENCE_OF_MANY_ROWS = 12, 4


class PackLearner(Learner):
    """What packs have in common: columns become vectors, members learn from these, and their mean answers."""

    served = ("embedded",)
    code = ("ml/models/packs", "ml/models/checkpoints.py", "ml/models/encoding.py")
    libraries = ("torch", "safetensors", "scikit-learn", "tabm", "rtdl-num-embeddings")  # tabm imports the last one
    needs = ("safetensors",)
    step_name = "epoch"
    demands: ClassVar[Demands[Any, Any]] = (
        (
            "class_weight",
            "be left out of a regression",
            lambda m, u: m.class_weight is not None and u.target.kind == "regression",
            "remove it",
        ),
        (
            "label_smoothing",
            "be left out of a regression",
            lambda m, u: bool(m.label_smoothing) and u.target.kind == "regression",
            "remove it",
        ),
        (
            "target",
            "be left out unless numbers are learnt",
            lambda m, u: m.target != "standard" and u.target.kind != "regression",
            "remove it",
        ),
    )
    members: int
    hidden: tuple[int, ...]
    embedding: int
    bins: int
    numbers: Scaling
    cyclic: bool
    target: Literal["standard", "quantile"]
    learning_rate: float
    weight_decay: float
    dropout: float
    batch_size: int | None
    epochs: int
    patience: int | None
    stopping: Stopping
    class_weight: Literal["balanced"] | None
    label_smoothing: float
    noise_std: float
    mixup: float
    feature_dropout: float

    def fit_rows(self, job: Job) -> Fitted:
        """Learns from the job's rows, and writes the members with the weights of their best epoch.

        Raises ConfigError if the loss is no number in the first epoch, and DataRejected if train rows lack a class or
        have no weight.
        """
        job.require_every_class()
        descent, features = self.prepared(job)
        progress = descent.run()
        if not any(progress.best_epochs):
            value = f"with learning_rate {self.learning_rate:g} it is none after the first epoch"
            raise ConfigError(f"the loss of {job.table.name}'s model must stay a number", value, "lower it")
        self._served(progress, descent, features).save(job.folder)
        epochs = progress.best_epochs
        return Fitted(
            chosen={
                "epochs": epochs if self.stopping == "members" else epochs[0],
                "batch_size": descent.plan.batch_size,
            },
            steps=tuple(progress.epochs),
            best=max(epochs),
            device=progress.device,
            notes=(*progress.notes, *self._told(epochs)),
        )

    def _told(self, epochs: list[int]) -> tuple[str, ...]:
        if self.stopping == "ensemble":
            return ()
        return (f"Each member kept the epoch that was best for itself: {', '.join(map(str, epochs))}.",)

    def prepared(
        self, job: Job, copies: range | None = None, dtype: torch.dtype | None = None
    ) -> tuple[Descent, Features]:
        """The fit before its first step, and the features. `copies` are those that learn, by default all."""
        from ml.models.packs.descent import Descent
        from ml.models.packs.layers import Embeddings

        columns = Columns.of(job, cyclic=self.cyclic)
        read, codes, labels, weights = read_all(job, job.train, columns)
        features = fit_features(columns, read, scaling=self.numbers, bins=self.bins, clip=job.table.outlier_std)
        train = _learnable(features, read, codes, labels, weights)
        held_out = None if job.validation is None else _learnable(features, *read_all(job, job.validation, columns))
        target = fit_target(labels, self.target)
        draws = [_draws(job.seed, copy) for copy in copies or range(self._copies)]
        embeddings = Embeddings(features, self.embedding, draws)
        classes = len(job.table.target.classes)
        members = self._members(embeddings.width, classes if job.table.target.kind == "multiclass" else 1, draws)
        if dtype is not None:
            embeddings, members = embeddings.to(dtype), members.to(dtype)
        plan = self._plan(job, target, len(labels), len(draws))
        return Descent(plan, embeddings, members, draws, train, held_out, job.diary, job.device), features

    @property
    def _copies(self) -> int:
        """How many parts learn from rows in an order of their own."""
        raise NotImplementedError

    def _members(self, inputs: int, outputs: int, draws: Draws) -> Pack | TabMNetwork:
        raise NotImplementedError

    def _plan(self, job: Job, target: TargetScale, rows: int, copies: int) -> Plan:
        from ml.models.packs.descent import Plan

        chosen = None if job.chosen is None else _of_each(job.chosen["epochs"], copies)
        return Plan(
            kind=job.table.target.kind,
            target=target,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size or batch_size_for(rows) if job.chosen is None else job.chosen["batch_size"],
            epochs=self.epochs if chosen is None else max(chosen),
            patience=self.patience or (PATIENCE if rows < MANY_ROWS else PATIENCE_OF_MANY_ROWS),
            stopping=self.stopping,
            chosen=chosen,
            class_weights=tuple(job.class_weights()) if self.class_weight else None,
            dropout=self.dropout,
            label_smoothing=self.label_smoothing,
            noise_std=self.noise_std,
            mixup=self.mixup,
            feature_dropout=self.feature_dropout,
        )

    def _served(self, progress: Progress, descent: Descent, features: Features) -> ServedPack:
        """The members with their best weights, as they travel inside a version."""
        from ml.serving.kinds.embedded import ServedPack

        progress.network.to("cpu")
        progress.network.load_state_dict(progress.best)
        weights = {**progress.embeddings.served(), **progress.members.member_weights(), "base": descent.mean_vectors()}
        return ServedPack(
            kind=descent.plan.kind,
            features=features,
            target=descent.plan.target,
            weights={name: weight.detach().float().numpy() for name, weight in weights.items()},
        )


class EmbeddedNetwork(PackLearner):
    """A pack of networks over embedded columns, for classes and for numbers.

    A number becomes a vector that is piecewise linear in it, with knots at `bins` quantiles of the train rows
    (Gorishniy et al. 2022, version B); a category becomes the vector of its value. `members` networks learn at once,
    each with its own first weights and order of rows, and their mean answers. `batch_size` and `patience` follow from
    the number of train rows, unless they are given. `stopping` says whose validation loss ends the fit and chooses
    the epoch: that of the mean answer ("ensemble"), or each member's own ("members").
    """

    def __init__(
        self,
        members: PositiveInt = 4,
        hidden: tuple[PositiveInt, ...] = (128, 128),
        embedding: PositiveInt = 8,
        bins: PositiveInt = 48,
        numbers: Literal["standard", "robust", "quantile"] = "standard",
        cyclic: bool = False,
        target: Literal["standard", "quantile"] = "standard",
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NonNegativeFloat = 1e-3,
        dropout: Share = 0.1,
        batch_size: PositiveInt | None = None,
        epochs: PositiveInt = 200,
        patience: PositiveInt | None = None,
        stopping: Literal["ensemble", "members"] = "ensemble",
        class_weight: Literal["balanced"] | None = None,
        label_smoothing: Share = 0.0,
        noise_std: NonNegativeFloat = 0.0,
        mixup: NonNegativeFloat = 0.0,
        feature_dropout: Share = 0.0,
    ) -> None:
        self.members = members
        self.hidden = hidden
        self.embedding = embedding
        self.bins = bins
        self.numbers = numbers
        self.cyclic = cyclic
        self.target = target
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.stopping = stopping
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.noise_std = noise_std
        self.mixup = mixup
        self.feature_dropout = feature_dropout

    @property
    def title(self) -> str:
        return super().title if self.hidden else f"{super().title} without hidden layers"

    @property
    def _copies(self) -> int:
        return self.members

    def _members(self, inputs: int, outputs: int, draws: Draws) -> Pack:
        from ml.models.packs.layers import Pack

        return Pack(inputs, tuple(self.hidden), outputs, draws)


class TabM(PackLearner):
    """TabM (Gorishniy et al. 2025, by the package tabm) over the same vectors as `EmbeddedNetwork`.

    Its `members` share the vectors, the rows of each step and most weights. It costs several times what a pack costs.
    """

    stopping = "ensemble"

    def __init__(
        self,
        members: PositiveInt = 32,
        hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (128, 128),
        embedding: PositiveInt = 8,
        bins: PositiveInt = 48,
        numbers: Literal["standard", "robust", "quantile"] = "standard",
        cyclic: bool = False,
        target: Literal["standard", "quantile"] = "standard",
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NonNegativeFloat = 1e-3,
        dropout: Share = 0.1,
        batch_size: PositiveInt | None = None,
        epochs: PositiveInt = 200,
        patience: PositiveInt | None = None,
        class_weight: Literal["balanced"] | None = None,
        label_smoothing: Share = 0.0,
        noise_std: NonNegativeFloat = 0.0,
        mixup: NonNegativeFloat = 0.0,
        feature_dropout: Share = 0.0,
    ) -> None:
        self.members = members
        self.hidden = hidden
        self.embedding = embedding
        self.bins = bins
        self.numbers = numbers
        self.cyclic = cyclic
        self.target = target
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.noise_std = noise_std
        self.mixup = mixup
        self.feature_dropout = feature_dropout

    @property
    def _copies(self) -> int:
        return 1

    def _members(self, inputs: int, outputs: int, draws: Draws) -> TabMNetwork:
        from ml.models.packs.layers import TabMNetwork

        return TabMNetwork(inputs, tuple(self.hidden), outputs, self.members, draws)


def batch_size_for(rows: int) -> int:
    """Rows of a step, by the number of train rows."""
    return next((size for below, size in BATCH_SIZES if rows < below), LARGE_BATCH)


def _learnable(features: Features, read: Floats, codes: Any, labels: Floats, weights: Floats | None) -> Learnable:
    return Learnable(features.located(read, codes), scaled_numbers(features, read), labels, weights)


def _draws(seed: int, copy: int) -> np.random.Generator:
    """The random numbers of one copy, whatever the number of others."""
    return np.random.Generator(np.random.PCG64(int(digest_value([seed, copy]), 16)))


def _of_each(epochs: int | list[int], copies: int) -> tuple[int, ...]:
    return tuple(epochs) if isinstance(epochs, list) else (epochs,) * copies
