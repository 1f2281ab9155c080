"""Policies for promoting candidates, and their replay over a year of nights.

A policy sees what a night of the pipeline sees: the candidate and the champion on the same test rows, each by its
judged model. Policies with gates go through the pipeline's own gates and decision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property

import numpy as np
import pandas as pd

from ml.data.cleaning import LABEL
from ml.evaluation.baselines import best_constant, best_rule
from ml.evaluation.decision import comparability, decide
from ml.evaluation.gates import Evidence, Gate, MinMetric, NotSurelyWorse
from ml.evaluation.handles import Verdict
from ml.evaluation.source_evidence import SourceEvidence
from ml.metrics.intervals import Pair, make_pair
from ml.metrics.scores import PROBABILITY_SCORES, Answers, Floats
from ml.pipeline.evaluate import proved_better, verdict_of
from ml.simulation.candidates import Candidate
from ml.simulation.nights import SimulatedNight
from ml.simulation.source import SourceRows
from ml.storage.records import Champion
from ml.use_case.definition import UseCase

NO_TREES = {"trees": "a simulation fits no default trees"}
NOTHING_CHANGED = SourceEvidence()  # nobody can be asked: a simulation takes the source as it is
WEEK, MONTH = 7, 28  # days


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a policy decides about: tonight's candidate, and the champion and the reference so far."""

    judge: "Judge"
    night: SimulatedNight
    candidate: Candidate
    champion: Candidate | None
    reference: Candidate | None
    promoted_on: date | None

    @cached_property
    def against_champion(self) -> Pair:
        """Candidate and champion on tonight's test rows."""
        assert self.champion is not None
        return self.judge.pair(self.night, self.candidate, self.champion)

    def with_candidate(self, candidate: Candidate) -> "Situation":
        """The same night with another candidate."""
        return replace(self, candidate=candidate)

    def days_since_promotion(self) -> int:
        """How many days ago the champion was promoted."""
        assert self.promoted_on is not None
        return (self.night.as_of - self.promoted_on).days


Promotes = Callable[[Situation], bool]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A rule for promoting. `first` says whether a candidate may be the first champion, `promotes` whether it replaces
    the champion. `with_reference`: the rule compares with the reference too."""

    name: str
    words: str
    promotes: Promotes
    first: Promotes = lambda _: True
    with_reference: bool = False


@dataclass(frozen=True)
class Judge:
    """Pairs predictors on test rows and asks gates. Each pair and each verdict is made once."""

    rows: SourceRows
    named: tuple[str, ...]

    @cached_property
    def _pairs(self) -> dict[tuple[str, str, date], Pair]:
        return {}

    @cached_property
    def _verdicts(self) -> dict[tuple[object, ...], Verdict]:
        return {}

    @cached_property
    def _baselines(self) -> dict[tuple[str, date], Answers | None]:
        return {}

    def pair(self, night: SimulatedNight, candidate: Candidate, other: Candidate) -> Pair:
        """The judged models of two candidates on the night's test rows."""
        key = candidate.name, other.name, night.as_of
        if key not in self._pairs:
            answers = (one.answers(night.test, refitted=False) for one in (candidate, other))
            self._pairs[key] = self.paired(night.test, *answers)
        return self._pairs[key]

    def paired(self, rows: slice, candidate: Answers, other: Answers) -> Pair:
        """Two predictors' answers to rows of the source, with days as units."""
        use_case = self.rows.use_case
        y = labels_of(self.rows, rows)
        classes = len(use_case.target.classes)
        units = self.rows.day_names[rows]
        return make_pair(use_case.target.kind, classes, y, candidate, other, units, self.named, in_order=True)

    def baseline(self, who: str, night: SimulatedNight) -> Answers | None:
        """The answers of the best constant or the best one-column rule to the test rows; None if there is no rule."""
        key = who, night.as_of
        if key not in self._baselines:
            self._baselines[key] = _baseline_answers(self.rows, who, night)
        return self._baselines[key]

    def verdict(self, gate: Gate, situation: Situation) -> Verdict:
        """The gate's verdict on the night's candidate."""
        opponents = [one and one.name for one in (situation.champion, situation.reference)]
        key = gate, situation.candidate.name, situation.night.as_of, *opponents
        if key not in self._verdicts:
            self._verdicts[key] = verdict_of(gate, self.evidence(situation, gate.opponent))
        return self._verdicts[key]

    def evidence(self, situation: Situation, opponent: str) -> Evidence:
        """The evidence about one opponent of the candidate, as a night would have it."""
        night, pairs, absent, incomparable = situation.night, {}, {}, {}
        for who, model in (("champion", situation.champion), ("reference", situation.reference)):
            if model is None:
                absent[who] = f"there is no {who} yet"
            elif reason := comparability(self.record(model), night.test_day, self.rows.use_case.target.digest, "", who):
                incomparable[who] = reason
            else:
                pairs[who] = self.pair(night, situation.candidate, model)
        if opponent in {"constant", "rule"} and (answers := self.baseline(opponent, night)) is not None:
            judged = situation.candidate.answers(night.test, refitted=False)
            pairs[opponent] = self.paired(night.test, judged, answers)
        return Evidence(
            unit="day",
            pairs=pairs,
            not_applicable=absent | NO_TREES,
            not_comparable=incomparable,
            source=NOTHING_CHANGED,
        )

    def record(self, candidate: Candidate) -> Champion:
        """The candidate as the ledger would name it."""
        kept = candidate.kept
        return Champion(
            version=0, run_id=candidate.name, as_of=kept.as_of, fit_until=kept.fit_until,
            target_digest=self.rows.use_case.target.digest, split_digest="", folder="", files=(),
        )  # fmt: skip

    def proved_better(self, situation: Situation) -> bool:
        """Whether a promoted candidate becomes the reference too."""
        return proved_better(self.rows.use_case.metric, self.evidence(situation, "champion"))


def labels_of(rows: SourceRows, part: slice) -> Floats:
    """(rows,) the labels in the target's own unit."""
    return np.exp(rows.y[part]) if rows.use_case.target.log else rows.y[part]


def _baseline_answers(rows: SourceRows, who: str, night: SimulatedNight) -> Answers | None:
    use_case, labels = rows.use_case, labels_of(rows, night.train)
    if who == "constant":
        return best_constant(use_case, labels).answers(_numbers(rows, night.test))
    rule = best_rule(use_case, _numbers(rows, night.train).assign(**{LABEL: labels}))
    return None if rule is None else rule.answers(_numbers(rows, night.test))


def _numbers(rows: SourceRows, part: slice) -> pd.DataFrame:
    return pd.DataFrame(rows.x[part][:, : len(rows.numbers)], columns=list(rows.numbers))


def by_gates(gates: Sequence[Gate]) -> Promotes:
    """Promotes what the pipeline's gates and decision promote."""

    def promotes(situation: Situation) -> bool:
        judge, champion = situation.judge, situation.champion
        verdicts = [judge.verdict(gate, situation) for gate in gates]
        decision, _ = decide(verdicts, None if champion is None else judge.record(champion), situation.night.as_of)
        return decision in {"FIRST", "PROMOTE"}

    return promotes


def _point_not_worse(metric: str) -> Promotes:
    def promotes(situation: Situation) -> bool:
        pair = situation.against_champion
        return bool(pair.difference(metric, pair.totals())[0] >= 0)

    return promotes


def _every_days(days: int) -> Promotes:
    return lambda situation: situation.days_since_promotion() >= days


def gated(name: str, words: str, gates: Sequence[Gate]) -> Policy:
    """The policy that promotes, first and later, what these gates allow."""
    with_reference = any(gate.opponent == "reference" for gate in gates)
    promotes = by_gates(gates)
    return Policy(name=name, words=words, promotes=promotes, first=promotes, with_reference=with_reference)


OURS, EVERY_NIGHT, METRIC_ALONE = "ours", "every night", "metric alone"


def policies_of(use_case: UseCase) -> tuple[Policy, ...]:
    """The policies that are compared. All but those with gates take the first candidate as their first champion."""
    gates, metric = use_case.gates, use_case.metric
    floor_first = [replace(gate, first_only=True) if isinstance(gate, MinMetric) else gate for gate in gates]
    alone = [gate for gate in floor_first if gate.opponent not in {"champion", "reference"}]
    unless_worse = [*alone, NotSurelyWorse(metric=metric, why="what the test rows cannot tell is allowed")]
    on_metric = [gate for gate in gates if gate.metric in {metric, ""}]
    loss = "log_loss" if use_case.target.kind != "regression" else metric
    point_and_gate = _both(_point_not_worse(loss), by_gates([NotSurelyWorse(metric=metric, why="")]))
    return (
        Policy(name="never", words="the first candidate serves for ever", promotes=lambda _: False),
        Policy(name=EVERY_NIGHT, words="every candidate is promoted", promotes=lambda _: True),
        Policy(name="weekly", words="a candidate a week is promoted", promotes=_every_days(WEEK)),
        Policy(name="monthly", words="a candidate every 28 days is promoted", promotes=_every_days(MONTH)),
        Policy(name="point score", words=f"{metric} is not worse", promotes=_point_not_worse(metric)),
        gated(OURS, "the gates of the use case", gates),
        gated(METRIC_ALONE, f"the gates on {metric} and on no other metric", on_metric),
        gated("unless surely worse", "promoted unless surely worse than the champion", unless_worse),
        Policy(name="point loss", words=f"{loss} is not worse, and {metric} not surely worse", promotes=point_and_gate),
    )  # fmt: skip


def _both(one: Promotes, other: Promotes) -> Promotes:
    return lambda situation: one(situation) and other(situation)


def named_scores(use_case: UseCase) -> tuple[str, ...]:
    """The scores of probabilities that gates, policies and tables need."""
    if use_case.target.kind == "regression":
        return ()
    named = {use_case.metric, "log_loss", *(gate.metric for gate in use_case.gates)}
    return tuple(name for name in PROBABILITY_SCORES if name in named)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One night of a replay: what stood before it, and whether the night's candidate was promoted."""

    night: SimulatedNight
    before: Situation
    promoted: bool

    @property
    def champion(self) -> Candidate | None:
        """Who is champion after the night."""
        return self.before.candidate if self.promoted else self.before.champion


def replay(
    policy: Policy, judge: Judge, nights: Sequence[SimulatedNight], candidates: Sequence[Candidate]
) -> list[Step]:
    """What the policy would have promoted, night by night."""
    steps: list[Step] = []
    champion: Candidate | None = None
    reference: Candidate | None = None
    promoted_on: date | None = None
    for night, candidate in zip(nights, candidates, strict=True):
        situation = Situation(
            judge=judge, night=night, candidate=candidate, champion=champion, reference=reference,
            promoted_on=promoted_on,
        )  # fmt: skip
        promoted = decides(policy, situation)
        if promoted:
            if policy.with_reference and (champion is None or judge.proved_better(situation)):
                reference = candidate
            champion, promoted_on = candidate, night.as_of
        steps.append(Step(night=night, before=situation, promoted=promoted))
    return steps


def decides(policy: Policy, situation: Situation) -> bool:
    """Whether the policy promotes the candidate."""
    return policy.first(situation) if situation.champion is None else policy.promotes(situation)
