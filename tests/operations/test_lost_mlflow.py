"""What MLflow lost comes back from the ledger and the store, wherever both lie: `retrain doctor --mend`.

MLflow may lose its database, get an older copy of it, or lose the registered model. Afterwards its pages, its aliases
and every command are as they were.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest

from deployments.cli import main
from deployments.prefect.servers import mlflow_server
from ml.operations.retention import delete_version
from ml.operations.versions import lost_versions, recorded, register_again, renumbered
from ml.settings import Settings
from ml.storage.ledger import Ledger, version_of
from ml.storage.registry import CHAMPION, LEDGER_RUN, Registry
from ml.storage.store import is_whole, open_store
from tests.operations.test_backup import forget_connections
from tests.operations.test_versions import model
from tests.s3_server import BUCKET, free_ports
from tests.storage.test_ledger import entry
from tests.story import Shop

BY_NAME = ("--reason", "so", "--yes")
WAYS = ("database lost", "older copy", "registered model deleted")


@dataclass
class Place:
    """MLflow's database file, asked directly or by a server on it, and copies of it from other times."""

    file: Path
    port: int | None
    copies: dict[str, Path]

    def keep(self, name: str) -> None:
        forget_connections()
        self.copies[name] = Path(shutil.copy(self.file, self.file.with_name(f"{name}.copy")))

    @contextmanager
    def open(self, way: str) -> Iterator[None]:
        """MLflow with the database of that way."""
        if way != "as it is":
            name = {"database lost": "empty", "older copy": "older"}.get(way, "whole")
            for follower in ("-wal", "-shm"):
                self.file.with_name(self.file.name + follower).unlink(missing_ok=True)
            shutil.copy(self.copies[name], self.file)
        forget_connections()
        if self.port is None:
            yield
            return
        settings = Settings.from_environment()
        own = replace(settings, home=self.file.parent, tracking_uri=f"sqlite:///{self.file}")
        with mlflow_server(own, self.port):
            yield


@pytest.fixture(params=["disk", "s3"])
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    if request.param == "s3":
        request.getfixturevalue("s3")
        monkeypatch.setenv("RETRAIN_STORE", f"s3://{BUCKET}/{uuid4().hex}")


@pytest.fixture(params=["sqlite", "http"])
def mlflow(
    request: pytest.FixtureRequest, files: None, shop: Shop, empty_mlflow: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:  # fmt: skip
    file, port = shop.settings.home / "mlflow.db", None
    if request.param == "http":
        (port,) = free_ports(1)
        file = Path(shutil.copy(empty_mlflow, tmp_path / "mlflow.db"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    shop.settings = Settings.from_environment()
    return Place(file, port, {"empty": empty_mlflow})


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def served(shop: Shop) -> pd.DataFrame:
    """What the champion says, as a service gets it: through MLflow's alias."""
    import mlflow

    rows = pd.read_parquet(shop.file("2024-03-10"))
    with pytest.MonkeyPatch.context() as patch:  # which puts back the address that the test has set
        patch.setenv("MLFLOW_TRACKING_URI", shop.settings.tracking_uri)
        try:
            mlflow.set_tracking_uri(shop.settings.tracking_uri)
            return mlflow.pyfunc.load_model("models:/shop@champion").predict(rows)
        finally:
            mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_all_that_mlflow_lost_comes_back(shop: Shop, mlflow: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with mlflow.open("as it is"):
        shop.night("2024-03-15")
        mlflow.keep("older")
        shop.night("2024-03-15", seed=5)
        assert main(["promote", "shop", "--version", "2", *BY_NAME]) == 0
        before, run_scores = served(shop), scores_in_mlflow(shop)
        mlflow.keep("whole")
    for way in WAYS:
        with mlflow.open(way):
            registry = Registry(shop.settings, "shop")
            if way == "registered model deleted":
                registry.client.delete_registered_model("shop")
            code, found = said(capsys, "doctor", "shop", "--mend")
            assert code == 0, (way, found)
            assert lost_versions(shop.ledger, registry) == [], way
            pd.testing.assert_frame_equal(served(shop), before)
            assert scores_in_mlflow(shop) == run_scores, "the list of runs is as it was"
            for number in (1, 2):
                version = registry.client.get_model_version("shop", str(number))
                assert "decided" in version.description and "| F1 |" in version.description
                run = registry.client.get_run(version.run_id)
                assert run.info.run_name.startswith("shop 2024-03-15, F1 0.")
                assert run.info.status == "FINISHED"
                assert run.data.tags["mlflow.note.content"].startswith("# shop version")
            _, status = said(capsys, "status", "shop")
            assert (status["use_cases"][0]["champion"], status["use_cases"][0]["mlflow"]) == (2, [])
            assert main(["rollback", "shop", *BY_NAME]) == 0
            assert not served(shop).equals(before)
            assert main(["promote", "shop", "--version", "2", *BY_NAME]) == 0
            pd.testing.assert_frame_equal(served(shop), before)
            rows, answers = str(shop.file("2024-03-10")), str(shop.settings.home / "answers.parquet")
            assert main(["score", "shop", rows, "-o", answers]) == 0
            code, found = said(capsys, "doctor", "shop")
            assert code == 0, (way, found)
    with mlflow.open("database lost"):
        assert main(["doctor", "shop", "--mend"]) == 0
        night = shop.document("2024-03-18")
        assert (night["version"], night["champion_before"]) == (3, 2)
        assert "moved by hand" not in night["reason"] and "no longer" not in night["reason"]
        head = shop.ledger.head()
        assert head and Registry(shop.settings, "shop").alias(CHAMPION) == version_of(head.champion)
        code, found = said(capsys, "doctor", "shop")
        assert code == 0, found


@pytest.mark.slow
def test_a_database_whose_file_is_gone_is_made_again_by_mending_alone(
    files: None, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command in a process of its own, as MLflow remembers for which file it has made the tables. A command that
    only reads says what is gone, and makes no empty database."""
    shop.settings = Settings.from_environment()
    shop.night("2024-03-15")
    before, home = served(shop), shop.settings.home
    forget_connections()
    for file in home.glob("mlflow.db*"):
        file.unlink()

    for words, code in ((("status", "shop"), 0), (("doctor", "shop"), 1), (("gc",), 0)):
        done = retrain(*words)
        assert done.returncode == code, done.stderr
        assert words == ("gc",) or "mlflow.db is not there" in done.stdout
        assert not list(home.glob("mlflow.db*")), words
    assert retrain("doctor", "shop", "--mend").returncode == 0
    assert retrain("doctor", "shop").returncode == 0
    assert lost_versions(shop.ledger, Registry(shop.settings, "shop")) == []
    pd.testing.assert_frame_equal(served(shop), before)
    assert shop.document("2024-03-16")["version"] == 2


def retrain(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deployments.cli", *words]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)


def scores_in_mlflow(shop: Shop) -> list[dict[str, float]]:
    """Of each run of ours, as the list of runs shows them."""
    registry = Registry(shop.settings, "shop")
    experiment = registry.client.get_experiment_by_name("shop").experiment_id
    runs = registry.client.search_runs([experiment], "", order_by=["attributes.start_time ASC"])
    return [{name: value for name, value in run.data.metrics.items() if name.startswith("test_")} for run in runs]


# Without nights: a ledger of one version with one file, and MLflow's server.


@pytest.fixture
def lost(mlflow_server_url: str, tmp_path: Path) -> tuple[Ledger, Registry]:
    """A ledger of one version whose run this server never had."""
    name, store = f"tills_{uuid4().hex}", str(tmp_path / "store")
    ledger = Ledger(open_store(store), name)
    one = model(ledger, 1)
    assert ledger.append(entry(1, use_case=name, decision="FIRST", candidate=one, champion=one, reference=one))
    return ledger, Registry(Settings(tmp_path, store, mlflow_server_url, None, 1), name)


@pytest.mark.slow
def test_over_http_a_version_on_disk_whose_run_is_lost_is_registered_again(lost: tuple[Ledger, Registry]) -> None:
    ledger, registry = lost
    (one,) = lost_versions(ledger, registry)
    assert register_again(registry, one) == 1
    assert (lost_versions(ledger, registry), renumbered(ledger, registry)) == ([], {})
    assert registry.number_of(one.version) == 1
    found = registry.client.get_model_version(registry.name, "1")
    assert found.source == f"{ledger.store.uri}/{one.version.run_id}".replace("store/", "store/mlflow/") + (
        "/artifacts/model"
    )
    assert found.tags[LEDGER_RUN] == one.version.run_id != found.run_id
    assert registry.client.list_artifacts(found.run_id, "model")[0].path == "model/weights", "its page shows its files"


@pytest.mark.slow
def test_a_run_that_was_made_again_is_the_same_run_to_every_later_night(lost: tuple[Ledger, Registry]) -> None:
    ledger, registry = lost
    (one,) = recorded(ledger.entries())
    register_again(registry, one)
    assert registry.run_id(one.key, "a night", {}) == one.version.run_id
    register_again(registry, one)
    _, found = registry._find_experiment()
    assert found and len(registry.client.search_runs([found.experiment_id])) == 1
    assert [version.run_id for version in registry.versions()] == [one.version.run_id]


@pytest.mark.slow
def test_files_of_a_run_that_was_made_again_are_listed_once_and_deleted_with_their_version(
    lost: tuple[Ledger, Registry],
) -> None:
    ledger, registry = lost
    (one,) = recorded(ledger.entries())
    keys = ledger.store.keys("mlflow")
    register_again(registry, one)
    assert ledger.store.keys("mlflow") == keys
    copy = registry.client.copy_model_version(f"models:/{registry.name}/1", f"{registry.name}_theirs")
    (version,) = registry.versions()
    delete_version(ledger.store, registry, version)
    assert all(is_whole(ledger.store, file) for file in one.version.files), "somebody's copy needs them"
    registry.client.delete_model_version(copy.name, copy.version)
    register_again(registry, one)
    (version,) = registry.versions()
    delete_version(ledger.store, registry, version)
    assert (ledger.store.keys("mlflow"), registry.versions()) == ([], [])
