"""Linear and logistic regression and the multilayer perceptron, trained by the loop of `ml.models.networks.descent`.

An unfitted estimator is only a model's configuration: constructing one computes nothing and does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from sklearn.base import ClassifierMixin, RegressorMixin, clone, is_classifier
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y

from ml.errors import ConfigError
from ml.models.encoding import fit_encoder
from ml.models.handles import Step
from ml.models.protocol import Fitted, Floats, Job, Learner
from ml.models.protocol import Rows as JobRows
from ml.serving.features import Encoder
from ml.serving.output import Output, TaskKind, probabilities

if TYPE_CHECKING:
    from torch import Tensor, optim

    from ml.models.networks.descent import Checkpoints, Loss
    from ml.serving.kinds.network import ServedNetwork, TabularNetwork

OnEpoch = Callable[[Step], None]
Rows = tuple[NDArray[np.float32], NDArray[np.float32]]
Weights = tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]


FOCUS = 2  # the exponent of the focal loss, as in its paper


class Diverged(ValueError):
    """The loss or the outputs were no numbers in the very first epoch of a fit."""


def encode(job: Job, encoder: Encoder, frames: JobRows) -> tuple[NDArray[np.float32], Floats, Floats | None]:
    """X (rows, width), the labels that the network learns (rows,) and the weights of the rows, if they have any."""
    X, y, weights = job.read(frames, encoder.transform)
    return np.concatenate(X), y, weights


def _of_mean_one(weights: ArrayLike | None) -> NDArray[np.float32] | None:
    """The weights as float32 in the same proportions, with a mean of 1, so that the size of a loss stays what it is."""
    if weights is None:
        return None
    given = np.asarray(weights, np.float64)
    return (given / given.mean()).astype(np.float32)


class NetworkEstimator(Learner):
    """A network for tabular rows. `hidden` has the size of each hidden layer; without any it is a linear model.

    `batch_size=None` is full-batch descent, 1 is stochastic descent. `noise_std` adds Gaussian noise to the
    standardised numbers of each batch. `patience` ends the fit after so many epochs without a better validation loss.
    The weights of the epoch with the best validation loss are kept. Adam is that of Kingma and Ba (2015), as in torch.

    After a fit, `device_` is where it ended: the CPU if the memory of `device` was too small. `notes_` says what did
    not go as planned.
    """

    learns: ClassVar[tuple[TaskKind, ...]] = ()
    served = ("network",)
    code = ("ml/models/networks", "ml/models/checkpoints.py", "ml/models/encoding.py")
    libraries = ("torch", "safetensors", "scikit-learn")
    needs = ("torch", "safetensors")
    step_name = "epoch"

    network_: TabularNetwork

    def __init__(
        self,
        hidden: tuple[PositiveInt, ...] = (64, 32),
        activation: Literal["relu", "tanh", "sigmoid"] = "relu",
        loss: Literal["cross_entropy", "mse", "focal"] | None = None,
        optimizer: Literal["sgd", "adam", "adamw"] = "adam",
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NonNegativeFloat = 0.0,
        batch_size: PositiveInt | None = 32,
        epochs: PositiveInt = 10,
        patience: PositiveInt | None = None,
        class_weight: Literal["balanced"] | None = None,
        noise_std: NonNegativeFloat = 0.0,
        seed: int = 42,
        device: str = "cpu",
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.class_weight = class_weight
        self.noise_std = noise_std
        self.seed = seed
        self.device = device

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        category_sizes: tuple[int, ...] = (),
        on_epoch: OnEpoch | None = None,
        checkpoints: Checkpoints | None = None,
        weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
        keeps_last: bool = False,
    ) -> NetworkEstimator:
        """Learns from X (n, numbers + categories) and y (n,).

        The last `len(category_sizes)` columns of X hold category codes. `validation` is a pair of X and y whose loss
        chooses the epoch; without it the training loss does, or the last epoch is kept (`keeps_last`). With
        `checkpoints`, a fit that was killed goes on after the last saved epoch and ends with the same weights.
        `weights` (n,) are those of the rows of X and of the validation rows; only their proportions count.

        Raises ValueError for NaN and infinities, for fewer than two classes, for a class that only validation rows
        have, and Diverged (a ValueError) if the first epoch ends without numbers.
        """
        rows, labels = check_X_y(X, y, dtype=np.float32)
        if is_classifier(self):
            check_classification_targets(labels)
        self.n_features_in_ = rows.shape[1]
        self.category_sizes_ = category_sizes
        targets = self._learn_target(np.asarray(labels))
        held_out = None
        if validation is not None:
            held_out = check_array(validation[0], dtype=np.float32), self._encode(np.asarray(validation[1]))
        row_weights = (_of_mean_one(weights[0]), _of_mean_one(weights[1]))
        self._descend((rows, targets), held_out, on_epoch, checkpoints, row_weights, keeps_last=keeps_last)
        return self

    def _descend(
        self,
        train: Rows,
        held_out: Rows | None,
        on_epoch: OnEpoch | None,
        checkpoints: Checkpoints | None,
        weights: Weights,
        *,
        keeps_last: bool,
    ) -> None:
        from ml.models.networks.descent import Descent

        progress = Descent(self, train, held_out, checkpoints, weights, keeps_last=keeps_last).run(on_epoch)
        if not progress.epochs:
            raise Diverged(
                f"the loss must stay a number, but with learning_rate {self.learning_rate} it does not: lower it"
            )
        self.network_ = progress.best_network()
        self.epochs_, self.best_epoch_ = progress.epochs, progress.best_epoch
        self.device_, self.notes_ = progress.device, tuple(progress.notes.values())

    def fit_rows(self, job: Job) -> Fitted:
        """Encodes the job's rows, fits a clone with its seed on its device, and writes the network of the best epoch.

        Raises ConfigError if the loss is no number after the first epoch, and DataRejected if the train rows lack a
        class or have no weight.
        """
        job.require_every_class()
        estimator = clone(self).set_params(seed=job.seed, device=job.device)
        if job.chosen is not None:
            estimator.set_params(epochs=job.chosen["epochs"], patience=None)
        encoder = fit_encoder(job.table, job.statistics)
        (X, y, weights), held_out = encode(job, encoder, job.train), None
        validation_weights: Floats | None = None
        if job.validation is not None:
            *held_out, validation_weights = encode(job, encoder, job.validation)
        try:
            estimator.fit(
                X,
                y,
                validation=held_out,
                category_sizes=encoder.category_sizes,
                on_epoch=lambda epoch: job.diary.step(epoch, estimator.epochs),
                checkpoints=job.diary,
                weights=(weights, validation_weights),
                keeps_last=job.chosen is not None,
            )
        except Diverged:
            value = f"with learning_rate {estimator.learning_rate:g} it is none after the first epoch"
            raise ConfigError(f"the loss of {job.table.name}'s model must stay a number", value, "lower it") from None
        estimator.served_with(encoder, job.threads, X).save(job.folder)
        return Fitted(
            chosen={"epochs": estimator.best_epoch_},
            steps=tuple(estimator.epochs_),
            best=estimator.best_epoch_,
            device=estimator.device_,
            notes=estimator.notes_,
        )

    def served_with(self, encoder: Encoder, threads: int, train: NDArray[np.float32]) -> ServedNetwork:
        """The fitted network, as it travels inside a version. `encoder` made `train` of the rows that it was fitted
        to."""
        from ml.serving.kinds.network import Architecture, MeanRow, ServedNetwork

        return ServedNetwork(
            encoder=encoder,
            architecture=Architecture(hidden=tuple(self.hidden), activation=self.activation, outputs=self._outputs()),
            network=self.network_,
            mean=getattr(self, "mean_", 0.0),
            std=getattr(self, "std_", 1.0),
            threads=threads,
            base=MeanRow.of(train, encoder.category_sizes),
        )

    def new_network(self) -> TabularNetwork:
        """A network with first weights, which follow from the seed."""
        from torch import Generator

        from ml.models.networks.first_weights import draw_first_weights
        from ml.serving.kinds.network import TabularNetwork

        network = TabularNetwork(
            numbers=self.n_features_in_ - len(self.category_sizes_),
            category_sizes=self.category_sizes_,
            hidden=tuple(self.hidden),
            activation=self.activation,
            outputs=self._outputs(),
        )
        draw_first_weights(network, Generator().manual_seed(self.seed))
        return network

    def new_optimizer(self, network: TabularNetwork) -> optim.Optimizer:
        """The optimizer of the network's weights, before its first step."""
        from torch import optim

        kinds: dict[str, type[optim.Optimizer]] = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}
        options: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        return kinds[self.optimizer](network.parameters(), **options)

    def _raw_outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        """(n, outputs) of the fitted network. Raises ValueError for X of another width than in the fit."""
        from ml.serving.kinds.network import forward_in_blocks

        check_is_fitted(self, "network_")
        rows = check_array(X, dtype=np.float32)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        return forward_in_blocks(self.network_, rows, threads=1)

    def _learn_target(self, y: NDArray[Any]) -> NDArray[np.float32]:
        """Learns from y (n,) of train rows how to encode labels, and returns these encoded (n,)."""
        raise NotImplementedError

    def _encode(self, y: NDArray[Any]) -> NDArray[np.float32]:
        """(n,) labels as the network learns them."""
        raise NotImplementedError

    def _outputs(self) -> int:
        """How many numbers the network gives for a row."""
        raise NotImplementedError

    def loss_function(self, device: str) -> Loss:
        """The loss that training lowers: the mean over outputs (n, outputs) and labels (n,)."""
        raise NotImplementedError

    def constant_loss(self, labels: NDArray[np.float32]) -> float:
        """The loss of the best single answer to all rows. A fit starts near it and must get below it."""
        import torch

        answer = torch.tensor(self._constant_outputs(labels), dtype=torch.float32)
        return float(self.loss_function("cpu")(answer.repeat(len(labels), 1), torch.tensor(labels), None))

    def _constant_outputs(self, labels: NDArray[np.float32]) -> list[float]:
        """The outputs of one row for the best single answer to all rows."""
        raise NotImplementedError

    def judge(
        self, y: NDArray[np.float32], outputs: NDArray[np.float64], weights: NDArray[np.float32] | None = None
    ) -> tuple[float, float | None]:
        """The loss that chooses the epoch, and the score that is shown beside it (None where it is undefined).

        `y` (n,) are encoded labels, `outputs` is (n, outputs), `weights` (n,) are those of the rows in the loss.
        """
        raise NotImplementedError


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """Learns classes: one output and a sigmoid for two of them, a softmax for more.

    The loss is cross-entropy, or the squared error of the probabilities (`loss="mse"`), or the focal loss of Lin et al.
    (2017), in which rows that the network is sure of count little. `class_weight="balanced"` gives every class of the
    train rows the same weight, in both the training loss and the validation loss.
    """

    learns = ("binary", "multiclass")

    @property
    def gives_probabilities(self) -> bool:
        return super().gives_probabilities and self.loss != "focal"

    def _learn_target(self, y: NDArray[Any]) -> NDArray[np.float32]:
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs two classes, but there is one class, {self.classes_[0]!r}: add rows")
        from sklearn.utils.class_weight import compute_class_weight

        self.class_weight_ = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return self._encode(y)

    def _encode(self, y: NDArray[Any]) -> NDArray[np.float32]:
        unknown = y[~np.isin(y, self.classes_)].tolist()
        if unknown:
            raise ValueError(f"validation rows have classes of train rows, but {unknown[0]!r} is none: split otherwise")
        return np.searchsorted(self.classes_, y).astype(np.float32)

    def _outputs(self) -> int:
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _constant_outputs(self, labels: NDArray[np.float32]) -> list[float]:
        logs = np.log(np.bincount(labels.astype(int)) / len(labels))
        return [float(logs[1] - logs[0])] if self._kind == "binary" else logs.tolist()

    @property
    def _kind(self) -> TaskKind:
        return "binary" if len(self.classes_) == 2 else "multiclass"

    def loss_function(self, device: str) -> Loss:
        import torch
        from torch.nn import functional

        weight = torch.tensor(self.class_weight_, dtype=torch.float32, device=device)
        binary = self._kind == "binary"

        def mean(losses: Tensor, row_weights: Tensor | None) -> Tensor:
            return (losses if row_weights is None else losses * row_weights).mean()

        def cross_entropy(outputs: Tensor, labels: Tensor, row_weights: Tensor | None = None) -> Tensor:
            if binary:
                losses = functional.binary_cross_entropy_with_logits(outputs[:, 0], labels, reduction="none")
            else:
                losses = functional.cross_entropy(outputs, labels.long(), reduction="none")
            return mean(losses * weight[labels.long()], row_weights)

        def focal(outputs: Tensor, labels: Tensor, row_weights: Tensor | None = None) -> Tensor:
            both = torch.cat([torch.zeros_like(outputs), outputs], dim=1) if binary else outputs
            log_p = both.log_softmax(1).gather(1, labels.long()[:, None])[:, 0]
            losses = -((1 - log_p.exp()) ** FOCUS) * log_p
            return mean(losses * weight[labels.long()], row_weights)

        def mean_squared_error(outputs: Tensor, labels: Tensor, row_weights: Tensor | None = None) -> Tensor:
            p = torch.cat([-outputs, outputs], dim=1).mul(0.5).softmax(1) if binary else outputs.softmax(1)
            losses = (p - functional.one_hot(labels.long(), len(weight))).square().sum(dim=1)
            return mean(losses * weight[labels.long()], row_weights)

        return {"mse": mean_squared_error, "focal": focal}.get(self.loss or "", cross_entropy)

    def judge(
        self, y: NDArray[np.float32], outputs: NDArray[np.float64], weights: NDArray[np.float32] | None = None
    ) -> tuple[float, float | None]:
        from sklearn.metrics import f1_score

        p = probabilities(Output(kind=self._kind), outputs)
        codes = y.astype(int)
        losses = -np.log(np.clip(p[np.arange(len(p)), codes], 1e-15, 1))
        of_rows = self.class_weight_[codes] if weights is None else self.class_weight_[codes] * weights
        log_loss = float(np.average(losses, weights=of_rows))
        chosen = p.argmax(axis=1)
        average = "binary" if self._kind == "binary" else "macro"
        if self._kind == "binary" and not codes.any() and not chosen.any():
            return log_loss, None
        return log_loss, float(f1_score(codes, chosen, average=average, zero_division=0))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probabilities (n, classes)."""
        outputs = self._raw_outputs(X)
        return probabilities(Output(kind=self._kind), outputs)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row (n,)."""
        probability = self.predict_proba(X)
        return self.classes_[probability.argmax(axis=1)]


class NetworkRegressor(RegressorMixin, NetworkEstimator):
    """Learns numbers: the loss is the squared error of the standardised target."""

    learns = ("regression",)
    demands = (
        ("class_weight", "be left out of a regression", lambda m, _: m.class_weight is not None, "remove it"),
        ("loss", "be 'mse' or left out in a regression", lambda m, _: m.loss not in {None, "mse"}, "remove it"),
    )

    def _learn_target(self, y: NDArray[Any]) -> NDArray[np.float32]:
        if self.class_weight is not None:
            raise ValueError(f"a regressor has no classes, but class_weight is {self.class_weight!r}: leave it out")
        if self.loss not in {None, "mse"}:
            raise ValueError(f"a regressor learns with loss 'mse', but loss is {self.loss!r}: leave it out")
        self.mean_, self.std_ = float(y.mean()), float(y.std()) or 1.0
        return self._encode(y)

    def _encode(self, y: NDArray[Any]) -> NDArray[np.float32]:
        return ((y - self.mean_) / self.std_).astype(np.float32)

    def _outputs(self) -> int:
        return 1

    def _constant_outputs(self, labels: NDArray[np.float32]) -> list[float]:
        del labels
        return [0.0]  # the mean of the standardised target

    def loss_function(self, device: str) -> Loss:
        del device

        def mean_squared_error(outputs: Tensor, labels: Tensor, row_weights: Tensor | None = None) -> Tensor:
            losses = (outputs[:, 0] - labels).square()
            return (losses if row_weights is None else losses * row_weights).mean()

        return mean_squared_error

    def judge(
        self, y: NDArray[np.float32], outputs: NDArray[np.float64], weights: NDArray[np.float32] | None = None
    ) -> tuple[float, float | None]:
        from sklearn.metrics import r2_score

        squares = np.square(outputs[:, 0] - y)
        mean = squares.mean() if weights is None else np.average(squares, weights=weights)
        error = float(np.sqrt(mean)) * self.std_
        return error, float(r2_score(y, outputs[:, 0])) if len(y) > 1 else None

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """The predicted values (n,), in the unit of y."""
        return self._raw_outputs(X)[:, 0] * self.std_ + self.mean_


def logistic_regression(**changes: Any) -> NetworkClassifier:
    """A classifier without hidden layers; `changes` are other fields of NetworkClassifier."""
    return NetworkClassifier(**{"hidden": (), **changes})


def linear_regression(**changes: Any) -> NetworkRegressor:
    """A regressor without hidden layers; `changes` are other fields of NetworkRegressor."""
    return NetworkRegressor(**{"hidden": (), **changes})
