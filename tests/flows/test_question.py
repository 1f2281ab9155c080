"""`on_inconclusive="ask"`: what is a question, who may answer it, and the whole way through Prefect's page."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from deployments.prefect.client import ask, insisted
from ml.errors import UsageError
from ml.evaluation.decision import is_open
from ml.evaluation.handles import Verdict
from ml.operations.moves import answer, carry_out, plan_hold, plan_no, plan_promote
from ml.storage.ledger import Ledger, NightEntry, OperatorEntry, open_questions, version_of
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import open_store
from tests.deployments.test_schedules import wait_for
from tests.evaluation.test_gates import champion
from tests.storage.test_ledger import entry, version
from tests.story import SHOP, Shop

DAY = date(2024, 3, 16)
GIVEN = {"promote": True, "name": "Ada", "reason": "the loss is noise"}


@pytest.mark.parametrize(
    ("names", "before", "blocked", "expected"),
    [
        (["PASS", "INCONCLUSIVE"], None, None, True),
        (["NOT_APPLICABLE", "INCONCLUSIVE"], date(2024, 3, 1), None, True),
        (["PASS", "PASS"], date(2024, 3, 1), None, False),
        (["INCONCLUSIVE", "FAIL"], date(2024, 3, 1), None, False),
        (["INCONCLUSIVE", "NOT_JUDGED"], date(2024, 3, 1), None, False),
        (["INCONCLUSIVE"], date(2024, 3, 1), "it is held", False),
        (["INCONCLUSIVE"], DAY, None, False),
        ([], None, None, False),
    ],
)
def test_a_question_is_open_where_gates_alone_cannot_tell(
    names: list[Any], before: date | None, blocked: str | None, expected: bool
) -> None:
    verdicts = [Verdict(gate="a gate", verdict=name, reason="r", figures={}) for name in names]
    assert is_open(verdicts, champion(as_of=before) if before else None, DAY, blocked) is expected


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Ledger, NightEntry]:
    """Version 1 serves, and about version 2 an operator is asked."""
    ledger, one = Ledger(open_store(str(tmp_path)), "tills"), version(1)
    night = entry(2, candidate=version(2), champion_before=one, champion=one, reference=one, asks=True)
    assert ledger.append(entry(1, decision="FIRST", candidate=one, champion=one, reference=one))
    assert ledger.append(night)
    return ledger, night


@pytest.mark.parametrize(("promote", "decision", "after"), [(True, "OPERATOR_PROMOTE", 2), (False, "OPERATOR_KEEP", 1)])
def test_an_answer_is_one_entry_under_its_name(
    asked: tuple[Ledger, NightEntry], promote: bool, decision: str, after: int
) -> None:
    """Given twice, as by a run that was killed behind it, it is the same."""
    ledger, night = asked
    carry_out(ledger, None, plan_hold(ledger, "another entry comes between"))
    said = [answer(ledger, None, night, **{**GIVEN, "promote": promote}) for _ in range(2)]
    assert said[0] == said[1] == ledger.head()
    assert isinstance(said[0], OperatorEntry)
    assert (said[0].decision, said[0].by, said[0].answers) == (decision, "Ada", 2)
    assert said[0].reason == f"{'yes' if promote else 'no'} to version 2 of entry 2: the loss is noise"
    assert (version_of(said[0].champion), version_of(said[0].reference)) == (after, 1)


@pytest.mark.parametrize("promote", [True, False])
def test_an_answer_in_a_terminal_is_the_entry_that_resume_would_have_made(
    asked: tuple[Ledger, NightEntry], promote: bool
) -> None:
    ledger, night = asked
    made = (plan_promote if promote else plan_no)(ledger, 2, "the loss is noise")
    resumed = answer(ledger, None, night, promote=promote, name=made.by, reason="the loss is noise")
    assert isinstance(resumed, OperatorEntry)
    assert replace(made, at="", nonce="") == replace(resumed, at="", nonce="")


def test_no_answers_only_an_open_question(asked: tuple[Ledger, NightEntry]) -> None:
    ledger, _ = asked
    with pytest.raises(UsageError, match="there is none about version 1: choose one of those asked about: 2"):
        plan_no(ledger, 1, "so")
    with pytest.raises(UsageError, match="a move has a reason"):
        plan_no(ledger, 2, " ")
    carry_out(ledger, None, plan_no(ledger, 2, "so"))
    with pytest.raises(UsageError, match="there is none about version 2: nothing is to be done"):
        plan_no(ledger, 2, "so")


def test_a_later_promotion_of_a_version_that_was_asked_about_is_a_choice_and_no_answer(
    asked: tuple[Ledger, NightEntry],
) -> None:
    ledger, _ = asked
    carry_out(ledger, None, plan_no(ledger, 2, "so"))
    chosen = plan_promote(ledger, 2, "after all")
    assert (chosen.answers, version_of(chosen.reference), chosen.reason) == (None, 2, "after all")


def test_an_answer_closes_earlier_questions_about_the_same_version(asked: tuple[Ledger, NightEntry]) -> None:
    ledger, night = asked
    again = replace(night, seq=3, run_key="another")
    assert ledger.append(again)
    carry_out(ledger, None, plan_no(ledger, 2, "so"))
    assert open_questions(ledger.entries()) == []
    assert ledger.answer_to(night) == ledger.answer_to(again) == ledger.head()


def test_an_answer_comes_too_late_once_the_champion_was_chosen_otherwise(asked: tuple[Ledger, NightEntry]) -> None:
    ledger, night = asked
    moved = plan_promote(ledger, 1, "it stays")
    carry_out(ledger, None, moved)
    assert answer(ledger, None, night, **GIVEN) == moved == ledger.head()


def test_a_choice_made_while_an_answer_is_written_stands(
    asked: tuple[Ledger, NightEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, night = asked
    moved, look = plan_promote(ledger, 1, "it stays"), Ledger.answer_to

    def choose_after_the_look(of: Ledger, entry: NightEntry) -> Any:
        found = look(of, entry)
        of.append(moved)
        return found

    monkeypatch.setattr(Ledger, "answer_to", choose_after_the_look)
    assert answer(ledger, None, night, **GIVEN) == moved == ledger.head()


def test_a_question_is_open_until_it_is_closed(asked: tuple[Ledger, NightEntry]) -> None:
    ledger, night = asked
    assert open_questions(ledger.entries()) == [night]
    answer(ledger, None, night, **{**GIVEN, "promote": False})
    assert open_questions(ledger.entries()) == []


@pytest.fixture
def served_shop(shop: Shop, prefect: str) -> Iterator[Shop]:
    """The shop asks, its gate allows no loss that could be shown, and its deployment is served."""
    assert shop.settings.project is not None
    text = SHOP.replace("max_drop=0.05", "max_drop=0.0001").replace(
        "    min_rows", '    on_inconclusive="ask",\n    min_rows'
    )
    (shop.settings.project / "use_cases" / "shop.py").write_text(text)
    served = subprocess.Popen(
        [sys.executable, "-m", "deployments.prefect.serve"], env={**os.environ, "PREFECT_API_URL": prefect}
    )
    yield shop
    served.terminate()
    served.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_a_suspended_night_is_resumed_with_an_answer(served_shop: Shop, prefect: str, again: bool) -> None:
    """Without a date of its own the resumed run keeps the one that it began with, though the next would be due; and it
    judges nothing again, though a day was changed meanwhile."""
    assert served_shop.document("2024-03-15")["decision"] == "FIRST"
    deployment = wait_for(lambda: ask(f"{prefect}/deployments/name/retrain/shop"), 60)
    run = ask(f"{prefect}/deployments/{deployment['id']}/create_flow_run", {})
    assert run is not None
    state = wait_for(lambda: _state_in(prefect, run["id"], {"PAUSED", "FAILED", "COMPLETED"}), 120)
    assert state["name"] == "Suspended", state
    (night,) = [each for each in served_shop.entries() if each.asks]
    assert (night.decision, str(night.as_of)) == ("KEEP", "2024-03-16")
    assert night.reason.endswith("An operator is asked.")
    refused = ask(f"{prefect}/flow_runs/{run['id']}/resume", {"run_input": {"promote": True}})
    assert refused is None or refused["status"] == "REJECT"
    if again:  # its process was killed with an answer in its hands: it asks once more
        for state in ({"type": "CRASHED"}, {"type": "SCHEDULED", "name": "AwaitingRetry"}):
            insisted(f"{prefect}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        state = wait_for(lambda: _state_in(prefect, run["id"], {"PAUSED", "FAILED", "COMPLETED"}), 120)
        assert state["name"] == "Suspended", state
    served_shop.rewrite("2024-03-02", amount=1.0)
    ask(f"{prefect}/flow_runs/{run['id']}/resume", {"run_input": GIVEN})
    state = wait_for(lambda: _state_in(prefect, run["id"], {"FAILED", "COMPLETED", "CRASHED"}), 120)
    assert (state["name"], state["message"][:31]) == ("Completed", "Promoted: OPERATOR_PROMOTE by A")
    assert [each.as_of for each in served_shop.entries()] == [date(2024, 3, 15), DAY]
    head = served_shop.ledger.head()
    assert isinstance(head, OperatorEntry) and (head.by, head.answers) == ("Ada", night.seq)
    assert Registry(served_shop.settings, "shop").alias(CHAMPION) == version_of(night.candidate)


def _state_in(prefect: str, run_id: str, types: set[str]) -> Any:
    state = ask(f"{prefect}/flow_runs/{run_id}")["state"]
    return state if state["type"] in types else None
