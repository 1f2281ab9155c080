"""How the models that served did: the curve of days, their score together, and whether a refit is worse than its twin.

The score of what served is that of the newest days, as many as a judgement has, whichever versions served on them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ml.evaluation.day_scores import (
    NEWEST_DAYS,
    DayScore,
    as_they_are,
    promises_in,
)
from ml.evaluation.promise import Band, Promise, relative_loss, score_of
from ml.evaluation.take_over import why_surely_worse
from ml.metrics.scores import LOWER_IS_BETTER
from ml.storage.ledger import AnyEntry
from ml.storage.records import Handle, Identity

Side = Literal["worse", "better"]


@dataclass(frozen=True, kw_only=True)
class ServedDay:
    """One day of the curve.

    `relative` is the loss relative to that of the best constant. `one_day` is where the day was promised to lie.
    `newest` is the score of the `days` newest days up to this one, and `promised` is where that was promised to lie.
    """

    day: str
    version: int
    rows: int
    score: float | None
    relative: float | None
    one_day: Band | None = None
    days: int = 1
    newest: float | None = None
    promised: Band | None = None


@dataclass(frozen=True, kw_only=True)
class ServedScore:
    """The score of what served on the newest days, beside what the judgements promised.

    `version` served on the last day, and `versions` is how many served on these days. `promised` is where the score was
    promised to lie, and `one_day` the same for any one day; None if nothing was promised. `outside` counts the days
    that were worse than promised for them. `left` is the day since which the score lies outside of what was promised
    without a break, and `left_side` says on which side; None if it lies inside.
    """

    version: int
    versions: int
    metric: str
    days: int
    rows: int
    first_day: str
    last_day: str
    score: float | None
    relative: float | None
    promised: Band | None
    one_day: Band | None
    outside: int
    left: str | None
    left_side: Side | None


@dataclass(frozen=True, kw_only=True)
class Served(Handle):
    """What the stage found: the score of what served, the curve, the judgement of the version that served last, and why
    days could not be scored. `twin` says what becomes of a refit that is surely worse than its twin, and `takes_over`
    whether that one takes over."""

    score: ServedScore | None = None
    curve: tuple[ServedDay, ...] = ()
    judgement: Promise | None = None
    unscored: tuple[tuple[str, str], ...] = ()
    twin: str | None = None
    takes_over: bool = False


def curve_of(
    days: Mapping[str, DayScore], metric: str, promises: Mapping[Identity, Promise], window: int
) -> tuple[ServedDay, ...]:  # fmt: skip
    """The curve of these days, which are in order. `window` is how many days have a score together.

    `promises` are by the judged version's identity. One that was given in another metric counts as none.
    """
    measured = [result for result in days.values() if result.served.measures(metric)]
    kept = {identity: promise for identity, promise in promises.items() if promise.metric == metric}
    return tuple(
        _point(measured[max(0, place - window + 1) : place + 1], metric, kept) for place in range(len(measured))
    )


def _point(newest: Sequence[DayScore], metric: str, promises: Mapping[Identity, Promise]) -> ServedDay:
    """The last of these days, and the score of all of them."""
    last = newest[-1]
    promise = promises.get(last.judged)
    return ServedDay(
        day=last.day,
        version=last.version,
        rows=last.served.rows,
        score=score_of(metric, [last.served]),
        relative=_relative([last]),
        one_day=promise.one_day() if promise else None,
        days=len(newest),
        newest=score_of(metric, [result.served for result in newest]),
        promised=_promised_together(newest, promises),
    )


def _promised_together(days: Sequence[DayScore], promises: Mapping[Identity, Promise]) -> Band | None:
    """Where the score of all of these days was promised to lie: the mean of the promises, weighted by rows.

    Their errors are counted as if they were one, for the judgements of neighbouring nights share most of their days.
    None if one of the versions promised nothing.
    """
    bands = [promise.several_days(len(days)) if (promise := promises.get(day.judged)) else None for day in days]
    known = [of_day for of_day in bands if of_day is not None]
    if len(known) < len(days):
        return None
    ends = np.average(
        [[of_day.low, of_day.high] for of_day in known], axis=0, weights=[day.served.rows for day in days]
    )
    return Band(low=float(ends[0]), high=float(ends[1]))


def score_of_newest(days: Mapping[str, DayScore], curve: Sequence[ServedDay], metric: str) -> ServedScore | None:
    """The score at the end of the curve; None if there is no day."""
    if not curve:
        return None
    last = curve[-1]
    points = curve[-last.days :]
    left, side = _since_when_outside(curve, metric)
    return ServedScore(
        version=last.version,
        versions=len({point.version for point in points}),
        metric=metric,
        days=last.days,
        rows=sum(point.rows for point in points),
        first_day=points[0].day,
        last_day=last.day,
        score=last.newest,
        relative=_relative([days[point.day] for point in points]),
        promised=last.promised,
        one_day=last.one_day,
        outside=sum(side_of(point.score, point.one_day, metric) == "worse" for point in points),
        left=left,
        left_side=side,
    )


def _since_when_outside(curve: Sequence[ServedDay], metric: str) -> tuple[str | None, Side | None]:
    """Since which day the score has been on this side of what was promised; None if it is as promised."""
    side = side_of(curve[-1].newest, curve[-1].promised, metric)
    if side is None:
        return None, None
    since = curve[-1].day
    for point in reversed(curve):
        if side_of(point.newest, point.promised, metric) != side:
            break
        since = point.day
    return since, side


def side_of(score: float | None, band: Band | None, metric: str) -> Side | None:
    """On which side of the interval the score lies; None if it lies inside, or if one of the two is not known."""
    if score is None or band is None or band.low <= score <= band.high:
        return None
    is_worse = score > band.high if metric in LOWER_IS_BETTER else score < band.low
    return "worse" if is_worse else "better"


def _relative(days: Sequence[DayScore]) -> float | None:
    """The loss on all of these days relative to that of the best constants that were learnt with the versions."""
    constants = [day.constant for day in days if day.constant is not None]
    return relative_loss([day.served for day in days], constants) if len(constants) == len(days) else None


def summary(
    results: Iterable[DayScore], entries: Sequence[AnyEntry], metric: str, window: int
) -> Served:  # fmt: skip
    """Curve and score of the newest days. `results` are oldest first, and `entries` are all of the ledger.

    Days that an operator excluded since are left out.
    """
    excluded = entries[-1].excluded if entries else {}
    days = {day: result for day, result in as_they_are(results).items() if day not in excluded}
    promises = promises_in(entries, {result.judged for result in days.values()})
    curve = curve_of(days, metric, promises, window)[-NEWEST_DAYS:]
    judgement = promises.get(days[curve[-1].day].judged) if curve else None
    return Served(score=score_of_newest(days, curve, metric), curve=curve, judgement=judgement)


def why_twin_is_better(results: Iterable[DayScore], head: AnyEntry, metric: str) -> str | None:
    """Why the champion's refit is surely worse than its twin, as a clause; None if it is not sure, or has no refit."""
    champion = head.champion
    if champion is None or champion.refit is None:
        return None
    days = as_they_are(results).values()
    own = [day for day in days if (day.judged, day.version) == (champion.identity, champion.served.version)]
    both = [(day.served, day.twin) for day in own if day.twin is not None and day.day not in head.excluded]
    return why_surely_worse(metric, [refit for refit, _ in both], [twin for _, twin in both])
