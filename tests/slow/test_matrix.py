"""The main job in every place that its files and its registry may have, as a user runs it: a process a command."""

import itertools
import json
import os
import shutil
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

from ml.settings import Settings
from ml.storage.ledger import Ledger, version_of
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import open_store
from tests.s3_proxy import Exchange, Fault, hand_on, lose_answer, proxy_to, reset_answer, reset_request, say
from tests.s3_server import BUCKET, S3Server

NIGHT = ["run", "breast_cancer", "--as-of", "2024-01-02", "--json"]
SERVICE = """
import sys
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model("models:/breast_cancer@champion")
model.predict(pandas.read_parquet(sys.argv[1])).to_parquet(sys.argv[2])
"""


def environment(**own: str) -> dict[str, str]:
    """A user's shell: this process's variables without those that the session's home has set, and the test's own."""
    ours = ("RETRAIN_", "PREFECT_", "MLFLOW_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(ours)}, **own}


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
    from deployments.prefect.servers import mlflow_server

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
        again = document(NIGHT, variables)
        assert again == {**first, "replayed": True, "stages": again["stages"], "became": "Champion is now version 1."}
        stages = ["open night", "take snapshot", "look up the ledger", "look up what became of it"]
        assert [row["stage"] for row in again["stages"]] == stages

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


@pytest.fixture
def on_s3(s3: S3Server, prefect: str, empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The prefix of a fresh home on S3, for nights in this process; a last slash of the address changes nothing."""
    prefix = uuid4().hex
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    monkeypatch.setenv("RETRAIN_STORE", f"s3://{BUCKET}/{prefix}/")
    return prefix


def night_here() -> dict[str, Any]:
    from deployments.prefect.night import run_here

    return run_here({"use_case": "breast_cancer", "as_of": "2024-01-02"})


def decisions() -> list[tuple[str, int | None]]:
    entries = Ledger(open_store(Settings.from_environment().store), "breast_cancer").nights()
    return [(entry.decision, version_of(entry.candidate)) for entry in entries]


@pytest.mark.slow
def test_a_night_on_s3_with_mlflow_over_http(
    on_s3: str, mlflow_server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server_url)
    assert [(done["entry"], done["replayed"]) for done in (night_here(), night_here())] == [(1, False), (1, True)]
    [(decision, version)] = decisions()
    assert decision == "FIRST"
    assert Registry(Settings.from_environment(), "breast_cancer").alias(CHAMPION) == version

    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model("models:/breast_cancer@champion")
    assert len(model.predict(pd.read_parquet(tmp_path / "data" / "breast_cancer" / "all.parquet"))) == 569


@pytest.mark.slow
def test_an_entry_whose_answers_were_all_lost_is_not_made_twice(
    s3: S3Server, on_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store makes the entry and is gone before it says so, in every attempt of the client: the task tries again."""
    with proxy_to(s3.endpoint) as proxy:
        proxy.strike(lose_answer, times=3, on=f"PUT /{BUCKET}/{on_s3}/ledger/")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        night_here()
        assert len(proxy.struck) == 3
        assert [decision for decision, _ in decisions()] == ["FIRST"]


def ended(done: dict[str, Any]) -> tuple[Any, Any]:
    return done["entry"], done["replayed"]


@pytest.mark.slow
def test_a_night_over_a_bad_line_ends_with_one_version_and_one_entry(
    s3: S3Server, on_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third request is reset or loses its answer, and a burst outlasts the client's patience, not a task's."""
    burst, faults = say(503, "SlowDown"), itertools.cycle([reset_request, reset_answer, lose_answer])

    with proxy_to(s3.endpoint) as proxy:

        def bad_line(exchange: Exchange) -> None:
            number = len(proxy.seen)
            fault = burst if 20 < number <= 30 else next(faults) if number % 3 == 0 else hand_on
            struck.append(fault)
            fault(exchange)

        struck: list[Fault] = []
        proxy.fault = bad_line
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        assert ended(night_here()) == (1, False)
        assert {burst, reset_request, reset_answer, lose_answer} < set(struck)
        proxy.fault = hand_on
        assert decisions() == [("FIRST", 1)]
        registry = Registry(Settings.from_environment(), "breast_cancer")
        assert (registry.alias(CHAMPION), len(registry.client.search_model_versions())) == (1, 1)
        assert ended(night_here()) == (1, True)


OUTAGE_SECONDS = 90.0  # measured: 20 s for S3, 28 s for MLflow and 4 s for Prefect, twice that on a busy machine
NOBODY = "http://127.0.0.1:1"
OUTAGES = {
    "bucket": ("ConfigError", {"RETRAIN_STORE": "s3://no-such-bucket/p"}),
    "MLflow": ("RegistryUnavailable", {"MLFLOW_TRACKING_URI": NOBODY}),
    "S3": ("StoreUnavailable", {"RETRAIN_STORE": f"s3://{BUCKET}/p", "AWS_ENDPOINT_URL_S3": NOBODY}),
    "Prefect": ("PrefectUnavailable", {"PREFECT_API_URL": f"{NOBODY}/api"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("error", "away"), OUTAGES.values(), ids=OUTAGES)
def test_an_outage_is_one_sentence_and_leaves_nothing_behind(
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
        assert seconds < OUTAGE_SECONDS
        settings = Settings(
            tmp_path / "home", str(tmp_path / "home" / "store"), f"sqlite:///{tmp_path}/home/mlflow.db", None, 1
        )
        registry = Registry(settings, "breast_cancer")
        assert (registry.alias(CHAMPION), registry.client.search_model_versions()) == (None, [])
        assert document(["ledger", "breast_cancer", "--json"], variables)["entries"] == []
        first = document(NIGHT, variables)
        assert (first["decision"], first["version"]) == ("FIRST", 1)
