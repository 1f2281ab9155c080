"""What a judgement promises of the days that a model will serve.

From the scores on the judged days follow two prediction intervals: one for any single day, and one for the score of
several days together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ml.metrics.day_sums import DaySums, matrix
from ml.metrics.intervals import quantile, spread
from ml.metrics.scores import RANGES, Floats, loss_of

FEWEST_DAYS = 7  # with fewer judged days nothing is promised
ONE_DAY = 0.95  # one-sided: nine of ten days lie within the interval for one day
# One-sided. The score of the newest days is looked at every night: at 0.95, half of the models that keep their promise
# would leave it within a year. At this level 6 % do, and 12 % if neighbouring days correlate by 0.15 more than the
# standard error assumes (28 judged days, 4,000 simulated years).
SEVERAL_DAYS = 0.998


@dataclass(frozen=True, kw_only=True)
class JudgedDay:
    """One day of the judgement: its rows, the model's score, and its loss relative to that of the best constant."""

    rows: int
    score: float | None
    relative: float | None


@dataclass(frozen=True, kw_only=True)
class Band:
    """An interval in which a score is expected."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the judged days say: the score on all of them with its standard error, and the scores of single days.

    `independent` is how many independent days the judged days equal. `mean` and `spread` are the mean and the standard
    deviation of the scores of single days. `error` is None, and nothing is promised, where too few days have a score.
    """

    metric: str
    value: float | None
    error: float | None
    independent: float | None
    mean: float | None
    spread: float | None
    days: dict[str, JudgedDay] = field(default_factory=dict)

    def one_day(self) -> Band | None:
        """Where nine of ten days are expected; None if nothing is promised."""
        if self.error is None or self.mean is None or self.spread is None:
            return None
        count = sum(day.score is not None for day in self.days.values())
        return band(self.metric, self.mean, quantile(count, ONE_DAY) * self.spread * np.sqrt(1 + 1 / count))

    def several_days(self, days: int) -> Band | None:
        """Where the score of so many days together is expected; None if nothing is promised.

        Its error is that of the judgement and that of so many days.
        """
        if self.error is None or self.value is None or self.independent is None:
            return None
        error = self.error * np.sqrt(1 + len(self.days) / days)
        return band(self.metric, self.value, quantile(self.independent, SEVERAL_DAYS) * error)


def promise_of(metric: str, model: Mapping[str, DaySums], constant: Mapping[str, DaySums]) -> Promise:
    """The promise that follows from the sums of the model and of the best constant on each judged day."""
    sums = list(model.values())
    scores = day_scores(metric, sums)
    defined = scores[np.isfinite(scores)]
    error, independent = standard_error(metric, sums) if len(defined) >= FEWEST_DAYS else (None, None)
    return Promise(
        metric=metric,
        value=score_of(metric, sums),
        error=error,
        independent=independent,
        mean=float(defined.mean()) if len(defined) else None,
        spread=float(defined.std(ddof=1)) if len(defined) > 1 else None,
        days={
            day: JudgedDay(rows=of_day.rows, score=plain(score), relative=relative_loss([of_day], [constant[day]]))
            for (day, of_day), score in zip(model.items(), scores, strict=True)
        },
    )


def standard_error(metric: str, days: Sequence[DaySums]) -> tuple[float | None, float | None]:
    """The standard error of the score on these days, and how many independent days they equal; None if undefined.

    The influence of a day is how much the score would change without it (jackknife).
    """
    sums, count = matrix(days), len(days)
    totals = sums.sum(axis=0, keepdims=True)
    influences = (count - 1) * (days[0].metric(metric, totals) - days[0].metric(metric, totals - sums))
    if not np.isfinite(influences).all():
        return None, None
    return standard_error_of(influences)


def standard_error_of(influences: Floats) -> tuple[float, float]:
    """The standard error of the mean of the influences of days (days,) in their order, and how many independent days
    they equal."""
    error, independent = spread(influences, in_order=True)
    return float(error), float(independent)


def day_scores(metric: str, days: Sequence[DaySums]) -> Floats:
    """(days,) the score of each day by itself; NaN where it is undefined."""
    return days[0].metric(metric, matrix(days))


def score_of(metric: str, days: Sequence[DaySums]) -> float | None:
    """The score on the rows of all of these days; None if it is undefined."""
    return plain(days[0].metric(metric, matrix(days).sum(axis=0, keepdims=True))[0])


def relative_loss(model: Sequence[DaySums], constant: Sequence[DaySums]) -> float | None:
    """The model's log loss as a fraction of the constant's on the same days, of a regression its squared error.

    None where it is undefined.
    """
    metric = loss_of(model[0].kind)
    if not all(sums.measures(metric) for sums in (*model, *constant)):
        return None
    own, other = score_of(metric, model), score_of(metric, constant)
    if own is None or not other:
        return None
    return plain((own / other) ** 2 if metric == "rmse" else own / other)


def band(metric: str, middle: float, width: float) -> Band:
    """The interval around the middle, as far as the metric has such values."""
    low, high = np.clip([middle - width, middle + width], *RANGES[metric])
    return Band(low=float(low), high=float(high))


def plain(value: float) -> float | None:
    """The value; None if it is undefined."""
    return float(value) if np.isfinite(value) else None
