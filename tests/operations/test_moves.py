"""An operator's moves: entries of the ledger that the aliases follow, one at a time, and never without a reason."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from ml.data.handles import Snapshot
from ml.errors import Busy, UsageError
from ml.operations.moves import (
    carry_out,
    plan_exclude,
    plan_hold,
    plan_include,
    plan_promote,
    plan_release,
    plan_rollback,
)
from ml.pipeline.register import _excluded_since
from ml.storage.ledger import Ledger, version_of
from ml.storage.records import Champion
from ml.storage.store import open_store
from tests.storage.test_ledger import entry, pair, version


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Version 1 was first, 2 was promoted, 3 was kept."""
    made = Ledger(open_store(str(tmp_path)), "tills")
    one, two, three = (version(number) for number in (1, 2, 3))
    for night in (
        entry(1, decision="FIRST", candidate=one, champion=one, reference=one),
        entry(2, decision="PROMOTE", candidate=two, champion_before=one, champion=two, reference=one),
        entry(3, candidate=three, champion_before=two, champion=two, reference=one),
    ):
        assert made.append(night)
    return made


def champions(ledger: Ledger) -> list[int | None]:
    return [version_of(each.champion) for each in ledger.entries()]


def test_a_promoted_version_becomes_champion_and_reference(ledger: Ledger) -> None:
    carry_out(ledger, None, plan_promote(ledger, 3, "another split of the rows"))
    head = ledger.head()
    assert head is not None
    assert (head.decision, version_of(head.champion), version_of(head.reference)) == ("OPERATOR_PROMOTE", 3, 3)
    assert (version_of(head.champion_before), head.reason) == (2, "another split of the rows")


def test_a_rollback_goes_to_the_champion_before_or_to_any_that_served(ledger: Ledger) -> None:
    assert version_of(plan_rollback(ledger, None, "late flights").champion) == 1
    carry_out(ledger, None, plan_promote(ledger, 3, "so"))
    assert version_of(plan_rollback(ledger, 1, "so").champion) == 1
    back = plan_rollback(ledger, None, "so")
    assert version_of(back.champion) == 2
    carry_out(ledger, None, back)
    assert version_of(plan_rollback(ledger, None, "a second one goes further back, not forth").champion) == 1
    with pytest.raises(UsageError, match=r"earlier champion \(3, 1\), but it is 7"):
        plan_rollback(ledger, 7, "so")


def test_only_what_a_night_recorded_can_be_promoted(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match=r"recorded \(1, 2, 3\), but it is 4"):
        plan_promote(ledger, 4, "so")


def test_a_version_that_was_judged_twice_is_named_once(ledger: Ledger) -> None:
    two = version(2)
    assert ledger.append(entry(4, candidate=version(3), champion_before=two, champion=two, reference=version(1)))
    with pytest.raises(UsageError, match=r"recorded \(1, 2, 3\), but it is 4"):
        plan_promote(ledger, 4, "so")


def test_a_hold_lasts_until_it_is_released(ledger: Ledger) -> None:
    carry_out(ledger, None, plan_hold(ledger, "audit"))
    with pytest.raises(UsageError, match="audit"):
        plan_hold(ledger, "again")
    carry_out(ledger, None, plan_exclude(ledger, "2024-02-03", "doubled"))
    head = ledger.head()
    assert head is not None
    assert head.held is not None
    assert head.excluded == {"2024-02-03": "doubled"}
    carry_out(ledger, None, plan_release(ledger, "audited"))
    head = ledger.head()
    assert head is not None
    assert (head.held, head.excluded) == (None, {"2024-02-03": "doubled"})
    with pytest.raises(UsageError, match="not held"):
        plan_release(ledger, "again")


@pytest.mark.parametrize(
    ("day", "known", "blocks"),
    [("2024-02-03", {}, True), ("2024-02-03", {"2024-02-03": "doubled"}, False), ("2024-03-01", {}, False)],
)
def test_a_night_that_learnt_from_a_day_excluded_since_moves_nothing(
    ledger: Ledger, day: str, known: dict[str, str], blocks: bool
) -> None:
    carry_out(ledger, None, plan_exclude(ledger, day, "doubled"))
    snapshot = Snapshot(
        digest="d", manifest="m", partitions=28, first_day="2024-02-01", last_day="2024-02-29", missing_days=(),
        excluded=known, changed_days=(),
    )  # fmt: skip
    assert ((_excluded_since(ledger.head(), snapshot) or "").startswith(f"It learnt from {day}")) is blocks


def test_an_excluded_day_is_included_again(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match=r"nights leave out \(excluded none"):
        plan_include(ledger, "2024-02-03", "so")
    carry_out(ledger, None, plan_exclude(ledger, "2024-02-03", "doubled"))
    with pytest.raises(UsageError, match="doubled"):
        plan_exclude(ledger, "2024-02-03", "again")
    carry_out(ledger, None, plan_include(ledger, "2024-02-03", "delivered again"))
    assert [each.excluded for each in ledger.entries()][-2:] == [{"2024-02-03": "doubled"}, {}]
    assert champions(ledger) == [1, 2, 2, 2, 2]


def test_the_second_of_two_operators_is_told_what_the_first_did(ledger: Ledger) -> None:
    first, second = plan_rollback(ledger, None, "late flights"), plan_promote(ledger, 3, "so")
    carry_out(ledger, None, first)
    with pytest.raises(Busy, match=r"was first with ROLLBACK at .* \(late flights\)"):
        carry_out(ledger, None, second)
    assert champions(ledger) == [1, 2, 2, 1]


def test_a_move_without_a_reason_or_without_a_night_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reason"):
        plan_hold(ledger, " ")
    empty = Ledger(open_store(str(tmp_path)), "nobody")
    for plan in (lambda: plan_hold(empty, "so"), lambda: plan_rollback(empty, None, "so")):
        with pytest.raises(UsageError, match="has no entry"):
            plan()


def test_a_moved_champion_keeps_what_decides_whether_it_can_be_compared(ledger: Ledger) -> None:
    chosen = plan_promote(ledger, 3, "so").champion
    assert isinstance(chosen, Champion)
    assert chosen == replace(version(3), as_of=date(2024, 3, 3))


@pytest.fixture
def pairs(tmp_path: Path) -> Ledger:
    """Version 1 with its refit 2 was first, 3 with 4 was promoted, 5 was kept."""
    made = Ledger(open_store(str(tmp_path)), "tills")
    for night in (
        entry(1, decision="FIRST", candidate=pair(1), champion=pair(1), reference=pair(1)),
        entry(2, decision="PROMOTE", candidate=pair(3), champion_before=pair(1), champion=pair(3), reference=pair(1)),
        entry(3, candidate=version(5), champion_before=pair(3), champion=pair(3), reference=pair(1)),
    ):
        assert made.append(night)
    return made


@pytest.mark.parametrize("number", [1, 2])
def test_a_judged_version_and_its_refit_move_together_whichever_is_named(pairs: Ledger, number: int) -> None:
    assert plan_promote(pairs, number, "so").champion == pair(1)
    assert plan_rollback(pairs, number, "so").champion == plan_rollback(pairs, None, "so").champion == pair(1)


def test_a_kept_version_that_is_promoted_by_hand_serves_as_judged(pairs: Ledger) -> None:
    assert plan_promote(pairs, 5, "so").champion == version(5)


def test_a_rollback_skips_a_pair_that_is_lost(pairs: Ledger) -> None:
    carry_out(pairs, None, plan_promote(pairs, 5, "so"))
    lost = pair(3).served
    assert plan_rollback(pairs, None, "so", lambda model: model.served == lost).champion == pair(1)


def test_of_pairs_a_message_names_both_versions(pairs: Ledger) -> None:
    with pytest.raises(UsageError, match=r"recorded \(1 \(refitted as 2\), 3 \(refitted as 4\), 5\), but it is 6"):
        plan_promote(pairs, 6, "so")
    with pytest.raises(UsageError, match=r"earlier champion \(1 \(refitted as 2\)\), but it is 6"):
        plan_rollback(pairs, 6, "so")


def test_a_twin_that_took_over_is_rolled_back_over_and_comes_back_without_its_refit(pairs: Ledger) -> None:
    """Its entry names the same judged version, and nothing else serves than that one."""
    alone = replace(pair(3), refit=None)
    taken = entry(4, champion_before=pair(3), champion=alone, reference=pair(1), candidate=None)
    assert pairs.append(taken)
    assert taken.moves_champion
    assert plan_rollback(pairs, None, "so").champion == pair(1)
    carry_out(pairs, None, plan_rollback(pairs, None, "so"))
    assert plan_rollback(pairs, 3, "so").champion == alone
    assert plan_promote(pairs, 4, "by name it does").champion == pair(3)
