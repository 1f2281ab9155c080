"""Each policy over made-up nights whose candidates are as good or as bad as the test says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml import MinMetric, NotWorseThanChampion, NotWorseThanReference, SourceUnchanged
from ml.simulation.policies import Judge, Policy, named_scores, policies_of, replay
from tests.simulation.made_up import source, year

BAD, GOOD, USUAL = 0.35, 0.05, 0.2
WHY = {"why": "a test"}
GATES = (
    MinMetric(metric="f1", floor=0.5, **WHY),
    NotWorseThanChampion(metric="f1", max_drop=0.1, **WHY),
    NotWorseThanReference(metric="f1", max_drop=0.2, **WHY),
)
SHARES = {10: BAD, 20: GOOD, 21: USUAL}


def promoted(
    folder: Path, name: str, shares: dict[int, float] = SHARES, *, alike: bool = False, **changes: Any
) -> list[int]:
    """The places of the nights whose candidate the policy of this name promotes, in a year with 80 days of nights."""
    rows = source(**{"gates": GATES, **changes})
    nights, candidates = year(folder, rows, shares, USUAL, alike=alike)
    policy: Policy = next(policy for policy in policies_of(rows.use_case) if policy.name == name)
    steps = replay(policy, Judge(rows, named_scores(rows.use_case)), nights, candidates)
    return [place for place, step in enumerate(steps) if step.promoted]


def test_never_promotes_the_first_candidate_only(tmp_path: Path) -> None:
    assert promoted(tmp_path, "never") == [0]


def test_every_night_promotes_bad_candidates_too(tmp_path: Path) -> None:
    places = promoted(tmp_path, "every night")
    assert places == [*range(len(places))]
    assert len(places) > 60


@pytest.mark.parametrize(("name", "days"), [("weekly", 7), ("monthly", 28)])
def test_a_calendar_counts_days_since_the_last_promotion(tmp_path: Path, name: str, days: int) -> None:
    places = promoted(tmp_path, name)
    assert places == [*range(0, places[-1] + 1, days)]


def test_a_point_score_promotes_whatever_is_not_worse(tmp_path: Path) -> None:
    places = promoted(tmp_path, "point score")
    assert 10 not in places
    assert 20 in places
    assert not [place for place in places if place > 20], "the usual candidate is worse than the good one"


def test_ours_keeps_out_what_is_surely_worse_and_what_cannot_be_told(tmp_path: Path) -> None:
    places = promoted(tmp_path, "ours")
    assert places[0] == 0
    assert 10 not in places
    assert 20 in places
    assert not [place for place in places if place > 20]


def test_the_floor_binds_every_night_under_ours_unless_it_is_for_the_first_champion_only(tmp_path: Path) -> None:
    floor = MinMetric(metric="f1", floor=0.7, **WHY)
    early = {0: BAD, 1: GOOD, 2: BAD}  # their F1 is about 0.55 and 0.92
    both = (promoted(tmp_path, "ours", early, gates=(one, replace(GATES[1], max_drop=0.9)))
            for one in (floor, replace(floor, first_only=True)))  # fmt: skip
    every_night, first_only = both
    assert every_night[:1] == first_only[:1] == [1], "the bad first candidate is under the floor"
    assert 2 not in every_night
    assert 2 in first_only


def test_metric_alone_has_no_gate_on_another_metric(tmp_path: Path) -> None:
    strict = NotWorseThanChampion(metric="log_loss", max_drop=0.0001, **WHY)
    shares = {10: USUAL + 0.02}
    ours, alone = (promoted(tmp_path, name, shares, gates=(GATES[1], strict)) for name in ("ours", "metric alone"))
    assert 10 in alone
    assert 10 not in ours


def test_unless_surely_worse_promotes_what_cannot_be_told(tmp_path: Path) -> None:
    strict = (replace(GATES[1], max_drop=0.0001),)
    places = promoted(tmp_path, "unless surely worse", {}, gates=strict)
    assert len(places) > len(promoted(tmp_path, "ours", {}, gates=strict))
    assert 10 not in promoted(tmp_path, "unless surely worse", gates=strict)


def test_point_loss_needs_a_loss_that_is_not_worse(tmp_path: Path) -> None:
    places = promoted(tmp_path, "point loss")
    assert 10 not in places
    assert 20 in places


def test_a_gate_that_asks_about_the_source_passes(tmp_path: Path) -> None:
    gates = (GATES[0], SourceUnchanged(why="a test"))
    assert len(promoted(tmp_path, "ours", {}, gates=gates)) > 60


def test_a_reference_stops_small_losses_that_add_up(tmp_path: Path) -> None:
    worse_each_night = {place: 0.05 + 0.006 * place for place in range(60)}
    wide = replace(GATES[1], max_drop=0.3)
    without = promoted(tmp_path, "ours", worse_each_night, alike=True, gates=(wide,))
    bounded = promoted(tmp_path, "ours", worse_each_night, alike=True, gates=(wide, GATES[2]))
    assert max(place for place in bounded if place < 60) + 10 < max(place for place in without if place < 60)
