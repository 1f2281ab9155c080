"""Seconds a training epoch on each device: `python benchmarks/training.py [ROWS]` prints a table.

The reference network (64-32-1) on generated rows, Adam, batches of 2,048. Medians of five fits; the CPU's and the GPU's
validation losses must agree to 1 %. Without a GPU the table has one row.
"""

import statistics
import sys
import time

import numpy as np
import torch

from ml.models.estimators import NetworkClassifier
from ml.run_key import device_class

EPOCHS, RUNS, NUMBERS, CATEGORIES = 3, 5, 24, (20, 110, 26)


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=(count, NUMBERS)).astype(np.float32)
    codes = [generator.integers(0, size, count).astype(np.float32) for size in CATEGORIES]
    y = (numbers[:, 0] + 0.5 * numbers[:, 1] ** 2 + (codes[0] % 3) / 2 + generator.normal(size=count) > 1).astype(float)
    return np.column_stack([numbers, *codes]), y


def fit(device: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Seconds an epoch, and the best validation loss."""
    model = NetworkClassifier(batch_size=2048, epochs=EPOCHS, device=device)
    cut = len(x) * 9 // 10
    start = time.perf_counter()
    model.fit(x[:cut], y[:cut], validation=(x[cut:], y[cut:]), category_sizes=CATEGORIES)
    return (time.perf_counter() - start) / EPOCHS, model.epochs_[model.best_epoch_ - 1].validation_loss


def main() -> None:
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    x, y = rows(count)
    losses = {}
    print(f"| device | seconds an epoch, {count:,} rows | validation loss |\n| --- | ---: | ---: |")
    for device in dict.fromkeys(["cpu", device_class()]):
        fit(device, x[:5000], y[:5000])
        runs = [fit(device, x, y) for _ in range(RUNS)]
        losses[device] = runs[0][1]
        print(f"| {device} | {statistics.median(seconds for seconds, _ in runs):.2f} | {losses[device]:.4f} |")
    assert max(losses.values()) <= 1.01 * min(losses.values()), losses


if __name__ == "__main__":
    main()
