"""What a red night died of is kept, is found by doctor and status, and is settled by a good night and nothing else."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import ml.pipeline.opening
from deployments.cli import main
from deployments.prefect import last_night
from ml.errors import Busy, ConfigError, DataRejected, StoreUnavailable
from ml.pipeline.machine import Machine
from ml.settings import Settings
from ml.storage import nights, paths
from ml.storage.kept import seal
from ml.storage.ledger import Ledger, NightEntry
from ml.storage.locks import held_lock, run_lock
from ml.storage.nights import Beginning, forget_beginning, last_red, left_behind, note_beginning, note_red, settle
from ml.storage.store import DiskStore, open_store
from tests.chaos import start_night
from tests.deployments.test_schedules import wait_for
from tests.reporting.test_endings import RESULT
from tests.storage.test_ledger import entry, version
from tests.story import SHOP, Shop
from tests.tiny import site

NIGHT = date(2024, 3, 18)
REJECTED = DataRejected("the newest day is there", "it is not", "deliver it again")
BUSY = Busy("a lock is free", "it is held", "wait")


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    return site(tmp_path / "home")


def good(place: Settings, seq: int, as_of: date, *, dated: bool = True) -> NightEntry:
    """A night that ended well and stands in the ledger."""
    model = replace(version(seq), fit_until="2024-02-01" if dated else None)
    night = entry(seq, decision="FIRST", candidate=model, champion=model, result=RESULT, as_of=as_of)
    assert Ledger(open_store(place.store), "tills").append(night)
    return night


def red_as_of(place: Settings) -> date | str | None:
    red = last_red(place, "tills")
    return red.as_of or "without a date" if red else None


def test_a_red_night_is_kept_in_its_three_parts(place: Settings) -> None:
    note_red(place, "tills", NIGHT, REJECTED, flow_run="abc")
    red = last_red(place, "tills")
    assert red is not None
    assert (red.rule, red.value, red.next_step) == (REJECTED.rule, REJECTED.value, REJECTED.next_step)
    assert (red.error, red.exit_code, red.flow_run) == ("DataRejected", 3, "abc")
    assert red.seen.startswith("the night as of 2024-03-18 ended red on 20")
    assert red.seen.endswith(" UTC (DataRejected): the newest day is there, but it is not")


def test_what_a_library_raised_is_kept_without_its_words(place: Settings) -> None:
    note_red(place, "tills", NIGHT, ValueError("could not convert 'Ada Lovelace'"))
    red = last_red(place, "tills")
    assert red is not None
    assert (red.error, red.value[:10]) == ("Unforeseen", "ValueError")
    assert red.next_step == "retrain run tills --as-of 2024-03-18 --debug shows it"
    data = open_store(place.store).get(paths.red_night("tills"))
    assert data is not None and b"Lovelace" not in data


# The red night's date; what ended well afterwards; whether that settles it.
SETTLING = [
    ("the same date", NIGHT, NIGHT, True),
    ("a later date", NIGHT, date(2024, 3, 19), True),
    ("a backfill of an older date", NIGHT, date(2024, 3, 10), False),
    ("one that died before it knew its date, and the next", None, date(2024, 3, 17), True),
    ("one that died before it knew its date, and a backfill of an older date", None, date(2024, 3, 10), False),
    ("a clock ran ahead, and then tomorrow's", date(2999, 1, 1), datetime.now(UTC).date() + timedelta(days=1), True),
]


@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize(("red", "ended", "settled"), [row[1:] for row in SETTLING], ids=[row[0] for row in SETTLING])
def test_a_good_night_settles_a_red_one_of_its_date_or_of_an_older_one(
    place: Settings, red: date | None, ended: date, settled: bool, replayed: bool
) -> None:
    """A replayed night stands in the ledger before the red one, a new one after it."""
    good(place, 1, date(2024, 3, 15))
    before = [good(place, 2, ended)] if replayed and red is not None else []
    note_red(place, "tills", red, REJECTED)
    assert red_as_of(place) == (red or "without a date")
    settle(place, before[0] if before else good(place, 2, ended))
    assert (red_as_of(place) is None) == settled


def test_a_good_night_in_the_ledger_settles_a_note_that_nobody_could_delete(
    place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in the home of another machine."""
    good(place, 1, date(2024, 3, 15))
    note_red(place, "tills", NIGHT, REJECTED)
    good(place, 2, date(2024, 3, 10))
    assert red_as_of(place) == NIGHT
    good(place, 3, NIGHT)
    assert red_as_of(place) is None


@pytest.mark.parametrize("as_of", [date(2024, 3, 10), NIGHT, date(2024, 3, 20)])
def test_any_good_night_settles_a_red_one_without_dates(place: Settings, as_of: date) -> None:
    """They are ordered by the ledger's numbers: the date only names them."""
    good(place, 1, date(2024, 3, 15), dated=False)
    note_red(place, "tills", NIGHT, REJECTED)
    settle(place, good(place, 2, as_of, dated=False))
    assert red_as_of(place) is None


def test_a_red_night_of_an_older_date_does_not_hide_a_newer_one(place: Settings) -> None:
    note_red(place, "tills", NIGHT, REJECTED)
    note_red(place, "tills", date(2024, 3, 10), REJECTED)
    assert red_as_of(place) == NIGHT
    note_red(place, "tills", date(2024, 3, 19), REJECTED)
    assert red_as_of(place) == date(2024, 3, 19)


class Away(DiskStore):
    def get(self, key: str) -> bytes | None:
        raise StoreUnavailable("the store answers", "it does not", "start it")

    def put(self, key: str, data: bytes) -> None:
        raise StoreUnavailable("the store answers", "it does not", "start it")

    def keys(self, prefix: str) -> list[str]:
        raise StoreUnavailable("the store answers", "it does not", "start it")


def test_a_night_that_died_because_the_store_is_away_is_found_when_it_is_back(
    place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = StoreUnavailable("the store answers", "it does not", "start it")
    with monkeypatch.context() as patch:
        patch.setattr(nights, "open_store", lambda uri: (Away if uri == place.store else DiskStore)(Path(uri)))
        note_red(place, "tills", NIGHT, error)
        assert red_as_of(place) == NIGHT, "while it is away"
    assert red_as_of(place) == NIGHT
    settle(place, good(place, 1, NIGHT))
    assert red_as_of(place) is None


def test_where_nothing_can_be_noted_no_second_error_hides_the_first(
    place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nights, "open_store", lambda uri: Away(Path(uri)))
    note_beginning(place, "tills", NIGHT, None)
    note_red(place, "tills", NIGHT, REJECTED)
    forget_beginning(place, "tills")
    settle(place, entry(1, as_of=NIGHT))
    with pytest.raises(StoreUnavailable):
        last_red(place, "tills")


def left(place: Settings, *, is_over: bool = False) -> Beginning | None:
    return left_behind(place, "tills", lambda began: is_over)


def test_a_night_that_was_killed_is_known_by_the_beginning_that_nobody_holds(place: Settings) -> None:
    lock = run_lock(place.home, "tills")
    with held_lock(lock, 0, BUSY):
        note_beginning(place, "tills", NIGHT, "abc")
        assert left(place) is None, "it runs"
    began = left(place)
    assert began is not None
    told = nights.killed(began)
    assert told.seen.startswith("the night as of 2024-03-18 was killed after it began on 20")
    assert told.next_step == "retrain run tills --as-of 2024-03-18 goes on where it stopped"
    with held_lock(lock, 0, BUSY):
        forget_beginning(place, "tills")
    assert left(place) is None


def test_a_killed_night_is_kept_where_another_one_begins(place: Settings) -> None:
    """An older date that is run next does not hide it."""
    note_beginning(place, "tills", NIGHT, "abc")
    note_beginning(place, "tills", date(2024, 3, 10), "def")
    forget_beginning(place, "tills")
    assert settle(place, good(place, 1, date(2024, 3, 10))), "an older night leaves it red"
    red = last_red(place, "tills")
    assert red is not None
    assert (red.error, red.as_of, red.flow_run) == (nights.KILLED, NIGHT, "abc")
    assert not settle(place, good(place, 2, NIGHT))
    assert red_as_of(place) is None


def test_of_another_machines_night_prefect_or_its_age_says_that_it_is_over(place: Settings, tmp_path: Path) -> None:
    elsewhere = replace(place, home=tmp_path / "another")
    note_beginning(elsewhere, "tills", NIGHT, "abc")
    assert left(place) is None, "nothing is known of it"
    assert left(place, is_over=True) is not None
    forget_beginning(place, "tills")
    assert left(place, is_over=True) is not None, "it is not ours to take back"
    old = Beginning(use_case="tills", as_of=NIGHT, at="2024-03-18T03:00:00+00:00", holder="another", flow_run=None)
    open_store(place.store).put(paths.night_beginning("tills"), seal(old))
    assert left(place) is not None


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (None, "retrain run tills --as-of 2024-03-18 goes on where it stopped"),
        ("CRASHED", "retrain run tills --as-of 2024-03-18 goes on where it stopped"),
        ("SCHEDULED", "`retrain up` runs it again by itself"),
        ("CANCELLED", None),
    ],
)
def test_what_prefect_knows_of_a_killed_night_is_said(
    place: Settings, monkeypatch: pytest.MonkeyPatch, state: str | None, told: str | None
) -> None:
    monkeypatch.setattr(last_night, "_state", lambda settings, began: state)
    note_beginning(place, "tills", NIGHT, "abc")
    assert [red.next_step for red in last_night.red_nights(place, "tills")] == ([told] if told else [])


@pytest.fixture
def seen(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[dict[str, Any], dict[str, str], int]]:
    """The row of status, the doctor's finding about the last night, and the doctor's exit code."""

    def look() -> tuple[dict[str, Any], dict[str, str], int]:
        capsys.readouterr()
        assert main(["status", "shop", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["use_cases"]
        code = main(["doctor", "shop", "--json"])
        checks = json.loads(capsys.readouterr().out)["checks"]
        (finding,) = (each for each in checks if each["check"] == "last night of shop")
        return row, finding, code

    return look


def spoil_newest_day(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.file("2024-03-17").write_bytes(b"not parquet")


def break_the_use_case(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    use_case_file(shop).write_text(SHOP.replace("USE_CASE =", "USE_CASE = ="))


def use_case_file(shop: Shop) -> Path:
    assert shop.settings.project is not None
    return shop.settings.project / "use_cases" / "shop.py"


def surprise(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_args: Any) -> Any:
        raise KeyError("Ada Lovelace")

    monkeypatch.setattr(ml.pipeline.opening, "survey", odd)


def take_prefect_away(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")


KINDS = [
    (spoil_newest_day, 3, "DataRejected"),
    (break_the_use_case, 1, "ConfigError"),
    (surprise, 1, "Unforeseen"),
    (take_prefect_away, 1, "PrefectUnavailable"),
]
LONG = {"ConfigError", "PrefectUnavailable", "Unforeseen"}


@pytest.mark.parametrize(
    ("spoil", "code", "kind"),
    [pytest.param(*row, id=row[2], marks=pytest.mark.slow if row[2] in LONG else ()) for row in KINDS],
)
def test_doctor_and_status_say_what_a_red_night_died_of_until_a_good_one(
    shop_after_a_night: Shop,
    prefect: str,
    seen: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Shop, pytest.MonkeyPatch], None],
    code: int,
    kind: str,
) -> None:
    """The same sentence and next step as the night itself; 15 s each."""
    shop = shop_after_a_night
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    kept = shop.file("2024-03-17").read_bytes()
    with monkeypatch.context() as patch:
        spoil(shop, patch)
        capsys.readouterr()
        assert main(["run", "shop", "--as-of", "2024-03-18", "--json"]) == code
        said = json.loads(capsys.readouterr().out)
        row, finding, left = seen()
    assert (row["last_night"], finding["state"], left) == ("red", "wrong", 1)
    (red,) = row["red"]
    assert (red["error"], red["as_of"], red["exit_code"]) == (kind, "2024-03-18", code)
    assert (red["rule"], red["value"]) == (said["rule"], said["value"])
    assert finding["seen"].endswith(f"UTC ({kind}): {said['rule']}, but {said['value']}")
    assert finding["mend"] == red["next_step"]
    assert "Ada" not in json.dumps([row, finding])
    assert row["champion"] == 1, "the ledger says what it said"

    shop.file("2024-03-17").write_bytes(kept)
    use_case_file(shop).write_text(SHOP)
    assert main(["run", "shop", "--as-of", "2024-03-15"]) == 0, "a replay of an older date"
    assert seen()[0]["last_night"] == "red"
    assert main(["run", "shop", "--as-of", "2024-03-18"]) == 0
    row, finding, left = seen()
    assert (row["last_night"], row["red"], finding["state"]) == ("good", [], "well")


def test_what_is_no_night_leaves_no_note(
    shop_after_a_night: Shop, prefect: str, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run, a mistyped command, a run that does not wait for another, and one's own Ctrl-C."""
    shop = shop_after_a_night
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    spoil_newest_day(shop, monkeypatch)
    assert main(["run", "shop", "--as-of", "2024-03-18", "--dry-run"]) == 3
    assert main(["run", "shop", "--as-of", "2999-03-18"]) == 2
    with held_lock(run_lock(shop.settings.home, "shop"), 0, BUSY):
        assert main(["run", "shop", "--as-of", "2024-03-18", "--no-wait"]) == 1

    def interrupt(*_args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ml.pipeline.opening, "survey", interrupt)
        assert main(["run", "shop", "--as-of", "2024-03-16"]) == 130
    row, finding, _ = seen()
    assert (row["last_night"], row["red"], finding["state"]) == ("good", [], "well")
    assert open_store(shop.settings.store).keys("nights") == []


def test_a_parameter_that_only_its_library_refuses_is_refused_before_data_are_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a dry run names the device that the learner uses, not the one that the machine has."""
    monkeypatch.setattr(ml.pipeline.opening, "this_machine", lambda home: Machine(device="cuda", instructions="AVX2"))
    model = SHOP[SHOP.index("    model=") : SHOP.index("    metric=")]
    trees = SHOP.replace(model, "    model=Trees(options={'max_bin': 1}),\n").replace(
        "    Target,\n", "    Target,\n    Trees,\n"
    )
    file = shop.settings.project / "use_cases" / "shop.py"  # type: ignore[operator]
    file.write_text(trees)
    with pytest.raises(
        ConfigError, match=r"must be values that LightGBM takes, but it says 'Check failed: \(max_bin\)"
    ):
        shop.night(dry_run=True)
    assert open_store(shop.settings.store).keys(paths.partitions("shop")) == []
    file.write_text(trees.replace("{'max_bin': 1}", "None"))
    assert shop.night(dry_run=True)["device"] == "cpu"


@pytest.mark.slow
def test_a_night_that_was_killed_is_found_and_the_command_that_is_advised_ends_well(
    shop: Shop, prefect: str, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 s on a quiet machine."""
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    own = {"RETRAIN_HOME": str(shop.settings.home), "PREFECT_API_URL": prefect}
    assert shop.settings.project is not None
    run = start_night("shop", "2024-03-15", {**own, "RETRAIN_PROJECT": str(shop.settings.project)})
    begun = open_store(shop.settings.store)
    assert wait_for(lambda: begun.get(paths.night_beginning("shop")) is not None, 120)
    assert seen()[0]["red"] == [], "it runs"
    run.process.kill()
    run.process.communicate()
    row, finding, code = seen()
    assert (row["last_night"], finding["state"], code) == ("red", "wrong", 1)
    (red,) = row["red"]
    assert (red["error"], red["as_of"], red["seen"]) == (nights.KILLED, "2024-03-15", finding["seen"])
    assert finding["mend"] == "retrain run shop --as-of 2024-03-15 goes on where it stopped"
    assert main(["run", "shop", "--as-of", "2024-03-15"]) == 0
    row, finding, code = seen()
    assert (row["last_night"], row["red"], finding["state"]) == ("good", [], "well")
