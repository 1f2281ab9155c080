"""The main job in every place that its files and its registry may have, as a user runs it: a process a command."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest

from ml.registry import CHAMPION, Registry
from ml.settings import Settings
from tests.s3_server import BUCKET, S3Server

NIGHT = ["run", "breast_cancer", "--as-of", "2024-01-02", "--json"]
SERVICE = """
import sys
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model("models:/breast_cancer@champion")
model.predict(pandas.read_parquet(sys.argv[1])).to_parquet(sys.argv[2])
"""


def environment(**own: str) -> dict[str, str]:
    """This process's variables without those of the session's home, and with the test's own."""
    foreign = ("RETRAIN_STORE", "RETRAIN_PROJECT", "MLFLOW_TRACKING_URI", "PREFECT_API_URL")
    return {**{name: value for name, value in os.environ.items() if name not in foreign}, **own}


def retrain(words: list[str], variables: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", *words],
        env=dict(variables), cwd=variables["RETRAIN_HOME"], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def document(words: list[str], variables: Mapping[str, str]) -> dict[str, Any]:
    done = retrain(words, variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@contextmanager
def place(home: Path, registry: str, files: str) -> Iterator[dict[str, str]]:
    """The variables of one place, with a new MLflow server if it has one."""
    from deployments.servers import mlflow_server

    home.mkdir()
    variables = {"RETRAIN_HOME": str(home)}
    if files == "s3":
        variables["RETRAIN_STORE"] = f"s3://{BUCKET}/{uuid4().hex}"
    if registry == "sqlite":
        yield variables
        return
    settings = replace(Settings.from_environment(), home=home, tracking_uri=f"sqlite:///{home / 'server.db'}")
    with mlflow_server(settings) as url:
        yield {**variables, "MLFLOW_TRACKING_URI": url}


@pytest.mark.slow
@pytest.mark.parametrize("files", ["disk", "s3"])
@pytest.mark.parametrize("registry", ["sqlite", "http"])
def test_a_night_is_run_once_and_its_model_is_served_from_every_place(
    request: pytest.FixtureRequest, prefect: str, tmp_path: Path, registry: str, files: str
) -> None:
    if files == "s3":
        request.getfixturevalue("s3")
    with place(tmp_path / "home", registry, files) as own:
        variables = environment(PREFECT_API_URL=prefect, **own)
        first = document(NIGHT, variables)
        assert (first["decision"], first["version"], first["replayed"]) == ("FIRST", 1, False)
        assert document(NIGHT, variables) == {**first, "replayed": True}

        rows, scored, served = (tmp_path / name for name in ("rows.parquet", "scored.parquet", "served.parquet"))
        pd.read_parquet(tmp_path / "home" / "data" / "breast_cancer" / "all.parquet").to_parquet(rows)
        assert document(["score", "breast_cancer", str(rows), "-o", str(scored), "--json"], variables)["rows"] == 569
        uri = own.get("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/home/mlflow.db")
        subprocess.run(
            [sys.executable, "-I", "-c", SERVICE, str(rows), str(served)],
            env=environment(MLFLOW_TRACKING_URI=uri), cwd=tmp_path, check=True, timeout=120,
        )  # fmt: skip
        pd.testing.assert_frame_equal(pd.read_parquet(served), pd.read_parquet(scored))
        assert pd.read_parquet(served).iloc[:, 0].notna().all()


def test_a_night_on_s3_with_mlflow_over_http(
    s3: S3Server, prefect: str, mlflow_server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in this process, with a last slash that changes nothing."""
    from deployments.commands import write_demo_data
    from deployments.night import run_here
    from ml.config import load_use_case
    from ml.ledger import Ledger
    from ml.store import open_store

    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    monkeypatch.setenv("RETRAIN_STORE", f"s3://{BUCKET}/{uuid4().hex}/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server_url)
    settings = Settings.from_environment()
    write_demo_data(settings, load_use_case("breast_cancer", None))
    night = {"use_case": "breast_cancer", "as_of": "2024-01-02"}
    assert run_here(night) == {"use_case": "breast_cancer", "entry": 1, "replayed": False}
    assert run_here(night) == {"use_case": "breast_cancer", "entry": 1, "replayed": True}
    entries = Ledger(open_store(settings.store), "breast_cancer").entries()
    assert [(entry.decision, entry.version) for entry in entries] == [("FIRST", 1)]
    assert Registry(settings, "breast_cancer").alias(CHAMPION) == 1

    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model("models:/breast_cancer@champion")
    assert len(model.predict(pd.read_parquet(tmp_path / "data" / "breast_cancer" / "all.parquet"))) == 569


NOBODY = "http://127.0.0.1:1"
OUTAGES = {
    "MLflow": ("RegistryUnavailable", {"MLFLOW_TRACKING_URI": NOBODY}),
    "S3": ("StoreUnavailable", {"RETRAIN_STORE": f"s3://{BUCKET}/p", "AWS_ENDPOINT_URL_S3": NOBODY}),
    "Prefect": ("PrefectUnavailable", {"PREFECT_API_URL": f"{NOBODY}/api"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("error", "away"), OUTAGES.values(), ids=OUTAGES)
def test_an_outage_is_one_sentence_within_a_minute_and_leaves_nothing_behind(
    s3: S3Server, prefect: str, tmp_path: Path, error: str, away: dict[str, str]
) -> None:
    with place(tmp_path / "home", "sqlite", "disk") as own:
        variables = environment(PREFECT_API_URL=prefect, **own)
        start = time.monotonic()
        failed = retrain(NIGHT, {**variables, **away})
        seconds = time.monotonic() - start
        said = json.loads(failed.stdout)
        assert (failed.returncode, said["error"], said["exit_code"]) == (1, error, 1)
        assert "Traceback" not in failed.stderr
        assert seconds < 60
        settings = Settings(
            tmp_path / "home", str(tmp_path / "home" / "store"), f"sqlite:///{tmp_path}/home/mlflow.db", None, 1
        )
        registry = Registry(settings, "breast_cancer")
        assert (registry.alias(CHAMPION), registry.client.search_model_versions()) == (None, [])
        assert document(["ledger", "breast_cancer", "--json"], variables)["entries"] == []
        first = document(NIGHT, variables)
        assert (first["decision"], first["version"]) == ("FIRST", 1)
