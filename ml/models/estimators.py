"""Linear and logistic regression and the multilayer perceptron, trained by one loop.

An unfitted estimator is a model's configuration; `fit` alone computes. torch is imported when first used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import f1_score, r2_score
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y

from ml.artifacts import Epoch
from ml.serving.output import Output, TaskKind, probabilities

if TYPE_CHECKING:
    from torch import Tensor, optim

    from ml.serving.network import TabularNetwork

OnEpoch = Callable[[Epoch], None]


class NetworkEstimator(BaseEstimator):
    """A tabular network: `hidden` layers, or a linear model with none.

    `batch_size=None` is full-batch descent, 1 is stochastic descent. `noise_std` adds Gaussian noise to the
    standardised numbers of each batch. `patience` stops after so many epochs without a better validation loss. The
    weights kept are those of the best validation epoch. Adam is Kingma and Ba (2015) as in torch.
    """

    network_: TabularNetwork

    def __init__(
        self,
        hidden: tuple[PositiveInt, ...] = (64, 32),
        activation: Literal["relu", "tanh", "sigmoid"] = "relu",
        loss: Literal["cross_entropy", "mse"] | None = None,
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
    ) -> NetworkEstimator:
        """Learns from X (n, numbers + categories) and y (n,).

        The trailing `len(category_sizes)` columns hold category codes. Without `validation` (a pair X, y) the training
        loss chooses the epoch. Raises ValueError for NaN, infinities, or fewer than two classes, and where not even the
        first epoch ends with numbers.
        """
        rows, labels = check_X_y(X, y, dtype=np.float32)
        self.n_features_in_ = rows.shape[1]
        self.category_sizes_ = category_sizes
        learnt = self._learn_target(np.asarray(labels))
        held_out = None
        if validation is not None:
            held_out = check_array(validation[0], dtype=np.float32), self._encode(np.asarray(validation[1]))
        self.epochs_, self.best_epoch_ = self._descend(rows, learnt, held_out, on_epoch)
        return self

    def _descend(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.float32],
        held_out: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
        on_epoch: OnEpoch | None,
    ) -> tuple[list[Epoch], int]:
        import torch

        rows, labels = torch.tensor(X, device=self.device), torch.tensor(y, device=self.device)
        judged_rows, judged_y = (
            (rows, y) if held_out is None else (torch.tensor(held_out[0], device=self.device), held_out[1])
        )
        generator = torch.Generator().manual_seed(self.seed)
        self.network_ = self._new_network().to(self.device)
        optimizer = self._new_optimizer()
        loss = self._loss_function(y)
        history: list[Epoch] = []
        best, best_epoch, best_weights = np.inf, 0, self._weights()
        for number in range(1, self.epochs + 1):
            self.network_.train()
            train_loss = torch.zeros((), device=self.device)
            for batch in self._batches(len(X), generator):
                batch = batch.to(self.device)
                optimizer.zero_grad(set_to_none=True)
                value = loss(self.network_(self._with_noise(rows[batch], generator)), labels[batch])
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                train_loss += value.detach() * len(batch)
            epoch = self._judge(number, float(train_loss) / len(X), judged_rows, judged_y)
            if epoch is None:  # what follows would be no number either
                break
            history.append(epoch)
            if on_epoch is not None:
                on_epoch(epoch)
            if epoch.validation_loss < best:
                best, best_epoch, best_weights = epoch.validation_loss, number, self._weights()
            if self.patience is not None and number - best_epoch >= self.patience:
                break
        if not history:
            raise ValueError(
                f"the loss must stay a number, but with learning_rate {self.learning_rate} it does not: lower it"
            )
        self.network_.load_state_dict(best_weights)
        self.network_.to("cpu").eval()
        return history, best_epoch

    def _new_network(self) -> TabularNetwork:
        import torch

        from ml.serving.network import TabularNetwork

        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return TabularNetwork(
                numbers=self.n_features_in_ - len(self.category_sizes_),
                category_sizes=self.category_sizes_,
                hidden=tuple(self.hidden),
                activation=self.activation,
                outputs=self._outputs(),
            )

    def _new_optimizer(self) -> optim.Optimizer:
        from torch import optim

        kinds: dict[str, type[optim.Optimizer]] = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}
        options: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        return kinds[self.optimizer](self.network_.parameters(), **options)

    def _batches(self, rows: int, generator: Any) -> Iterator[Tensor]:
        import torch

        order = torch.randperm(rows, generator=generator)
        return iter(torch.split(order, self.batch_size or rows))

    def _with_noise(self, rows: Tensor, generator: Any) -> Tensor:
        import torch

        if not self.noise_std:
            return rows
        numbers = self.n_features_in_ - len(self.category_sizes_)
        noise = torch.zeros(rows.shape)
        noise[:, :numbers].normal_(std=self.noise_std, generator=generator)
        return rows + noise.to(rows.device)

    def _judge(self, number: int, train_loss: float, rows: Tensor, y: NDArray[np.float32]) -> Epoch | None:
        """The epoch's losses and score; None where the network's answers have run away."""
        import torch

        self.network_.eval()
        with torch.inference_mode():
            outputs = self.network_(rows).cpu().numpy().astype(np.float64)
        if not (np.isfinite(train_loss) and np.isfinite(outputs).all()):
            return None
        loss, score = self._validation(y, outputs)
        return Epoch(epoch=number, train_loss=train_loss, validation_loss=loss, validation_score=score)

    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.network_.state_dict().items()}

    def _raw_outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        from ml.serving.network import forward_in_blocks

        check_is_fitted(self, "network_")
        rows = check_array(X, dtype=np.float32)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        return forward_in_blocks(self.network_, rows, threads=1)

    def _learn_target(self, y: NDArray[Any]) -> NDArray[np.float32]:
        raise NotImplementedError

    def _encode(self, y: NDArray[Any]) -> NDArray[np.float32]:
        raise NotImplementedError

    def _outputs(self) -> int:
        raise NotImplementedError

    def _loss_function(self, y: NDArray[np.float32]) -> Callable[[Tensor, Tensor], Tensor]:
        raise NotImplementedError

    def _validation(self, y: NDArray[np.float32], outputs: NDArray[np.float64]) -> tuple[float, float | None]:
        """Loss that chooses the epoch, and the score that the curve shows beside it."""
        raise NotImplementedError


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """Sigmoid with one output for two classes, softmax for more; cross-entropy, or MSE of the probabilities."""

    def _learn_target(self, y: NDArray[Any]) -> NDArray[np.float32]:
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs two classes, but every label is {self.classes_[0]!r}")
        return self._encode(y)

    def _encode(self, y: NDArray[Any]) -> NDArray[np.float32]:
        return np.searchsorted(self.classes_, y).astype(np.float32)

    def _outputs(self) -> int:
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    @property
    def _kind(self) -> TaskKind:
        return "binary" if len(self.classes_) == 2 else "multiclass"

    def _loss_function(self, y: NDArray[np.float32]) -> Callable[[Tensor, Tensor], Tensor]:
        import torch
        from torch.nn import functional

        codes = np.arange(len(self.classes_))
        weights = compute_class_weight(self.class_weight, classes=codes, y=y.astype(int))
        weight = torch.tensor(weights, dtype=torch.float32, device=self.device)
        binary = self._kind == "binary"

        def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
            if binary:
                each = functional.binary_cross_entropy_with_logits(outputs[:, 0], labels, reduction="none")
            else:
                each = functional.cross_entropy(outputs, labels.long(), reduction="none")
            return (each * weight[labels.long()]).mean()

        def mean_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
            p = torch.cat([-outputs, outputs], dim=1).mul(0.5).softmax(1) if binary else outputs.softmax(1)
            each = (p - functional.one_hot(labels.long(), len(codes))).square().sum(dim=1)
            return (each * weight[labels.long()]).mean()

        return mean_squared_error if self.loss == "mse" else cross_entropy

    def _validation(self, y: NDArray[np.float32], outputs: NDArray[np.float64]) -> tuple[float, float | None]:
        p = probabilities(Output(kind=self._kind), outputs)
        codes = y.astype(int)
        log_loss = float(-np.log(np.clip(p[np.arange(len(p)), codes], 1e-15, 1)).mean())
        chosen = p.argmax(axis=1)
        average = "binary" if self._kind == "binary" else "macro"
        if self._kind == "binary" and not codes.any() and not chosen.any():
            return log_loss, None
        return log_loss, float(f1_score(codes, chosen, average=average, zero_division=0))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """(n, classes)"""
        outputs = self._raw_outputs(X)
        return probabilities(Output(kind=self._kind), outputs)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(n,) class labels"""
        probability = self.predict_proba(X)
        return self.classes_[probability.argmax(axis=1)]


class NetworkRegressor(RegressorMixin, NetworkEstimator):
    """MSE on the standardised target."""

    def _learn_target(self, y: NDArray[Any]) -> NDArray[np.float32]:
        self.mean_, self.std_ = float(y.mean()), float(y.std()) or 1.0
        return self._encode(y)

    def _encode(self, y: NDArray[Any]) -> NDArray[np.float32]:
        return ((y - self.mean_) / self.std_).astype(np.float32)

    def _outputs(self) -> int:
        return 1

    def _loss_function(self, y: NDArray[np.float32]) -> Callable[[Tensor, Tensor], Tensor]:
        del y
        if self.loss == "cross_entropy":
            raise ValueError("a regressor learns with loss 'mse', but loss is 'cross_entropy'")
        return lambda outputs, labels: (outputs[:, 0] - labels).square().mean()

    def _validation(self, y: NDArray[np.float32], outputs: NDArray[np.float64]) -> tuple[float, float | None]:
        error = float(np.sqrt(np.square(outputs[:, 0] - y).mean())) * self.std_
        return error, float(r2_score(y, outputs[:, 0])) if len(y) > 1 else None

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """(n,) in the unit of y"""
        return self._raw_outputs(X)[:, 0] * self.std_ + self.mean_


def logistic_regression(**changes: Any) -> NetworkClassifier:
    """A classifier without hidden layers."""
    return NetworkClassifier(**{"hidden": (), **changes})


def linear_regression(**changes: Any) -> NetworkRegressor:
    """A regressor without hidden layers."""
    return NetworkRegressor(**{"hidden": (), **changes})
