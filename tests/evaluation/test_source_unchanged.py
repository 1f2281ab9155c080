"""What the gate says of changes, how long an answer holds, and what the ledger keeps of it."""

from pathlib import Path
from typing import Any

import pytest

from ml import BetterThanTrivial, MinMetric, SourceUnchanged
from ml.errors import ConfigError, UsageError
from ml.evaluation.gates import Evidence
from ml.evaluation.handles import Verdict
from ml.evaluation.source_evidence import REWRITTEN, SourceEvidence, days_to_exclude
from ml.operations.moves import carry_out, plan_exclude, plan_no, plan_promote
from ml.pipeline.evaluate import _may_ask
from ml.reporting.decision_section import changed_source, way_out, ways_to_answer
from ml.reporting.source_section import after_no, source_lines
from ml.storage.json_form import from_json, to_json
from ml.storage.ledger import Ledger, OperatorEntry, version_of
from ml.storage.records import SourceAnswer, SourceChange
from ml.storage.store import open_store
from tests.storage.test_ledger import entry, version
from tests.tiny import parcels, tills

GATE = SourceUnchanged(why="a test")
DAYS = tuple(f"2024-03-{day:02}" for day in range(1, 29))


def change(first: int = 10, last: int = 11, column: str = "amount", kind: str = "number") -> SourceChange:
    days = DAYS[first - 1 : last]
    words = f"on {days[0]} {column} is spread otherwise"
    return SourceChange(
        column=column, kind=kind, first_day=days[0], days=days, share=0.9, usual=0.1, words=words
    )  # fmt: skip


def said(accepted: bool, first: int = 10, column: str = "amount", kind: str = "number") -> SourceAnswer:
    return SourceAnswer(column=column, kind=kind, first_day=DAYS[first - 1], accepted=accepted, entry=4)


def judged(*changes: SourceChange, answers: tuple[SourceAnswer, ...] = (), days: tuple[str, ...] = DAYS) -> Verdict:
    source = SourceEvidence(days=days, changes=changes, answers=answers)
    return GATE.judge(Evidence(unit="day", pairs={}, source=source))


WITHOUT_FIRST_DAYS = tuple(day for day in DAYS if day not in DAYS[9:11])
CASES: list[tuple[str, str, list[SourceChange], list[SourceAnswer], tuple[str, ...]]] = [
    ("nothing has changed", "PASS", [], [], DAYS),
    ("a change asks", "INCONCLUSIVE", [change()], [], DAYS),
    ("an accepted one does not", "PASS", [change()], [said(True)], DAYS),
    ("nor after more days", "PASS", [change(last=20)], [said(True)], DAYS),
    ("a refused one blocks and asks nobody", "FAIL", [change()], [said(False)], DAYS),
    ("the last answer counts", "PASS", [change()], [said(False), said(True)], DAYS),
    ("an answer is of one column", "INCONCLUSIVE", [change(column="items")], [said(True)], DAYS),
    ("an answer is of one kind", "INCONCLUSIVE", [change(kind="missing")], [said(True)], DAYS),
    ("a later change is another", "INCONCLUSIVE", [change(20, 21)], [said(True)], DAYS),
    ("an earlier change is another", "INCONCLUSIVE", [change(5, 6)], [said(True)], DAYS),
    ("a new change beside an answered one asks", "INCONCLUSIVE", [change(), change(20, 21)], [said(True)], DAYS),
    ("a refused one goes on after excluded days", "FAIL", [change(12, 13)], [said(False)], WITHOUT_FIRST_DAYS),
    ("after a good day it is another", "INCONCLUSIVE", [change(13, 14)], [said(False)], WITHOUT_FIRST_DAYS),
]


@pytest.mark.parametrize(("verdict", "changes", "answers", "days"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_an_answer_holds_for_its_column_its_kind_and_its_first_day(
    verdict: str, changes: list[SourceChange], answers: list[SourceAnswer], days: tuple[str, ...]
) -> None:
    assert judged(*changes, answers=tuple(answers), days=days).verdict == verdict


def test_the_sentence_names_the_changes_and_counts_the_rest() -> None:
    verdict = judged(*(change(column=f"c{number}") for number in range(5)))
    assert verdict.reason == (
        "on 2024-03-10 c0 is spread otherwise; on 2024-03-10 c1 is spread otherwise; on 2024-03-10 c2 is spread "
        "otherwise; 2 more: whether that is right, a person must say (a test)"
    )
    assert verdict.gate == "SourceUnchanged"
    assert (verdict.figures["changes"], verdict.figures["last_day"]) == (5, "2024-03-11")


def test_without_evidence_it_fails() -> None:
    assert GATE.judge(Evidence(unit="day", pairs={})).verdict == "FAIL"


def test_evidence_that_was_stored_before_there_was_a_source_is_read() -> None:
    old = to_json({"unit": "day", "pairs": {}, "not_applicable": {}, "not_comparable": {}})
    assert from_json(Evidence, old).source is None


@pytest.mark.parametrize(
    ("on_inconclusive", "gate", "verdict", "asks"),
    [
        ("keep", "SourceUnchanged", "INCONCLUSIVE", True),
        ("keep", "SourceUnchanged", "FAIL", False),
        ("keep", "BetterThanTrivial f1", "INCONCLUSIVE", False),
        ("ask", "BetterThanTrivial f1", "INCONCLUSIVE", True),
    ],
)
def test_it_always_asks(on_inconclusive: Any, gate: str, verdict: Any, asks: bool) -> None:
    gates = (GATE, BetterThanTrivial(metric="f1", why="a test"))
    use_case = tills(on_inconclusive=on_inconclusive, gates=gates)
    assert _may_ask(use_case, [Verdict(gate=gate, verdict=verdict, reason="r", figures={})]) is asks


def test_it_is_only_for_use_cases_with_days() -> None:
    with pytest.raises(ConfigError, match="gates of the use case parcels must compare days only if there are days"):
        parcels(gates=(GATE, MinMetric(metric="f1", floor=0.1, why="a test")))


@pytest.fixture
def asked(tmp_path: Path) -> Ledger:
    """Version 1 serves. A night asks about version 2, because the amount has changed on two days."""
    ledger, one = Ledger(open_store(str(tmp_path)), "tills"), version(1)
    both = (change(), change(column="items", kind=REWRITTEN, first=1, last=9))
    served = {"champion_before": one, "champion": one, "reference": one}
    assert ledger.append(entry(1, decision="FIRST", candidate=one, champion=one, reference=one))
    assert ledger.append(entry(2, candidate=version(2), asks=True, source_changes=both, **served))
    return ledger


@pytest.mark.parametrize("accepted", [True, False])
def test_the_ledger_remembers_an_answer_in_every_later_entry(asked: Ledger, accepted: bool) -> None:
    carry_out(asked, None, (plan_promote if accepted else plan_no)(asked, 2, "so"))
    carry_out(asked, None, plan_exclude(asked, "2024-01-01", "so"))
    head = asked.head()
    assert head is not None
    assert [(a.column, a.first_day, a.accepted, a.entry) for a in head.source_answers] == [
        ("amount", "2024-03-10", accepted, 3),
        ("items", "2024-03-01", accepted, 3),
    ]


def test_a_promotion_after_a_no_is_a_yes_to_what_its_night_asked(asked: Ledger) -> None:
    carry_out(asked, None, plan_no(asked, 2, "so"))
    carry_out(asked, None, plan_promote(asked, 2, "after all"))
    head = asked.head()
    assert head is not None and version_of(head.champion) == 2
    assert [answer.accepted for answer in head.source_answers] == [False, False, True, True]
    assert judged(change(), answers=head.source_answers).verdict == "PASS"


def test_no_can_leave_out_the_days_but_not_those_that_other_code_made(asked: Ledger) -> None:
    made = plan_no(asked, 2, "a broken feed", exclude=True)
    assert made.excluded == {"2024-03-10": "a broken feed", "2024-03-11": "a broken feed"}
    left_out = "leaving out 2024-03-10 to 2024-03-11 (2 days)"
    assert made.reason == f"no to version 2 of entry 2, {left_out}: a broken feed", "which the ledger prints"
    assert after_no(made, days_to_exclude([change()])) == " No later night uses 2024-03-10, 2024-03-11."
    told = after_no(plan_no(asked, 2, "so"), days_to_exclude([change()]))
    assert "retrain data exclude tills 2024-03-10 --reason WHY; retrain data exclude tills 2024-03-11" in told
    assert after_no(made, []) == ""


def test_days_are_left_out_only_if_the_question_names_any(asked: Ledger) -> None:
    night = entry(3, candidate=version(3), champion=version(1), champion_before=version(1), asks=True)
    assert asked.append(night)
    with pytest.raises(UsageError, match="the question about version 3 names none"):
        plan_no(asked, 3, "so", exclude=True)


def test_a_ledger_without_answers_reads_as_before(asked: Ledger) -> None:
    old = entry(1)
    assert (old.source_answers, old.source_changes) == ((), ())
    assert isinstance(plan_exclude(asked, "2024-01-01", "so"), OperatorEntry)


def document(verdict: str, **figures: Any) -> dict[str, Any]:
    told = {"gate": "SourceUnchanged", "verdict": verdict, "reason": "r", "figures": figures}
    fields = {"use_case": "tills", "version": 2, "decision": "KEEP", "asks": verdict == "INCONCLUSIVE"}
    return {**fields, "verdicts": [told], "not_comparable": {}, "source_changes": [{"words": "x", "kind": "number"}]}


def test_a_night_that_asks_names_all_ways_to_answer() -> None:
    told = way_out(document("INCONCLUSIVE", first_day="2024-03-10", last_day="2024-03-11", kind="number"))
    assert told.endswith("left out: retrain promote tills --version 2 --no --exclude --reason WHY")
    assert "--exclude" not in ways_to_answer("tills", 2)


@pytest.mark.parametrize(
    ("kind", "last", "says"),
    [
        ("number", "2024-03-10", "Leave out 2024-03-10: retrain data exclude tills 2024-03-10 --reason WHY. If that"),
        ("number", "2024-03-12", "Leave out each day from 2024-03-10 to 2024-03-12: retrain data exclude tills DAY "),
        (REWRITTEN, "2024-03-12", "Mend the code that makes amount. If that is right after all: retrain promote tills"),
    ],
)
def test_a_night_that_keeps_because_of_a_no_says_what_leads_out(kind: str, last: str, says: str) -> None:
    figures = {"first_day": "2024-03-10", "last_day": last, "kind": kind, "column": "amount"}
    assert way_out(document("FAIL", **figures)).startswith(says)


@pytest.mark.parametrize(
    ("kind", "last", "says"),
    [
        (
            "number",
            "2024-03-10",
            "is broken, leave out 2024-03-10: retrain data exclude tills 2024-03-10 --reason WHY. ",
        ),
        (
            "loss",
            "2024-03-12",
            "is broken, leave out each day from 2024-03-10 to 2024-03-12: retrain data exclude tills ",
        ),
        (
            REWRITTEN,
            "2024-03-12",
            "If the change of amount is not wanted, mend the code that makes it. If it is right,",
        ),
    ],
)
def test_a_change_that_nobody_is_asked_about_because_another_gate_blocks_says_what_leads_out(
    kind: str, last: str, says: str
) -> None:
    figures = {"first_day": "2024-03-10", "last_day": last, "kind": kind, "column": "amount"}
    told = way_out({**document("INCONCLUSIVE", **figures), "asks": False})
    assert says in told
    assert told.endswith("nothing is to be done: the first night that nothing else blocks asks about it")
    assert changed_source(document("INCONCLUSIVE", **figures)) == "", "a night that asks says how to answer"
    assert changed_source({**document("PASS"), "asks": False}) == ""


def test_the_section_of_the_report_is_there_if_there_is_something_to_say() -> None:
    assert source_lines({}) == []
    night = {"source_changes": [{"words": "on 2024-03-10 amount moved"}], "rewritten": ["amount differs in 3 rows."]}
    assert source_lines(night) == ["- on 2024-03-10 amount moved.", "- amount differs in 3 rows."]
