"""MLflow's own doors to a version: evaluate, predict on a file, and the server, with any usual form of rows."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.pyfunc import scoring_server

from ml.models.packaging import write_model
from ml.serving.model import PackagedModel
from ml.serving.output import TaskKind
from ml.storage import registry
from tests.tiny import KINDS, TARGETS, packaged, parcel_rows, parcels, raw_parcels


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskKind, Path]:
    folder = tmp_path_factory.mktemp("versions")
    for kind in KINDS:
        write_model(packaged(kind), parcels(kind).model, folder / kind)
    return {kind: folder / kind for kind in KINDS}


def broken(rows: int = 20) -> pd.DataFrame:
    """Rows of which the fourth breaks a rule."""
    return raw_parcels(rows).assign(weight=lambda raw: raw["weight"].where(raw.index != 3, 99.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_gives_plain_labels(versions: dict[TaskKind, Path], kind: TaskKind) -> None:
    model, expected = registry.load_model(versions[kind]), packaged(kind).answers(broken())
    labels = model.predict(broken(), params={"answer": "label"})
    assert isinstance(labels, np.ndarray) and labels.tolist() == expected["prediction"].tolist()
    loaded = mlflow.pyfunc.load_model(str(versions[kind]), model_config={"answer": "label"})
    assert loaded.predict(broken()).tolist() == labels.tolist()
    assert loaded.predict(broken(), params={"answer": "all"}).equals(expected)
    assert model.predict(broken()).equals(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_gives_plain_probabilities(versions: dict[TaskKind, Path], kind: TaskKind) -> None:
    model, expected = registry.load_model(versions[kind]), packaged(kind).answers(broken())
    if kind == "regression":
        with pytest.raises(ValueError, match="a regression has no probability"):
            model.predict(broken(), params={"answer": "probability"})
        return
    answers = model.predict(broken(), params={"answer": "probability"})
    if kind == "binary":
        assert isinstance(answers, np.ndarray) and answers.tolist() == expected["probability"].tolist()
    else:
        assert list(answers) == list(TARGETS[kind].classes)
        assert np.array_equal(answers, expected.filter(like="probability_"), equal_nan=False)


@pytest.mark.parametrize("answer", ["labels", "ALL", 1])
def test_another_answer_is_refused_by_name(answer: Any) -> None:
    with pytest.raises(
        ValueError, match="answer must be one of all, label, probability, contributions, reasons, but it is "
    ):
        packaged().predict(broken(), {"answer": answer})


class Explaining:
    """A fitted model that can tell contributions: each number's own value, for the first output."""

    base_values = (0.5, 0.5, 0.5)

    def __init__(self, width: int, names: tuple[str, ...] = ("weight", "zone"), missing: float = 0.0) -> None:
        self.width, self.names, self.missing = width, names, missing

    def contributions(self, typed: pd.DataFrame, output: int = 0) -> pd.DataFrame:
        return typed[["weight", "zone"]].set_axis(list(self.names), axis=1) * (output + 1)

    def outputs(self, typed: pd.DataFrame) -> np.ndarray:
        added = [self.contributions(typed, output).sum(axis=1) + 0.5 + self.missing for output in range(self.width)]
        return np.column_stack(added)


def explaining(kind: TaskKind, **options: Any) -> PackagedModel:
    model = copy(packaged(kind))
    model.served = Explaining(3 if kind == "multiclass" else 1, **options)  # type: ignore[assignment]
    return model


class Unexplained:
    """A fitted model that cannot tell contributions."""

    def __init__(self, width: int) -> None:
        self.width = width

    def outputs(self, typed: pd.DataFrame) -> np.ndarray:
        return np.zeros((len(typed), self.width))


def unexplained(kind: TaskKind) -> PackagedModel:
    model = copy(packaged(kind))
    model.served = Unexplained(3 if kind == "multiclass" else 1)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_are_told_by_column_where_the_kind_of_model_has_them(kind: TaskKind) -> None:
    for answer in ("contributions", "reasons"):
        with pytest.raises(ValueError, match="the kind network cannot tell contributions"):
            unexplained(kind).predict(broken(), {"answer": answer})
    rows = broken().set_axis([7] * 20)
    told = explaining(kind).predict(rows, {"answer": "contributions"})
    assert isinstance(told, pd.DataFrame)
    outputs = [f"contribution_{name}_" for name in TARGETS[kind].classes] if kind == "multiclass" else ["contribution_"]
    columns = [f"{output}{name}" for output in outputs for name in ("weight", "zone", "base")]
    assert list(told) == [*columns, "broken_rule"]
    assert told.index.equals(rows.index) and told.iloc[3][columns[0]] is None
    assert told[columns[0]].iloc[0] == rows["weight"].iloc[0] and told[columns[2]].iloc[0] == 0.5


@pytest.mark.parametrize("missing", [1e-5, np.nan])
def test_contributions_that_do_not_add_up_are_refused(missing: float) -> None:
    with pytest.raises(ValueError, match="contributions must add up to the output"):
        explaining("regression", missing=missing).contributions(broken())


def test_a_column_with_the_name_of_the_base_value_is_refused_where_contributions_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"must have a name of its own, but \['contribution_base'\] are there twice"):
        explaining("binary", names=("weight", "base")).contributions(broken())


DICTIONARY = pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))
FORMS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "categories": lambda rows: rows.astype({"carrier": "category", "zone": "category"}),
    "Arrow": lambda rows: rows.convert_dtypes(dtype_backend="pyarrow"),
    "Arrow's dictionaries": lambda rows: rows.assign(carrier=pd.array(rows["carrier"], dtype=DICTIONARY)),
    "nullable": lambda rows: rows.convert_dtypes(),
    "objects": lambda rows: rows.astype("object"),
    "small integers": lambda rows: rows.astype({"zone": "int8"}),
    "unsigned integers": lambda rows: rows.astype({"zone": "uint64"}),
    "records": lambda rows: rows.to_dict("records"),
    "lists": lambda rows: rows.to_dict("list"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_version_takes_any_usual_form_of_rows(versions: dict[TaskKind, Path], form: str) -> None:
    rows = raw_parcels(20)
    answers = registry.load_model(versions["binary"]).predict(FORMS[form](rows))
    assert answers.equals(packaged().answers(rows))


# mlflow.models.evaluate

EVALUATED: list[tuple[TaskKind, str, str, str]] = [
    ("binary", "outcome", "classifier", "accuracy_score"),
    ("multiclass", "pace", "classifier", "accuracy_score"),
    ("regression", "price", "regressor", "mean_absolute_error"),
]


@pytest.mark.parametrize(("kind", "target", "evaluator", "score"), EVALUATED, ids=KINDS)
def test_mlflow_evaluates_a_version(
    versions: dict[TaskKind, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: TaskKind, target: str,
    evaluator: str, score: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    rows = parcel_rows(200, 5)
    try:
        result = mlflow.models.evaluate(
            str(versions[kind]),
            raw_parcels(200, 5).assign(**{target: rows[target]}),
            targets=target,
            model_type=evaluator,
            evaluators=[evaluator],
            model_config={"answer": "label"},
        )
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    said = packaged(kind).answers(raw_parcels(200, 5))["prediction"]
    expected = (said - rows[target]).abs().mean() if kind == "regression" else (said == rows[target]).mean()
    assert result.metrics[score] == pytest.approx(expected)


# The server, and `mlflow models predict`


def bodies(rows: pd.DataFrame) -> Iterator[tuple[str, str, bytes]]:
    split = json.loads(rows.to_json(orient="split", index=False))
    records = json.loads(rows.to_json(orient="records"))
    yield "split", "application/json", json.dumps({"dataframe_split": split}).encode()
    yield "records", "application/json", json.dumps({"dataframe_records": records}).encode()
    yield "inputs", "application/json", json.dumps({"inputs": json.loads(rows.to_json(orient="records"))}).encode()


def answered(model: PackagedModel, body: bytes, kind: str, **params: str) -> Any:
    data = json.dumps({**json.loads(body), **({"params": params} if params else {})})
    answer = scoring_server.invocations(data, kind, model, model.metadata.get_input_schema())  # type: ignore[attr-defined]
    assert answer.status == 200
    return json.loads(answer.response)["predictions"]


def test_mlflows_server_takes_split_records_and_inputs_and_the_answer(versions: dict[TaskKind, Path]) -> None:
    model, expected = registry.load_model(versions["binary"]), packaged().answers(broken())
    for _, kind, body in bodies(broken()):
        assert [row["probability"] for row in answered(model, body, kind)] == expected["probability"].tolist()
        assert answered(model, body, kind, answer="label") == expected["prediction"].tolist()
        assert answered(model, body, kind, answer="probability") == expected["probability"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "split", "records"])
def test_mlflow_models_predict_takes_a_file(versions: dict[TaskKind, Path], tmp_path: Path, form: str) -> None:
    """10 s."""
    rows, file = broken(), tmp_path / "rows"
    body = {name: body for name, _, body in bodies(rows)}.get(form) or rows.to_csv(index=False).encode()
    file.write_bytes(body)
    programs = Path(sys.executable).parent
    command = [programs / "mlflow", "models", "predict", "-m", versions["binary"], "-i", file, "-o", tmp_path / "out"]
    command += ["--env-manager", "local", "-t", "csv" if form == "csv" else "json"]
    variables = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{file}.db",
    }
    with contextlib.chdir(tmp_path):
        subprocess.run([*map(str, command)], env=variables, check=True)
    said = json.loads((tmp_path / "out").read_text())["predictions"]
    assert [row["probability"] for row in said] == packaged().answers(rows)["probability"].tolist()
