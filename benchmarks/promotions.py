"""A year of nightly promotions under several rules: `python benchmarks/promotions.py` in a minute, `--full` in some.

Every night has a candidate. Its true quality is normal, 0.5 points wide. Candidate and champion are compared on the
newest test days, 27 of which the night before had as well. The standard error of a difference on 28 days is 1 point;
days resemble the day before by 0.15, and candidates of neighbouring nights share half of their luck. A promotion is
*harmful* if the new champion is truly worse by more than a point. In a world that drifts, each day is worth a part of a
point to those who learnt it. In one that breaks it is 3 points, learnt over 60 days from the middle of the year on.
What is judged learnt up to its first test day, and what serves is refitted on all days of its night. `--picture FILE`
draws the frontier.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.metrics.intervals import half_width, spread

Floats = NDArray[np.float64]
NIGHTS, QUALITY, ERROR, USUAL_DAYS = 365, 0.5, 1.0, 28
AUTOCORRELATION, SHARED_LUCK = 0.15, 0.7  # a weight: half of the variance is that of the night before
BREAK = NIGHTS // 2


@dataclass
class Nights:
    """What a rule may look at tonight: differences (years, test days) in points, and each champion's nights so far."""

    differences: Floats
    nights: Floats
    night: int
    promotions: Floats

    @property
    def lower_end(self) -> Floats:
        return self.differences.mean(axis=1) - half_width(*spread(self.differences, in_order=True))

    @property
    def old_lower_end(self) -> Floats:
        """That of the percentile bootstrap, of which the normal interval is the limit."""
        error = self.differences.std(axis=1) / np.sqrt(self.differences.shape[1])
        return self.differences.mean(axis=1) - 1.645 * error


Rule = Callable[[Nights], NDArray[np.bool_]]


@dataclass(frozen=True)
class Policy:
    """Which candidates become champion; `test_days` is how many days they are judged on."""

    rule: Rule
    test_days: int = USUAL_DAYS


def allowed(drop: float) -> Rule:
    """The gate NotWorseThanChampion."""
    return lambda tonight: tonight.lower_end > -drop


def proof_while_young(nights: int) -> Rule:
    return lambda tonight: tonight.lower_end > np.where(tonight.nights < nights, 0.0, -1.0)


def once_in(nights: int) -> Rule:
    return lambda tonight: (tonight.lower_end > -1) & (tonight.nights >= nights)


def stricter_with_each(share: float) -> Rule:
    return lambda tonight: tonight.lower_end > -np.power(share, tonight.promotions)


POLICIES = {
    "every night": Policy(lambda tonight: np.ones(len(tonight.nights), bool)),
    "point comparison": Policy(lambda tonight: tonight.differences.mean(axis=1) > 0),
    "bootstrap, 1 point allowed (before)": Policy(lambda tonight: tonight.old_lower_end > -1),
    "bootstrap, proof of superiority": Policy(lambda tonight: tonight.old_lower_end > 0),
    "1 point allowed": Policy(allowed(1)),
    "0.7 points allowed": Policy(allowed(0.7)),
    "0.5 points allowed": Policy(allowed(0.5)),
    "proof of superiority": Policy(allowed(0)),
    "proof while younger than 28 nights": Policy(proof_while_young(28)),
    "proof while younger than 90 nights": Policy(proof_while_young(90)),
    "at most one promotion in 14 nights": Policy(once_in(14)),
    "at most one promotion in 28 nights": Policy(once_in(28)),
    "a tenth less allowed with each promotion": Policy(stricter_with_each(0.9)),
    "decided every 28 nights, on unused days": Policy(
        lambda tonight: (tonight.lower_end > -1) & (tonight.night % USUAL_DAYS == 0)
    ),
    "42 test days, 0.7 points allowed": Policy(allowed(0.7), 42),
    "56 test days, 1 point allowed": Policy(allowed(1), 56),
    "56 test days, 0.7 points allowed": Policy(allowed(0.7), 56),
    "56 test days, 0.5 points allowed": Policy(allowed(0.5), 56),
    "84 test days, 0.7 points allowed": Policy(allowed(0.7), 84),
}


# What is known to somebody who learnt up to a night, in points. The fastest drift is that of flights, which lost 12
# points of F1 in a year without retraining.
WORLDS: dict[str, Callable[[Floats], Floats]] = {
    "stays": np.zeros_like,
    "drifts 0.01": lambda nights: 0.01 * nights,
    "drifts 0.034": lambda nights: 0.034 * nights,
    "breaks": lambda nights: 3 * np.clip((nights - BREAK) / 60, 0, 1),
}


def luck_of_days(generator: np.random.Generator, years: int, days: int) -> Floats:
    """(years, days) by how much a model is better on each day than it is."""
    luck = generator.normal(size=(years, days))
    for day in range(1, days):
        luck[:, day] = _next_day(luck[:, day - 1], luck[:, day])
    return luck * _of_one_day()


def _next_day(before: Floats, fresh: Floats) -> Floats:
    return AUTOCORRELATION * before + np.sqrt(1 - AUTOCORRELATION**2) * fresh


def _of_one_day() -> float:
    """The standard deviation of one model on one day that gives a difference the error of the page."""
    lags = np.arange(1, USUAL_DAYS)
    inflation = 1 + 2 * np.sum((1 - lags / USUAL_DAYS) * AUTOCORRELATION**lags)
    return float(ERROR * np.sqrt(USUAL_DAYS / inflation / 2))


@dataclass(frozen=True)
class Year:
    """What comes of a policy: shares of years, promotions a year, and the mean quality that is served, in points.

    The last is 0 for a model of usual quality that has learnt everything up to tonight.
    """

    harmful: float
    promotions: float
    served: float
    served_without_refit: float


def year_of(policy: Policy, known: Callable[[Floats], Floats], years: int) -> Year:
    generator, days = np.random.default_rng(1), policy.test_days
    quality, learnt = generator.normal(0, QUALITY, years), np.zeros(years)  # up to which night the champion learnt
    luck, shared = (luck_of_days(generator, years, days) for _ in range(2))
    harmful, promotions, served = np.zeros(years, bool), np.zeros(years), np.zeros(2)
    for night in range(1, NIGHTS + 1):
        luck, shared = (_a_day_on(generator, of) for of in (luck, shared))
        own, candidate = luck_of_days(generator, years, days), generator.normal(0, QUALITY, years)
        candidates_luck = SHARED_LUCK * shared + np.sqrt(1 - SHARED_LUCK**2) * own
        tonight = np.full(years, float(night))
        better = candidate - quality + known(tonight - days) - known(learnt - days)
        differences = better[:, None] + candidates_luck - luck
        promoted = policy.rule(Nights(differences, tonight - learnt, night, promotions))
        harmful |= promoted & (better < -1)
        promotions = promotions + promoted
        quality, learnt = np.where(promoted, candidate, quality), np.where(promoted, tonight, learnt)
        luck = np.where(promoted[:, None], candidates_luck, luck)
        served += [(quality + known(up_to) - known(tonight)).mean() / NIGHTS for up_to in (learnt, learnt - days)]
    return Year(float(harmful.mean()), float(promotions.mean()), *map(float, served))


def _a_day_on(generator: np.random.Generator, luck: Floats) -> Floats:
    """The luck of the test days of the next night: the oldest day is gone, and a new one has come."""
    fresh = generator.normal(0, _of_one_day(), len(luck))
    return np.column_stack([luck[:, 1:], _next_day(luck[:, -1], fresh)])


def picture(found: dict[str, dict[str, Year]], file: str) -> None:
    """Harm in a world that stays against what is served in the one that drifts most."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "promotions"
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, worlds) in enumerate(found.items(), start=1):
        place = 100 * worlds["stays"].harmful, worlds["drifts 0.034"].served
        axes.plot(*place, "o" if POLICIES[name].test_days == USUAL_DAYS else "s", c="C0")
        axes.annotate(f" {number}", place, fontsize=8)
    axes.axvline(20, c="0.7", ls="--")
    axes.set_xlabel("years with a harmful promotion, in per cent, in a world that stays")
    axes.set_ylabel("points served in a world that drifts by 0.034 a night")
    figure.savefig(file, metadata={"Date": None})


def main(years: int) -> None:
    found = {
        name: {world: year_of(policy, known, years) for world, known in WORLDS.items()}
        for name, policy in POLICIES.items()
    }
    before, (stays, *moves) = found["bootstrap, 1 point allowed (before)"], WORLDS
    heads = ["harmful years", "promotions", f"served, {stays}", *(f"gained, {world}" for world in moves)]
    heads += [f"gained, {moves[0]}, no refit"]
    print(f"\n{years:,} years\n\n| | rule | {' | '.join(heads)} |\n| ---: | --- |{' ---: |' * len(heads)}")
    for number, (name, worlds) in enumerate(found.items(), start=1):
        gained = [worlds[world].served - before[world].served for world in moves]
        unrefitted = worlds[moves[0]].served_without_refit - before[moves[0]].served_without_refit
        points = (worlds[stays].served, *gained, unrefitted)
        cells = [f"{worlds[stays].harmful:.0%}", f"{worlds[stays].promotions:.0f}", *(f"{x:+.2f}" for x in points)]
        print(f"| {number} | {name} | {' | '.join(cells)} |")
    if "--picture" in sys.argv:
        picture(found, sys.argv[sys.argv.index("--picture") + 1])


if __name__ == "__main__":
    main(1000 if "--full" in sys.argv else 200)
