"""Deployments on a real Prefect server: schedules yield runs, and a failed run is retried from the page."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deployments.prefect import night
from deployments.prefect.announcement import Servers
from deployments.prefect.client import insisted
from deployments.prefect.crashed import Lost, resubmit_crashed
from deployments.prefect.night import RunFailed, _ended, _result
from deployments.prefect.serve import deployments
from deployments.prefect.up import _end_lost_runs
from flows.retrain import only_run_of
from ml.errors import Busy, PrefectUnavailable
from ml.storage.locks import held_lock, holder_name, run_lock
from ml.use_case.loading import load_use_case, use_case_files
from tasks.lost import LOCK
from tests.story import Shop, undated


def wait_for(what: Any, seconds: float) -> Any:
    """The first true answer of `what()`, or its last one after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := what()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer


def test_every_use_case_has_a_deployment_with_its_schedule(shop: Shop) -> None:
    table = {deployment.name: deployment for deployment in deployments(shop.settings)}
    assert set(table) == set(use_case_files(shop.settings.project))
    for name, deployment in table.items():
        use_case = load_use_case(name, shop.settings.project)
        assert [s.schedule.cron for s in deployment.schedules or []] == (
            [use_case.schedule] if use_case.schedule else []
        )
        assert deployment.parameters == {"request": {"use_case": name}}


def test_a_cron_schedule_yields_scheduled_runs(shop: Shop) -> None:
    """Under SQLAlchemy 2.1 the server is healthy and never schedules anything."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter

    deployment = next(deployment for deployment in deployments(shop.settings) if deployment.name == "shop")
    identifier = deployment.apply()
    with get_client(sync_client=True) as client:
        chosen = DeploymentFilter(id=DeploymentFilterId(any_=[identifier]))  # type: ignore[list-item]
        scheduled = FlowRunFilter.model_validate({"state": {"name": {"any_": ["Scheduled"]}}})  # others were skipped
        runs = wait_for(lambda: client.read_flow_runs(flow_run_filter=scheduled, deployment_filter=chosen), 90)
    assert len(runs) >= 2
    starts = sorted(run.expected_start_time for run in runs)
    assert {(later - earlier).days for earlier, later in zip(starts, starts[1:], strict=False)} == {1}


def test_a_lost_run_is_scheduled_again_for_its_own_time_and_a_cancelled_one_is_not(shop: Shop, prefect: str) -> None:
    deployment = next(each for each in deployments(shop.settings) if each.name == "shop").apply()
    runs = []
    for state in ("RUNNING", "CANCELLING"):
        run = insisted(f"{prefect}/deployments/{deployment}/create_flow_run", {"idempotency_key": str(uuid4())})
        insisted(f"{prefect}/flow_runs/{run['id']}/set_state", {"state": {"type": state}, "force": True})
        runs.append(run)
    _end_lost_runs(prefect)
    resubmit_crashed(prefect, {"shop"})
    after = [insisted(f"{prefect}/flow_runs/{run['id']}") for run in runs]
    try:
        assert [run["state_name"] for run in after] == ["AwaitingRetry", "Cancelled"]
        assert [run["expected_start_time"] for run in after] == [run["expected_start_time"] for run in runs]
        assert after[0]["state"]["message"] == "Attempt 2 of 3 after a crash."
    finally:  # or else another test would run it
        insisted(f"{prefect}/flow_runs/{runs[0]['id']}/set_state", {"state": {"type": "CANCELLED"}, "force": True})


def test_a_run_whose_lock_nobody_holds_is_ended(shop: Shop, prefect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a power failure, with a Prefect server elsewhere."""
    monkeypatch.setattr("deployments.prefect.crashed.LOST_SECONDS", 0.0)
    deployment = next(each for each in deployments(shop.settings) if each.name == "purchase").apply()
    home = shop.settings.home
    states = {
        "held": "RUNNING", "gone": "RUNNING", "unwanted": "CANCELLING", "another's": "RUNNING", "starting": "PENDING",
    }  # fmt: skip
    runs = {}
    for name, state in states.items():
        labels = {LOCK: holder_name(Path("/elsewhere") if name == "another's" else home, name)}
        request = {"idempotency_key": str(uuid4()), "labels": labels}
        runs[name] = insisted(f"{prefect}/deployments/{deployment}/create_flow_run", request)["id"]
        insisted(f"{prefect}/flow_runs/{runs[name]}/set_state", {"state": {"type": state}, "force": True})
    with held_lock(run_lock(home, "held"), 0, Busy("", "", "")):
        Lost(home, {"purchase"}).end(prefect)
    after = {name: insisted(f"{prefect}/flow_runs/{run}")["state_type"] for name, run in runs.items()}
    monkeypatch.setattr("ml.operations.dead_runs.STARTS_WITHIN", timedelta(0))
    Lost(home, {"house_price"}).end(prefect)
    assert insisted(f"{prefect}/flow_runs/{runs['starting']}")["state_type"] == "PENDING", "another use case's"
    Lost(home, {"purchase"}).end(prefect)
    assert insisted(f"{prefect}/flow_runs/{runs['starting']}")["state_type"] == "CRASHED", "it takes a turn of its pool"
    for name in ("held", "another's", "starting"):
        insisted(f"{prefect}/flow_runs/{runs[name]}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
    assert after == {**states, "gone": "CRASHED", "unwanted": "CANCELLED"}


def test_who_follows_a_run_is_told_when_up_has_gone(shop: Shop, prefect: str) -> None:
    from prefect.client.orchestration import get_client

    deployment = next(each for each in deployments(shop.settings) if each.name == "purchase").apply()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run = insisted(f"{prefect}/deployments/{deployment}/create_flow_run", {"idempotency_key": str(uuid4())})["id"]
    with get_client(sync_client=True) as client:
        states = f"{prefect}/flow_runs/{run}/set_state"
        for state in ("PENDING", "CRASHED"):  # the crash is not the end: `up` would run it again
            insisted(states, {"state": {"type": state}, "force": True})
            with pytest.raises(PrefectUnavailable, match="start it and this command again"):
                _ended(client, run, "page", gone.pid)
        crashed = _ended(client, run, "page", gone.pid, nightly=False)
        with pytest.raises(RunFailed, match=r"it is Crashed .* retrain backfill resume 0123456789ab[.]$"):
            _result(crashed, "0123456789abcdef")
        with pytest.raises(RunFailed, match="see the log"):
            _result(crashed, None)
        insisted(f"{prefect}/flow_runs/{run}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
        assert _ended(client, run, "page", gone.pid).is_cancelled()


@pytest.mark.slow
def test_an_answer_of_the_ledger_is_a_run_of_the_page_that_has_ended(
    shop: Shop, prefect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 s. While another run holds the lock, when there is more to do, and when data are bad, it is submitted."""
    undated(shop)
    since = datetime.now(UTC).isoformat()
    assert shop.document("2024-03-15")["decision"] == "FIRST"
    deployment = next(each for each in deployments(shop.settings) if each.name == "shop").apply()
    up = Servers(prefect, "page", "page", os.getpid(), shop.settings.store, shop.settings.tracking_uri)
    monkeypatch.setattr(night, "running_servers", lambda settings: up)
    monkeypatch.setattr(night, "follow", lambda *submitted: {"submitted": True})

    def run(as_of: str, **changes: Any) -> dict[str, Any]:
        request = {"use_case": "shop", "as_of": as_of, "seed": None, "again": None, "dry_run": False, "wait": True}
        return night.run_flow_here_or_there(shop.settings, "retrain", {**request, **changes})

    with only_run_of("shop", wait=False):
        assert run("2024-03-16") == {"submitted": True}
    assert run("2024-03-16", seed=7) == run("2024-03-16", dry_run=True) == {"submitted": True}
    assert [entry.decision for entry in shop.entries()] == ["FIRST"]
    idle, replay = run("2024-03-16"), run("2024-03-15")
    assert [(done["entry"], done["replayed"]) for done in (idle, replay)] == [(2, False), (1, True)]
    chosen = {"deployment_id": {"any_": [str(deployment)]}, "start_time": {"after_": since}}
    shown = insisted(f"{prefect}/flow_runs/filter", {"flow_runs": chosen})
    ended = {run["state"]["message"].split(":")[0]: run for run in shown if run["state_name"] == "Completed"}
    assert set(ended) == {"NothingNew", "Replay, Promoted"}
    assert ended["NothingNew"]["name"] == "shop 2024-03-16"
    again = ended["Replay, Promoted"]
    assert again["state"]["message"].startswith("Replay, Promoted: Version 1 was promoted then, in entry 1 of the")
    assert again["name"].startswith("shop 2024-03-15 (replay), F1 0.")
    assert set(again["tags"]) == {"shop", "nightly", "Promoted", "replay"}
    assert set(ended["NothingNew"]["tags"]) == {"shop", "nightly", "NothingNew"}
    chosen = {"artifacts": {"flow_run_id": {"any_": [ended["NothingNew"]["id"]]}}}
    (table,) = insisted(f"{prefect}/artifacts/filter", chosen)
    assert (table["key"], json.loads(table["data"])) == ("shop-stages", idle["stages"])
    (shop.settings.data / "shop" / "all.parquet").unlink()
    assert run("2024-03-17") == {"submitted": True}


@pytest.mark.slow
def test_a_failed_night_is_retried_from_the_page(shop: Shop, prefect: str) -> None:
    """As the page's Retry does: the run is scheduled again, in its deployment, and resumes."""
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment
    from prefect.states import AwaitingRetry

    good = shop.file("2024-03-14").read_bytes()
    shop.file("2024-03-14").write_bytes(b"not parquet")
    served = subprocess.Popen(
        [sys.executable, "-m", "deployments.prefect.serve"], env={**os.environ, "PREFECT_API_URL": prefect}
    )
    try:
        with get_client(sync_client=True) as client:
            wait_for(lambda: _is_there(client), 60)
            request = {"use_case": "shop", "as_of": "2024-03-15"}
            run: Any = run_deployment("retrain/shop", parameters={"request": request}, timeout=120, as_subflow=False)
            assert run.state.message.startswith("DataRejected: ") and "cannot be read" in run.state.message
            shop.file("2024-03-14").write_bytes(good)
            client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
            ended = wait_for(lambda: _final(client, run.id), 120)
            assert ended.message.startswith("Promoted: ")
    finally:
        served.terminate()
        served.wait(30)
    assert [entry.decision for entry in shop.entries()] == ["FIRST"]


def _is_there(client: Any) -> bool:
    return any(deployment.name == "shop" for deployment in client.read_deployments())


def _final(client: Any, run_id: Any) -> Any:
    state = client.read_flow_run(run_id).state
    return state if state.is_completed() or state.is_crashed() else None
