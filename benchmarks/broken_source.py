"""What a broken source does to gates: `python benchmarks/broken_source.py [SET ...]` prints a table for each set.

From a night on, one column of all days is another: shifted, in another unit, with its sign turned, all zero, or the
answer itself. The night's candidate learnt it so, and is tested on it so. The champion, four weeks older, learnt the
clean column, and answers the broken one. Then the source is right again, and what serves is scored on the next 28 days.
Four nights a kind and set. Kept answers are used again, so that a run that was killed goes on.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from gates import project  # type: ignore[import-not-found]  # the script beside this one
from numpy.typing import NDArray

from ml import Gate, SourceUnchanged
from ml.data.rewritten import rewritten_columns
from ml.digests import digest_value
from ml.evaluation.source_evidence import SourceEvidence
from ml.evaluation.source_words import told_rewritten
from ml.pipeline.evaluate import verdict_of
from ml.pipeline.watch import MOST_REWRITTEN
from ml.simulation.candidates import AHEAD, Candidate, Candidates, Wanted
from ml.simulation.nights import SimulatedNight, nights_of
from ml.simulation.policies import OURS, Judge, Situation, decides, named_scores, policies_of
from ml.simulation.served import Server, Stretch
from ml.simulation.source import SourceRows, read_source
from ml.storage.store import Store
from tasks.site import open_site

# Of each set: the column that breaks, and by how much it is shifted (None: by 1.5 standard deviations).
SETS: dict[str, tuple[str, float | None]] = {
    "flights": ("dep_delay", 60.0), "load_peak": ("load", None), "elecdemand": ("demand", None),
}  # fmt: skip
NIGHTS = 4
OLDER = 28  # days by which the champion is older
ASKED = ("point score", "point loss", OURS)  # the policies that say whether they would promote
Float32s = NDArray[np.float32]
Break = Callable[[Float32s, NDArray[np.float64]], Float32s]


@dataclass(frozen=True)
class Broken:
    """A set whose column is broken in one way."""

    store: Store
    rows: SourceRows
    column: str
    words: str
    broken: Break

    @cached_property
    def place(self) -> int:
        """The place of the column among the features."""
        return self.rows.numbers.index(self.column)

    def source(self, first: int, end: int) -> SourceRows:
        """The rows of the set, with the column broken from the row `first` to the row `end`."""
        x, rows = self.rows.x.copy(), slice(first, end)
        x[rows, self.place] = self.broken(x[rows, self.place], self.rows.y[rows])
        digests = tuple(
            digest_value([digest, self.words]) if first <= start < end else digest
            for digest, start in zip(self.rows.day_digests, self.rows.starts, strict=False)
        )
        return replace(self.rows, x=x, day_digests=digests)

    def learnt(self, source: SourceRows, night: SimulatedNight) -> Candidate:
        """The candidate of the night that learns from this source, and answers it."""
        candidates, wanted = Candidates(self.store, source), Wanted(night, source.use_case.seed, None)
        if candidates.find([wanted]) == [None]:
            candidates.keep(wanted)
        (found,) = candidates.find([wanted])
        assert found is not None
        return found

    def evidence(self, night: SimulatedNight) -> SourceEvidence:
        """What SourceUnchanged is told: in how many rows of the test days the column is another."""
        part = night.test
        before = pd.DataFrame({self.column: self.rows.x[part, self.place]})
        after = before.assign(**{self.column: self.broken(self.rows.x[part, self.place], self.rows.y[part])})
        days = tuple(self.rows.days_between(night.test_day, night.last_day))
        found = rewritten_columns(before, after, "").get(self.column)
        if found is None or found.share <= MOST_REWRITTEN:
            return SourceEvidence(days=days)
        change = told_rewritten(self.column, days, found, sensitive=False, anew=False)
        return SourceEvidence(days=days, changes=(change,))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One night: the use case's metric of champion and candidate on the broken test days, and on the next 28 days, when
    the source is right again; which policies promote the candidate; and what SourceUnchanged says."""

    champion: float
    candidate: float
    champion_after: float
    candidate_after: float
    promoted_by: tuple[str, ...]
    source: str


def outcome(broken: Broken, night: SimulatedNight, before: SimulatedNight) -> Outcome:
    """What happens on the night, whose champion is of the night `before`."""
    rows, metric = broken.rows, broken.rows.use_case.metric
    candidate = broken.learnt(broken.source(0, night.test.stop), night)
    champion = broken.learnt(broken.source(night.test.start, night.test.stop), before)
    judge, server = Judge(broken.source(0, night.test.stop), named_scores(rows.use_case)), Server(rows)
    situation = Situation(
        judge=judge, night=night, candidate=candidate, champion=champion, reference=champion, promoted_on=before.as_of
    )
    on_test = situation.against_champion
    days = rows.days_between(str(night.as_of), rows.days[-1])[:AHEAD]
    part = rows.between(days[0], days[-1])
    after = judge.paired(
        part, *(server.answers(Stretch(candidate=one, rows=part), "refitted") for one in (candidate, champion))
    )
    gate: Gate = SourceUnchanged(why="a benchmark")
    evidence = replace(judge.evidence(situation, gate.opponent), source=broken.evidence(night))
    return Outcome(
        champion=float(on_test.metric(metric, "other", on_test.totals())[0]),
        candidate=float(on_test.metric(metric, "candidate", on_test.totals())[0]),
        champion_after=float(after.metric(metric, "other", after.totals())[0]),
        candidate_after=float(after.metric(metric, "candidate", after.totals())[0]),
        promoted_by=tuple(p.name for p in policies_of(rows.use_case) if p.name in ASKED and decides(p, situation)),
        source=verdict_of(gate, evidence).verdict,
    )


def breaks(rows: SourceRows, column: str, shift: float | None) -> dict[str, Break]:
    """The kinds of broken sources, by their words."""
    by = shift or 1.5 * float(np.nanstd(rows.x[:, rows.numbers.index(column)]))
    return {
        f"shifted by {by:.3g}": lambda values, _: values + np.float32(by),
        "divided by 60": lambda values, _: values / np.float32(60),
        "sign turned": lambda values, _: -values,
        "all zero": lambda values, _: values * 0,
        "the answer itself": lambda _, y: y.astype(np.float32),
    }


def lines(name: str) -> Iterator[str]:
    """The table of one set. `SourceUnchanged` passes under *promoted by*, as in every simulation."""
    site = open_site(name)
    rows, (column, shift) = read_source(site), SETS[name]
    nights = [night for night in nights_of(rows) if len(rows.days_between(str(night.as_of), rows.days[-1])) > AHEAD]
    places = np.linspace(OLDER, len(nights) - 1, NIGHTS).astype(int)
    metric = rows.use_case.metric
    yield (
        f"| {name}, {column} | {metric}: champion | candidate | then: champion | candidate | "
        + " | ".join([*(f"promoted by {policy}" for policy in ASKED), "SourceUnchanged asks"])
        + " |"
    )
    yield "| --- |" + " --- |" * (len(ASKED) + 5)
    for words, one in breaks(rows, column, shift).items():
        broken = Broken(site.store, rows, column, words, one)
        found = [outcome(broken, nights[place], nights[place - OLDER]) for place in places]
        means = [_mean([getattr(each, figure) for each in found]) for figure in FIGURES]
        promoted = [str(sum(policy in each.promoted_by for each in found)) for policy in ASKED]
        asks = str(sum(each.source == "INCONCLUSIVE" for each in found))
        yield f"| {words} | " + " | ".join([*means, *promoted, f"{asks} of {len(found)}"]) + " |"


FIGURES = ("champion", "candidate", "champion_after", "candidate_after")


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)} (default: all)")
    home = Path(os.environ.get("RETRAIN_HOME") or ".retrain").absolute()
    os.environ |= {"RETRAIN_HOME": str(home), "RETRAIN_PROJECT": str(project(home))}
    for name in parser.parse_args().sets or SETS:
        for line in lines(name):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
