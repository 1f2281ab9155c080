"""The estimators: scikit-learn's contract, what they learn, what each parameter changes, and that a seed decides."""

import math
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import (
    check_classifiers_regression_target,
    check_estimator,
    check_fit2d_1sample,
)

from ml.digests import digest_bytes
from ml.models.handles import Step
from ml.models.networks.estimators import (
    NetworkClassifier,
    NetworkEstimator,
    NetworkRegressor,
    linear_regression,
    logistic_regression,
)
from ml.models.networks.first_weights import draw_first_weights
from ml.serving.kinds.network import TabularNetwork, forward_in_blocks

Floats = NDArray[np.float64]
ALL = (NetworkClassifier, NetworkRegressor, logistic_regression, linear_regression)


pytestmark = pytest.mark.usefixtures("one_thread")


CHECKED = {"hidden": (8,), "epochs": 15, "learning_rate": 0.05, "batch_size": 16}  # enough to be right on 150 rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [NetworkClassifier(**CHECKED), NetworkRegressor(**CHECKED)], ids=str)
def test_every_check_of_scikit_learn_passes(estimator: NetworkEstimator) -> None:
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    assert [(result["check_name"], result["exception"]) for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) > 50


@pytest.mark.parametrize("check", [check_classifiers_regression_target, check_fit2d_1sample])
def test_what_a_classifier_refuses_it_refuses_in_scikit_learns_words(check: Callable[..., None]) -> None:
    check("NetworkClassifier", NetworkClassifier(**CHECKED))


def two_classes(rows: int = 120, seed: int = 0) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(rows, 3))
    return X, (X @ [1.5, -1.0, 0.0] + generator.normal(0, 1.0, rows) > 0.4).astype(float)


def weights(estimator: NetworkEstimator) -> list[Floats]:
    return [weight.numpy() for weight in estimator.network_.state_dict().values()]


def equal(one: NetworkEstimator, other: NetworkEstimator) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


# scikit-learn's contract


@pytest.mark.parametrize("make", ALL)
def test_an_unfitted_estimator_is_its_parameters(make: Callable[..., NetworkEstimator]) -> None:
    estimator = make(learning_rate=0.5, seed=7)
    copy = clone(estimator)
    assert copy is not estimator
    assert copy.get_params() == estimator.get_params()
    assert estimator.get_params()["learning_rate"] == 0.5
    assert estimator.set_params(epochs=3).epochs == 3
    assert set(vars(estimator)) == set(estimator.get_params())
    with pytest.raises(ValueError, match="Invalid parameter 'depth'"):
        estimator.set_params(depth=3)


@pytest.mark.parametrize("make", ALL)
def test_an_unfitted_estimator_does_not_predict(make: Callable[..., NetworkEstimator]) -> None:
    with pytest.raises(NotFittedError):
        make().predict([[0.0]])


def test_fit_changes_no_parameter_and_learnt_attributes_end_in_an_underscore() -> None:
    estimator = logistic_regression(epochs=1)
    before = estimator.get_params()
    X, y = two_classes()
    assert estimator.fit(X, y) is estimator
    assert estimator.get_params() == before
    assert all(name.endswith("_") for name in set(vars(estimator)) - set(before))
    assert estimator.n_features_in_ == 3


def test_scikit_learn_can_cross_validate_and_search() -> None:
    X, y = two_classes()
    model = logistic_regression(epochs=3, learning_rate=0.1)
    assert cross_val_score(model, X, y, cv=3, scoring="f1").min() > 0.5
    search = GridSearchCV(model, {"learning_rate": [1e-6, 0.1]}, cv=2, scoring="neg_log_loss").fit(X, y)
    assert search.best_params_ == {"learning_rate": 0.1}
    assert cross_val_score(linear_regression(epochs=10, learning_rate=0.1), X, X @ [1, 2, 3], cv=2).min() > 0.5
    assert (is_classifier(NetworkClassifier()), is_regressor(NetworkRegressor())) == (True, True)


def test_classes_keep_their_names() -> None:
    X, y = two_classes()
    model = logistic_regression(epochs=1).fit(X, np.where(y == 1, "late", "in time"))
    assert list(model.classes_) == ["in time", "late"]
    assert set(model.predict(X)) <= {"in time", "late"}
    assert model.predict_proba(X).sum(axis=1) == pytest.approx(np.ones(len(X)))


def named(y: Floats) -> NDArray[np.str_]:
    return y.astype(int).astype(str)


def validated_on(X: Floats, y: NDArray[Any], held_out_y: NDArray[Any]) -> NetworkEstimator:
    return logistic_regression().fit(X, y, validation=(X, held_out_y))


REFUSED = [
    ("one class", lambda X, y: logistic_regression().fit(X, np.zeros(len(X))), "but there is one class"),
    ("a missing value", lambda X, y: logistic_regression().fit(np.where(X > 1, np.nan, X), y), "NaN"),
    ("an infinity", lambda X, y: linear_regression().fit(np.where(X > 1, np.inf, X), y), "infinity"),
    ("another width", lambda X, y: logistic_regression(epochs=1).fit(X, y).predict(X[:, :2]), "expecting 3 features"),
    ("other lengths", lambda X, y: logistic_regression().fit(X, y[1:]), "inconsistent numbers"),
    ("no rows", lambda X, y: logistic_regression().fit(X[:0], y[:0]), "0 sample"),
    ("cross-entropy of values", lambda X, y: linear_regression(loss="cross_entropy").fit(X, y), "mse"),
    ("weighted classes of values", lambda X, y: linear_regression(class_weight="balanced").fit(X, y), "class_weight"),
    ("a class of validation rows only", lambda X, y: validated_on(X, y, y + 1), "but 2.0 is none"),
    ("a name of validation rows only", lambda X, y: validated_on(X, named(y), named(y + 1)), "but '2' is none"),
    ("a loss that is no number", lambda X, y: linear_regression(learning_rate=1e30).fit(X, y), "learning_rate 1e"),
]  # fmt: skip


@pytest.mark.parametrize(("work", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_learnt_is_a_value_error(work: Callable[[Floats, Floats], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        work(*two_classes())


# What they learn


def test_linear_regression_recovers_known_coefficients() -> None:
    X = np.random.default_rng(0).normal(size=(300, 3))
    y = X @ [2.0, -1.0, 0.5] * 1000 + 5000
    model = linear_regression(epochs=25, learning_rate=0.05).fit(X, y)
    numbers, bias = model.network_.numbers.detach().numpy(), model.network_.bias.detach().numpy()
    assert numbers[:, 0] * model.std_ == pytest.approx([2000, -1000, 500], rel=0.01)
    assert bias[0] * model.std_ + model.mean_ == pytest.approx(5000, rel=0.01)
    assert model.predict(X) == pytest.approx(y, abs=50)


def test_logistic_regression_comes_close_to_scikit_learns() -> None:
    X, y = two_classes(300)
    model = logistic_regression(epochs=80, learning_rate=0.15, batch_size=None).fit(X, y)
    reference = LogisticRegression(C=np.inf).fit(X, y)
    assert model.network_.numbers.detach().numpy()[:, 0] == pytest.approx(reference.coef_[0], abs=0.02)
    assert model.predict_proba(X) == pytest.approx(reference.predict_proba(X), abs=0.01)


XOR = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (8, 1)).astype(float)


@pytest.mark.parametrize(
    ("activation", "loss"),
    [("relu", "cross_entropy"), ("tanh", "cross_entropy"), ("sigmoid", "cross_entropy"), ("tanh", "mse")],
)
def test_a_perceptron_learns_what_no_linear_model_can(activation: Any, loss: Any) -> None:
    y = XOR[:, 0] != XOR[:, 1]
    learn = {"epochs": 80, "learning_rate": 0.1, "batch_size": None, "loss": loss, "activation": activation}
    assert NetworkClassifier(hidden=(16,), **learn).fit(XOR, y).score(XOR, y) == 1.0
    assert logistic_regression(**{**learn, "epochs": 10}).fit(XOR, y).score(XOR, y) < 1.0


def test_a_perceptron_learns_a_curve() -> None:
    X = np.linspace(-2, 2, 200)[:, None]
    model = NetworkRegressor(hidden=(32, 16), epochs=25, learning_rate=0.02, batch_size=20).fit(X, X[:, 0] ** 2)
    assert model.score(X, X[:, 0] ** 2) > 0.98


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_three_classes_are_told_apart(loss: Any) -> None:
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    model = NetworkClassifier(hidden=(16,), epochs=30, learning_rate=0.02, loss=loss).fit(X, y)
    assert f1_score(y, model.predict(X), average="macro") > 0.94
    assert model.predict_proba(X).shape == (150, 3)
    assert np.array_equal(model.predict(X), model.predict_proba(X).argmax(axis=1))


# What each parameter changes

BASE: dict[str, Any] = {"hidden": (4,), "epochs": 2, "learning_rate": 0.05, "batch_size": 32}
CHANGES = [
    {"optimizer": "sgd"},
    {"optimizer": "adamw", "weight_decay": 0.5},
    {"weight_decay": 0.5},
    {"learning_rate": 0.01},
    {"batch_size": None},
    {"batch_size": 1},
    {"activation": "tanh"},
    {"activation": "sigmoid"},
    {"loss": "mse"},
    {"class_weight": "balanced"},
    {"noise_std": 0.5},
    {"seed": 1},
    {"hidden": (5,)},
    {"hidden": (4, 4)},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_each_parameter_changes_the_model_and_a_seed_decides_it(change: dict[str, Any]) -> None:
    X, y = two_classes()
    before = NetworkClassifier(**BASE).fit(X, y)
    first, second = (NetworkClassifier(**{**BASE, **change}).fit(X, y) for _ in range(2))
    assert equal(first, second)
    assert not np.array_equal(first.predict_proba(X), before.predict_proba(X))


def test_a_seed_decides_the_first_weights() -> None:
    X, y = two_classes()
    still = {**BASE, "epochs": 1, "learning_rate": 1e-12}
    first, second = (NetworkClassifier(**{**still, "seed": seed}).fit(X, y) for seed in (1, 2))
    assert max(float(np.abs(a - b).max()) for a, b in zip(weights(first), weights(second), strict=True)) > 0.1


def test_adamw_decays_weights_otherwise_than_adam() -> None:
    X, y = two_classes()
    adam, adamw = (NetworkClassifier(**BASE, optimizer=o, weight_decay=0.5).fit(X, y) for o in ("adam", "adamw"))
    assert not equal(adam, adamw)


def test_random_numbers_drawn_elsewhere_change_nothing() -> None:
    X, y = two_classes()
    first = NetworkClassifier(**BASE, noise_std=0.1).fit(X, y)
    state = torch.random.get_rng_state()
    torch.rand(7)
    np.random.default_rng().random(7)
    drawn = torch.random.get_rng_state()
    second = NetworkClassifier(**BASE, noise_std=0.1).fit(X, y)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    torch.random.set_rng_state(state)
    assert equal(first, second)


def test_full_batch_descent_is_plain_gradient_descent() -> None:
    """One step from the first weights: w - rate * gradient of the mean loss."""
    X, y = two_classes()
    options = {"batch_size": None, "optimizer": "sgd", "epochs": 1}
    start = logistic_regression(**options, learning_rate=1e-12).fit(X, y)
    stepped = logistic_regression(**options, learning_rate=0.1).fit(X, y)
    w, b = (weight.astype(np.float64) for weight in (weights(start)[1], weights(start)[0]))
    error = 1 / (1 + np.exp(-(X @ w + b)))[:, 0] - y
    assert weights(stepped)[1][:, 0] == pytest.approx(w[:, 0] - 0.1 * X.T @ error / len(X), abs=1e-5)
    assert weights(stepped)[0][0] == pytest.approx(b[0] - 0.1 * error.mean(), abs=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_losses_are_means_over_rows_with_scikit_learns_weights(loss: Any, class_weight: Any, classes: int) -> None:
    """Cross-entropy or squared distance of the probabilities to the class."""
    generator = np.random.default_rng(0)
    y = np.concatenate([np.arange(classes), generator.integers(0, 2, 40)])
    model = NetworkClassifier(loss=loss, class_weight=class_weight)
    model._learn_target(y)
    outputs = generator.normal(size=(len(y), 1 if classes == 2 else classes)).astype(np.float32)
    logits = np.concatenate([np.zeros_like(outputs), outputs], axis=1) if classes == 2 else outputs
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    each = (
        -np.log(p[np.arange(len(y)), y]) if loss == "cross_entropy" else np.square(p - np.eye(classes)[y]).sum(axis=1)
    )
    seen = model.loss_function("cpu")(torch.from_numpy(outputs), torch.tensor(y, dtype=torch.float32))
    assert float(seen) == pytest.approx(float((each * compute_sample_weight(class_weight, y)).mean()), rel=1e-5)


# Which epoch is kept


def overfitted(**changes: Any) -> tuple[NetworkClassifier, tuple[Floats, Floats], list[Step]]:
    """Twenty rows of pure chance, learnt by heart: the loss on other rows soon rises."""
    generator = np.random.default_rng(3)
    X, held_out = generator.normal(size=(20, 10)), generator.normal(size=(200, 10))
    y, held_out_y = (X[:, 0] > 0).astype(float), (held_out[:, 0] > 0).astype(float)
    y[:6] = 1 - y[:6]
    seen: list[Step] = []
    model = NetworkClassifier(**{"hidden": (32,), "epochs": 30, "learning_rate": 0.02, "batch_size": 5, **changes})
    return model.fit(X, y, validation=(held_out, held_out_y), on_epoch=seen.append), (held_out, held_out_y), seen


def test_the_weights_kept_are_those_of_the_best_validation_epoch() -> None:
    model, (X, y), seen = overfitted()
    losses = [epoch.validation_loss for epoch in seen]
    assert losses[-1] > 1.2 * min(losses)
    assert model.best_epoch_ == losses.index(min(losses)) + 1 < len(seen)
    own = model.predict_proba(X)[np.arange(len(y)), y.astype(int)]
    assert -np.log(own).mean() == pytest.approx(min(losses), rel=1e-5)
    stopped_there, _, _ = overfitted(epochs=model.best_epoch_)
    assert equal(model, stopped_there)
    assert model.epochs_ == seen
    assert [epoch.number for epoch in seen] == list(range(1, 31))


def test_a_class_weight_weighs_the_loss_that_chooses_the_epoch() -> None:
    """By the weights of train rows: ninety of a hundred are in time there, and half of validation rows."""
    X = np.random.default_rng(0).normal(size=(100, 2))
    y, held_out_y = (np.arange(100) % 10 == 0).astype(float), (np.arange(100) % 2).astype(float)
    model = logistic_regression(class_weight="balanced", epochs=1)
    model.fit(X, y, validation=(X, held_out_y))
    weight = np.where(held_out_y == 1, 100 / (2 * 10), 100 / (2 * 90))
    expected = log_loss(held_out_y, model.predict_proba(X), sample_weight=weight)
    assert model.epochs_[0].validation_loss == pytest.approx(expected, rel=1e-5)


def test_without_validation_rows_a_class_weight_judges_what_is_descended() -> None:
    X, y = two_classes()
    model = logistic_regression(class_weight="balanced", epochs=2, learning_rate=1e-12).fit(X, y)
    assert model.epochs_[1].validation_loss == pytest.approx(model.epochs_[1].train_loss, rel=1e-5)


def test_patience_ends_training_so_many_epochs_after_the_best() -> None:
    model, _, seen = overfitted()
    patient, _, fewer = overfitted(patience=3)
    assert patient.best_epoch_ == model.best_epoch_
    assert len(fewer) == patient.best_epoch_ + 3 < len(seen)
    assert equal(model, patient)


def test_without_validation_rows_the_training_loss_chooses() -> None:
    X, y = two_classes()
    model = logistic_regression(epochs=5, learning_rate=0.05).fit(X, y)
    assert model.best_epoch_ == int(np.argmin([epoch.validation_loss for epoch in model.epochs_])) + 1


def test_epochs_after_a_loss_that_is_no_number_are_not_recorded() -> None:
    """Strict JSON has no NaN, and the good epochs before it stay."""
    X = np.random.default_rng(0).normal(size=(50, 2))
    model = linear_regression(optimizer="sgd", learning_rate=3.0, batch_size=None, epochs=200).fit(X, X[:, 0] * 2)
    assert all(math.isfinite(epoch.validation_loss) and math.isfinite(epoch.train_loss) for epoch in model.epochs_)
    assert len(model.epochs_) < 200
    assert np.isfinite(model.predict(X)).all()


def test_a_regressions_curve_is_in_the_unit_of_its_target() -> None:
    X = np.random.default_rng(0).normal(size=(50, 1))
    model = linear_regression(epochs=2).fit(X, X[:, 0] * 100)
    rmse = np.sqrt(np.square(model.predict(X) - X[:, 0] * 100).mean())
    assert model.epochs_[model.best_epoch_ - 1].validation_loss == pytest.approx(rmse, rel=1e-5)


# The network


def new_network(**shape: Any) -> TabularNetwork:
    network = TabularNetwork(**shape)
    draw_first_weights(network, torch.Generator().manual_seed(0))
    return network.eval()


def with_categories(rows: int = 200) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(0)
    X = np.column_stack([generator.normal(size=(rows, 3)), generator.integers(0, 4, rows)])
    return X, X[:, 0]


FIRST_WEIGHTS = {  # of torch's own initialisation, which fits of earlier versions began with
    (): "d962451d3cdc6b9760e9ee07de32d850e554887cb0fdf9e63ba857a9fa11b29e",
    (8, 4): "6315dd01038213a428559bffbaf2ea305aeb9fcfafea2e1594fa318bf032a2f7",
}


@pytest.mark.parametrize("hidden", FIRST_WEIGHTS)
def test_first_weights_are_those_that_torchs_own_layers_draw(hidden: tuple[int, ...]) -> None:
    estimator = NetworkRegressor(hidden=hidden, epochs=1, learning_rate=1e-30)
    X, y = with_categories()
    network = estimator.fit(X, y, category_sizes=(4,)).network_
    seen = b"".join(weight.numpy().round(4).tobytes() for weight in network.state_dict().values())
    assert digest_bytes(seen) == FIRST_WEIGHTS[hidden]


@pytest.mark.parametrize(
    "options", [{"hidden": (8, 4)}, {"hidden": (4,), "noise_std": 0.2}, {"hidden": (), "optimizer": "sgd"}], ids=str
)
def test_what_another_thread_draws_changes_no_weight(options: dict[str, Any]) -> None:
    """First weights, order and noise have generators of their own: dates of a backfill are threads of one process."""
    (X, y), over = with_categories(), threading.Event()

    def fitted() -> NetworkRegressor:
        model = NetworkRegressor(epochs=3, **options)
        model.fit(X, y, category_sizes=(4,))
        return model

    def draw() -> None:
        number = 0
        while not over.is_set():
            torch.manual_seed(number)
            np.random.seed(number)
            random.seed(number)
            torch.rand(17)
            number += 1

    alone, global_state = fitted(), torch.get_rng_state()
    fitted()
    assert torch.equal(torch.get_rng_state(), global_state), "nor does a fit change what others draw"
    other = threading.Thread(target=draw)
    other.start()
    try:
        assert all(equal(fitted(), alone) for _ in range(5))
    finally:
        over.set()
        other.join()


def test_an_embedding_equals_a_linear_layer_over_one_hot_codes() -> None:
    generator = np.random.default_rng(0)
    network = new_network(numbers=2, category_sizes=(3, 4), hidden=(5,), activation="tanh", outputs=1)
    numbers = generator.normal(size=(40, 2)).astype(np.float32)
    codes = np.column_stack([generator.integers(0, size, 40) for size in (3, 4)])
    one_hot = np.concatenate([np.eye(size)[codes[:, i]] for i, size in enumerate((3, 4))], axis=1)
    state = {name: weight.numpy().astype(np.float64) for name, weight in network.state_dict().items()}
    first = np.concatenate([state["numbers"], state["categories.0.weight"], state["categories.1.weight"]])
    hidden = np.tanh(np.concatenate([numbers, one_hot], axis=1) @ first + state["bias"])
    expected = hidden @ state["layers.1.weight"].T + state["layers.1.bias"]
    x = np.concatenate([numbers, codes], axis=1).astype(np.float32)
    assert forward_in_blocks(network, x, threads=1) == pytest.approx(expected, abs=1e-5)
    assert network(torch.from_numpy(x)).detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_categories_are_learnt_and_an_unseen_one_stays_without_effect() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(2, 5, 200)
    X = np.column_stack([generator.normal(size=200), codes]).astype(np.float32)
    y = np.array([1.0, -1.0, 3.0])[codes - 2]
    model = linear_regression(epochs=60, learning_rate=0.05).fit(X, y, category_sizes=(5,))
    assert model.predict([[0, 2], [0, 3], [0, 4]]) == pytest.approx([1, -1, 3], abs=0.1)
    embedding = model.network_.state_dict()["categories.0.weight"].numpy()
    assert (embedding[:2] == 0).all()


@pytest.mark.parametrize(("numbers", "hidden"), [(1, ()), (37, (64, 32)), (30, (17, 5)), (130, (128,))])
def test_a_row_has_one_answer_at_every_place_of_a_block(numbers: int, hidden: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    network = new_network(numbers=numbers, category_sizes=(9,), hidden=hidden, activation="relu", outputs=3)
    x = np.column_stack([generator.normal(size=(600, numbers)), generator.integers(0, 9, 600)]).astype(np.float32)
    order = generator.permutation(len(x))
    together = forward_in_blocks(network, x, threads=1)
    assert np.array_equal(forward_in_blocks(network, x[order], threads=1), together[order])
    assert np.array_equal(forward_in_blocks(network, x, threads=2), together)
    assert all(
        np.array_equal(forward_in_blocks(network, x[[n]], threads=1)[0], together[n]) for n in (0, 255, 256, 599)
    )


def test_the_thread_count_of_a_process_stays_as_it_was() -> None:
    before = torch.get_num_threads()
    network = new_network(numbers=1, category_sizes=(), hidden=(), activation="relu", outputs=1)
    forward_in_blocks(network, np.zeros((3, 1), np.float32), threads=before + 1)
    assert torch.get_num_threads() == before
