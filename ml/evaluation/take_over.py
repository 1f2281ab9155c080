"""Whether the refit that serves is surely worse than its twin, the judged version, on days that neither has seen."""

from collections.abc import Sequence

import numpy as np

from ml.evaluation.gates import amount
from ml.evaluation.promise import standard_error_of
from ml.metrics.day_sums import DaySums, matrix
from ml.metrics.intervals import quantile
from ml.metrics.scores import LOWER_IS_BETTER, Floats, loss_of

MIN_DAYS = 20
# One-sided. Every night from the twentieth day on looks again: at the usual 0.95, a refit that is as good as its twin
# would be replaced within 100 days in 19 % of cases. At this level it is 1 % (4,000 simulated runs), and a refit that
# is worse by half a standard deviation of a day is found after 34 days in the median.
SURE = 0.998


def why_surely_worse(metric: str, refit: Sequence[DaySums], twin: Sequence[DaySums]) -> str | None:
    """Why the twin is to serve, as a clause; None if it is not sure. The days of both are the same, in order.

    The refit is surely worse if it is so in the use case's metric or in its loss (log loss, or RMSE), and is not better
    in the other of the two.
    """
    if len(refit) < MIN_DAYS:
        return None
    names = [
        name
        for name in dict.fromkeys((metric, loss_of(refit[0].kind)))
        if all(day.measures(name) for day in (*refit, *twin))
    ]
    differences = {name: _difference(name, refit, twin) for name in names}
    sure = [name for name, (_, highest) in differences.items() if highest < 0]
    if not sure or any(value > 0 for value, _ in differences.values()):
        return None
    name, days = sure[0], len(refit)
    value, highest = differences[name]
    seen, least = (amount(name, difference, signed=True) for difference in (value, highest))
    return f"its {name} differs by {seen} on {days} days, and surely by {least} at least"


def _difference(name: str, refit: Sequence[DaySums], twin: Sequence[DaySums]) -> tuple[float, float]:
    """By how much the refit is better, and the upper end of the one-sided interval of it; NaN where undefined.

    Of a loss it is a fraction of the twin's.
    """
    ours, theirs = matrix(refit), matrix(twin)

    def better(refits: Floats, twins: Floats) -> Floats:
        one, other = refit[0].metric(name, refits), twin[0].metric(name, twins)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (other - one) / other if name in LOWER_IS_BETTER else one - other

    sums = ours.sum(axis=0, keepdims=True), theirs.sum(axis=0, keepdims=True)
    value = better(*sums)
    error, independent = standard_error_of((len(ours) - 1) * (value - better(sums[0] - ours, sums[1] - theirs)))
    return float(value[0]), float(value[0] + quantile(independent, SURE) * error)
