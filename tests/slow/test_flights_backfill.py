"""Thirty dates of real flights, the driver killed three times: what operators rely on at 3 a.m."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml.settings import Settings
from ml.storage.ledger import Ledger
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import open_store
from tests.tally import tally

RETRAIN = str(Path(sys.executable).parent / "retrain")
FIRST, LAST, SERVED = date(2013, 9, 2), date(2013, 10, 1), date(2013, 10, 2)
LOOK_SECONDS = 3.0


def typed(*words: str) -> dict[str, Any]:
    done = subprocess.run([RETRAIN, *words, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def ledger(tmp_path: Path, prefect: str, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A home of its own with a champion of flights, as of the day after the backfill's last."""
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    assert typed("run", "flights", "--as-of", str(SERVED))["decision"] == "FIRST"
    return Ledger(open_store(Settings.from_environment().store), "flights")


def recorded(ledger: Ledger) -> set[str]:
    return {str(night.as_of) for night in ledger.nights() if night.as_of != SERVED}


def watched(ledger: Ledger, plan: str, seen: list[int]) -> None:
    """One look at the status: what it calls done was recorded by then, what waits was not before it was asked."""
    before = recorded(ledger)
    rows = {row["as_of"]: row["stage"] for row in typed("backfill", "status", plan)["dates"]}
    done = {as_of for as_of, stage in rows.items() if stage == "done"}
    assert len(rows) == 30
    assert set(rows.values()) <= {"done", "runs", "waits"}, rows
    assert sum(stage == "runs" for stage in rows.values()) <= 2
    assert done <= recorded(ledger)
    assert len(before - done) <= 2, "recorded, and its end not kept yet: at most the dates that ran"
    assert len(done) >= (seen[-1] if seen else 0), "done dates stay done"
    seen.append(len(done))
    time.sleep(LOOK_SECONDS)  # a look takes a second of a processor itself


def is_time_to_kill(number: int, ledger: Ledger, registry: Registry) -> bool:
    """While dates train, between a date's version and its entry, and while others train."""
    nights = len(ledger.nights())
    if number == 1:
        return nights > 12 and len(registry.versions()) > nights
    return nights > (3, 12, 21)[number]


@pytest.mark.slow
def test_thirty_dates_end_once_each_though_the_driver_is_killed_three_times(ledger: Ledger) -> None:
    plan = str(typed("backfill", "plan", "flights", "--from", str(FIRST), "--to", str(LAST))["plan"])
    seen: list[int] = []
    command, registry = [RETRAIN, "backfill"], Registry(Settings.from_environment(), "flights")
    for number, word in enumerate(("apply", "resume", "resume")):
        with subprocess.Popen([*command, word, plan, "--max-active", "2"], env=os.environ) as driver:
            while not is_time_to_kill(number, ledger, registry):
                assert driver.poll() is None
                watched(ledger, plan, seen)
            driver.send_signal(signal.SIGKILL)
        watched(ledger, plan, seen)
    with subprocess.Popen([*command, "resume", plan, "--max-active", "2"], env=os.environ) as driver:
        while driver.poll() is None:
            watched(ledger, plan, seen)
        assert driver.returncode == 0
    watched(ledger, plan, seen)
    dates = [str(FIRST + timedelta(days=number)) for number in range(30)]
    nights = [str(night.as_of) for night in ledger.nights()]
    versions = len(registry.versions())
    tally(
        "SIGKILL of a backfill's driver", "`resume` ends every date once, done ones are not redone",
        wanted=31, entries=len(nights), versions=versions, times=3,
    )  # fmt: skip
    assert seen[-1] == 30
    assert sorted(nights) == [*dates, str(SERVED)]
    assert versions == 31
    assert registry.alias(CHAMPION) == 1
    head = ledger.head()
    assert head is not None and head.champion is not None and head.champion.as_of == SERVED
