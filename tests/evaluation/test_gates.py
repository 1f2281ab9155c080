"""Gates and decisions as tables of cases: pure, no servers."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pytest

from ml.errors import ConfigError
from ml.evaluation.decision import ALL_END_WORDS, comparability, decide, is_open
from ml.evaluation.gates import (
    BetterThanRule,
    BetterThanTrivial,
    Comparison,
    Difference,
    Evidence,
    Gate,
    MinMetric,
    NotSurelyWorse,
    NotWorseThanChampion,
    NotWorseThanReference,
    NotWorseThanTrees,
)
from ml.evaluation.handles import Verdict, VerdictName
from ml.metrics.intervals import Pair, make_pair
from ml.metrics.scores import METRICS, PROBABILITY_SCORES, Answers
from ml.pipeline.evaluate import verdict_of
from ml.storage.json_form import from_json, to_json
from ml.storage.records import Champion

FLOOR = MinMetric(metric="f1", floor=0.7, why="a test")
CHAMPION = NotWorseThanChampion(metric="f1", max_drop=0.02, why="a test")
TRIVIAL = BetterThanTrivial(metric="f1", why="a test")


def binary(labels: list[int], candidate: list[int], other: list[int], repeat: int = 1, units: bool = False) -> Pair:
    y, c, o = (np.tile(np.array(x, float), repeat) for x in (labels, candidate, other))
    names = np.array([f"d{i // len(labels):03}" for i in range(len(y))], object) if units else None
    return make_pair("binary", 2, y, Answers(c), Answers(o), names)


def evidence(pair: Pair, who: str = "champion") -> Evidence:
    return Evidence(unit="row", pairs={who: pair, "constant": pair})


GOOD = [1, 1, 1, 0, 0, 0, 0, 0, 0, 1]
LABELS = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
BAD = [0, 0, 1, 0, 0, 0, 1, 1, 1, 1]

CASES = [
    ("equal scores pass", CHAMPION, binary(LABELS, GOOD, GOOD, 100), "PASS"),
    ("a much worse model fails", CHAMPION, binary(LABELS, BAD, GOOD, 100), "FAIL"),
    ("a better model passes", CHAMPION, binary(LABELS, GOOD, BAD, 100), "PASS"),
    ("one row is too few", CHAMPION, binary([1], [1], [1]), "INCONCLUSIVE"),
    ("nineteen rows are too few", FLOOR, binary([1], [1], [1], 19), "INCONCLUSIVE"),
    ("one class only: undefined", FLOOR, binary([0], [0], [0], 100), "FAIL"),
    ("one class only: the difference too", CHAMPION, binary([0], [0], [0], 100), "FAIL"),
    ("a floor that is reached", FLOOR, binary(LABELS, GOOD, GOOD, 100), "PASS"),
    ("a floor that is not", FLOOR, binary(LABELS, BAD, BAD, 100), "FAIL"),
    ("better than a constant", TRIVIAL, binary(LABELS, GOOD, [1] * 10, 100), "PASS"),
    ("no better than a constant", TRIVIAL, binary(LABELS, [1] * 10, [1] * 10, 100), "FAIL"),
    ("an unknown metric", MinMetric(metric="rmse", floor=1, why="a test"), binary(LABELS, GOOD, GOOD, 100), "FAIL"),
    ("a positive is too rare to judge", CHAMPION, binary([1] + [0] * 99, [1] + [0] * 99, [0] * 100), "INCONCLUSIVE"),
]


def values(y: list[float], candidate: list[float], other: list[float]) -> Pair:
    labels, c, o = (np.tile(np.array(x), 50) for x in (y, candidate, other))
    with np.errstate(over="ignore"):
        return make_pair("regression", 0, labels, Answers(c), Answers(o), None)


def certain(labels: list[int], candidate: float, other: float) -> Pair:
    """Two predictors that give every row the same probability of the second class."""
    y = np.array(labels, float)
    sides = (Answers(np.round(np.full(len(y), p)), np.tile([1 - p, p], (len(y), 1))) for p in (candidate, other))
    return make_pair("binary", 2, y, *sides, None, PROBABILITY_SCORES)


def min_of(metric: str) -> Gate:
    return MinMetric(metric=metric, floor=0.5, why="a test")


def kept(metric: str) -> Gate:
    return NotWorseThanChampion(metric=metric, max_drop=0.1, why="a test")


UNDEFINED = [
    (min_of("r2"), values([0.1, 0.1], [1.0, 2.0], [1.0, 2.0]), "r2 is undefined on these rows: all labels are equal"),
    (min_of("rmse"), values([1.0, 2.0], [1e200, 2.0], [1.0, 2.0]), "an error is too large to be squared and summed"),
    (kept("r2"), values([3.0, 3.0], [1.0, 2.0], [1.0, 2.0]), "of the candidate, all labels are equal"),
    (kept("rmse"), values([1.0, 2.0], [1.0, 3.0], [1.0, 2.0]), "the champion makes no error, of which there are no"),
    (min_of("f1"), binary([0], [0], [0], 100), "f1 is undefined on these rows: the second class has no rows"),
    (min_of("recall"), binary([0], [1], [0], 100), "the second class has no rows"),
    (min_of("precision"), binary(LABELS, [0] * 10, GOOD, 10), "the second class is never the answer"),
    (kept("precision"), binary(LABELS, GOOD, [0] * 10, 10), "of the champion, the second class is never the answer"),
    (kept("f1"), binary([0], [1], [0], 100), "of the candidate, the second class has no rows"),
    (min_of("roc_auc"), certain([0] * 50, 0.2, 0.3), "roc_auc is undefined on these rows: a class has no rows"),
    (kept("pr_auc"), certain([1] * 50, 0.2, 0.3), "of the candidate, a class has no rows"),
    (kept("log_loss"), certain([0] * 50, 0.2, 0.0), "the champion makes no error, of which there are no fractions"),
    (kept("brier"), certain([0] * 50, 0.2, 0.0), "the champion makes no error, of which there are no fractions"),
]


@pytest.mark.parametrize(("gate", "pair", "cause"), UNDEFINED, ids=[case[2] for case in UNDEFINED])
def test_the_cause_of_a_metric_without_a_value_is_named(gate: Gate, pair: Pair, cause: str) -> None:
    verdict = gate.judge(evidence(pair))
    assert verdict.verdict == "FAIL"
    assert cause in verdict.reason


@pytest.mark.parametrize(("gate", "pair", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_gate_answers(gate: Gate, pair: Pair, expected: str) -> None:
    verdict = gate.judge(evidence(pair))
    assert verdict.verdict == expected, verdict.reason


@pytest.mark.parametrize("unit", ["day", "row", "patient"])
def test_too_few_days_say_how_to_have_more(unit: str) -> None:
    """With 20 test days, one that is left out leaves no gate enough."""
    pair = binary([1], [1], [1], 19)
    reason = FLOOR.judge(Evidence(unit=unit, pairs={"constant": pair})).reason
    assert reason.startswith(f"19 {unit}s are too few to judge; 20 are needed")
    assert ("raise test_days, which counts days that are left out too" in reason) == (unit == "day")


def test_absent_and_incomparable_opponents() -> None:
    none = Evidence(unit="row", pairs={}, not_applicable={"champion": "there is no champion yet"})
    assert CHAMPION.judge(none).verdict == "NOT_APPLICABLE"
    other = Evidence(unit="row", pairs={}, not_comparable={"champion": "it has seen the test rows"})
    assert CHAMPION.judge(other).verdict == "NOT_JUDGED"
    assert CHAMPION.judge(Evidence(unit="row", pairs={})).verdict == "FAIL"


def test_an_open_interval_names_the_smallest_loss_that_could_be_seen() -> None:
    generator = np.random.default_rng(0)
    y = (generator.random(200) < 0.4).astype(float)
    candidate, other = (np.where(generator.random(200) < 0.8, y, 1 - y) for _ in range(2))
    pair = make_pair("binary", 2, y, Answers(candidate), Answers(other), None)
    verdict = NotWorseThanChampion(metric="f1", max_drop=0.05, why="a test").judge(evidence(pair))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "cannot show a loss under" in verdict.reason


def test_days_are_judged_whole() -> None:
    """Rows of a day stand or fall together: a model that fails on some days is less sure than its rows suggest."""
    day_good, day_bad = binary(LABELS, GOOD, GOOD, 1), binary(LABELS, BAD, GOOD, 1)
    del day_good, day_bad
    labels = np.tile(np.array(LABELS, float), 30)
    other = np.tile(np.array(GOOD, float), 30)
    candidate = np.concatenate([np.tile(np.array(BAD if d % 3 == 0 else GOOD, float), 1) for d in range(30)])
    days = np.repeat([f"{d:02}" for d in range(30)], 10).astype(object)
    by_day = Difference.of(make_pair("binary", 2, labels, Answers(candidate), Answers(other), days), "f1")
    by_row = Difference.of(make_pair("binary", 2, labels, Answers(candidate), Answers(other), None), "f1")
    assert by_day.value == pytest.approx(by_row.value)
    assert by_day.detectable > 1.2 * by_row.detectable


def test_errors_are_judged_as_fractions_of_the_champions() -> None:
    generator = np.random.default_rng(1)
    y = generator.normal(100, 20, 400)
    good, bad = y + generator.normal(0, 5, 400), y + generator.normal(0, 8, 400)
    pair = make_pair("regression", 0, y, Answers(bad), Answers(good), None)
    difference = Difference.of(pair, "rmse")
    rmse = lambda answer: float(np.sqrt(np.square(answer - y).mean()))  # noqa: E731
    assert difference.value == pytest.approx((rmse(good) - rmse(bad)) / rmse(good))
    gate = NotWorseThanReference(metric="rmse", max_drop=0.1, why="a test")
    assert gate.judge(evidence(pair, "reference")).verdict == "FAIL"
    assert MinMetric(metric="rmse", floor=20.0, why="a ceiling").judge(evidence(pair)).verdict == "PASS"


@pytest.mark.parametrize(
    ("metric", "max_drop", "words"),
    [
        ("log_loss", 0.05, "a loss of 5.0% is allowed"),
        ("log_loss", 0.0001, "a loss of 0.01% is allowed"),
        ("log_loss", 0.0125, "a loss of 1.25% is allowed"),
        ("roc_auc", 0.02, "a loss of 0.0200 is allowed"),
        ("roc_auc", 0.00125, "a loss of 0.00125 is allowed"),
    ],
)
def test_the_allowed_loss_is_told_as_it_was_declared(metric: str, max_drop: float, words: str) -> None:
    gate = NotWorseThanChampion(metric=metric, max_drop=max_drop, why="a test")
    assert words in gate.judge(evidence(BETTER)).reason


def test_the_rule_gate_wants_more_than_a_rule_of_thumb() -> None:
    gate = BetterThanRule(metric="f1", why="a test")
    same = binary(LABELS, GOOD, GOOD, 100)
    assert gate.judge(evidence(same, "rule")).verdict == "FAIL"


def test_default_trees_are_an_opponent_like_others() -> None:
    gate = NotWorseThanTrees(metric="f1", max_drop=0.01, why="a test")
    better = gate.judge(evidence(BETTER, "trees"))
    assert better.verdict == "PASS"
    assert better.reason.startswith("f1 differs from the default trees' by +")
    without = Evidence(unit="day", pairs={}, not_comparable={"trees": "default trees cannot be compared: so it is"})
    assert (gate.judge(without).verdict, gate.judge(without).reason) == (
        "NOT_JUDGED", "default trees cannot be compared: so it is",
    )  # fmt: skip


def test_the_evidence_alone_decides_the_interval() -> None:
    pair = binary(LABELS, GOOD, BAD, 10)
    assert Difference.of(pair, "f1") == Difference.of(from_json(Pair, to_json(pair)), "f1")


@pytest.mark.parametrize("metric", ["f1", "precision", "recall", "accuracy"])
def test_the_difference_of_equal_predictors_is_exactly_nothing(metric: str) -> None:
    found = Difference.of(binary(LABELS, GOOD, GOOD, 100), metric)
    assert (found.value, found.low, found.high, found.detectable) == (0, 0, 0, 0)


def verdict(name: str) -> Verdict:
    return Verdict(gate="G", verdict=name, reason="so", figures={})  # type: ignore[arg-type]


def champion(as_of: date = date(2013, 10, 1), fit_until: str | None = "2013-09-02") -> Champion:
    return Champion(
        version=1,
        run_id="r",
        as_of=as_of,
        fit_until=fit_until,
        target_digest="t",
        split_digest="s",
        folder="f",
        files=(),
    )


def said(y: Any, skill: float, seed: int) -> Answers:
    """Answers to labels of 0, 1 and so on, that know the more the larger `skill` is."""
    classes = int(y.max()) + 1
    logits = skill * np.eye(classes)[y.astype(int)] + np.random.default_rng(seed).normal(0, 1, (len(y), classes))
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Answers(probability.argmax(axis=1).astype(float), probability)


def probable(
    candidate: float, other: float, rows: int = 2400, classes: int = 2, seeds: tuple[int, int] = (1, 2)
) -> Pair:
    """Two models of these skills on 40 days, with all scores of probabilities."""
    y = np.random.default_rng(0).integers(0, classes, rows).astype(float)
    days = (np.arange(rows) % 40).astype(object)
    kind: Any = "binary" if classes == 2 else "multiclass"
    answers = (said(y, skill, seed) for skill, seed in zip((candidate, other), seeds, strict=True))
    return make_pair(kind, classes, y, *answers, days, PROBABILITY_SCORES)


LOSSES = ("log_loss", "brier")
BETTER, SAME, WORSE = probable(2, 1), probable(1, 1, seeds=(1, 1)), probable(1, 2)
OPEN = probable(1, 1, rows=120, seeds=(3, 103))
WEIGHED: dict[str, tuple[Callable[[str], Gate], tuple[str, str, str, str]]] = {
    "not worse": (
        lambda name: NotWorseThanChampion(metric=name, max_drop=0.03, why="a test"),
        ("PASS", "PASS", "FAIL", "INCONCLUSIVE"),
    ),
    "not surely worse": (lambda name: NotSurelyWorse(metric=name, why="a test"), ("PASS", "PASS", "FAIL", "PASS")),
    "better": (lambda name: BetterThanTrivial(metric=name, why="a test"), ("PASS", "FAIL", "FAIL", "INCONCLUSIVE")),
    "better than a rule": (
        lambda name: BetterThanRule(metric=name, why="a test"),
        ("PASS", "FAIL", "FAIL", "INCONCLUSIVE"),
    ),
}


@pytest.mark.parametrize("name", PROBABILITY_SCORES)
@pytest.mark.parametrize("case", WEIGHED)
@pytest.mark.parametrize("which", range(4), ids=["better", "same", "worse", "open"])
def test_gates_weigh_scores_of_probabilities(name: str, case: str, which: int) -> None:
    make, expected = WEIGHED[case]
    pair = (BETTER, SAME, WORSE, OPEN)[which]
    everyone = Evidence(unit="day", pairs=dict.fromkeys(("champion", "constant", "rule"), pair))
    verdict = make(name).judge(everyone)
    assert verdict.verdict == expected[which], verdict.reason
    assert ("%" in verdict.reason) == (name in LOSSES)


@pytest.mark.parametrize("name", PROBABILITY_SCORES)
def test_scores_of_several_classes_are_weighed_too(name: str) -> None:
    gate = NotSurelyWorse(metric=name, why="a test")
    assert gate.judge(evidence(probable(2, 1, classes=3))).verdict == "PASS"
    assert gate.judge(evidence(probable(1, 2, classes=3))).verdict == "FAIL"


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_judged_as_a_fraction_of_the_champions(name: str) -> None:
    """So 0.01 means one per cent less sharp, whatever the share of the second class is."""
    difference = Difference.of(WORSE, name)
    candidate, champion = (WORSE.metric(name, side, WORSE.totals())[0] for side in ("candidate", "other"))  # type: ignore[arg-type]
    assert difference.value == pytest.approx((champion - candidate) / champion)
    assert difference.low < difference.value < difference.high < 0


@pytest.mark.parametrize("name", PROBABILITY_SCORES)
@pytest.mark.parametrize("reached", [True, False])
def test_a_floor_of_a_loss_is_a_ceiling(name: str, reached: bool) -> None:
    value = float(BETTER.metric(name, "candidate", BETTER.totals())[0])
    nearer = -0.001 if reached != (name in LOSSES) else 0.001
    verdict = MinMetric(metric=name, floor=value + nearer, why="a test").judge(evidence(BETTER))
    assert verdict.verdict == ("PASS" if reached else "FAIL")
    assert f"the {'ceiling' if name in LOSSES else 'floor'} is" in verdict.reason


def one_day_has_them_all(rows: int = 1000) -> Pair:
    """The second class is there on one day of forty only."""
    days = np.arange(rows) % 40
    y = (days == 3).astype(float)
    return make_pair("binary", 2, y, said(y, 2, 1), said(y, 1, 2), days.astype(object), PROBABILITY_SCORES)


@pytest.mark.parametrize("name", PROBABILITY_SCORES)
def test_an_area_that_one_day_carries_is_open(name: str) -> None:
    verdict = NotSurelyWorse(metric=name, why="a test").judge(evidence(one_day_has_them_all()))
    assert verdict.verdict == ("PASS" if name in LOSSES else "INCONCLUSIVE")
    assert name in LOSSES or verdict.reason == f"{name} rests on 1 of 40 rows alone, too few to judge; 7 are needed"


def only(rows: int, kind: str) -> Pair:
    """100 rows, of which this many have the second class, get it as the champion's answer, or are misjudged by it."""
    y, some = np.tile([0.0, 1.0], 50), (np.arange(100) < rows).astype(float)
    if kind == "rmse":
        return make_pair("regression", 0, y, Answers(y + 0.1), Answers(y + some), None)
    if kind == "f1":
        return make_pair("binary", 2, some, Answers(y), Answers(some), None)
    return make_pair("binary", 2, y, Answers(y), Answers(some), None)


@pytest.mark.parametrize("metric", ["f1", "precision", "rmse"])
@pytest.mark.parametrize("rows", [1, 6, 7])
def test_a_metric_that_few_rows_carry_is_open(metric: str, rows: int) -> None:
    pair = only(rows, metric)
    verdict = NotSurelyWorse(metric=metric, why="a test").judge(evidence(pair))
    is_open = verdict.reason == f"{metric} rests on {rows} of 100 rows alone, too few to judge; 7 are needed"
    assert (verdict.verdict == "INCONCLUSIVE", is_open) == (rows < 7, rows < 7)
    assert np.isfinite(Difference.of(pair, metric).value)


@pytest.mark.parametrize("unit", ["day", "carrier"])
def test_days_that_cannot_tell_say_how_many_could(unit: str) -> None:
    """Sixteen times as many see a quarter of the loss."""
    found = Difference.of(OPEN, "f1")
    gate = NotWorseThanChampion(metric="f1", max_drop=found.detectable / 4, why="a test")
    reason = gate.judge(Evidence(unit=unit, pairs={"champion": OPEN})).reason
    smallest = f"but 40 {unit}s cannot show a loss under {found.detectable:.4f}"
    assert f"{smallest}; about 640 such {unit}s could (a test)" in reason


def test_a_metric_that_the_evidence_lacks_blocks() -> None:
    bare = evidence(binary(LABELS, GOOD, GOOD, 100))
    verdict = NotSurelyWorse(metric="log_loss", why="a test").judge(bare)
    assert (verdict.verdict, verdict.reason) == (
        "FAIL",
        "the evidence has no log_loss: a model's answers had no probabilities",
    )


@pytest.mark.parametrize("metric", ["f1", "precision", "recall", "accuracy"])
def test_only_a_surely_worse_candidate_fails(metric: str) -> None:
    gate = NotSurelyWorse(metric=metric, why="a test")
    none = Evidence(unit="row", pairs={}, not_applicable={"champion": "there is no champion yet"})
    assert gate.judge(none).verdict == "NOT_APPLICABLE"
    assert gate.judge(evidence(binary(LABELS, GOOD, GOOD, 100))).verdict == "PASS"
    assert gate.judge(evidence(binary(LABELS, BAD, GOOD, 100))).verdict == "FAIL"
    assert gate.judge(evidence(binary(LABELS, BAD, GOOD, 1))).verdict == "INCONCLUSIVE"


def test_an_error_of_values_is_surely_worse_too() -> None:
    generator = np.random.default_rng(1)
    y = generator.normal(100, 20, 400)
    good, bad = (Answers(y + generator.normal(0, spread, 400)) for spread in (5, 8))
    for metric in METRICS["regression"]:
        gate = NotSurelyWorse(metric=metric, why="a test")
        assert gate.judge(evidence(make_pair("regression", 0, y, bad, good, None))).verdict == "FAIL"
        assert gate.judge(evidence(make_pair("regression", 0, y, good, bad, None))).verdict == "PASS"


FIRST_ONLY = MinMetric(metric="f1", floor=0.7, first_only=True, why="a test")
NO_CHAMPION = {"champion": "there is no champion yet"}
POOR = binary(LABELS, BAD, BAD, 100)
WITH_CHAMPION = {
    "comparable": Evidence(unit="row", pairs={"constant": POOR, "champion": POOR}),
    "not comparable": Evidence(unit="row", pairs={"constant": POOR}, not_comparable={"champion": "it is not"}),
    "undefined": evidence(binary([0], [0], [0], 100)),
    "few rows": evidence(binary([1], [1], [1], 19)),
}


@pytest.mark.parametrize("case", WITH_CHAMPION)
def test_a_floor_for_the_first_champion_only_informs_later_ones(case: str) -> None:
    found, always = FIRST_ONLY.judge(WITH_CHAMPION[case]), FLOOR.judge(WITH_CHAMPION[case])
    assert always.verdict != "PASS"
    assert found.verdict == "PASS"
    assert found.reason == f"{always.reason}; there is a champion, so that this only informs"
    assert found.figures == always.figures


@pytest.mark.parametrize(("pair", "expected"), [(POOR, "FAIL"), (binary(LABELS, GOOD, GOOD, 100), "PASS")])
def test_a_floor_for_the_first_champion_binds_it(pair: Pair, expected: str) -> None:
    found = Evidence(unit="row", pairs={"constant": pair}, not_applicable=NO_CHAMPION)
    assert FIRST_ONLY.judge(found) == FLOOR.judge(found)
    assert FIRST_ONLY.judge(found).verdict == expected


NIGHT = date(2013, 10, 2)
DECISIONS = [
    ("all allow, no champion", ["PASS", "NOT_APPLICABLE"], None, None, "FIRST"),
    ("all allow, a champion", ["PASS"], champion(), None, "PROMOTE"),
    ("one fails", ["PASS", "FAIL"], champion(), None, "KEEP"),
    ("one fails, no champion", ["FAIL"], None, None, "REJECT"),
    ("one is open", ["INCONCLUSIVE"], champion(), None, "KEEP"),
    ("one could not judge", ["NOT_JUDGED"], champion(), None, "KEEP"),
    ("no gates", [], None, None, "REJECT"),
    ("the same date", ["PASS"], champion(as_of=NIGHT), None, "KEEP"),
    ("an older date", ["PASS"], champion(as_of=date(2013, 10, 5)), None, "KEEP"),
    ("an alias moved by hand", ["PASS"], champion(), "moved", "KEEP"),
]


@pytest.mark.parametrize(
    ("names", "before", "hand", "expected"), [d[1:] for d in DECISIONS], ids=[d[0] for d in DECISIONS]
)
def test_a_decision_follows_from_verdicts(
    names: list[str], before: Champion | None, hand: str | None, expected: str
) -> None:
    decision, reason = decide([verdict(name) for name in names], before, NIGHT, hand)
    assert decision == expected
    assert reason


@pytest.mark.parametrize("as_of", [date(2013, 9, 1), date(2013, 10, 1), date(2031, 1, 1)])
def test_without_dates_the_later_night_is_the_newer_whatever_a_clock_said(as_of: date) -> None:
    before = champion(as_of=as_of, fit_until=None)
    assert decide([verdict("PASS")], before, None)[0] == "PROMOTE"
    assert is_open([verdict("INCONCLUSIVE")], before, None, None)


def test_what_can_be_compared() -> None:
    assert comparability(champion(), "2013-09-04", "t", "s", "champion") is None
    assert "has seen data" in str(comparability(champion(fit_until="2013-09-04"), "2013-09-04", "t", "s", "champion"))
    assert "another target" in str(comparability(champion(), "2013-09-04", "other", "s", "champion"))
    assert comparability(champion(fit_until=None), None, "t", "s", "champion") is None
    assert "another split" in str(comparability(champion(fit_until=None), None, "t", "other", "champion"))


def test_words_for_the_end_of_a_night_stand_in_one_tuple() -> None:
    assert ALL_END_WORDS == ("Promoted", "KeptChampion", "NoChampionYet", "NothingNew", "DataRejected")


class Own(Gate):
    """A gate of a company's own, which answers what the test tells it to."""

    def __init__(self, answer: Callable[[Gate], Any]) -> None:
        super().__init__(metric="f1", why="a test")
        object.__setattr__(self, "answer", answer)

    def weigh(self, pair: Pair, evidence: Evidence) -> Verdict:
        answer: Verdict = vars(self)["answer"](self)
        return answer


def a_word_that_is_none(gate: Gate) -> Verdict:
    return gate.verdict("OK", "it is fine")  # type: ignore[arg-type]


UNUSABLE: dict[str, tuple[Callable[[Gate], Any], str]] = {
    "it raises": (
        lambda gate: 1 / 0,
        r"the gate Own f1 must give a verdict, but it raises ZeroDivisionError at test_g",
    ),
    "it returns nothing": (lambda gate: None, "it gives a NoneType: return self.verdict"),
    "it returns a word alone": (lambda gate: "PASS", "it gives a str"),
    "it makes up a word": (a_word_that_is_none, "one of PASS, FAIL, .*, but it gives OK"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_own_gate_that_gives_no_verdict_ends_the_night_in_a_sentence(name: str) -> None:
    answer, words = UNUSABLE[name]
    with pytest.raises(ConfigError, match=words):
        verdict_of(Own(answer), evidence(binary(LABELS, GOOD, GOOD, 100)))


def test_figures_of_an_own_gate_are_kept_as_json_can_hold_them() -> None:
    figures = {"share": np.float64(0.5), "rows": np.int64(3), "none": np.nan, "far": -np.inf, "words": "a day"}
    gate = Own(lambda gate: gate.verdict("PASS", "so it is", **figures))
    judged = verdict_of(gate, evidence(binary(LABELS, GOOD, GOOD, 100)))
    assert judged.figures == {"share": 0.5, "rows": 3, "none": None, "far": None, "words": "a day"}
    assert {type(figure) for figure in judged.figures.values()} == {float, int, str, type(None)}
    assert from_json(Verdict, to_json(judged)) == judged


@dataclass(frozen=True, kw_only=True)
class Tolerant(Comparison):
    """An own gate on a difference, with figures of its own; one is named like a measured one."""

    share: float = 0.25
    low: float = -1.0
    reason: str = "a field of any name"

    def decide(self, difference: Difference) -> tuple[VerdictName, str]:
        return "PASS" if difference.low > self.low else "FAIL", "so it is"


def test_a_comparison_of_ones_own_keeps_its_figures_beside_the_measured_ones() -> None:
    judged = verdict_of(Tolerant(metric="f1", why="a test"), evidence(binary(LABELS, GOOD, GOOD, 100)))
    assert (judged.verdict, judged.reason) == ("PASS", "so it is (a test)")
    assert judged.figures == {
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
        "smallest_detectable_drop": 0.0,
        "independent_units": 1000.0,
        "share": 0.25,
    }
