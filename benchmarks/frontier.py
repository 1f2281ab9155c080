"""Which gates to ship: `python benchmarks/frontier.py [--phases 8:0,16:8,24:0] [SET ...]` prints a table for each set.

Replays many sets of gates over the candidates that `benchmarks/gates.py` has learnt, and learns none itself. A single
year of promotions is a matter of luck, so each policy is replayed over several phases of the kept nights (every so many
nights, from an offset on), and what served is stacked. Scores are compared with the best policy's on the same days.
Faults are those of the first phase. Gates are chosen on the two sets of flights; the others only report.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from gates import SETS, project  # type: ignore[import-not-found]  # the script beside this one

from ml import BetterThanTrivial, Gate, NotSurelyWorse, NotWorseThanChampion, NotWorseThanReference
from ml.metrics.scores import LOWER_IS_BETTER
from ml.simulation.candidates import Candidate, Candidates, Wanted
from ml.simulation.faults import faults_for
from ml.simulation.nights import SimulatedNight, nights_of
from ml.simulation.policies import (
    EVERY_NIGHT,
    OURS,
    Judge,
    Policy,
    Step,
    decides,
    gated,
    named_scores,
    policies_of,
    replay,
)
from ml.simulation.report import metrics_of, upper_bound
from ml.simulation.served import HARM, Compared, Served, Server, compared, gain, pair_served, served, stretches
from ml.simulation.source import SourceRows, read_source
from tasks.site import open_site

WHY = "a benchmark"
USUAL = ("never", EVERY_NIGHT, OURS)
Phase = tuple[Sequence[SimulatedNight], Sequence[Candidate]]


def policies(metric: str) -> list[Policy]:
    """Gates that are compared, by what they allow: `f1 0.02, log_loss 0.03` is a proof for both metrics."""

    def proof(name: str, allowed: float) -> Gate:
        return NotWorseThanChampion(metric=name, max_drop=allowed, why=WHY)

    surely, surely_loss = (NotSurelyWorse(metric=name, why=WHY) for name in (metric, "log_loss"))
    reference = NotWorseThanReference(metric=metric, max_drop=0.02, why=WHY)
    losses = (0.01, 0.02, 0.03)
    sets: dict[str, list[Gate]] = {
        f"{metric} 0.01, reference 0.02": [proof(metric, 0.01), reference],
        "not surely worse": [surely],
        "neither surely worse": [surely, surely_loss],
        **{f"{metric} {one:g}": [proof(metric, one)] for one in (0.01, 0.02)},
        **{f"log_loss {one:g}, {metric} not surely worse": [proof("log_loss", one), surely] for one in losses},
        **{
            f"{metric} {one:g}, log_loss {other:g}": [proof(metric, one), proof("log_loss", other)]
            for one, other in ((0.02, 0.02), (0.02, 0.03), (0.03, 0.03))
        },
    }  # fmt: skip
    trivial = BetterThanTrivial(metric=metric, why=WHY)
    return [gated(name, name, [trivial, *gates]) for name, gates in sets.items()]


@dataclass(frozen=True)
class Frontier:
    """The replays of one set."""

    rows: SourceRows
    phases: Sequence[Phase]
    faulty: Sequence[tuple[Wanted, Candidate]]

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.rows, tuple(dict.fromkeys((*named_scores(self.rows.use_case), "log_loss"))))

    @cached_property
    def server(self) -> Server:
        return Server(self.rows)

    @cached_property
    def gained(self) -> Callable[[Candidate, Candidate], float | None]:
        return cache(lambda new, old: gain(self.judge, self.server, new, old, "refitted"))

    @cached_property
    def policies(self) -> dict[str, Policy]:
        calendar = [policy for policy in policies_of(self.rows.use_case) if policy.name in USUAL]
        return {policy.name: policy for policy in (*calendar, *policies(self.rows.use_case.metric))}

    @cached_property
    def steps(self) -> dict[str, list[list[Step]]]:
        """What each policy did in each phase; a policy under which nothing ever served is left out."""
        every = {
            name: [replay(one, self.judge, *phase) for phase in self.phases] for name, one in self.policies.items()
        }
        return {name: steps for name, steps in every.items() if all(phase[-1].champion for phase in steps)}

    @cached_property
    def served(self) -> dict[str, list[Served]]:
        return {
            name: [served(self.server, stretches(self.rows, phase), "refitted") for phase in steps]
            for name, steps in self.steps.items()
        }

    def compared(self, one: str, other: str, metric: str) -> Compared:
        """What served under a policy against what served under another, on the days on which all have a champion."""
        start = max(each.start for stacked in self.served.values() for each in stacked)
        return compared(pair_served(self.rows, start, self.served[one], self.served[other], self.judge.named), metric)

    def promotions(self, name: str) -> tuple[int, int]:
        """How many promotions were followed by 28 days, and how many of these did harm."""
        made = [step.before for phase in self.steps[name] for step in phase if step.promoted and step.before.champion]
        gains = [self.gained(one.candidate, one.champion) for one in made if one.champion]
        known = [one for one in gains if one is not None]
        return len(known), sum(one < -HARM for one in known)

    def faults(self, name: str) -> tuple[int, int, int]:
        """Nights with a fault, how many of these candidates are promoted, and how many of those do harm."""
        by_night = {step.night.as_of: step.before for step in self.steps[name][0]}
        nights = promoted = harmful = 0
        for wanted, candidate in self.faulty:
            before = by_night[wanted.night.as_of]
            if before.champion is not None:
                nights += 1
                if decides(self.policies[name], before.with_candidate(candidate)):
                    promoted += 1
                    harmful += (self.gained(candidate, before.champion) or 0.0) < -HARM
        return nights, promoted, harmful


def kept(name: str, phases: Sequence[tuple[int, int]]) -> Frontier:
    """The kept candidates of a set. Nights without one are left out of their phase."""
    site = open_site(name)
    rows = read_source(site)
    candidates, nights, use_case = Candidates(site.store, rows), nights_of(rows), rows.use_case
    found = candidates.find([Wanted(night, use_case.seed, None) for night in nights])
    clean = {night.as_of: one for night, one in zip(nights, found, strict=True) if one is not None}
    taken = [[night for night in nights[offset::every] if night.as_of in clean] for every, offset in phases]
    kinds = faults_for(len(use_case.target.classes), len(rows.numbers))
    wanted = [Wanted(night, use_case.seed, kind) for night in taken[0] for kind in kinds]
    faulty = [(one, two) for one, two in zip(wanted, candidates.find(wanted), strict=True) if two is not None]
    return Frontier(rows, [(part, [clean[night.as_of] for night in part]) for part in taken], faulty)


def lines(name: str, frontier: Frontier) -> Iterator[str]:
    """The table of one set, the policy with the least log loss first."""
    metrics = metrics_of(frontier.rows.use_case)
    best = {metric: _best(frontier, metric) for metric in metrics}
    heads = [f"{metric}, and against {best[metric]}" for metric in metrics]
    yield f"| {name} | " + " | ".join([*heads, "promoted, harmful", "with a fault: promoted, harmful, at most"]) + " |"
    yield "| --- |" + " --- |" * (len(metrics) + 2)
    scores = {name: frontier.compared(name, name, metrics[-1]).value or 0.0 for name in frontier.steps}
    for policy in sorted(scores, key=scores.__getitem__, reverse=metrics[-1] not in LOWER_IS_BETTER):
        cells = [_words(frontier.compared(policy, best[metric], metric)) for metric in metrics]
        nights, promoted, harmful = frontier.faults(policy)
        bound = f", {upper_bound(harmful, nights):.1%}" if nights else ""
        clean = ", ".join(map(str, frontier.promotions(policy)))
        yield f"| {policy} | " + " | ".join([*cells, clean, f"{promoted}, {harmful} of {nights}{bound}"]) + " |"


def _best(frontier: Frontier, metric: str) -> str:
    values = {name: frontier.compared(name, name, metric).value or 0.0 for name in frontier.steps}
    return (min if metric in LOWER_IS_BETTER else max)(values, key=values.__getitem__)


def _words(one: Compared) -> str:
    if one.low is None or one.difference is None or one.high is None:
        return f"{one.value:.4f}"
    return f"{one.value:.4f}, {one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)} (default: all)")
    parser.add_argument("--phases", default="8:0,16:8,24:0", help="EVERY:OFFSET of each phase (default: %(default)s)")
    options = parser.parse_args()
    home = Path(os.environ.get("RETRAIN_HOME") or ".retrain").absolute()
    os.environ |= {"RETRAIN_HOME": str(home), "RETRAIN_PROJECT": str(project(home))}
    phases = [(int(every), int(offset)) for every, offset in (one.split(":") for one in options.phases.split(","))]
    for name in options.sets or SETS:
        print("\n".join(lines(name, kept(name, phases))), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
