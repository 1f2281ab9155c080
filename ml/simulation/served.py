"""What would have served each day under a policy, how good it was, and which promotions did harm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from typing import Any, Literal

import numpy as np

from ml.evaluation.gates import Difference, metric_interval
from ml.metrics.intervals import Pair, make_pair
from ml.metrics.scores import Answers
from ml.metrics.thresholds import best_threshold
from ml.models.calibration import HeldOut, calibrated
from ml.serving.output import Output, probabilities
from ml.simulation.candidates import AHEAD, Candidate, logits_of
from ml.simulation.policies import Judge, Step, labels_of
from ml.simulation.source import SourceRows

HARM = 0.01  # points of a score, or a share of a loss
Serving = Literal["judged", "judged uncalibrated", "refitted", "threshold anew", "calibration anew", "uncalibrated"]
Units = Literal["day", "week"]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Days on which one candidate served: the rows of the source."""

    candidate: Candidate
    rows: slice


def stretches(rows: SourceRows, steps: Sequence[Step]) -> list[Stretch]:
    """Who served which rows. A night's champion serves from its date on, until the next simulated night."""
    found: list[Stretch] = []
    ends = [*(_first_row(rows, step.night.as_of) for step in steps[1:]), len(rows.y)]
    for step, end in zip(steps, ends, strict=True):
        if step.champion is not None:
            found.append(Stretch(candidate=step.champion, rows=slice(_first_row(rows, step.night.as_of), end)))
    return [stretch for stretch in found if stretch.rows.stop > stretch.rows.start]


def _first_row(rows: SourceRows, day: date) -> int:
    return int(rows.between(str(day), str(date.max)).start)


class Server:
    """The answers of candidates in the form in which they would serve.

    That is as judged, or refitted with the calibration and the threshold of the judged model. In the other forms one of
    the two is another: the newest labelled days choose it anew by the answers of the judged model, which has not seen
    these days, or there is no calibration. A calibration changes the probabilities, and no answer of yes or no.
    """

    def __init__(self, rows: SourceRows) -> None:
        self.rows = rows
        self._output = cache(self._chosen_anew)

    def answers(self, stretch: Stretch, serving: Serving) -> Answers:
        """The answers to the rows of a stretch."""
        own = serving in {"judged", "refitted"}
        output = None if own else self._output(stretch.candidate, serving)
        return stretch.candidate.answers(stretch.rows, refitted=not serving.startswith("judged"), output=output)

    def _chosen_anew(self, candidate: Candidate, serving: Serving) -> Output:
        """The output of a form that is not the candidate's own."""
        kept, newest = candidate.kept.output, candidate.night.test
        if serving.endswith("uncalibrated"):
            return _with_calibration(kept, {})
        answers, y = candidate.answers(newest, refitted=False), labels_of(self.rows, newest)
        assert answers.probability is not None
        probability = answers.probability[:, 1]
        if serving == "threshold anew":
            use_case = self.rows.use_case
            return replace(kept, threshold=best_threshold(use_case.threshold or use_case.metric, y, probability))
        days = self.rows.day_names[newest]
        held_out = HeldOut(kept.kind, logits_of(kept, probability)[:, None], y, days, in_order=True)
        return _with_calibration(kept, calibrated(held_out, self.rows.use_case.calibration, probable=True))


def _with_calibration(output: Output, fields: dict[str, Any]) -> Output:
    """Another calibration, and the threshold that answers the same rows with yes."""
    cut = logits_of(output, np.array([[output.threshold]]))
    other = replace(Output(kind=output.kind, classes=output.classes), **fields)
    return replace(other, threshold=float(probabilities(other, cut)[0, 1]))


@dataclass(frozen=True, kw_only=True)
class Served:
    """The answers that served the rows of the source from the row `start` on."""

    start: int
    answers: Answers


def served(server: Server, found: Sequence[Stretch], serving: Serving) -> Served:
    """All that served, one day after the other."""
    parts = [server.answers(stretch, serving) for stretch in found]
    chosen = np.concatenate([part.chosen for part in parts])
    probabilities = [part.probability for part in parts if part.probability is not None]
    return Served(
        start=found[0].rows.start,
        answers=Answers(chosen, np.concatenate(probabilities) if probabilities else None),
    )


def since(one: Served, start: int, end: int | None = None) -> Answers:
    """The answers from the row `start` on, before the row `end`."""
    own, probability = slice(start - one.start, end and end - one.start), one.answers.probability
    return Answers(one.answers.chosen[own], None if probability is None else probability[own])


def pair_served(
    rows: SourceRows, start: int, served_ones: Sequence[Served], others: Sequence[Served], named: Sequence[str],
    units: Units = "day",
) -> Pair:  # fmt: skip
    """What served under two policies, paired by day, or by week. Each list has what served with each of the seeds."""
    target = rows.use_case.target
    y = labels_of(rows, slice(start, len(rows.y)))
    names = np.array([_unit(day, units) for day in rows.days], dtype=object)[rows.day_numbers[start:]]
    seeds = len(served_ones)
    one, other = (_joined([since(each, start) for each in side]) for side in (served_ones, others))
    return make_pair(
        target.kind,
        len(target.classes),
        np.tile(y, seeds),
        one,
        other,
        np.tile(names, seeds),
        tuple(named),
        in_order=True,
    )


def _unit(day: str, units: Units) -> str:
    year, week, _ = date.fromisoformat(day).isocalendar()
    return day if units == "day" else f"{year}-{week:02}"


def _joined(parts: Sequence[Answers]) -> Answers:
    probabilities = [part.probability for part in parts if part.probability is not None]
    return Answers(
        np.concatenate([part.chosen for part in parts]), np.concatenate(probabilities) if probabilities else None
    )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A policy's score over all served days, and by how much it is better than the policy that it is compared with."""

    value: float | None
    difference: float | None
    low: float | None
    high: float | None


def compared(pair: Pair, metric: str, *, alone: bool = False) -> Compared:
    """The score of the pair's candidate with its difference to the other; the score `alone` if there is no other."""
    if alone:
        score = metric_interval(pair, metric, "candidate").value
        return Compared(value=score, difference=None, low=None, high=None)
    difference = Difference.of(pair, metric)
    figures = {"difference": difference.value, "low": difference.low, "high": difference.high}
    return Compared(
        value=metric_interval(pair, metric, "candidate").value,
        **{name: float(figure) if np.isfinite(figure) else None for name, figure in figures.items()},
    )


def by_week(rows: SourceRows, start: int, one: Served, metric: str, named: Sequence[str]) -> dict[str, float]:
    """The score of what served in each week, by the week's first day; weeks in which it is undefined are left out."""
    days = [*rows.days_between(rows.days[rows.day_numbers[start]], rows.days[-1])]
    scores = {}
    for first, last in ((days[n], days[min(n + 6, len(days) - 1)]) for n in range(0, len(days), 7)):
        part = rows.between(first, last)
        answers = since(one, part.start, part.stop)
        target, units = rows.use_case.target, rows.day_names[part]
        pair = make_pair(target.kind, len(target.classes), labels_of(rows, part), answers, answers, units, tuple(named))
        value = float(pair.metric(metric, "candidate", pair.totals())[0])
        if np.isfinite(value):
            scores[first] = value
    return scores


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A promotion that replaced a champion: by how much the new one is better on the next 28 days with rows.

    None if fewer days follow, or if the metric is undefined on them.
    """

    as_of: date
    difference: float | None

    @property
    def harmful(self) -> bool:
        """Whether it is worse by more than a point, or of a loss by more than one per cent."""
        return self.difference is not None and self.difference < -HARM


def promotions(judge: Judge, server: Server, steps: Sequence[Step], serving: Serving) -> list[Promotion]:
    """Every promotion of a replay that replaced a champion."""
    replacing = [step.before for step in steps if step.promoted and step.before.champion is not None]
    return [
        Promotion(as_of=before.night.as_of, difference=gain(judge, server, before.candidate, before.champion, serving))
        for before in replacing
        if before.champion is not None
    ]


def gain(judge: Judge, server: Server, new: Candidate, champion: Candidate, serving: Serving) -> float | None:
    """By how much a candidate is better than the champion on the next 28 days with rows; None if fewer follow."""
    rows = judge.rows
    days = rows.days_between(str(new.night.as_of), rows.days[-1])[:AHEAD]
    if len(days) < AHEAD:
        return None
    part = rows.between(days[0], days[-1])
    one, other = (server.answers(Stretch(candidate=who, rows=part), serving) for who in (new, champion))
    pair = judge.paired(part, one, other)
    difference = float(pair.difference(rows.use_case.metric, pair.totals())[0])
    return difference if np.isfinite(difference) else None
