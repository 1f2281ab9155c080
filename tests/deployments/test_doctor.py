"""The doctor finds what killed runs, careless hands and bad disks leave, and mends what is safe to mend."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

import deployments.commands.doctor
from deployments.cli import main
from deployments.prefect import serve
from deployments.prefect.announcement import Servers
from deployments.prefect.client import insisted
from ml.errors import Corrupt
from ml.operations import dead_runs, health
from ml.operations.health import Finding
from ml.storage.ledger import Ledger
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import DiskStore, open_store
from tests.deployments.test_schedules import wait_for
from tests.story import Shop


@pytest.fixture
def nights(shop_after_two_nights: Shop) -> Shop:
    return shop_after_two_nights


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Any:
    """Asks the doctor about shop: the exit code, and by state what was seen."""

    def ask(*words: str) -> tuple[int, dict[str, list[str]]]:
        code = main(["doctor", "shop", "--json", *words])
        rows = json.loads(capsys.readouterr().out)["checks"]
        return code, {
            state: [r["seen"] for r in rows if r["state"] == state] for state in ("wrong", "mended", "unknown")
        }

    return ask


def one_with(seen: list[str], words: str) -> bool:
    return sum(words in each for each in seen) == 1


def test_a_healthy_home_is_well(nights: Shop, doctor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor() == (0, {"wrong": [], "mended": [], "unknown": []})
    assert main(["doctor", "shop"]) == 0
    assert "All is well: 8 checks found nothing wrong." in capsys.readouterr().out.splitlines()


def test_a_schedule_that_does_not_run_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    served = [
        {"name": "one", "paused": True, "schedules": []},
        {"name": "two", "paused": False, "schedules": [{"active": True}]},
    ]
    monkeypatch.setattr(deployments.commands.doctor, "ask_all", lambda url, query: served)
    up = Servers("api", "page", "page", 1, "store", "uri")
    found = [finding.seen for finding in deployments.commands.doctor._schedules(up, ["one", "two", "three"])]
    assert found == ["the schedule of one is paused", "three is not served"]


def test_what_killed_runs_leave_is_found_and_mended(nights: Shop, doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that was never recorded, a run that nobody runs, files of no run, half an object.

    Only what is two days old: a run on another machine may be about to record its version.
    """
    registry, store = Registry(nights.settings, "shop"), open_store(nights.settings.store)
    run_id = registry.run_id("killed", "shop 2024-03-16", {})
    store.put(f"mlflow/{run_id}/artifacts/model/MLmodel", b"half")
    registry.register(run_id, "killed", {})
    store.put("mlflow/0123456789abcdef/artifacts/model/MLmodel", b"loader_module: retrain_serving_of_a_deleted_run")
    half = Path(nights.settings.store) / "ledger" / "shop" / ".writing-abc"
    half.write_bytes(b"ha")
    os.utime(half, (time.time() - 7200,) * 2)

    code, found = doctor()
    assert (code, len(found["wrong"])) == (1, 2), "what is young may be of a run on another machine"
    monkeypatch.setattr(health, "OLD_SECONDS", 0.0)
    code, found = doctor()
    assert code == 1
    seen = found["wrong"]
    for words in ("version 3 is in MLflow", f"run {run_id} is running", "run 0123456789abcdef", ".writing-abc"):
        assert one_with(seen, words), (words, seen)
    assert [version.number for version in registry.versions()] == [1, 2, 3], "asked without --mend"

    code, found = doctor("--mend")
    assert (code, len(found["mended"])) == (0, 4)
    assert [version.number for version in registry.versions()] == [1, 2]
    assert doctor() == (0, {"wrong": [], "mended": [], "unknown": []})


@pytest.mark.slow
def test_an_alias_that_a_killed_run_left_behind_follows_the_ledger(nights: Shop, doctor: Any) -> None:
    registry, ledger = Registry(nights.settings, "shop"), Ledger(open_store(nights.settings.store), "shop")
    (Path(nights.settings.store) / "aliases" / "shop" / f"{ledger.last_move().seq:08d}.json").unlink()  # type: ignore[union-attr]
    registry.client.delete_registered_model_alias("shop", CHAMPION)
    assert one_with(doctor("--mend")[1]["mended"], "a run died between the two")
    assert registry.alias(CHAMPION) == 1


@pytest.mark.slow
def test_an_alias_moved_by_hand_waits_for_a_person(nights: Shop, doctor: Any) -> None:
    Registry(nights.settings, "shop").set_alias(CHAMPION, 2)
    code, found = doctor("--mend")
    assert (code, found["mended"]) == (1, [])
    assert one_with(found["wrong"], "the ledger says champion 1, MLflow's alias says 2: it was moved by hand")


def test_a_flipped_bit_in_the_champion_is_found_and_score_refuses_it(
    nights: Shop, doctor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    champion = nights.entries()[0].champion
    assert champion is not None
    (weights,) = (file for file in champion.files if file.key.endswith("weights.safetensors"))
    path = Path(nights.settings.store) / weights.key
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, found = doctor()
    assert code == 1
    assert one_with(found["wrong"], "weights.safetensors is gone or changed (1 of its files)")
    assert main(["score", "shop", str(nights.file("2024-03-01")), "-o", str(tmp_path / "out.csv")]) == 1
    assert "weights.safetensors must have SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
    assert nights.document("2024-03-15")["replayed"], "its own night makes the same bytes again"
    assert doctor()[0] == 0
    assert main(["score", "shop", str(nights.file("2024-03-01")), "-o", str(tmp_path / "out.csv")]) == 0


@pytest.mark.slow
def test_a_flipped_bit_in_the_ledger_is_found_and_no_night_goes_on_over_it(nights: Shop, doctor: Any) -> None:
    path = Path(nights.settings.store) / "ledger" / "shop" / "00000001.json"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    code, found = doctor("--mend")
    assert (code, found["mended"]) == (1, [])
    assert one_with(found["wrong"], "ledger/shop/00000001.json has not: restore it from a copy")
    with pytest.raises(Corrupt, match=r"ledger/shop/00000001\.json has not"):
        nights.night("2024-03-16")


@pytest.mark.slow
def test_a_run_of_which_nothing_is_heard_is_ended(shop: Shop, prefect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a container that died with its machine: no other has its host's name, nor its locks. 10 s."""
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    deployment = next(each for each in serve.deployments(shop.settings) if each.name == "purchase").apply()
    request = {"name": "purchase of May", "idempotency_key": str(uuid4())}
    run = insisted(f"{prefect}/deployments/{deployment}/create_flow_run", request)["id"]
    states = f"{prefect}/flow_runs/{run}/set_state"
    insisted(states, {"state": {"type": "RUNNING"}, "force": True})

    def found() -> list[Finding]:
        return [
            each for each in deployments.commands.doctor._runs(shop.settings) if each.seen.startswith("purchase of May")
        ]

    assert found() == [], "it began just now"
    monkeypatch.setattr(dead_runs, "SILENT", timedelta(0))
    assert found() == [], "it never had a heartbeat, which a proxy may keep back"
    beat = {
        "event": deployments.commands.doctor.HEARTBEAT,
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
    }
    once = {"id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "payload": {}}
    httpx.post(f"{prefect}/events", json=[{**beat, **once}]).raise_for_status()
    assert wait_for(found, 30)
    (finding,) = found()
    assert finding.repair is not None
    finding.repair()
    assert (insisted(f"{prefect}/flow_runs/{run}")["state_type"], found()) == ("CRASHED", [])
    insisted(states, {"state": {"type": "CANCELLED"}, "force": True})  # or another test would run it again


def test_a_store_that_creates_what_is_there_must_not_be_shared(tmp_path: Path) -> None:
    class Careless(DiskStore):
        def create(self, key: str, data: bytes) -> bool:
            self.put(key, data)
            return True

    class Lying(DiskStore):
        def create(self, key: str, data: bytes) -> bool:
            new = self.get(key) is None
            self.put(key, data)
            return new

    class Forgetful(DiskStore):
        def create(self, key: str, data: bytes) -> bool:
            return True

    for kind, words in ((Careless, "If-None-Match"), (Lying, "If-None-Match"), (Forgetful, "give back")):
        store = kind(tmp_path / kind.__name__)
        (found,) = deployments.commands.doctor._store(store)
        assert words in found.seen
        assert store.keys("doctor") == []


@pytest.mark.slow
def test_a_registry_that_does_not_answer_is_no_verdict_on_the_models(
    nights: Shop, doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, found = doctor("--mend")
    assert (code, found["mended"]) == (1, [])
    assert all("must answer" in each for each in found["unknown"])
