"""Backfills: plans that say why, dates that see their past only, a champion that stays, any number of restarts."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from prefect.states import Failed

import flows.backfill
import ml.pipeline.site
from deployments.cli import main
from flows.backfill import BackfillRequest, _outcome
from ml.errors import Corrupt, DataRejected, PrefectUnavailable, UsageError
from ml.operations.backfill import (
    Attempt,
    Outcome,
    Plan,
    Progress,
    World,
    add_control,
    dates_between,
    end_attempt,
    keep_plan,
    make_plan,
    read_plan,
    refuse_changed_world,
    start_attempt,
)
from ml.pipeline.planning import _code
from ml.pipeline.site import Site
from ml.reporting.score_section import cell
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import Store, open_store
from ml.use_case.loading import load_use_case
from tasks.site import open_site
from tests.story import SHOP, Shop, open_shop
from tests.tally import tally

WORDS = {"Will the basket be paid late?": "Is it paid late?", "0 3 * * *": "0 4 * * *"}
DECIDES = {"floor=0.5": "floor=0.6", "epochs=4": "epochs=5", "min_rows=10": "min_rows=11"}
NEW = "will run: no night has this date yet"
RANGES = [
    ("1d", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ("2d", [1, 3, 5, 7, 9]),
    ("1w", [1, 8]),
    ("0 3 * * 1", [4]),
    ("*/5 * 2-3 * *", [2, 3]),
]


@pytest.mark.parametrize(("old", "new"), (WORDS | DECIDES).items())
def test_a_plan_is_for_what_its_nights_learn_and_judge_by(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another question in the title of reports, or another schedule, changes no date of it."""
    file = tmp_path / "use_cases" / "shop.py"
    file.parent.mkdir()
    monkeypatch.setenv("RETRAIN_PROJECT", str(tmp_path))
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    codes = set()
    for text in (SHOP, SHOP.replace(old, new)):
        file.write_text(text)
        codes.add(_code(ml.pipeline.site.open_site("shop", lambda name, project: (), Mock())))
    assert len(codes) == (1 if old in WORDS else 2)


@pytest.mark.parametrize(("every", "days"), RANGES)
def test_dates_are_every_so_many_days_or_those_of_a_cron_line(every: str, days: list[int]) -> None:
    found = dates_between(date(2024, 3, 1), date(2024, 3, 9), every)
    assert [each.day for each in found] == days


NO_RANGES = [
    (date(2024, 3, 9), date(2024, 3, 1), "1d", "is after"),
    (date(2024, 3, 1), date(2024, 3, 9), "0d", "it is '0d'"),
    (date(2024, 3, 1), date(2024, 3, 9), "sometimes", "it is 'sometimes'"),
    (date(2024, 3, 1), date(2024, 3, 2), "0 3 * * 1", "gives none"),
    (date(1024, 3, 1), date(2024, 3, 2), "1d", "at most"),
]


@pytest.mark.parametrize(("first", "last", "every", "words"), NO_RANGES)
def test_a_range_that_cannot_be_is_refused(first: date, last: date, every: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dates_between(first, last, every)


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop without any server."""
    return open_shop(tmp_path, monkeypatch)


def world(shop: Shop) -> World:
    use_case = load_use_case("shop", shop.settings.project)
    return World.now(shop.settings, use_case, open_store(shop.settings.store))


def plan_of(shop: Shop, first: str, last: str, **more: Any) -> Plan:
    dates = dates_between(date.fromisoformat(first), date.fromisoformat(last), "1d")
    options = {"reprocess": "none", "promote": "never", "newest_first": False, **more}
    return make_plan(world(shop), dates, "1d", "code", **options)


def reasons(plan: Plan) -> list[str]:
    return [row.reason for row in plan.rows]


def test_a_plan_says_of_each_date_why_it_will_or_will_not_run(quiet: Shop) -> None:
    quiet.file("2024-03-10").unlink()
    plan = plan_of(quiet, "2024-03-10", "2024-03-12")
    source = quiet.settings.data / "shop"
    lacking = f"no data: expected 2024-03-10, a Sunday, which {source} lacks; the newest that all have is 2024-03-09"
    assert reasons(plan) == [NEW, lacking, NEW]
    assert reasons(plan_of(quiet, "2023-12-01", "2023-12-01")) == ["no data: it is 2023-12-01"]
    assert reasons(plan_of(quiet, "2999-01-01", "2999-01-01")) == ["in the future"]
    assert plan_of(quiet, "2024-03-10", "2024-03-12", newest_first=True).dates == [date(2024, 3, 12), date(2024, 3, 10)]


def attempt_of(store: Store, plan: Plan, as_of: date, outcome: Any) -> Attempt:
    attempt = replace(start_attempt(store, plan, as_of), outcome=outcome, reason="so")
    end_attempt(store, plan, attempt)
    return attempt


def test_what_failed_before_runs_again_only_if_asked(quiet: Shop) -> None:
    store, plan = open_store(quiet.settings.store), plan_of(quiet, "2024-03-10", "2024-03-10")
    attempt_of(store, plan, date(2024, 3, 10), "failed")
    assert reasons(plan_of(quiet, "2024-03-10", "2024-03-10")) == ["failed before (attempt 1); add --reprocess failed"]
    assert reasons(plan_of(quiet, "2024-03-10", "2024-03-10", reprocess="failed")) == [
        "will run, attempt 2: attempt 1 failed"
    ]


def test_a_plan_is_read_by_the_beginning_of_its_digest_and_only_as_it_was_made(quiet: Shop) -> None:
    store, plan = open_store(quiet.settings.store), plan_of(quiet, "2024-03-10", "2024-03-11")
    keep_plan(store, plan)
    assert read_plan(store, plan.digest[:8]) == plan
    for digest in ("", "xyz"):
        with pytest.raises(UsageError, match="begins"):
            read_plan(store, digest)
    store.put(f"backfills/{plan.digest}/plan.json", b"{}")
    with pytest.raises(Corrupt, match="its bytes changed"):
        read_plan(store, plan.digest[:8])


def test_a_changed_world_stops_a_plan_and_is_named_but_its_own_progress_does_not(quiet: Shop) -> None:
    store, plan = open_store(quiet.settings.store), plan_of(quiet, "2024-03-10", "2024-03-12")
    refuse_changed_world(plan, world(quiet), "code")
    with pytest.raises(UsageError, match="the file of shop changed"):
        refuse_changed_world(plan, world(quiet), "other code")
    attempt_of(store, plan, date(2024, 3, 10), "failed")
    refuse_changed_world(plan, world(quiet), "code")
    other = replace(plan, every="other")
    attempt_of(store, other, date(2024, 3, 11), "failed")
    with pytest.raises(UsageError, match=f"2024-03-11 was planned as '{NEW}' and is now 'failed before"):
        refuse_changed_world(plan, world(quiet), "code")


def test_progress_is_what_attempts_and_controls_say(quiet: Shop) -> None:
    store, plan = open_store(quiet.settings.store), plan_of(quiet, "2024-03-10", "2024-03-12")
    ten, eleven, twelve = plan.dates
    attempt_of(store, plan, ten, "done")
    attempt_of(store, plan, eleven, "failed")
    start_attempt(store, plan, twelve)  # and its process was killed
    progress = Progress.of(store, plan)
    assert (progress.open_dates, progress.state) == ([twelve], "open")
    assert (progress.is_turn_of(twelve), progress.is_turn_of(ten)) == (True, True)
    add_control(store, plan, "retry-failed")
    progress = Progress.of(store, plan)
    assert progress.open_dates == [eleven, twelve]
    assert progress.is_turn_of(twelve), "it waited for the first end of 11, and need not wait for the second"
    assert start_attempt(store, plan, twelve).number == 2
    attempt_of(store, plan, eleven, "failed")
    assert Progress.of(store, plan).open_dates == [twelve], "its second attempt failed too"
    add_control(store, plan, "pause")
    assert Progress.of(store, plan).state == "paused"
    add_control(store, plan, "resume")
    assert Progress.of(store, plan).state == "open"
    add_control(store, plan, "cancel")
    assert Progress.of(store, plan).state == "cancelled"
    with pytest.raises(UsageError, match="cancelled"):
        add_control(store, plan, "resume")


AWAY = [PrefectUnavailable("the server answers", "it does not", "start it"), httpx.ConnectError("refused")]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((error, "interrupted") for error in AWAY),
        (ValueError("none of the server's"), "failed"),
        (DataRejected("expected 2024-03-14", "it is missing", "deliver it"), "rejected"),
    ],
)
def test_what_a_dates_run_came_to(error: Exception, expected: str) -> None:
    assert _outcome(Failed(data=error))[0] == expected


def test_an_interrupted_date_is_still_to_run_and_later_ones_wait_for_it(quiet: Shop) -> None:
    store, plan = open_store(quiet.settings.store), plan_of(quiet, "2024-03-10", "2024-03-11")
    ten, eleven = plan.dates
    attempt_of(store, plan, ten, "interrupted")
    progress = Progress.of(store, plan)
    assert (progress.open_dates, progress.interrupted, progress.failed) == ([ten, eleven], {ten}, 0)
    assert not progress.is_turn_of(eleven)
    assert reasons(plan_of(quiet, "2024-03-10", "2024-03-10")) == ["will run, attempt 2: attempt 1 was interrupted"]
    attempt_of(store, plan, ten, "done")
    progress = Progress.of(store, plan)
    assert (progress.open_dates, progress.interrupted, progress.is_turn_of(eleven)) == ([eleven], set(), True)
    attempt_of(store, plan, ten, "interrupted")
    assert not Progress.of(store, plan).interrupted, "it is done already"


def test_a_driver_begins_no_date_without_prefects_server_until_it_is_told_to_go_on(
    quiet: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = open_site("shop"), plan_of(quiet, "2024-03-10", "2024-03-11")
    request = BackfillRequest(use_case="shop", first=plan.first, last=plan.last)
    run = []

    def date_without_server(_: Site, plan: Plan, attempt: Attempt) -> Attempt:
        outcome: Outcome = "done" if told else "interrupted"
        ended = replace(attempt, outcome=outcome)
        end_attempt(site.store, plan, ended)
        run.append((attempt.as_of.day, outcome))
        if len(run) == 2:  # an operator is at hand
            add_control(site.store, plan, "resume")
            told.append("resume")
        return ended

    told: list[str] = []
    monkeypatch.setattr(flows.backfill, "Board", Mock())
    monkeypatch.setattr(flows.backfill, "run_date", date_without_server)
    with pytest.raises(PrefectUnavailable, match=f"resume {plan.digest[:12]}"):
        flows.backfill.run_dates(site, plan, request)
    assert flows.backfill.run_dates(site, plan, request).done == 2
    assert run == [(10, "interrupted"), (10, "interrupted"), (10, "done"), (11, "done")]


def test_two_starters_never_take_one_number(quiet: Shop) -> None:
    store, plan = open_store(quiet.settings.store), plan_of(quiet, "2024-03-10", "2024-03-10")
    numbers = [start_attempt(store, plan, date(2024, 3, 10)).number for _ in range(3)]
    assert numbers == [1, 2, 3]


@pytest.fixture
def typed(shop: Shop, prefect: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Types a backfill command; its exit code and its document, or its error."""
    monkeypatch.setenv("PREFECT_API_URL", prefect)

    def run(*words: str) -> tuple[int, Any]:
        code = main(["backfill", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def planned(typed: Callable[..., tuple[int, Any]], first: str, last: str, *more: str) -> str:
    code, plan = typed("plan", "shop", "--from", first, "--to", last, *more)
    assert code == 0
    return str(plan["plan"])


def stages(document: Any) -> list[str]:
    return [row["stage"] for row in document["dates"]]


@pytest.mark.slow
def test_a_backfill_registers_versions_and_moves_no_champion(
    shop: Shop, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.night("2024-03-15")
    plan = planned(typed, "2024-03-13", "2024-03-16")
    code, done = typed("apply", plan[:12], "--max-active", "2")
    assert (code, done["state"], stages(done)) == (0, "finished", ["done", "done", "not run", "done"])
    nights = {night.as_of.day: night for night in shop.entries()}
    for row in done["dates"]:
        scores = nights[int(row["as_of"][-2:])].result["scores"] if row["stage"] == "done" else None
        assert row["metric"] == ("f1" if scores else "")
        assert row["candidate"] == (cell(scores["candidate"]["f1"]) if scores else "")
        assert row["champion"] == (cell((scores["champion"] or {}).get("f1")) if scores else "")
    assert main(["backfill", "status", plan[:12]]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["as_of", "stage", "decision", "version", "metric", "candidate", "champion", "reason"]
    assert f"f1      {done['dates'][0]['candidate']}" in lines[0]
    assert {day: night.decision for day, night in nights.items()} == {13: "KEEP", 14: "KEEP", 15: "FIRST", 16: "KEEP"}
    assert nights[13].result["snapshot"]["last_day"] == "2024-03-12", "each date sees only its past"
    assert Registry(shop.settings, "shop").alias(CHAMPION) == 1
    code, refused = typed("apply", planned(typed, "2024-03-13", "2024-03-16"))
    assert (code, "has none" in refused["value"]) == (2, True)


@pytest.mark.slow
def test_promotions_go_in_the_order_of_dates_and_only_past_the_champion(shop: Shop, typed: Any) -> None:
    shop.night("2024-03-14")
    plan = planned(typed, "2024-03-12", "2024-03-17", "--promote", "if-newer")
    assert typed("apply", plan, "--max-active", "3")[0] == 0
    nights = [night for night in shop.entries() if night.as_of != date(2024, 3, 14)]
    assert [night.as_of.day for night in nights] == [12, 13, 15, 16, 17], "judged in their order"
    assert all(night.decision != "PROMOTE" for night in nights if night.as_of.day < 14)
    head = shop.ledger.head()
    assert head is not None
    assert head.champion is not None
    assert head.champion.as_of.day >= 14


@pytest.mark.slow
def test_a_failed_date_is_red_and_retried_by_name(shop: Shop, typed: Any) -> None:
    shop.rewrite("2024-03-13", country=None)
    plan = planned(typed, "2024-03-14", "2024-03-16")
    code, done = typed("apply", plan, "--fail-fast")
    assert (code, stages(done)) == (1, ["rejected", "waits", "waits"])
    assert "country is missing" in done["dates"][0]["reason"]
    shop.rewrite("2024-03-13", country="DE")
    code, done = typed("retry-failed", plan)
    assert (code, stages(done)) == (0, ["done"] * 3)


@pytest.mark.slow
def test_a_paused_backfill_goes_on_from_any_terminal(shop: Shop, typed: Any) -> None:
    plan = planned(typed, "2024-03-14", "2024-03-16")
    assert typed("pause", plan)[1]["state"] == "paused"
    code, done = typed("apply", plan)
    assert (code, stages(done)) == (0, ["paused"] * 3)
    code, done = typed("resume", plan)
    assert (code, stages(done)) == (0, ["done"] * 3)
    assert typed("pause", plan)[0] == 2


@pytest.mark.slow
def test_a_driver_that_is_killed_and_resumed_ends_every_date_once(shop: Shop, typed: Any, prefect: str) -> None:
    plan = planned(typed, "2024-03-11", "2024-03-16")
    generator = random.Random(1)
    command = [sys.executable, "-m", "deployments.cli", "backfill"]
    for word in ("apply", "resume", "resume"):
        with subprocess.Popen(
            [*command, word, plan, "--max-active", "2"], env=os.environ, stderr=subprocess.PIPE
        ) as it:
            time.sleep(generator.uniform(10, 18))
            assert typed("status", plan)[1]["state"] in {"running", "open", "finished"}
            it.send_signal(signal.SIGKILL)
    code, done = typed("resume", plan, "--max-active", "2")
    assert (code, stages(done)) == (0, ["done"] * 6)
    assert sorted(night.as_of.day for night in shop.entries()) == [11, 12, 13, 14, 15, 16]
    versions = len(Registry(shop.settings, "shop").versions())
    tally(
        "SIGKILL of a backfill's driver", "`resume` ends every date once, done ones are not redone",
        wanted=6, entries=len(shop.entries()), versions=versions, times=3,
    )  # fmt: skip
    assert versions == 6
