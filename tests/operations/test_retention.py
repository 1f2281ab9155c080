"""What retrain gc deletes: only what no retained run needs, only if asked, and never what is in use."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import main
from ml.errors import Busy
from ml.operations.retention import _unserved
from ml.storage.ledger import Ledger
from ml.storage.locks import held_lock
from ml.storage.records import Registered
from ml.storage.registry import Registry
from ml.storage.store import open_store
from tests.storage.test_ledger import entry, pair, version
from tests.story import Shop
from tests.tiny import tills


@pytest.fixture
def collected(capsys: pytest.CaptureFixture[str]) -> Any:
    """Collects garbage of shop; what was found."""

    def run(*words: str) -> list[str]:
        assert main(["gc", "shop", "--json", *words]) == 0
        return [row["what"] for row in json.loads(capsys.readouterr().out)["garbage"]]

    return run


def versions(shop: Shop) -> list[int]:
    return [version.number for version in Registry(shop.settings, "shop").versions()]


def make_older(shop: Shop, days: int) -> None:
    for path in Path(shop.settings.store).rglob("*"):
        os.utime(path, (time.time() - 86_400 * days,) * 2)


@pytest.fixture
def nights(shop: Shop, home_after: Any) -> Shop:
    """Version 1 is champion, 2 and 3 never served, and one version is kept beside those that did."""
    file = shop.settings.project / "use_cases" / "shop.py"  # type: ignore[operator]
    source = file.read_text().replace("    Source,\n", "    Retention,\n    Source,\n", 1)
    file.write_text(source.replace("    min_rows=10,", "    min_rows=10,\n    retention=Retention(versions=1),"))
    home_after(shop, (None, 5, 6))
    return shop


def test_only_what_nobody_needs_goes_and_only_if_asked(nights: Shop, collected: Any) -> None:
    assert collected() == ["version 2, which never served"]
    assert versions(nights) == [1, 2, 3], "a dry run"
    make_older(nights, 31)
    (version, stages) = collected("--yes")
    assert (version, "files of stages older than 30 days" in stages) == ("version 2, which never served", True)
    assert versions(nights) == [1, 3]
    assert collected() == []
    assert nights.document("2024-03-15")["replayed"]
    file = nights.settings.project / "use_cases" / "shop.py"  # type: ignore[operator]
    file.write_text(file.read_text().replace("floor=0.5", "floor=0.51"))
    again = nights.document("2024-03-15")
    assert (again["computed"]["train candidate"], again["computed"]["upload candidate"], again["version"]) == (0, 0, 1)
    assert nights.document("2024-03-16")["champion_before"] == 1, "the champion is read again and compared"


@pytest.mark.slow
def test_states_that_no_window_uses_go_when_they_are_old(nights: Shop, collected: Any) -> None:
    collected("--yes")
    nights.rewrite("2024-03-13", country="DE")
    nights.night("2024-03-15")  # other bytes: the old states of this day are used no more
    collected("--yes")
    assert collected() == []
    make_older(nights, 31)
    assert any("of results of partitions that no window used for 30 days" in each for each in collected())
    collected("--yes")
    reused = nights.document("2024-03-16")["reused"]
    assert reused["validate partitions"] == reused["clean partitions"] == 74, "the window's states are there"


def test_a_use_case_of_which_a_run_is_active_is_left_alone(nights: Shop, collected: Any) -> None:
    with held_lock(nights.settings.home / "locks" / "shop.lock", 0, Busy("a", "b", "c")):
        assert collected("--yes") == ["left alone, for a run is active"]
    assert versions(nights) == [1, 2, 3]


def test_a_version_and_its_refit_are_kept_or_deleted_together(tmp_path: Path) -> None:
    """1 with its refit 2 is champion, 3 with 4 never served, and neither did 5."""
    store = open_store(str(tmp_path))
    ledger, candidates = Ledger(store, "tills"), [pair(1), pair(3), version(5)]
    for seq, candidate in enumerate(candidates, start=1):
        assert ledger.append(entry(seq, candidate=candidate, champion=pair(1), reference=pair(1)))

    def deleted(*kept: Registered) -> list[str]:
        return sorted(run for run, _ in _unserved(candidates, {one.identity for one in kept}, store, tills()))

    assert deleted() == ["run3", "run4", "run5"]
    assert deleted(pair(3)) == deleted(pair(3).served) == ["run5"]
    assert deleted(version(5)) == ["run3", "run4"]
