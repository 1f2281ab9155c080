"""`on_inconclusive="ask"`: what is a question, who may answer it, and the whole way through Prefect's page."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest

from deployments.cli import main
from deployments.prefect import answered, client, up
from deployments.prefect.announcement import Servers
from deployments.prefect.answered import resume_answered
from deployments.prefect.client import ask, insisted
from deployments.prefect.night import follow
from ml.errors import UsageError
from ml.evaluation.decision import is_open
from ml.evaluation.handles import Verdict
from ml.operations.moves import answer, carry_out, judged_since, plan_hold, plan_no, plan_promote
from ml.reporting.endings import answer_sentence, end_word
from ml.settings import Settings
from ml.storage.ledger import Ledger, NightEntry, OperatorEntry, open_questions, version_of
from ml.storage.records import SourceChange
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import open_store
from tasks.lost import ASKED
from tasks.question import _question
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


def test_the_form_begins_with_the_question_and_with_the_change_of_the_source(asked: tuple[Ledger, NightEntry]) -> None:
    """Because Prefect's page shows only the first lines of a long text."""
    _, night = asked
    gates = {"MinMetric f1": "PASS", "NotWorseThanChampion f1": "INCONCLUSIVE", "SourceUnchanged": "INCONCLUSIVE"}
    verdicts = [{"gate": gate, "verdict": verdict, "reason": "so"} for gate, verdict in gates.items()]
    result = {"verdicts": verdicts, "champion_before": 1, "champion_after": 1, "asks": True}
    change = SourceChange(
        column="amount", kind="number", first_day="2024-03-01", days=("2024-03-01",), share=1.0, usual=0.0, words="w"
    )
    told = _question(replace(night, result=result, source_changes=(change,)))
    assert told.split("\n\n") == [
        "Is tills version 2 (as of 2024-03-02) to serve?",
        "SourceUnchanged cannot tell: so.",
        "NotWorseThanChampion f1 cannot tell: so.",
        "Exclude leaves out 2024-03-01.",
        "Champion is still version 1.",
    ]


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


@pytest.mark.parametrize("decision", ["KEEP", "REJECT"])
def test_a_later_night_that_judges_the_same_version_and_asks_nothing_closes_the_question(
    asked: tuple[Ledger, NightEntry], decision: Any
) -> None:
    """As with gates that were changed. Another version's night closes nothing, and nor does one without a version."""
    ledger, night = asked
    again = replace(night, seq=3, run_key="asks again")
    other = replace(night, seq=4, run_key="other", candidate=version(3), asks=False)
    idle = replace(night, seq=5, run_key="idle", candidate=None, asks=False, decision="NOTHING_NEW")
    for between in (again, other, idle):
        assert ledger.append(between)
    assert open_questions(ledger.entries()) == [again]  # one question, told once
    judged = replace(night, seq=6, run_key="judged", asks=False, decision=decision, reason="f1 is too low.")
    assert ledger.append(judged)
    assert open_questions(ledger.entries()) == []
    assert ledger.answer_to(night) == ledger.answer_to(again) == judged
    assert answer(ledger, None, night, **GIVEN) == judged == ledger.head()
    said = answer_sentence(judged)
    assert f"by entry 6, which judged version 2 again, {decision}: f1 is too low." in said
    assert end_word(night, judged) == "KeptChampion"
    with pytest.raises(UsageError, match=rf"none about version 2 \(entry 6 judged it again, {decision}\): nothing is"):
        plan_no(ledger, 2, "so")
    assert plan_promote(ledger, 2, "after all").answers is None
    assert (judged_since(ledger, version(2)), judged_since(ledger, version(3))) == (
        f"entry 6 judged it again, {decision}",
        "",
    )


@pytest.mark.parametrize("runs", [0, 1, 200, 450])
def test_all_pages_of_waiting_runs_are_read(
    asked: tuple[Ledger, NightEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    """Prefect gives 200 in one answer. Of these runs the last one's question is closed."""
    ledger, night = asked
    carry_out(ledger, None, plan_no(ledger, 2, "so"))
    request = {"parameters": {"request": {"use_case": "tills"}}}
    waiting = [{"id": place, "labels": {}, **request} for place in range(runs)]
    for run in waiting[-1:]:
        run["labels"] = {ASKED: str(night.seq)}
    told: list[str] = []

    def prefect_says(url: str, query: dict[str, Any]) -> Any:
        if url.endswith("/filter"):
            return waiting[query["offset"] : query["offset"] + 200]
        return told.append(url) or {}

    monkeypatch.setattr(client, "ask", prefect_says)
    monkeypatch.setattr(answered, "ask", prefect_says)
    of_store = replace(Settings.from_environment(), store=str(tmp_path))
    assert resume_answered(of_store, "api", {"tills"}) == [str(place) for place in range(runs)][-1:]
    assert told == [f"api/flow_runs/{runs - 1}/set_state"][: bool(runs)]


def test_a_page_that_prefect_does_not_give_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ask", lambda url, query: None if query["offset"] else [1, 2])
    assert client.ask_all("url", {}) is None


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
    run = insisted(f"{prefect}/deployments/{deployment['id']}/create_flow_run", {"idempotency_key": str(uuid4())})
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
    insisted(f"{prefect}/flow_runs/{run['id']}/resume", {"run_input": GIVEN})
    state = wait_for(lambda: _state_in(prefect, run["id"], {"FAILED", "COMPLETED", "CRASHED"}), 120)
    assert (state["name"], state["message"][:27]) == ("Completed", "Promoted: Ada answered on 2")
    assert "was not used" not in state["message"]
    assert [each.as_of for each in served_shop.entries()] == [date(2024, 3, 15), DAY]
    head = served_shop.ledger.head()
    assert isinstance(head, OperatorEntry) and (head.by, head.answers) == ("Ada", night.seq)
    assert Registry(served_shop.settings, "shop").alias(CHAMPION) == version_of(night.candidate)


def test_up_looks_once_a_minute_for_questions_that_were_closed_elsewhere(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    for name in ("resubmit_crashed", "end_left_tasks", "name_upcoming"):
        monkeypatch.setattr(up, name, lambda *_: None)
    monkeypatch.setattr(up.Lost, "end", lambda *_: None)
    monkeypatch.setattr(up, "resume_answered", lambda _settings, api, _names: looked.append(api))
    a_minute = round(60 / up.WATCH_SECONDS)
    monkeypatch.setattr(up.time, "sleep", Mock(side_effect=[*[None] * a_minute, KeyboardInterrupt]))
    with pytest.raises(KeyboardInterrupt):
        up._watch([], "api", settings)
    assert looked == ["api", "api"], "at the start, and then after a minute"


class Asking:
    """Nights on the served deployment that ask, each followed as by `retrain run` until its run has ended."""

    def __init__(self, shop: Shop, prefect: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.shop, self.prefect, self.capsys = shop, prefect, capsys
        wait_for(lambda: ask(f"{prefect}/deployments/name/retrain/shop"), 60)
        self.servers = Servers(prefect, "http://page", "", os.getpid(), "", "")

    def ended(self, as_of: str, answering: Callable[[str], object]) -> dict[str, Any]:
        """The run of the night, which waited until `answering` was called with its id."""
        request = {"use_case": "shop", "as_of": as_of, "seed": None, "again": None, "dry_run": False, "wait": True}
        with ThreadPoolExecutor() as pool:
            answered = pool.submit(self._answer, f"shop {as_of}", answering)
            result = follow(self.shop.settings, "retrain/shop", request, self.servers)
        run = dict(insisted(f"{self.prefect}/flow_runs/{answered.result()}"))
        closed = self.shop.ledger.entry(result["answer"])
        assert run["state_name"] == "Completed"
        assert closed == self.shop.ledger.answer_to(self.shop.entries()[-1])
        assert self.alias() == version_of(closed.champion)
        assert open_questions(self.shop.ledger.entries()) == []
        return run

    def _answer(self, name: str, answering: Callable[[str], object]) -> str:
        chosen = {"flow_runs": {"name": {"any_": [name]}}}
        run = wait_for(lambda: ask(f"{self.prefect}/flow_runs/filter", chosen), 30)
        assert run, "a submitted run has its name from the start"
        state = wait_for(lambda: _state_in(self.prefect, run[0]["id"], {"PAUSED", "FAILED", "COMPLETED"}), 120)
        assert state["name"] == "Suspended", state
        answering(run[0]["id"])
        return str(run[0]["id"])

    def alias(self) -> int | None:
        return Registry(self.shop.settings, "shop").alias(CHAMPION)

    def told(self, *words: str) -> str:
        assert main([*words]) == 0
        return self.capsys.readouterr().out


@pytest.mark.slow
def test_a_question_that_is_closed_without_its_page_ends_its_run_and_its_follower(
    served_shop: Shop, prefect: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By no and yes in a terminal, by the choice of another champion, and before somebody presses Resume."""
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    assert served_shop.document("2024-03-15")["decision"] == "FIRST"
    shop, say = Asking(served_shop, prefect, capsys), ["--yes", "--reason", "a test says so"]

    def say_no(run: str) -> None:
        both = (
            "Yes: retrain promote shop --version 2 --reason WHY. No: retrain promote shop --version 2 --no --reason WHY"
        )
        assert both in shop.told("status")
        assert both in shop.told("doctor", "shop")
        said = shop.told("promote", "shop", "--version", "2", "--no", *say)
        assert "Answered no: version 2 of shop is not promoted, and the champion stays version 1." in said
        assert f"The run that asked ends by itself: {prefect.removesuffix('/api')}/runs/flow-run/{run}" in said
        assert "OPERATOR_KEEP  answers entry 2  champion 1 -> 1" in shop.told("ledger", "shop")

    def answer_before_resume(run: str) -> None:
        carry_out(served_shop.ledger, None, plan_no(served_shop.ledger, 3, "a test was first"))
        insisted(f"{prefect}/flow_runs/{run}/resume", {"run_input": GIVEN})

    def choose_another(run: str) -> None:
        carry_out(served_shop.ledger, None, plan_promote(served_shop.ledger, 1, "it stays"))
        assert resume_answered(served_shop.settings, prefect, {"another"}) == []
        assert resume_answered(served_shop.settings, prefect, {"shop"}) == [run], "as `retrain up` does every minute"

    message = shop.ended("2024-03-16", say_no)["state"]["message"]
    assert message.startswith("KeptChampion: ") and "no to version 2 of entry 2: a test says so. F1 0." in message

    message = shop.ended("2024-03-17", answer_before_resume)["state"]["message"]
    assert message.startswith("KeptChampion: ") and "no to version 3 of entry 4: a test was first. " in message
    assert "The later answer of Ada, yes (the loss is noise), was not used. F1 0." in message

    message = shop.ended("2024-03-18", choose_another)["state"]["message"]
    assert message.startswith("KeptChampion: The question was closed on ")
    assert "by entry 7, OPERATOR_PROMOTE of version 1 by " in message

    run = shop.ended("2024-03-19", lambda run: shop.told("promote", "shop", "--version", "5", *say))
    assert run["state"]["message"].startswith("Promoted: ") and "Promoted" in run["tags"]
    assert "yes to version 5 of entry 8: a test says so." in run["state"]["message"]
    said = shop.told("run", "shop", "--as-of", "2024-03-19")
    assert "shop version 5 (as of 2024-03-19) became the new champion" in said
    assert "yes to version 5 of entry 8: a test says so. Champion today: 5." in said


def _state_in(prefect: str, run_id: str, types: set[str]) -> Any:
    state = insisted(f"{prefect}/flow_runs/{run_id}")["state"]
    return state if state["type"] in types else None
