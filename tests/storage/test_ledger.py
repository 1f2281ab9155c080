"""The ledger: entries in order, one new head at a time, and nothing read that is not whole."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ml.digests import digest_bytes
from ml.errors import Corrupt
from ml.storage import paths
from ml.storage.json_form import from_json, to_json
from ml.storage.ledger import Ledger, NightEntry, named, next_after
from ml.storage.records import Champion, FileRef, Refit
from ml.storage.store import open_store


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_store(str(tmp_path)), "tills")


def version(number: int) -> Champion:
    return Champion(
        version=number,
        run_id=f"run{number}",
        as_of=date(2024, 3, number),
        fit_until="2024-02-01",
        target_digest="t",
        split_digest="s",
        folder="f",
        files=(),
    )


def pair(number: int) -> Champion:
    """The judged version of this number, refitted as the next one."""
    file = FileRef(key="g/model", size=1, digest="d")
    refit = Refit(
        version=number + 1, run_id=f"run{number + 1}", fit_until="2024-03-01", folder="g", files=(file,), key="k"
    )
    return replace(version(number), refit=refit)


def entry(seq: int, **changes: Any) -> NightEntry:
    fields: dict[str, Any] = {
        "use_case": "tills",
        "at": "2024-03-01T03:00:00+00:00",
        "by": "anna",
        "as_of": date(2024, 3, seq),
        "run_key": f"run {seq}",
        "learning_key": "l",
        "decision": "KEEP",
        "reason": "so",
        "candidate": None,
        "champion_before": None,
        "champion": None,
        "reference": None,
        "judged_against": seq - 1,
        "manifest": "m",
        "result": {"scores": {"f1": None}, "verdicts": []},
    }
    return NightEntry(seq=seq, **{**fields, **changes})


def test_an_empty_ledger_knows_nothing(ledger: Ledger) -> None:
    assert (ledger.entries(), ledger.head(), ledger.last_move(), ledger.finished("run 1")) == ([], None, None, None)


def test_entries_come_back_as_they_were_in_their_order(ledger: Ledger) -> None:
    written = [entry(seq) for seq in range(1, 13)]
    assert all(ledger.append(one) for one in written)
    assert ledger.entries() == written
    assert ledger.head() == written[-1]
    assert ledger.entry(3) == written[2]


def test_a_second_entry_of_the_same_number_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    assert ledger.append(entry(1))
    assert not ledger.append(entry(1, reason="another run"))
    assert ledger.head() == entry(1)


def test_of_many_runs_that_were_judged_against_one_head_one_is_recorded(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: ledger.append(entry(1, run_key=f"run {n}")), range(8)))
    assert won.count(True) == 1
    assert [one.run_key for one in ledger.entries()] == [f"run {won.index(True)}"]


def test_a_finished_run_is_found_by_its_key_the_newest_first(ledger: Ledger) -> None:
    for seq, key in enumerate(["a", "b", "a"], start=1):
        ledger.append(entry(seq, run_key=key))
    assert ledger.finished("a") == entry(3, run_key="a")
    assert ledger.finished("b") == entry(2, run_key="b")
    assert ledger.finished("c") is None


def test_the_last_move_is_the_newest_entry_that_changed_the_champion(ledger: Ledger) -> None:
    moves = [(None, version(1)), (version(1), version(1)), (version(1), version(3)), (version(3), version(3))]
    for seq, (before, after) in enumerate(moves, start=1):
        ledger.append(entry(seq, champion_before=before, champion=after))
    assert ledger.last_move() == ledger.entry(3)
    ledger.append(entry(5, champion_before=version(3), champion=None))
    assert ledger.last_move() == ledger.entry(5)


def test_each_use_case_has_its_own(ledger: Ledger) -> None:
    ledger.append(entry(1))
    assert Ledger(ledger.store, "parcels").entries() == []
    assert Ledger(ledger.store, "till").entries() == []


def test_an_alias_is_confirmed_once_and_for_one_entry(ledger: Ledger) -> None:
    assert not ledger.alias_confirmed(entry(1))
    ledger.confirm_alias(entry(1))
    ledger.confirm_alias(entry(1))
    assert ledger.alias_confirmed(entry(1))
    assert not ledger.alias_confirmed(entry(2))


def test_an_entry_is_published_once_and_for_itself(ledger: Ledger) -> None:
    assert not ledger.is_published(entry(1))
    ledger.mark_published(entry(1))
    ledger.mark_published(entry(1))
    assert ledger.is_published(entry(1))
    assert not ledger.is_published(entry(2))
    assert not ledger.alias_confirmed(entry(1))
    assert ledger.entries() == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"seq": 1}', b"\xff\xfe"])
def test_an_entry_that_is_not_whole_is_corrupt_and_never_skipped(ledger: Ledger, data: bytes) -> None:
    ledger.append(entry(1))
    ledger.store.put(paths.ledger_entry("tills", 2), data)
    for work in (ledger.entries, ledger.head, ledger.last_move, lambda: ledger.finished("run 1")):
        with pytest.raises(Corrupt, match=r"ledger/tills/00000002\.json"):
            work()


def test_one_flipped_bit_anywhere_in_an_entry_is_found(ledger: Ledger) -> None:
    for seq in (1, 2):
        ledger.append(entry(seq))
    for seq in (1, 2):
        key = paths.ledger_entry("tills", seq)
        whole = ledger.store.get(key) or b""
        for place in range(0, len(whole), 5):
            ledger.store.put(key, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            for read in (lambda _: ledger.entries(), ledger.entry, ledger.digest):
                with pytest.raises(Corrupt, match=rf"has the bytes that were written, but {key} has not"):
                    read(seq)
        ledger.store.put(key, whole)
    assert ledger.entries() == [entry(1), entry(2)]


def test_nothing_is_added_to_a_damaged_head(ledger: Ledger) -> None:
    ledger.append(entry(1))
    ledger.store.put(paths.ledger_entry("tills", 1), b"{}")
    with pytest.raises(Corrupt):
        ledger.append(entry(2))


def test_an_entry_that_was_rewritten_or_taken_away_breaks_the_chain(ledger: Ledger) -> None:
    """Whole in itself and of another content: only the entry after it tells."""
    for seq in (1, 2, 3):
        ledger.append(entry(seq))
    first, second = (ledger.store.get(paths.ledger_entry("tills", seq)) or b"" for seq in (1, 2))
    forger = Ledger(ledger.store, "forged")
    forger.append(entry(1, reason="as I like it"))
    ledger.store.put(paths.ledger_entry("tills", 1), ledger.store.get(paths.ledger_entry("forged", 1)) or b"")
    with pytest.raises(Corrupt, match=r"names the SHA-256 of the one before, but ledger/tills/00000002\.json does not"):
        ledger.entries()
    ledger.store.put(paths.ledger_entry("tills", 1), first)
    ledger.store.delete(paths.ledger_entry("tills", 2))
    with pytest.raises(Corrupt, match=r"ledger/tills/00000003\.json"):
        ledger.finished("run 1")
    ledger.store.put(paths.ledger_entry("tills", 2), second)
    assert [digest_bytes(data) for data in (first, second)] == list(ledger.by_digest())[:2]
    ledger.store.delete(paths.ledger_entry("tills", 1))
    with pytest.raises(Corrupt, match=r"ledger/tills/00000002\.json"):
        ledger.entries()


def test_an_entry_that_is_not_there_is_corrupt(ledger: Ledger) -> None:
    with pytest.raises(Corrupt):
        ledger.entry(7)


def test_a_result_that_strict_json_cannot_hold_is_never_recorded(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="JSON"):
        ledger.append(entry(1, result={"f1": float("nan")}))
    assert ledger.entries() == []


def test_kept_nights_are_counted_by_date_since_the_champion_was_named(ledger: Ledger) -> None:
    first, second = version(1), version(5)
    moved: dict[str, Any] = {"decision": "PROMOTE", "champion_before": first, "champion": second}
    kept: dict[str, Any] = {"champion_before": second, "champion": second}
    assert ledger.kept_nights() == 0
    nights = [
        (entry(1, champion_before=first, champion=first, as_of=date(2024, 3, 4)), 1),
        (entry(2, **moved, as_of=date(2024, 3, 5)), 0),
        (entry(3, **kept, as_of=date(2024, 3, 6)), 1),
        (entry(4, **kept, as_of=date(2024, 3, 2)), 1),  # a backfill of what the champion has seen
        (entry(5, **kept, as_of=date(2024, 3, 6)), 1),  # the same night again
        (entry(6, **kept, decision="NOTHING_NEW", as_of=date(2024, 3, 7)), 1),
        (entry(7, **kept, as_of=date(2024, 3, 8)), 2),
    ]
    for night, count in nights:
        ledger.append(night)
        assert ledger.kept_nights() == count


def test_kept_nights_without_dates_are_counted_by_their_numbers(ledger: Ledger) -> None:
    """Also behind a champion of a clock that ran ahead."""
    ahead = replace(version(1), fit_until=None, as_of=date(2031, 1, 1))
    ledger.append(entry(1, decision="FIRST", candidate=ahead, champion=ahead, as_of=date(2031, 1, 1)))
    for seq in (2, 3, 4):
        ledger.append(entry(seq, champion_before=ahead, champion=ahead, as_of=date(2024, 3, 1)))
        assert ledger.kept_nights() == seq - 1


def test_a_version_is_known_by_its_run_as_well_as_by_its_number(ledger: Ledger) -> None:
    """MLflow's numbers begin again where its registry was emptied."""
    old, new = version(1), replace(version(1), run_id="a later run")
    ledger.append(entry(1, decision="FIRST", candidate=old, champion=old))
    ledger.append(entry(2, decision="PROMOTE", candidate=new, champion_before=old, champion=new))
    assert ledger.last_move() == ledger.entry(2)
    assert ledger.candidate(1) == new


def test_two_who_say_the_same_write_other_bytes(ledger: Ledger) -> None:
    """A creation of equal bytes counts as one's own, so that no two entries may have them."""
    fields = [next_after(None, "tills") for _ in range(50)]
    assert len({each["nonce"] for each in fields}) == 50


OF_OLD = (
    b'{"as_of":"2024-03-01","files":[],"fit_until":"2024-02-01","folder":"f","run_id":"run1","split_digest":"s",'
    b'"target_digest":"t","version":1}'
)


def test_a_version_of_old_keeps_its_bytes_and_serves_as_it_was_judged() -> None:
    one = from_json(Champion, OF_OLD)
    assert one == version(1)
    assert (one.served, one.versions) == (one, (one,))
    assert to_json(one) == OF_OLD


def test_a_refit_serves_and_the_judged_version_is_what_it_is_known_by() -> None:
    both = from_json(Champion, to_json(pair(1)))
    assert both == pair(1)
    assert (both.version, both.served.version, named(both)) == (1, 2, "1 (refitted as 2)")
    assert both.identity == version(1).identity != both.served.identity
    assert both.fit_until == "2024-02-01" < str(both.served.fit_until)


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        (None, version(1), True),
        (version(1), version(1), False),
        (version(1), pair(1), True),
        (pair(1), pair(1), False),
        (pair(1), version(1), True),
        (pair(1), pair(3), True),
        (pair(1), None, True),
    ],
)
def test_an_entry_moves_the_champion_if_another_version_serves_after_it(
    before: Champion | None, after: Champion | None, moves: bool
) -> None:
    assert entry(1, champion_before=before, champion=after).moves_champion is moves


def test_a_version_and_its_refit_are_found_by_either_number(ledger: Ledger) -> None:
    assert ledger.append(entry(1, candidate=pair(1)))
    assert ledger.append(entry(2, candidate=version(3)))
    assert [ledger.candidate(number) for number in (1, 2, 3, 4)] == [pair(1), pair(1), version(3), None]
    assert (ledger.refitted("k"), ledger.refitted("another")) == (pair(1).refit, None)
