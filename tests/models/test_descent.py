"""The training loop: what a batch is, that a kill costs one epoch and no bit, and what scarce memory changes."""

import logging
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml.models.handles import Step
from ml.models.networks import descent
from ml.models.networks.descent import Descent
from ml.models.networks.estimators import NetworkClassifier, NetworkEstimator, NetworkRegressor
from ml.models.training import StoredDiary
from ml.serving.kinds.network import TabularNetwork
from ml.storage.store import open_store

Floats = NDArray[np.float64]
KINDS = ("binary", "multiclass", "regression")
OPTIMIZERS = ("sgd", "adam", "adamw")
EPOCHS = 5


pytestmark = pytest.mark.usefixtures("one_thread")


def rows(kind: str, count: int, seed: int) -> tuple[Floats, Floats]:
    """Two numbers and the code of one of four categories, and a noisy label of them."""
    generator = np.random.default_rng(seed)
    X = np.column_stack([generator.normal(size=(count, 2)), generator.integers(0, 4, count)])
    value = X[:, 0] - X[:, 1] + X[:, 2] % 2 + generator.normal(0, 0.5, count)
    return X, {"binary": value > 0.5, "multiclass": np.digitize(value, [0, 1]), "regression": value * 100}[kind] * 1.0


def estimator(kind: str = "binary", **options: Any) -> NetworkEstimator:
    make = NetworkRegressor if kind == "regression" else NetworkClassifier
    fixed = {"hidden": (6,), "epochs": EPOCHS, "batch_size": 32, "learning_rate": 0.05, "weight_decay": 0.01}
    return make(**{**fixed, **options})


def fit(model: NetworkEstimator, kind: str = "binary", seed: int = 0, **work: Any) -> NetworkEstimator:
    return model.fit(*rows(kind, 100, seed), validation=rows(kind, 60, seed + 1), category_sizes=(4,), **work)


def weights(model: NetworkEstimator) -> list[NDArray[np.float32]]:
    return [weight.numpy() for weight in model.network_.state_dict().values()]


def assert_equal(one: NetworkEstimator, other: NetworkEstimator) -> None:
    """To the last bit, and with the same history."""
    assert (one.epochs_, one.best_epoch_) == (other.epochs_, other.best_epoch_)
    assert all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def assert_close(one: NetworkEstimator, other: NetworkEstimator) -> None:
    """Up to rounding."""
    assert one.best_epoch_ == other.best_epoch_
    for a, b in zip(weights(one), weights(other), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


class Killed(BaseException):
    pass


class Kept:
    """Checkpoints in memory; kills the fit when the last of `lives` was saved."""

    def __init__(self, lives: int = 0, kept: bytes | None = None) -> None:
        self.lives, self.kept = lives, kept

    def load(self) -> bytes | None:
        return self.kept

    def save(self, checkpoint: bytes) -> None:
        self.kept, self.lives = checkpoint, self.lives - 1
        if self.lives == 0:
            raise Killed


def killed_after(epoch: int, model: NetworkEstimator, kind: str = "binary") -> Kept:
    """What a fit leaves that was killed after that epoch."""
    checkpoints = Kept(lives=epoch)
    with pytest.raises(Killed):
        fit(model, kind, checkpoints=checkpoints)
    return Kept(kept=checkpoints.kept)


# Batches and noise


def seen_by_the_network(monkeypatch: pytest.MonkeyPatch, *, training: bool) -> list[NDArray[np.float32]]:
    """Fills with the rows of every forward pass."""
    seen: list[NDArray[np.float32]] = []
    forward = TabularNetwork.forward

    def watched(network: TabularNetwork, x: torch.Tensor) -> torch.Tensor:
        if network.training == training:
            seen.append(x.numpy().copy())
        return forward(network, x)

    monkeypatch.setattr(TabularNetwork, "forward", watched)
    return seen


@pytest.mark.parametrize(("batch_size", "steps"), [(None, 1), (1, 100), (30, 4), (500, 1)])
def test_an_epoch_takes_each_row_once_in_batches_of_a_size(
    monkeypatch: pytest.MonkeyPatch, batch_size: int | None, steps: int
) -> None:
    seen = seen_by_the_network(monkeypatch, training=True)
    fit(estimator(batch_size=batch_size, epochs=1))
    assert len(seen) == steps
    assert {len(batch) for batch in seen[:-1]} <= {batch_size}
    assert np.array_equal(np.sort(np.concatenate(seen)[:, 0]), np.sort(rows("binary", 100, 0)[0][:, 0].astype("f4")))


def test_noise_falls_on_numbers_of_train_rows_and_never_on_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, judged = (seen_by_the_network(monkeypatch, training=training) for training in (True, False))
    fit(estimator(noise_std=1.0, batch_size=None, epochs=1))
    X = rows("binary", 100, 0)[0].astype("f4")
    assert np.array_equal(np.sort(trained[0][:, 2]), np.sort(X[:, 2]))
    assert trained[0][:, :2].var() == pytest.approx(X[:, :2].var() + 1, rel=0.3)
    assert np.array_equal(judged[0], rows("binary", 60, 1)[0].astype("f4"))


def test_validation_rows_are_judged_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(estimator())
    monkeypatch.setattr(descent, "JUDGED_ROWS", 25)
    judged = seen_by_the_network(monkeypatch, training=False)
    parted = fit(estimator())
    assert [len(block) for block in judged] == [25, 25, 10] * EPOCHS
    assert [e.validation_loss for e in parted.epochs_] == pytest.approx([e.validation_loss for e in whole.epochs_])


# Killed and resumed


@pytest.mark.parametrize(
    ("kind", "optimizer", "options"),
    [
        *(("binary", optimizer, {"noise_std": 0.3, "patience": 2}) for optimizer in OPTIMIZERS),
        *(("binary", "adam", options) for options in ({}, {"batch_size": None})),
        *((kind, "adamw", {"noise_std": 0.3, "patience": 2}) for kind in KINDS if kind != "binary"),
    ],
    ids=str,
)
def test_a_fit_killed_after_any_epoch_ends_as_if_nothing_had_happened(
    kind: str, optimizer: str, options: dict[str, Any]
) -> None:
    model = estimator(kind, optimizer=optimizer, **options)
    undisturbed = fit(estimator(kind, optimizer=optimizer, **options), kind)
    for epoch in range(1, len(undisturbed.epochs_)):
        left = killed_after(epoch, model, kind)
        seen: list[Step] = []
        assert_equal(fit(model, kind, checkpoints=left, on_epoch=seen.append), undisturbed)
        assert seen == undisturbed.epochs_[epoch:]


def test_patience_and_the_best_weights_outlive_a_kill() -> None:
    """The best epoch lies before the kill, and the end comes by patience after it."""
    options = {"hidden": (32,), "learning_rate": 0.2, "patience": 3, "epochs": 40}
    undisturbed = fit(estimator(**options))
    best, last = undisturbed.best_epoch_, len(undisturbed.epochs_)
    assert best < last - 1 < 39
    assert_equal(fit(estimator(**options), checkpoints=killed_after(last - 1, estimator(**options))), undisturbed)


def test_a_fit_killed_after_every_epoch_still_ends() -> None:
    undisturbed, checkpoints = fit(estimator(noise_std=0.1)), Kept()
    for _ in range(EPOCHS - 1):
        checkpoints = Kept(lives=1, kept=checkpoints.kept)
        with pytest.raises(Killed):
            fit(estimator(noise_std=0.1), checkpoints=checkpoints)
    assert_equal(fit(estimator(noise_std=0.1), checkpoints=Kept(kept=checkpoints.kept)), undisturbed)


def test_the_last_epoch_leaves_no_checkpoint_behind_it() -> None:
    saved: list[bytes] = []
    checkpoints = Kept()
    checkpoints.save = saved.append  # type: ignore[method-assign]
    fit(estimator(), checkpoints=checkpoints)
    assert len(saved) == EPOCHS - 1


def test_the_log_says_where_a_fit_resumed(caplog: pytest.LogCaptureFixture) -> None:
    left = killed_after(3, estimator())
    caplog.clear()
    with caplog.at_level(logging.INFO, "retrain.training"):
        fit(estimator(), checkpoints=left)
    assert caplog.messages == ["Resumed after epoch 3 of 5."]


KILLED = """
import os, signal, sys
import torch
from ml.models import training
from ml.storage.store import open_store
from tests.models.test_descent import estimator, fit

torch.set_num_threads(1)
training.CHECKPOINT_SECONDS = 0.0
checkpoints = training.StoredDiary(open_store(sys.argv[1]), "checkpoint", "epoch")
fit(estimator(), checkpoints=checkpoints, on_epoch=lambda e: e.number == 4 and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_process_killed_in_an_epoch_loses_that_epoch_only(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    seen: list[Step] = []
    checkpoints = StoredDiary(open_store(str(tmp_path)), "checkpoint", "epoch")
    assert_equal(fit(estimator(), checkpoints=checkpoints, on_epoch=seen.append), fit(estimator()))
    assert [epoch.number for epoch in seen] == [4, 5]


# Checkpoints that are none


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "something else": lambda data: b"{}" * 500,
    **{f"bit flipped at {n}": lambda data, n=n: flipped(data, n) for n in (0, 63, 64, 90, 500, 2000, -3000, -1)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_said_and_training_starts_over(
    damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    left = killed_after(2, estimator())
    assert left.kept is not None
    assert_starts_over(Kept(kept=damage(left.kept)), caplog)


def assert_starts_over(left: Kept, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    assert_equal(fit(estimator(), checkpoints=left), fit(estimator()))
    assert caplog.messages == ["The checkpoint is damaged or of another fit: training starts over."]


@pytest.mark.parametrize(
    "other",
    [{"learning_rate": 0.04}, {"seed": 1}, {"optimizer": "sgd"}, {"epochs": 6}, {"hidden": (7,)}, {"patience": 9}],
    ids=str,
)
def test_a_checkpoint_of_another_estimator_is_not_used(other: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert_starts_over(killed_after(2, estimator(**other)), caplog)


def test_a_checkpoint_of_other_rows_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Kept(lives=2)
    with pytest.raises(Killed):
        fit(estimator(), seed=7, checkpoints=checkpoints)
    assert_starts_over(Kept(kept=checkpoints.kept), caplog)


def test_a_checkpoint_of_an_older_format_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(descent, "CHECKPOINT_FORMAT", 0)
        left = killed_after(2, estimator())
    assert_starts_over(left, caplog)


# Too little memory


class Memory:
    """A network that finds no room for more than so many rows of a forward pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most, self.failures, self.passes = 10**9, 0, 0
        forward = TabularNetwork.forward

        def scarce(network: TabularNetwork, x: torch.Tensor) -> torch.Tensor:
            self.passes += 1
            if len(x) > self.most or self.failures_left():
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(network, x)

        monkeypatch.setattr(TabularNetwork, "forward", scarce)

    def failures_left(self) -> bool:
        self.failures -= 1
        return self.failures >= 0


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


SCARCE = [{}, {"noise_std": 0.3}, {"batch_size": None}, {"optimizer": "sgd"}]


@pytest.mark.parametrize("options", SCARCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_too_large_for_the_memory_is_taken_in_parts_to_the_same_end(
    memory: Memory, kind: str, options: dict[str, Any]
) -> None:
    whole = fit(estimator(kind, **options), kind)
    memory.most = 5
    parted = fit(estimator(kind, **options), kind)
    assert_close(parted, whole)
    assert [epoch.train_loss for epoch in parted.epochs_] == pytest.approx([e.train_loss for e in whole.epochs_], 1e-4)
    size = 3 if options.get("batch_size", 32) is None else 4
    assert parted.notes_ == (
        f"Memory of cpu ran out in epoch 1: from there on {size} rows go through the network at once.",
    )
    assert (whole.notes_, parted.device_) == ((), "cpu")


def test_weighted_classes_in_parts_weigh_the_same(memory: Memory) -> None:
    whole = fit(estimator(class_weight="balanced"))
    memory.most = 3
    assert_close(fit(estimator(class_weight="balanced")), whole)


def test_what_an_epoch_held_is_freed_before_it_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback still being handled would hold the tensors of the frames below it."""
    held: list[weakref.ref[torch.Tensor]] = []
    forward = TabularNetwork.forward

    def scarce(network: TabularNetwork, x: torch.Tensor) -> torch.Tensor:
        assert all(tensor() is None for tensor in held)
        assert sys.exc_info() == (None, None, None)
        if len(x) > 5:
            held.append(weakref.ref(x))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(network, x)

    monkeypatch.setattr(TabularNetwork, "forward", scarce)
    fit(estimator())
    assert len(held) == 3


def test_each_halving_is_said_once_in_the_log(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    memory.most = 10
    model = fit(estimator())
    assert [message.split("on ")[-1] for message in caplog.messages] == [
        "16 rows go through the network at once.",
        "8 rows go through the network at once.",
    ]
    assert model.notes_ == (caplog.messages[-1],)


@pytest.mark.parametrize("failing_pass", [1, 2, 4, 5], ids=lambda number: f"pass {number}")
def test_an_epoch_that_ran_out_of_memory_begins_again_from_its_exact_start(memory: Memory, failing_pass: int) -> None:
    """Wherever in epoch 3 (four batches, one block of validation rows) it happens, the weights are the same bits."""

    def run_out(epoch: Step) -> None:
        memory.passes = 0 if epoch.number == 2 else 100

    def scarce_from(number: int) -> NetworkEstimator:
        model = estimator(noise_std=0.3)
        failed = False
        forward = TabularNetwork.forward

        def failing(network: TabularNetwork, x: torch.Tensor) -> torch.Tensor:
            nonlocal failed
            if memory.passes == number - 1 and not failed:
                failed = True
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(network, x)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TabularNetwork, "forward", failing)
            memory.passes = 100
            fit(model, on_epoch=run_out)
        assert failed
        return model

    at_once, later = scarce_from(1), scarce_from(failing_pass)
    assert_equal(later, at_once)
    assert at_once.notes_ == (
        "Memory of cpu ran out in epoch 3: from there on 16 rows go through the network at once.",
    )


def test_after_a_single_row_the_cpu_trains_whole_batches(memory: Memory) -> None:
    """`cpu:0` stands for a device that is not the CPU."""
    undisturbed = fit(estimator(noise_std=0.3))
    memory.failures = 6  # 32, 16, 8, 4, 2 and 1 rows
    model = fit(estimator(noise_std=0.3, device="cpu:0"))
    assert_equal(model, undisturbed)
    assert model.notes_ == ("Memory of cpu:0 ran out in epoch 1: from there on the CPU trains.",)
    assert model.device_ == "cpu"


def test_rows_that_find_no_place_on_the_device_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    place, tries = Descent._place, []

    def full(self: Descent) -> Any:
        tries.append(self.progress.device)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return place(self)

    undisturbed = fit(estimator())
    monkeypatch.setattr(Descent, "_place", full)
    assert_equal(fit(estimator(device="cpu:0")), undisturbed)
    assert tries == ["cpu:0", "cpu"]


def test_where_the_cpu_has_no_memory_either_the_error_stands(memory: Memory) -> None:
    memory.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        fit(estimator())


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network: TabularNetwork, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("an error of the device")

    monkeypatch.setattr(TabularNetwork, "forward", broken)
    with pytest.raises(RuntimeError, match="an error of the device"):
        fit(estimator())


def test_a_fit_in_parts_that_is_killed_goes_on_in_parts(memory: Memory) -> None:
    memory.most = 5
    undisturbed = fit(estimator(noise_std=0.3))
    left = killed_after(2, estimator(noise_std=0.3))
    memory.most = 10**9
    resumed = fit(estimator(noise_std=0.3), checkpoints=left)
    assert_equal(resumed, undisturbed)
    assert resumed.notes_ == undisturbed.notes_
