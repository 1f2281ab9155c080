"""What serves on which day, in which form, and which promotions count as harm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.simulation.policies import Judge, Step, named_scores, policies_of, replay
from ml.simulation.report import upper_bound
from ml.simulation.served import (
    Server,
    Serving,
    Stretch,
    by_week,
    compared,
    gain,
    pair_served,
    promotions,
    served,
    stretches,
)
from tests.simulation.made_up import ROWS_A_DAY, candidate, source, year

NAMED = ("log_loss",)


def replayed(folder: Path, name: str, shares: dict[int, float]) -> tuple[Any, Judge, list[Step]]:
    rows = source()
    nights, candidates = year(folder, rows, shares)
    judge = Judge(rows, named_scores(rows.use_case))
    policy = next(policy for policy in policies_of(rows.use_case) if policy.name == name)
    return rows, judge, replay(policy, judge, nights, candidates)


def test_a_champion_serves_from_its_date_until_the_next_promotion(tmp_path: Path) -> None:
    rows, _, steps = replayed(tmp_path, "weekly", {})
    found = stretches(rows, steps)
    assert found[0].rows == rows.between(str(steps[0].night.as_of), str(steps[0].night.as_of))
    assert [stretch.rows.start for stretch in found[1:]] == [stretch.rows.stop for stretch in found[:-1]]
    assert found[-1].rows.stop == len(rows.y)
    assert {stretch.candidate.night.as_of for stretch in found[:7]} == {steps[0].night.as_of}
    assert found[7].candidate.night.as_of == steps[7].night.as_of


def test_what_serves_a_day_has_not_seen_it(tmp_path: Path) -> None:
    rows, _, steps = replayed(tmp_path, "every night", {})
    for stretch in stretches(rows, steps):
        assert stretch.rows.start >= stretch.candidate.night.test.stop


def test_a_worse_promotion_is_harmful_and_a_better_one_is_not(tmp_path: Path) -> None:
    rows, judge, steps = replayed(tmp_path, "every night", {10: 0.5, 30: 0.01})
    made = promotions(judge, Server(rows), steps, "judged")
    assert len(made) == len(steps) - 1, "the first champion replaced none"
    by_date = {promotion.as_of: promotion for promotion in made}
    assert by_date[steps[10].night.as_of].harmful
    assert not by_date[steps[11].night.as_of].harmful
    assert not by_date[steps[30].night.as_of].harmful
    assert by_date[steps[31].night.as_of].harmful


def test_a_promotion_that_too_few_days_follow_is_not_counted(tmp_path: Path) -> None:
    rows, judge, steps = replayed(tmp_path, "every night", {})
    made = promotions(judge, Server(rows), steps, "judged")
    assert [promotion.difference is None for promotion in made] == [False] * (len(made) - 27) + [True] * 27


@pytest.mark.parametrize(("worse_by", "harmful"), [(0.0, False), (0.03, True)])
def test_harm_is_paired_on_the_same_rows(tmp_path: Path, worse_by: float, harmful: bool) -> None:
    rows = source()
    nights, _ = year(tmp_path, rows, {})
    champion = candidate(tmp_path, rows, nights[0], 0.2, seed=3)
    new = candidate(tmp_path, rows, nights[5], 0.2 + worse_by, seed=3)
    difference = gain(Judge(rows, NAMED), Server(rows), new, champion, "judged")
    assert difference is not None
    assert (difference < -0.01) is harmful


def test_a_refit_serves_its_own_answers(tmp_path: Path) -> None:
    rows = source()
    nights, _ = year(tmp_path, rows, {})
    one = candidate(tmp_path, rows, nights[0], judged=0.4, refitted=0.0)
    part = slice(nights[0].test.stop, nights[0].test.stop + ROWS_A_DAY)
    server, y = Server(rows), rows.y[part]
    refitted = server.answers(Stretch(candidate=one, rows=part), "refitted")
    judged = server.answers(Stretch(candidate=one, rows=part), "judged")
    assert (refitted.chosen == y).all()
    assert (judged.chosen != y).any()


FORMS: tuple[Serving, ...] = ("calibration anew", "uncalibrated")


@pytest.mark.parametrize("form", FORMS)
def test_another_calibration_changes_no_answer(tmp_path: Path, form: Serving) -> None:
    rows = source()
    nights, _ = year(tmp_path, rows, {})
    stretch = Stretch(candidate=candidate(tmp_path, rows, nights[0], 0.2), rows=slice(nights[0].test.stop, len(rows.y)))
    own, other = (Server(rows).answers(stretch, serving) for serving in ("refitted", form))
    assert np.array_equal(own.chosen, other.chosen)


def test_weeks_and_totals_agree_with_a_perfect_and_a_wrong_policy(tmp_path: Path) -> None:
    rows, judge, steps = replayed(tmp_path, "never", {0: 0.0})
    server = Server(rows)
    perfect = served(server, stretches(rows, steps), "judged")
    _, _, others = replayed(tmp_path / "other", "never", {0: 0.3})
    wrong = served(server, stretches(rows, others), "judged")
    pair = pair_served(rows, perfect.start, [perfect], [wrong], judge.named)
    score = compared(pair, "f1")
    assert score.value == 1.0
    assert score.difference is not None
    assert score.low is not None
    assert 0 < score.low < score.difference
    assert set(by_week(rows, perfect.start, perfect, "f1", judge.named).values()) == {1.0}


def test_seeds_are_pooled_by_day(tmp_path: Path) -> None:
    rows, judge, steps = replayed(tmp_path, "never", {})
    one = served(Server(rows), stretches(rows, steps), "judged")
    alone, twice = (pair_served(rows, one.start, ones, ones, judge.named) for ones in ([one], [one, one]))
    assert twice.units == alone.units
    assert compared(twice, "f1").value == compared(alone, "f1").value


@pytest.mark.parametrize(
    ("hits", "tries", "bound"),
    [(0, 100, 0.02951), (3, 100, 0.07571), (5, 5, 1.0), (0, 400, 0.00746), (800, 1600, 0.52086)],
)
def test_the_upper_bound_is_that_of_clopper_and_pearson(hits: int, tries: int, bound: float) -> None:
    assert upper_bound(hits, tries) == pytest.approx(bound, abs=1e-5)
