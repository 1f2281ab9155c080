"""Seconds a training epoch on each device: `python benchmarks/training.py [ROWS]` prints two tables.

The reference network (64-32-1) on generated rows, Adam, batches of 2,048. Medians of five fits; the CPU's and the GPU's
validation losses must agree to 1 %. A checkpoint is put on disk after every epoch but the last, and its cost is told
apart. Without a GPU the tables have one row.

On a GPU it also says whether fits repeat bit for bit, and makes memory run out for real: torch may use only a part of
it, first so little that batches must be halved, then so little that the CPU must train.
"""

import statistics
import sys
import tempfile
import time

import numpy as np
import torch

from ml import NetworkClassifier
from ml.models import training
from ml.models.handles import Step
from ml.models.training import StoredDiary
from ml.pipeline.machine import ask_torch
from ml.storage.store import open_store

EPOCHS, RUNS, NUMBERS, CATEGORIES = 4, 5, 24, (20, 110, 26)


class TimedCheckpoints(StoredDiary):
    """Knows when each epoch ended and when its checkpoint was kept."""

    def __init__(self, folder: str) -> None:
        super().__init__(open_store(folder), "checkpoint", "epoch")
        self.ended = 0.0
        self.seconds: list[float] = []

    def end(self, epoch: Step) -> None:
        del epoch
        self.ended = time.perf_counter()

    def save(self, checkpoint: bytes) -> None:
        super().save(checkpoint)
        self.seconds.append(time.perf_counter() - self.ended)


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=(count, NUMBERS)).astype(np.float32)
    codes = [generator.integers(0, size, count).astype(np.float32) for size in CATEGORIES]
    y = (numbers[:, 0] + 0.5 * numbers[:, 1] ** 2 + (codes[0] % 3) / 2 + generator.normal(size=count) > 1).astype(float)
    return np.column_stack([numbers, *codes]), y


def fit(device: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float, NetworkClassifier]:
    """Seconds an epoch, seconds a checkpoint, and the model."""
    model = NetworkClassifier(batch_size=2048, epochs=EPOCHS, device=device)
    cut = len(x) * 9 // 10
    with tempfile.TemporaryDirectory() as folder:
        kept = TimedCheckpoints(folder)
        start = time.perf_counter()
        model.fit(
            x[:cut], y[:cut], validation=(x[cut:], y[cut:]), category_sizes=CATEGORIES,
            on_epoch=kept.end, checkpoints=kept,
        )  # fmt: skip
        seconds = time.perf_counter() - start
    return (seconds - sum(kept.seconds)) / EPOCHS, statistics.median(kept.seconds), model


def machine(device: str) -> str:
    if device == "cpu":
        return f"CPU, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s)"
    facts = torch.cuda.get_device_properties(device)
    return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def measure(device: str, x: np.ndarray, y: np.ndarray) -> float:
    """Prints the device's row; the best validation loss."""
    fit(device, x[:5000], y[:5000])
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    epochs, checkpoints, models = zip(*(fit(device, x, y) for _ in range(RUNS)), strict=True)
    loss = models[0].epochs_[models[0].best_epoch_ - 1].validation_loss
    peak = "-" if device == "cpu" else f"{torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB"
    seconds, cost = statistics.median(epochs), 1000 * statistics.median(checkpoints)
    print(f"| {device} | {seconds:.3f} s | {cost:.1f} ms | {peak} | {loss:.4f} | {models[0].device_} |")
    return loss


def repeats(device: str, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two fits give the same weights to the last bit."""
    first, second = (fit(device, x, y)[2].network_.state_dict() for _ in range(2))
    return all(torch.equal(first[name], second[name]) for name in first)


def in_little_memory(device: str, x: np.ndarray, y: np.ndarray, megabytes: int) -> None:
    """Prints how a wide network with large batches fits where torch may have so many megabytes of the device."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(megabytes * 2**20 / total)
    try:
        model = NetworkClassifier(hidden=(512,), batch_size=65_536, epochs=2, device=device)
        model.fit(x, y, category_sizes=CATEGORIES)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    loss = model.epochs_[model.best_epoch_ - 1].validation_loss
    print(f"| {megabytes} MiB | {loss:.4f} | {model.device_} | {' '.join(model.notes_) or 'none'} |")


def main() -> None:
    torch.set_num_threads(1)
    training.CHECKPOINT_SECONDS = 0.0
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    x, y = rows(count)
    devices = list(dict.fromkeys(["cpu", ask_torch().device]))
    print(f"torch {torch.__version__}\n\n| device | machine |\n| --- | --- |")
    print("".join(f"| {device} | {machine(device)} |\n" for device in devices))
    print(f"| device | an epoch, {count:,} rows | a checkpoint | peak memory | validation loss | ended on |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    losses = [measure(device, x, y) for device in devices]
    assert max(losses) <= 1.01 * min(losses), losses
    if devices[-1] == "cuda":
        print(f"\nTwo fits on the GPU repeat bit for bit: {'yes' if repeats('cuda', x, y) else 'no'}.\n")
        print("| memory for torch | validation loss | ended on | notes of the fit |\n| --- | ---: | --- | --- |")
        rows_mb = x.nbytes // 2**20
        for megabytes in (2_000 + rows_mb, 250 + rows_mb, rows_mb // 2):
            in_little_memory("cuda", x, y, megabytes)


if __name__ == "__main__":
    main()
