"""What a service behind MLflow's own server answers to a wrong request: the column by its name, and no value."""

import asyncio
import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from ml import Column
from ml.models.packaging import write_model
from ml.serving.model import PackagedModel
from ml.serving.refusal import refusal
from ml.serving.rules import Finite, InYears
from ml.storage import registry
from tests.tiny import packaged, parcels, raw_parcels

PERSON, INCOME = "Ottilie Abendroth", 4711.25  # what no answer may repeat
ROW: dict[str, Any] = {"weight": 3.5, "distance": INCOME, "carrier": PERSON, "zone": 1, "at": "2024-02-05T10:00:00"}
MUST_BE = "column {} must be {}, but it is {}".format
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("a text for a number", {"weight": PERSON}, MUST_BE("weight", "number", "str")),
    ("a number in quotes", {"weight": "3.5"}, MUST_BE("weight", "number", "str")),
    ("a number for a text", {"carrier": INCOME}, MUST_BE("carrier", "text", "float64")),
    ("a truth for a text", {"carrier": True}, MUST_BE("carrier", "text", "bool")),
    ("a fraction for an integer", {"zone": INCOME}, MUST_BE("zone", "integer", "float64")),
    ("an integer that float64 rounds", {"zone": 2**53 + 1}, MUST_BE("zone", "integer", "int64 over 2**53")),
    ("an integer of 30 digits", {"zone": 10**30}, MUST_BE("zone", "integer", "object")),
    ("a list for a number", {"weight": [INCOME, 2]}, MUST_BE("weight", "number", "list")),
    ("a list for a text", {"carrier": [PERSON]}, MUST_BE("carrier", "text", "list")),
    ("lists in lists", {"weight": [[INCOME]]}, MUST_BE("weight", "number", "list")),
    ("an object, its field named by a value", {"weight": {PERSON: INCOME}}, MUST_BE("weight", "number", "struct")),
    ("a list of objects", {"weight": [{PERSON: INCOME}]}, MUST_BE("weight", "number", "list")),
    ("a time that is none", {"at": f"05.02.2024 {PERSON}"}, MUST_BE("at", "timestamp", "str, not all in ISO 8601")),
    ("a time as a number", {"at": INCOME}, MUST_BE("at", "timestamp", "float64")),
    ("a column that is not there", {"zone": ...}, "['zone'] are missing"),
    ("a name in other letters", {"zone": ..., "Zone": 1}, "['zone'] are missing"),
    ("no column at all", dict.fromkeys(ROW, ...), "['weight', 'distance', 'carrier', 'zone', 'at'] are missing"),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("a null", {"weight": None}, "weight is present"),
    ("NaN", {"weight": np.nan}, "weight is present"),
    ("an infinity", {"weight": np.inf}, "weight lies between 0 and 30"),
    ("an infinity where no limit is", {"distance": np.inf}, "distance is finite (within 1e+100)"),
    ("a time of no plausible year", {"at": "0001-01-01"}, "at is a time of the years 1900 to 2199"),
]


def clerk() -> PackagedModel:
    model = copy(packaged())
    sensitive = tuple(replace(column, sensitive=True) for column in model.columns)
    model.columns = (*sensitive, Column(name="at", type="timestamp"))
    model.rules = (*model.rules, InYears(column="at"), Finite(column="distance"))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served") / "model"
    write_model(clerk(), parcels().model, place)
    return place


@dataclass
class Here:
    """MLflow's server in this process."""

    app: Any

    def post(self, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        async def answer() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://here") as client:
                return await client.post(path, content=content, headers=headers)

        return asyncio.run(answer())


@pytest.fixture(scope="module")
def server(folder: Path) -> Here:
    from mlflow.pyfunc import scoring_server

    return Here(scoring_server.init(registry.load_model(folder)))


def request_of(rows: list[dict[str, Any]], form: str) -> tuple[bytes, str]:
    """The rows as a request's body, and its kind."""
    columns = list(rows[0])
    if form == "parquet":
        return pd.DataFrame(rows, columns=columns).to_parquet(), "application/vnd.apache.parquet"
    split = {"columns": columns, "data": [list(row.values()) for row in rows]}
    body = {"dataframe_split": split} if form == "split" else {"dataframe_records": rows}
    return json.dumps(body).encode(), "application/json"


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (ROW | changes).items() if value is not ...}


def posted(server: Here | httpx.Client, body: bytes, kind: str) -> httpx.Response:
    return server.post("/invocations", content=body, headers={"Content-Type": kind})


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("form", ["records", "split", "parquet"])
@pytest.mark.parametrize(("changes", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_request_is_told_the_column_and_no_value(
    server: Here, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], words: str, form: str, rows: int
) -> None:
    if form == "parquet" and changes.get("zone") == 10**30:
        pytest.skip("a Parquet file has no such integers")
    answer = posted(server, *request_of([changed(changes)] * rows, form))
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
    assert words in answer.json()["message"]
    for text in (answer.text, caplog.text):
        assert PERSON not in text and str(INCOME) not in text


@pytest.mark.parametrize("other", [PERSON, [1], {PERSON: 1}])
def test_rows_of_which_one_is_wrong_are_told_the_column(server: Here, other: Any) -> None:
    answer = posted(server, *request_of([ROW, changed({"weight": other})], "records"))
    assert (answer.status_code, PERSON in answer.text) == (400, False)
    assert answer.json()["message"].startswith("column weight must be number, but it is ")


@pytest.mark.parametrize("form", ["records", "split", "parquet"])
@pytest.mark.parametrize(("changes", "rule"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_row_that_breaks_a_rule_has_no_answer_and_the_other_has_its_own(
    server: Here, changes: dict[str, Any], rule: str, form: str
) -> None:
    answer = posted(server, *request_of([changed(changes), ROW], form))
    assert answer.status_code == 200
    broken, other = answer.json()["predictions"]
    assert (broken["broken_rule"], broken["prediction"]) == (rule, None)
    assert (other["broken_rule"], other["prediction"] is None) == (None, False)


@pytest.mark.parametrize("name", [name for name, value in ROW.items() if isinstance(value, str)])
@pytest.mark.parametrize("times", [2, 3])
def test_a_column_that_is_there_twice_never_becomes_its_own_name(server: Here, name: str, times: int) -> None:
    """MLflow hands over the names of such columns as their values, where there are as many rows."""
    columns = [*ROW, *[name] * (times - 1)]
    data = [[*ROW.values(), *["another"] * (times - 1)]] * times
    body = json.dumps({"dataframe_split": {"columns": columns, "data": data}}).encode()
    answer = posted(server, body, "application/json")
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        f"rows must have each column once, but ['{name}'] are there twice",
    )


def test_a_csv_is_refused_because_its_values_would_be_guessed(server: Here) -> None:
    answer = posted(server, pd.DataFrame([ROW]).to_csv(index=False).encode(), "text/csv")
    assert (answer.status_code, PERSON in answer.text) == (400, False)


def test_in_python_the_same_sentence_is_a_value_error_that_travels_between_processes() -> None:
    with pytest.raises(ValueError, match="column weight must be number, but it is str") as caught:
        packaged().predict(raw_parcels(2).assign(weight=PERSON))
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (ValueError, str(caught.value))


def test_a_model_refuses_rows_where_mlflow_is_not_installed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlflow.exceptions", raising=False)
    assert type(refusal("no")) is ValueError


# A process of its own


@contextlib.contextmanager
def serving(folder: Path, log: Path) -> Iterator[httpx.Client]:
    """`mlflow models serve`, all that it says going into the log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = Path(sys.executable).parent
    command = [
        str(programs / "mlflow"),
        "models",
        "serve",
        "-m",
        str(folder),
        "--env-manager",
        "local",
        "-p",
        str(port),
    ]
    variables = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "MLFLOW_TRACKING_URI": f"sqlite:///{log}.db"}
    with log.open("wb") as said:
        process = subprocess.Popen(command, env=variables, stdout=said, stderr=said, cwd=log.parent, process_group=0)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            _wait(client, process)
            yield client
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(timeout=30)


def _wait(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/ping").status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError("mlflow models serve did not start")


@pytest.mark.slow
def test_mlflow_models_serve_names_the_column_and_its_log_has_no_value(folder: Path, tmp_path: Path) -> None:
    """15 s."""
    with serving(folder, tmp_path / "log") as client:
        assert posted(client, *request_of([ROW], "records")).status_code == 200
        for _, changes, words in WRONG:
            answer = posted(client, *request_of([changed(changes)], "records"))
            assert (answer.status_code, words in answer.json()["message"]) == (400, True)
            assert PERSON not in answer.text and str(INCOME) not in answer.text
    said = (tmp_path / "log").read_text()
    assert "POST /invocations" in said
    assert PERSON not in said and str(INCOME) not in said
