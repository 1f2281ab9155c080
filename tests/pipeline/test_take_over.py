"""The twin of a refit takes over once, and not where something holds the champion."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml.operations import moves
from ml.operations.moves import carry_out, plan_hold, plan_rollback, take_over
from ml.pipeline import served
from ml.storage.ledger import Ledger, closing_of, open_questions
from ml.storage.records import Champion, Refit
from ml.storage.store import open_store
from tests.storage.test_ledger import entry, version
from tests.tiny import night

REFIT = Refit(version=9, run_id="r", fit_until="2024-03-01", folder="f", files=(), key="k")
PAIR = replace(version(2), refit=REFIT)
ANY: Any = None


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Version 2 was promoted with a refit; two later nights were kept, and the second of them asks."""
    monkeypatch.setattr(moves, "follow_ledger", lambda *_: None)
    made = Ledger(open_store(str(tmp_path)), "tills")
    one, three = version(1), version(3)
    for each in (
        entry(1, decision="FIRST", candidate=one, champion=one, reference=one),
        entry(2, decision="PROMOTE", candidate=PAIR, champion_before=one, champion=PAIR, reference=one),
        entry(3, candidate=version(4), champion_before=PAIR, champion=PAIR, reference=one),
        entry(4, candidate=three, champion_before=PAIR, champion=PAIR, reference=one, asks=True),
    ):
        assert made.append(each)
    return made


def taken_over(ledger: Ledger) -> None:
    head = ledger.head()
    assert head is not None
    assert take_over(ledger, ANY, head, date(2024, 3, 5), "surely worse")


def test_the_judged_version_serves_and_all_else_stays(ledger: Ledger) -> None:
    kept, before = ledger.kept_nights(), ledger.head()
    taken_over(ledger)
    head = ledger.head()
    assert head is not None and head.champion is not None and before is not None
    assert (head.decision, head.reason, head.champion.served.version) == ("TAKE_OVER", "surely worse", 2)
    assert head.champion == replace(PAIR, refit=None)
    assert (head.reference, head.held, head.excluded) == (before.reference, before.held, before.excluded)
    assert ledger.last_move() == head, "the alias follows it"
    assert ledger.kept_nights() == kept == 2, "the champion was not chosen anew"
    (asking,) = open_questions(ledger.entries())
    assert closing_of(ledger.entries(), asking) is None, "the question is not about the champion"
    assert head == ledger.entry(5), "it is read back as it was written"


def test_of_two_entries_after_one_head_one_is_added(ledger: Ledger) -> None:
    head = ledger.head()
    assert head is not None
    assert ledger.append(entry(5, champion_before=PAIR, champion=PAIR))
    assert not take_over(ledger, ANY, head, date(2024, 3, 5), "surely worse")
    assert [each.decision for each in ledger.entries()][4:] == ["KEEP"]


def test_a_rollback_after_it_goes_to_the_champion_before(ledger: Ledger) -> None:
    taken_over(ledger)
    back = plan_rollback(ledger, None, "so")
    assert back.champion == version(1)


def looked(ledger: Ledger, **changes: Any) -> tuple[str | None, bool]:
    site: Any = SimpleNamespace(
        ledger=ledger, registry=None, store=ledger.store, use_case=SimpleNamespace(metric="f1", name="tills")
    )
    plan = changes.get("plan")
    return served._twin(site, night(use_case="tills", as_of=date(2024, 3, 6)), [], ledger.entries(), plan)


@pytest.fixture
def worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refit is surely worse, nobody has moved the alias, and the twin's files are whole."""
    monkeypatch.setattr(served, "why_twin_is_better", lambda *_: "its f1 differs")
    monkeypatch.setattr(served, "roll_alias_forward", lambda *_: None)
    monkeypatch.setattr(served, "why_unusable", lambda *_: None)


def test_the_night_lets_the_twin_take_over_and_says_so(ledger: Ledger, worse: None) -> None:
    said, takes_over = looked(ledger)
    assert takes_over
    assert said == "Version 9, the refit of version 2, is surely worse than it: its f1 differs. Version 2 takes over."
    assert [each.decision for each in ledger.entries()][4:] == ["TAKE_OVER"]
    assert looked(ledger) == (said, True), "a run that was cut off after it finds it"
    assert len(ledger.entries()) == 5


def test_a_later_night_says_nothing_of_an_earlier_take_over(
    ledger: Ledger, worse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked(ledger)
    monkeypatch.setattr(served, "why_twin_is_better", lambda *_: None)
    twin = replace(PAIR, refit=None)
    ledger.append(entry(6, champion_before=twin, champion=twin))
    assert looked(ledger) == (None, False)


def held(ledger: Ledger, _: pytest.MonkeyPatch) -> None:
    carry_out(ledger, None, plan_hold(ledger, "until understood"))


def hand_moved(_: Ledger, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(served, "roll_alias_forward", lambda *_: "The alias champion was moved by hand.")


def without_files(_: Ledger, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(served, "why_unusable", lambda *_: "version 2 is gone")


def overtaken(_: Ledger, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "append", lambda *_: False)


PREVENTED: dict[str, tuple[Callable[[Ledger, pytest.MonkeyPatch], None], str]] = {
    "a hold": (held, "tills is held"),
    "an alias moved by hand": (hand_moved, "moved by hand"),
    "a twin that cannot serve": (without_files, "Its twin cannot serve: version 2 is gone."),
    "another entry came first": (overtaken, "another entry of the ledger came first"),
}


@pytest.mark.parametrize("what", PREVENTED)
def test_what_prevents_it_is_said(what: str, ledger: Ledger, worse: None, monkeypatch: pytest.MonkeyPatch) -> None:
    prevent, words = PREVENTED[what]
    prevent(ledger, monkeypatch)
    said, takes_over = looked(ledger)
    assert not takes_over
    assert said is not None and said.startswith("Version 9, the refit of version 2, is surely worse than it")
    assert words in said
    assert "TAKE_OVER" not in [each.decision for each in ledger.entries()]


@pytest.mark.parametrize(("promote", "takes_over"), [("never", False), ("if-newer", True)])
def test_a_backfill_lets_it_happen_only_if_it_promotes(
    ledger: Ledger, worse: None, promote: str, takes_over: bool
) -> None:
    plan = SimpleNamespace(promote=promote, digest="d" * 64)
    assert looked(ledger, plan=plan)[1] == takes_over


def test_a_champion_without_a_refit_has_no_twin(ledger: Ledger) -> None:
    champion: Champion = replace(PAIR, refit=None)
    ledger.append(entry(5, champion_before=PAIR, champion=champion))
    assert looked(ledger) == (None, False)
