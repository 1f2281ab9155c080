"""The result of a simulation: a row for each policy and for each kind of fault, and the served score by week."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ml.metrics.scores import LOWER_IS_BETTER
from ml.simulation.candidates import AHEAD, Candidate, Candidates, Told, Wanted, learn_all
from ml.simulation.faults import faults_for
from ml.simulation.nights import SimulatedNight
from ml.simulation.policies import EVERY_NIGHT, OURS, Judge, Policy, Step, decides, named_scores, policies_of, replay
from ml.simulation.served import (
    HARM,
    Compared,
    Served,
    Server,
    Serving,
    Units,
    by_week,
    compared,
    gain,
    pair_served,
    promotions,
    served,
    stretches,
)
from ml.simulation.source import SourceRows
from ml.use_case.definition import UseCase

BOUND = 0.05
UNITS: tuple[Units, ...] = ("day", "week")
COUNTED = ("nights", "promoted", "harmful")
HARMS_MUCH = 0.2  # of the nights on which every candidate is promoted


@dataclass(frozen=True, kw_only=True)
class PolicyRow:
    """How one policy served. `scores` is metric to score and difference from ours, by day and by week.

    `promotions` counts those that replaced a champion, `harmful` those of them that were worse by more than a point on
    the next 28 days, of `followed` that were followed by so many days.
    """

    policy: str
    words: str
    serving: Serving
    scores: dict[str, Compared]
    scores_by_week: dict[str, Compared]
    regret: dict[str, float]
    promotions: float
    followed: int
    harmful: int


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """What became of the nights with one kind of fault under one policy.

    Of `nights` candidates with the fault, `promoted` replaced the champion, and `harmful` of these were worse than it
    by more than a point on the next 28 clean days. `bound` is the upper 95 % bound of the harmful share.
    """

    fault: str
    policy: str
    serving: Serving
    nights: int
    promoted: int
    harmful: int
    bound: float


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Everything that a simulation tells."""

    use_case: str
    metrics: tuple[str, ...]
    first_night: str
    last_night: str
    nights: int
    every: int
    seeds: int
    first_served: str
    last_served: str
    rows: tuple[PolicyRow, ...]
    without_champion: tuple[str, ...]
    faults: tuple[FaultRow, ...] = ()
    weeks: dict[str, dict[str, float]] = field(default_factory=dict)


def metrics_of(use_case: UseCase) -> tuple[str, ...]:
    """The metrics that a table shows: the use case's own, and the one that fits everything that a model answers."""
    if use_case.target.kind == "regression":
        return tuple(dict.fromkeys((use_case.metric, "rmse")))
    return tuple(dict.fromkeys((use_case.metric, "log_loss")))


@dataclass
class Replays:
    """The replays of every policy, with every seed, over the same nights."""

    rows: SourceRows
    nights: Sequence[SimulatedNight]
    by_seed: Sequence[Sequence[Candidate]]
    judge: Judge = field(init=False)
    server: Server = field(init=False)
    policies: tuple[Policy, ...] = field(init=False)
    steps: dict[str, list[list[Step]]] = field(init=False)

    def __post_init__(self) -> None:
        self.judge = Judge(self.rows, named_scores(self.rows.use_case))
        self.server, self.policies = Server(self.rows), policies_of(self.rows.use_case)
        self.steps = {
            policy.name: [replay(policy, self.judge, self.nights, candidates) for candidates in self.by_seed]
            for policy in self.policies
        }

    @property
    def with_champion(self) -> list[Policy]:
        """The policies under which something served, with every seed."""
        return [policy for policy in self.policies if all(steps[-1].champion for steps in self.steps[policy.name])]

    def served(self, policy: str, serving: Serving) -> list[Served]:
        """What served under a policy, with each seed."""
        return [served(self.server, stretches(self.rows, steps), serving) for steps in self.steps[policy]]


def servings(use_case: UseCase, policy: str) -> tuple[Serving, ...]:
    """In which forms a policy's champions serve. Calibration and threshold are chosen for two classes only, and their
    choice does not depend on the policy: it is shown for two of them."""
    forms: tuple[Serving, ...] = ("judged", "refitted")
    if use_case.target.kind != "binary" or policy not in {OURS, EVERY_NIGHT}:
        return forms
    return ("judged", "judged uncalibrated", "refitted", "threshold anew", "calibration anew", "uncalibrated")


def simulate(
    candidates: Candidates, nights: Sequence[SimulatedNight], *, seeds: int, every: int, jobs: int,
    with_faults: bool, told: Mapping[str, Told],
) -> Simulation:  # fmt: skip
    """Learns the candidates of all nights, unless they are kept, and replays every policy."""
    rows = candidates.rows
    first_seed = rows.use_case.seed
    wanted = [Wanted(night, first_seed + number, None) for number in range(seeds) for night in nights]
    learnt = learn_all(candidates, wanted, jobs, told["candidates"])
    by_seed = [learnt[number * len(nights) : (number + 1) * len(nights)] for number in range(seeds)]
    replays = Replays(rows, nights, by_seed)
    faults: tuple[FaultRow, ...] = ()
    if with_faults:
        kinds = faults_for(len(rows.use_case.target.classes), len(rows.numbers))
        planted = [Wanted(night, first_seed, fault) for fault in kinds for night in nights if _is_followed(rows, night)]
        faulty = learn_all(candidates, planted, jobs, told["candidates with a fault"])
        faults = tuple(fault_rows(replays, planted, faulty))
    return _told(replays, every, faults)


def _is_followed(rows: SourceRows, night: SimulatedNight) -> bool:
    """Whether enough days follow the night to tell whether its candidate did harm."""
    return len(rows.days_between(str(night.as_of), rows.days[-1])) >= AHEAD


def _told(replays: Replays, every: int, faults: tuple[FaultRow, ...]) -> Simulation:
    rows, nights = replays.rows, replays.nights
    use_case, named = rows.use_case, replays.judge.named
    names = [policy.name for policy in replays.with_champion]
    forms = [(name, serving) for name in names for serving in servings(use_case, name)]
    all_served = {(name, serving): replays.served(name, serving) for name, serving in forms}
    start = max((one.start for ones in all_served.values() for one in ones), default=0)
    metrics = metrics_of(use_case)
    table = policy_rows(replays, all_served, start, metrics)
    weeks = {name: by_week(rows, start, all_served[name, "refitted"][0], metrics[0], named) for name in names}
    return Simulation(
        use_case=use_case.name,
        metrics=metrics,
        first_night=str(nights[0].as_of),
        last_night=str(nights[-1].as_of),
        nights=len(nights),
        every=every,
        seeds=len(replays.by_seed),
        first_served=rows.days[rows.day_numbers[start]],
        last_served=rows.days[-1],
        rows=tuple(table),
        without_champion=tuple(policy.name for policy in replays.policies if policy.name not in names),
        faults=faults,
        weeks=weeks,
    )


def policy_rows(
    replays: Replays, all_served: Mapping[tuple[str, Serving], list[Served]], start: int, metrics: Sequence[str]
) -> list[PolicyRow]:
    """A row for each policy and each form in which its champions serve, compared with ours, refitted."""
    policies = {policy.name: policy for policy in replays.policies}
    ours = all_served.get((OURS, "refitted"))
    scored: dict[tuple[str, Serving], tuple[dict[str, Compared], dict[str, Compared]]] = {}
    for which, ones in all_served.items():
        others, named = ours or ones, replays.judge.named
        pairs = [pair_served(replays.rows, start, ones, others, named, units) for units in UNITS]
        by_day, by_weeks = ({metric: compared(pair, metric, alone=not ours) for metric in metrics} for pair in pairs)
        scored[which] = by_day, by_weeks
    return [
        _policy_row(replays, policies[name], serving, *scores, regret=_regret(scores[0], scored, metrics))
        for (name, serving), scores in scored.items()
    ]


def _policy_row(
    replays: Replays, policy: Policy, serving: Serving, by_day: dict[str, Compared], by_weeks: dict[str, Compared],
    regret: dict[str, float],
) -> PolicyRow:  # fmt: skip
    made = [
        promotion
        for steps in replays.steps[policy.name]
        for promotion in promotions(replays.judge, replays.server, steps, serving)
    ]
    return PolicyRow(
        policy=policy.name,
        words=policy.words,
        serving=serving,
        scores=by_day,
        scores_by_week=by_weeks,
        regret=regret,
        promotions=len(made) / len(replays.by_seed),
        followed=sum(promotion.difference is not None for promotion in made),
        harmful=sum(promotion.harmful for promotion in made),
    )


def _regret(own: Mapping[str, Compared], scored: Mapping[Any, Any], metrics: Sequence[str]) -> dict[str, float]:
    """By how much a policy is worse than the best one, by metric; never negative."""
    regrets = {}
    for metric in metrics:
        values = [by_day[metric].value for by_day, _ in scored.values() if by_day[metric].value is not None]
        value = own[metric].value
        if value is not None:
            best = min(values) if metric in LOWER_IS_BETTER else max(values)
            regrets[metric] = abs(value - best)
    return regrets


def fault_rows(replays: Replays, planted: Sequence[Wanted], faulty: Sequence[Candidate]) -> list[FaultRow]:
    """What became of each kind of fault under each policy, judged against the policy's clean champion of that night."""
    counts: dict[tuple[str, str, Serving], list[bool | None]] = {}
    forms: tuple[Serving, ...] = ("judged", "refitted")

    @cache
    def gained(new: Candidate, champion: Candidate, serving: Serving) -> float:
        return gain(replays.judge, replays.server, new, champion, serving) or 0.0

    for policy in replays.with_champion:
        by_night = {step.night.as_of: step for step in replays.steps[policy.name][0]}
        for wanted, candidate in zip(planted, faulty, strict=True):
            assert wanted.fault is not None
            step = by_night[wanted.night.as_of]
            if step.before.champion is None:
                continue
            promoted = decides(policy, step.before.with_candidate(candidate))
            for serving in forms:
                harmful = gained(candidate, step.before.champion, serving) < -HARM if promoted else None
                counts.setdefault((wanted.fault.name, policy.name, serving), []).append(harmful)
    return [
        FaultRow(
            fault=fault, policy=policy, serving=serving, nights=len(outcomes),
            promoted=sum(outcome is not None for outcome in outcomes), harmful=sum(map(bool, outcomes)),
            bound=upper_bound(sum(map(bool, outcomes)), len(outcomes)),
        )
        for (fault, policy, serving), outcomes in counts.items()
    ]  # fmt: skip


def upper_bound(hits: int, tries: int) -> float:
    """The exact one-sided upper 95 % bound of a share (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    return float(betaincinv(hits + 1, tries - hits, 1 - BOUND)) if hits < tries else 1.0


def summed_faults(faults: Sequence[FaultRow], policy: str, serving: Serving) -> dict[str, FaultRow]:
    """The rows of a policy over all kinds of faults, and over those that harm a fifth of "every night"."""
    harmful_kinds = {
        row.fault for row in faults
        if (row.policy, row.serving) == (EVERY_NIGHT, serving) and row.harmful >= HARMS_MUCH * row.nights
    }  # fmt: skip
    kinds = {"all kinds": {row.fault for row in faults}, "kinds that harm": harmful_kinds}
    sums = {}
    for name, among in kinds.items():
        own = [row for row in faults if (row.policy, row.serving) == (policy, serving) and row.fault in among]
        nights, promoted, harmful = (sum(getattr(row, name) for row in own) for name in COUNTED)
        sums[name] = FaultRow(
            fault=name, policy=policy, serving=serving, nights=nights, promoted=promoted, harmful=harmful,
            bound=upper_bound(harmful, nights) if nights else 1.0,
        )  # fmt: skip
    return sums
