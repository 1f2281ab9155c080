"""How often intervals err: `python benchmarks/intervals.py` in a minute, `--full` in some minutes; one core.

It simulates test sets of days whose truth is known, and judges them with several kinds of intervals. The *error* is how
often a candidate that is worse by exactly the allowed drop passes: the lower end of the interval lies above the truth.
The *power* is how often a candidate that equals the champion passes, where the allowed drop is the smallest that the
days can show (2.49 standard errors). `ours` is the interval of ml/metrics/intervals.py itself.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ml.evaluation.gates import DETECTABLE
from ml.metrics.intervals import ONE_SIDED_ERROR, Pair, ScoreSums, half_width, spread

Floats = NDArray[np.float64]
# Each interval says how far its lower end lies below the estimate, from the influences (tests, days) of the days.
Below = Callable[[Floats], Floats]

POPULATIONS = {  # how good days resemble each other, and how much; what a metric shows of it is a little less
    "independent": ("days", 0.0),
    "AR(1) 0.1": ("days", 0.12),
    "AR(1) 0.15": ("days", 0.18),
    "AR(1) 0.6": ("days", 0.68),
    "weeks": ("weeks", 0.25),
}
METRICS = ("f1", "accuracy", "log_loss", "roc_auc", "rmse")
RESAMPLES, DAYS_OF_THE_TRUTH = 999, 400_000

SCORES = ScoreSums(names=("roc_auc", "log_loss"), statistics=((0.0,) * 6,), counts=(1,))
CLASSES = Pair(kind="binary", classes=2, statistics=((0.0,) * 8,), counts=(1,), scores=SCORES)
VALUES = Pair(kind="regression", classes=0, statistics=((0.0,) * 7,), counts=(1,))


def days_of(generator: np.random.Generator, population: str, tests: int, days: int) -> Floats:
    """(tests, days) how good each day is, with mean 0 and variance 1."""
    kind, strength = POPULATIONS[population]
    good = generator.normal(size=(tests, days))
    if kind == "weeks":
        week = (np.arange(days) + generator.integers(0, 7, (tests, 1))) // 7
        of_weeks = np.take_along_axis(generator.normal(size=(tests, days // 7 + 2)), week, axis=1)
        return np.sqrt(strength) * of_weeks + np.sqrt(1 - strength) * good
    for day in range(1, days):
        good[:, day] = strength * good[:, day - 1] + np.sqrt(1 - strength**2) * good[:, day]
    return good


def test_sets(generator: np.random.Generator, population: str, tests: int, days: int) -> dict[str, tuple[Pair, Floats]]:
    """The sums (tests, days, m) of each metric, with the pair that makes metrics of them.

    Days differ in their rows, in the share of positives, in how hard they are and in how much better the champion is.
    """
    gain, hard = (days_of(generator, population, tests, days) for _ in range(2))
    rows = np.round(np.exp(generator.normal(8, 0.3, (tests, days))))
    positives = 1 / (1 + np.exp(1.4 - 0.3 * hard))
    cells = generator.multinomial(rows.astype(int), _cells(positives, gain)).astype(float)
    loss, area = 0.3 * rows * np.exp(0.25 * hard), 0.85 * rows
    by_label = np.stack([rows * (1 - positives), rows * positives], axis=-1)
    values = [area, area - rows * (0.003 + 0.015 * gain), loss, loss * (1.01 + 0.05 * gain)]
    classes = np.concatenate([cells, by_label, np.stack(values, axis=-1)], axis=-1)
    square, none = rows * np.exp(0.6 * hard), np.zeros_like(rows)
    errors = [rows, none, rows, square, square * np.square(1.02 + 0.1 * gain), none, none]
    sums = dict.fromkeys(METRICS[:-1], (CLASSES, classes))
    return {**sums, "rmse": (VALUES, np.stack(errors, axis=-1))}


def _cells(positives: Floats, gain: Floats) -> Floats:
    """(tests, days, 8) the share of each cell (label, champion's answer, candidate's answer)."""
    found, lost, gained = 0.7, (0.1 + 0.04 * gain).clip(0, 0.3), (0.2 - 0.1 * gain).clip(0, 1)
    alarms, more, fewer = 0.06, (0.023 + 0.008 * gain).clip(0, 1), 0.3
    none = np.zeros_like(gain)
    shares = [
        (1 - positives) * (1 - alarms) * (1 - more), (1 - positives) * (1 - alarms) * more,
        (1 - positives) * alarms * (fewer + none), (1 - positives) * alarms * (1 - fewer + none),
        positives * (1 - found) * (1 - gained), positives * (1 - found) * gained,
        positives * found * lost, positives * found * (1 - lost),
    ]  # fmt: skip
    return np.stack(shares, axis=-1)


def differences(pair: Pair, metric: str, sums: Floats) -> Floats:
    """The difference (...) of sums (..., m)."""
    return pair.difference(metric, sums.reshape(-1, sums.shape[-1])).reshape(sums.shape[:-1])


def autocorrelation(series: Floats) -> Floats:
    """(tests,) how much each day's value resembles that of the day before, for (tests, days) values."""
    centred = series - series.mean(axis=1, keepdims=True)
    resemblance: Floats = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / np.square(centred).sum(axis=1)
    return resemblance


def influences_of(pair: Pair, metric: str, sums: Floats) -> tuple[Floats, Floats]:
    """The estimates (tests,), and how much each day (tests, days) moves them."""
    totals = sums.sum(axis=1, keepdims=True)
    estimates = differences(pair, metric, totals)
    return estimates[:, 0], (sums.shape[1] - 1) * (estimates - differences(pair, metric, totals - sums))


def bootstrap(generator: np.random.Generator, pair: Pair, metric: str, sums: Floats) -> Floats:
    """How far the lower end lies below the estimate: today's, the percentile bootstrap of days."""
    days = sums.shape[1]
    times = generator.multinomial(days, np.full(days, 1 / days), size=RESAMPLES).astype(float)
    lows = [
        np.percentile(differences(pair, metric, np.matmul(times, block)), 100 * ONE_SIDED_ERROR, axis=1)
        for block in np.array_split(sums, max(1, len(sums) // 100))
    ]
    return differences(pair, metric, sums.sum(axis=1)) - np.concatenate(lows)


def bootstrap_t(influences: Floats) -> Floats:
    """The quantile of Student's ratio over resampled days (Efron and Tibshirani 1993, chapter 12)."""
    days = influences.shape[1]
    times = np.random.default_rng(0).multinomial(days, np.full(days, 1 / days), size=RESAMPLES).astype(float)
    centred = influences - influences.mean(axis=1, keepdims=True)
    means, squares = centred @ times.T / days, np.square(centred) @ times.T / days
    ratios = means / np.sqrt((squares - np.square(means)).clip(1e-300) / (days - 1))
    return np.quantile(ratios, 1 - ONE_SIDED_ERROR, axis=1) * spread(influences, in_order=False)[0]


def independent_t(influences: Floats) -> Floats:
    return half_width(*spread(influences, in_order=False))


def ours(influences: Floats) -> Floats:
    return half_width(*spread(influences, in_order=True))


def autoregressive_t(influences: Floats) -> Floats:
    """AR(1) with the autocorrelation as it is seen: without correction, and not drawn to a typical one."""
    days, error = influences.shape[1], spread(influences, in_order=False)[0]
    seen = autocorrelation(influences)
    inflation = (1 + seen) / (1 - seen)
    return half_width(error * np.sqrt(inflation), days / inflation)


def fixed_b(influences: Floats) -> Floats:
    """Bartlett's sum over a week, with the critical value of Kiefer and Vogelsang (2005) for a one-sided 5 %."""
    days, lags = influences.shape[1], 7
    centred = influences - influences.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1)
    for lag in range(1, lags):
        variance += 2 * (1 - lag / lags) * (centred[:, lag:] * centred[:, :-lag]).sum(axis=1) / days
    share = lags / days
    critical = 1.6449 + 2.1859 * share + 0.3142 * share**2 - 0.3427 * share**3
    return critical * np.sqrt(variance / days)


def cosines(influences: Floats) -> Floats:
    """Equal weights on eight cosines, and Student's t of eight (Lazarus, Lewis, Stock and Watson 2018)."""
    days, number = influences.shape[1], 8
    waves = np.cos(np.pi * np.arange(1, number + 1)[:, None] * (np.arange(days) + 0.5) / days) * np.sqrt(2 / days)
    variance = np.square(influences @ waves.T).mean(axis=1)
    return student.ppf(1 - ONE_SIDED_ERROR, number) * np.sqrt(variance / days)


def weekly_t(influences: Floats) -> Floats:
    """Sums of blocks of seven days, which count as independent."""
    days = influences.shape[1]
    blocks = days // 7
    centred = influences - influences.mean(axis=1, keepdims=True)
    starts = np.round(np.linspace(0, days, blocks + 1)).astype(int)[:-1]
    squares = np.square(np.add.reduceat(centred, starts, axis=1)).sum(axis=1)
    return student.ppf(1 - ONE_SIDED_ERROR, blocks - 1) * np.sqrt(squares * blocks / (blocks - 1)) / days


BELOW: dict[str, Below] = {
    "bootstrap-t": bootstrap_t,
    "t, days independent": independent_t,
    "AR(1)-t as seen": autoregressive_t,
    "HAC, fixed b": fixed_b,
    "eight cosines": cosines,
    "weekly blocks": weekly_t,
    "ours": ours,
}
Cell = tuple[str, int, str]  # population, days, metric


def simulate(tests: int, lengths: tuple[int, ...]) -> dict[str, dict[Cell, tuple[Floats, Floats]]]:
    """For each interval and cell: how far the estimate lies above the truth, and how far its end below the estimate.

    Both are in true standard errors.
    """
    found: dict[str, dict[Cell, tuple[Floats, Floats]]] = {name: {} for name in ("percentile bootstrap", *BELOW)}
    for number, population in enumerate(POPULATIONS):
        generator = np.random.default_rng(number)
        large = test_sets(generator, population, DAYS_OF_THE_TRUTH // 1000, 1000)
        truth = {name: differences(pair, name, sums.sum(axis=(0, 1)))[()] for name, (pair, sums) in large.items()}
        for days in lengths:
            for name, (pair, sums) in test_sets(generator, population, tests, days).items():
                estimates, influences = influences_of(pair, name, sums)
                above, error = estimates - truth[name], estimates.std()
                found["percentile bootstrap"][population, days, name] = (
                    above / error, bootstrap(generator, pair, name, sums) / error,
                )  # fmt: skip
                for kind, below in BELOW.items():
                    found[kind][population, days, name] = above / error, below(influences) / error
    return found


def passes(above: Floats, below: Floats, drop: float, wider: float = 1.0) -> float:
    """The share of tests that pass: their lower end lies above the truth minus the drop."""
    return float((above - wider * below > -drop).mean())


def mean_over_metrics(of_cells: dict[Cell, float], days: int) -> list[float]:
    return [float(np.mean([of_cells[population, days, name] for name in METRICS])) for population in POPULATIONS]


def widening(cells: dict[Cell, tuple[Floats, Floats]], days: int, error: float) -> float:
    """By how much all intervals must be wider so that the worst population errs this often."""
    factors = np.linspace(0.2, 3, 281)
    worst = [
        max(mean_over_metrics({cell: passes(*seen, 0, factor) for cell, seen in cells.items()}, days))
        for factor in factors
    ]
    return float(factors[np.argmax(np.array(worst) <= error)])


def power_at(error: float, above: Floats, below: Floats) -> float:
    """The power of the interval if it is made so wide, for this cell alone, that it errs exactly this often."""
    return passes(above, below, DETECTABLE, float(np.quantile(above / below, 1 - error)))


def table(title: str, heads: list[str], rows: dict[str, list[str]]) -> None:
    print(f"\n{title}\n\n| interval | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def per_cent(share: float) -> str:
    return f"{100 * share:.1f}"


def measured_autocorrelations() -> list[str]:
    """Of the days' influences on each metric, the lowest and the highest, in every population."""
    cells = []
    for population in POPULATIONS:
        sets = test_sets(np.random.default_rng(9), population, 100, 1000)
        seen = [autocorrelation(influences_of(pair, name, sums)[1]).mean() for name, (pair, sums) in sets.items()]
        cells.append(f"{min(seen):.2f} to {max(seen):.2f}")
    return cells


def main(tests: int, lengths: tuple[int, ...]) -> None:
    heads, usual = [*POPULATIONS], 28
    table("Each day's influence against the one before", heads, {"autocorrelation": measured_autocorrelations()})
    found = simulate(tests, lengths)
    errors = {kind: {cell: passes(*seen, 0) for cell, seen in cells.items()} for kind, cells in found.items()}
    rows = {
        kind: [*map(per_cent, mean_over_metrics(cells, usual)), per_cent(max(cells.values()))]
        for kind, cells in errors.items()
    }
    title = f"One-sided error in per cent (nominal 5), 28 days, mean of {len(METRICS)} metrics; {tests:,} tests a cell"
    table(title, [*heads, f"worst of {len(errors['ours'])}"], rows)
    rows = {f"ours, {days} days": [*map(per_cent, mean_over_metrics(errors["ours"], days))] for days in lengths}
    table("The same by length", heads, rows)
    power = {kind: {cell: passes(*seen, DETECTABLE) for cell, seen in cells.items()} for kind, cells in found.items()}
    table(
        "Power in per cent for a candidate that equals the champion, 28 days", heads,
        {kind: [*map(per_cent, mean_over_metrics(cells, usual))] for kind, cells in power.items()},
    )  # fmt: skip
    worst = max(mean_over_metrics(errors["ours"], usual))
    rows = {}
    for kind, cells in found.items():
        wider = widening({cell: seen for cell, seen in cells.items() if cell[1] == usual}, usual, worst)
        shares = {cell: passes(*seen, DETECTABLE, wider) for cell, seen in cells.items()}
        rows[kind] = [f"{wider:.2f}", *map(per_cent, mean_over_metrics(shares, usual))]
    title = f"The same if each is made so wide that its worst population errs in {per_cent(worst)} per cent, as ours"
    table(title, ["wider", *heads], rows)
    rows = {}
    for kind, cells in found.items():
        shares = {cell: power_at(ONE_SIDED_ERROR, *seen) for cell, seen in cells.items()}
        rows[kind] = [*map(per_cent, mean_over_metrics(shares, usual))]
    table(
        "The same if each errs in 5.0 per cent of every population: in each, it is made as wide as needed", heads, rows
    )


if __name__ == "__main__":
    if "--full" in sys.argv:
        main(4000, (20, 28, 56, 90))
    else:
        main(600, (20, 28))
