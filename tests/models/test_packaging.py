"""A model as files: it needs nothing of this project, keeps its own code, and holds no row of data."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException

from expectations.suite import load_rules, suite_file
from ml import Source, UseCase
from ml.data.cleaning import LABEL, from_parquet
from ml.data.statistics import Statistics
from ml.errors import ConfigError, Corrupt, DataRejected
from ml.models.description import model_columns, model_rules
from ml.models.encoding import fit_encoder
from ml.models.networks.first_weights import draw_first_weights
from ml.models.packaging import (
    SERVING,
    copy_code,
    fetch_model,
    make_proof,
    refuse_broken_example,
    synthetic_rows,
    travelling,
    upload_folder,
    write_model,
)
from ml.models.training import package
from ml.operations.scoring import score_file
from ml.serving.columns import Column, conform
from ml.serving.kinds.network import Architecture, MeanRow, ServedNetwork, TabularNetwork
from ml.serving.model import PackagedModel
from ml.serving.output import Output
from ml.serving.own_code import NO_OWN_CODE, OwnCode
from ml.serving.rules import Between, InSet, InYears, Matches, NotBelow, Rule
from ml.storage import registry
from ml.storage.store import get_file, open_store
from ml.use_case.loading import load_use_case, use_case_files
from tasks.registration import open_night
from tests.story import SHOP
from tests.tiny import cleaned, packaged, parcel_rows, parcels, raw_parcels, site

ORDERS = (("ours",), ("other",), ("ours", "other"), ("other", "ours"))
# Imports the libraries once; each order of loading then has a process of its own, forked before any model is loaded.
SCRIPT = """
import os, shutil, sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ml", "tasks", "flows", "expectations", "deployments"}:
            raise ImportError(f"{name} is refused")

sys.meta_path.insert(0, Refuse())
try:
    import ml
except ImportError as error:
    assert "refused" in str(error)
else:
    raise SystemExit("ml can be imported")

import mlflow.pyfunc, pandas, torch

def answer(order):
    models = {name: mlflow.pyfunc.load_model(str(folder / name)) for name in order.split(",")}
    for turn in (1, 2):
        for name, model in models.items():
            model.predict(rows).to_parquet(folder / f"{order}.{name}.{turn}.parquet")
    assert "torch._dynamo" not in sys.modules, "torch's compiler takes 2 s to import, and serves nobody"

def answer_when_the_first_is_gone(_):
    mlflow.pyfunc.load_model(str(folder / "twice" / "gone")).predict(rows)
    shutil.rmtree(folder / "twice" / "gone")
    mlflow.pyfunc.load_model(str(folder / "twice" / "second")).predict(rows).to_parquet(folder / "second.parquet")

folder = Path(sys.argv[1])
rows = pandas.read_parquet(folder / "rows.parquet")
for work, order in [*((answer, order) for order in sys.argv[2:]), (answer_when_the_first_is_gone, "")]:
    child = os.fork()
    if child == 0:
        work(order)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit(f"{work.__name__} {order} failed")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models `ours`, and `other` whose code turns every number round; and the answers of both in fresh processes."""
    folder = tmp_path_factory.mktemp("models")
    changed = folder / "changed"
    shutil.copytree(SERVING, changed)
    code = (changed / "features.py").read_text()
    assert "x[:, 0] = scaled" in code
    (changed / "features.py").write_text(code.replace("x[:, 0] = scaled", "x[:, 0] = -scaled"))
    write_model(packaged(), parcels().model, folder / "ours")
    write_model(packaged(), parcels().model, folder / "other", source=changed)
    for name in ("gone", "second"):
        shutil.copytree(folder / "ours", folder / "twice" / name)
    rows().to_parquet(folder / "rows.parquet")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    orders = [",".join(order) for order in ORDERS]
    command = [sys.executable, "-P", "-c", SCRIPT, str(folder), *orders]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def rows() -> pd.DataFrame:
    """Raw rows with unknown and missing values, and one that breaks a rule."""
    weights = [31.0, *np.linspace(0, 30, 299)]
    return raw_parcels(300).assign(carrier=["never seen", None, *raw_parcels(298)["carrier"]], weight=weights)


def turned_round() -> PackagedModel:
    """What the other model's code means: every number's weight with the other sign."""
    model = copy(packaged())
    model.served = deepcopy(model.served)
    positions = np.cumsum([0, *(feature.width for feature in model.served.encoder.numbers)])[:-1]
    model.served.network.numbers.data[positions] *= -1
    return model


@pytest.mark.parametrize("order", ORDERS, ids=",".join)
@pytest.mark.parametrize("turn", [1, 2])
def test_models_give_their_own_answers_in_a_process_without_this_project_in_any_order_of_loading(
    folder: Path, order: tuple[str, ...], turn: int
) -> None:
    expected = {"ours": packaged().predict(rows()), "other": turned_round().predict(rows())}
    assert not expected["ours"].equals(expected["other"])
    for name in order:
        seen = pd.read_parquet(folder / f"{','.join(order)}.{name}.{turn}.parquet")
        pd.testing.assert_frame_equal(seen, expected[name], check_exact=True, check_dtype=False)


def test_a_model_answers_after_the_folder_is_gone_that_its_code_was_first_loaded_from(folder: Path) -> None:
    """As in a service that downloads one version after the other, each into a folder that it deletes."""
    assert not (folder / "twice" / "gone").exists()
    seen = pd.read_parquet(folder / "second.parquet")
    pd.testing.assert_frame_equal(seen, packaged().predict(rows()), check_exact=True, check_dtype=False)


def test_the_name_of_a_models_code_is_that_of_its_bytes(folder: Path) -> None:
    names = {path.name for path in folder.glob("*/code/*")}
    own = OwnCode({"my_kind": b"", "company.parts": b""}, {"company"})
    for source in (SERVING, folder / "changed"):
        assert copy_code(["network"], NO_OWN_CODE, folder / "again", source).name in names
        names.add(copy_code(["network"], own, folder / "again", source).name)
        names.add(copy_code([], NO_OWN_CODE, folder / "again", source).name)
        shutil.rmtree(folder / "again")
    assert len(names) == 6


@pytest.mark.parametrize("name", ["ours", "other"])
def test_a_model_folder_holds_no_pickle_and_no_row_of_data(folder: Path, name: str) -> None:
    files = {path.relative_to(folder / name).as_posix() for path in (folder / name).rglob("*") if path.is_file()}
    assert {"MLmodel", "data/model/model.json", "data/model/kind/weights.safetensors", "input_example.json"} <= files
    assert {path.rpartition(".")[2] for path in files} <= {"MLmodel", "json", "safetensors", "py", "yaml", "txt"}
    example = json.loads((folder / name / "input_example.json").read_text())
    assert example["data"] == [[15.0, 1.0, "AA", 1.0]]


def test_a_module_of_a_derive_may_have_the_name_of_a_kind_of_ours(tmp_path: Path) -> None:
    use_case, own = parcels(), OwnCode({"network": b"LINES = 4\n"}, derive=b"import network\nDERIVE = None\n")
    rows = cleaned(use_case, parcel_rows(50))
    model = package(use_case, use_case.column_rules, packaged().folder, 1, rows, own)
    write_model(model, use_case.model, tmp_path / "model")
    answers = registry.load_model(tmp_path / "model").predict(raw_parcels(50))
    pd.testing.assert_frame_equal(answers, model.predict(raw_parcels(50)))


def test_a_model_says_what_it_needs_and_takes(folder: Path) -> None:
    needed = (folder / "ours" / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in needed} == {
        "mlflow",
        "numpy",
        "pandas",
        "pyarrow",
        "torch",
        "safetensors",
    }
    assert all("==" in line and "+" not in line for line in needed)
    assert model_columns(folder / "ours") == packaged().columns
    assert model_rules(folder / "ours") == packaged().rules


FORMS: list[tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]] = [
    ("as they are", lambda rows: rows),
    ("whole numbers", lambda rows: rows.assign(weight=range(1, 21))),
    ("floats for integers", lambda rows: rows.astype({"zone": "float64"})),
    ("objects with None", lambda rows: rows.assign(carrier=pd.Series(["ant", None] * 10, dtype="object"))),
    ("a column of nulls", lambda rows: rows.assign(distance=None)),
    ("one row", lambda rows: rows.iloc[[7]]),
    ("no rows", lambda rows: rows.iloc[:0]),
    ("extra columns in another order", lambda rows: rows.assign(zebra=1).iloc[:, ::-1]),
    ("a null that a rule refuses", lambda rows: rows.assign(weight=[None, *range(1, 20)])),
]  # fmt: skip


@pytest.mark.parametrize("form", [case[1] for case in FORMS], ids=[case[0] for case in FORMS])
def test_mlflow_passes_raw_rows_through_as_they_are(folder: Path, form: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    raw = form(raw_parcels(20))
    seen = registry.load_model(folder / "ours").predict(raw)
    assert seen.equals(packaged().predict(raw))


@pytest.mark.parametrize(
    ("change", "word"),
    [({"zone": None}, "zone"), ({"weight": "heavy"}, "weight must be number"), ({"carrier": 7}, "carrier")],
)
def test_mlflow_refuses_missing_and_wrongly_typed_columns_by_name(
    folder: Path, change: dict[str, Any], word: str
) -> None:
    raw = raw_parcels(5)
    for name, value in change.items():
        raw = raw.drop(columns=name) if value is None else raw.assign(**{name: value})
    with pytest.raises(Exception, match=word):
        registry.load_model(folder / "ours").predict(raw)


# Times, which MLflow would make of any number and of 05.02.2024 if it were told that a column has them


def timed(unit: str = "") -> PackagedModel:
    """A model of Berlin that takes a time, and another that it must equal."""
    model = copy(packaged())
    times = (Column(name="at", type="timestamp", unit=unit), Column(name="meant", type="timestamp"))
    model.columns, model.time_zone = (*model.columns, *times), "Europe/Berlin"
    equal = (NotBelow(column="at", other="meant"), NotBelow(column="meant", other="at"))
    model.rules = (*model.rules, InYears(column="at"), *equal)
    return model


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Such models by their unit, as any MLflow user loads them."""
    place = tmp_path_factory.mktemp("timed")
    for unit in ("", "s", "ms"):
        write_model(timed(unit), parcels().model, place / f"of {unit}")
    return {unit: registry.load_model(place / f"of {unit}") for unit in ("", "s", "ms")}


TIMES: list[tuple[str, Any, str]] = [
    ("", "2024-02-05T23:30:00", "2024-02-05T23:30:00"),
    ("", "2024-02-05 23:30", "2024-02-05T23:30:00"),
    ("", "2024-02-05", "2024-02-05T00:00:00"),
    ("", "2024-02-05T22:30:00Z", "2024-02-05T23:30:00"),
    ("", "2024-02-05T17:30:00-05:00", "2024-02-05T23:30:00"),
    ("s", 1707172200, "2024-02-05T23:30:00"),
    ("s", 1707172200.0, "2024-02-05T23:30:00"),
    ("ms", 1707172200000, "2024-02-05T23:30:00"),
    ("ms", "2024-02-05T22:30:00Z", "2024-02-05T23:30:00"),
]
NO_TIMES: list[tuple[str, Any, str]] = [
    ("", 1707172200, "column at must be timestamp, but it is int64 (numbers are times where"),
    ("", 1707172200000, "column at must be timestamp, but it is int64"),
    ("", 1707172200.5, "column at must be timestamp, but it is float64"),
    ("", "1707172200", "column at must be timestamp, but it is str, not all in ISO 8601"),
    ("", "05.02.2024", "column at must be timestamp, but it is str"),
    ("", "02/05/2024 10:00", "column at must be timestamp, but it is str"),
    ("", True, "column at must be timestamp, but it is bool"),
    ("", "", "column at must be timestamp, but it is str"),
    ("s", "1707172200", "column at must be timestamp, but it is str"),
    ("s", True, "column at must be timestamp, but it is bool"),
]


def sent(model: Any, at: Any, meant: str) -> tuple[int, Any]:
    """Status and answer of MLflow's own server to one row as JSON."""
    from mlflow.pyfunc.scoring_server import invocations

    row = raw_parcels(1).iloc[0].to_dict() | {"at": at, "meant": meant}
    data = json.dumps({"dataframe_records": [row]}, default=float)
    answer = invocations(data, "application/json", model, model.metadata.get_input_schema())
    return answer.status, json.loads(answer.response)


@pytest.mark.parametrize(("unit", "at", "meant"), TIMES, ids=str)
def test_a_served_model_reads_times_itself(served: dict[str, Any], unit: str, at: Any, meant: str) -> None:
    for rows in (
        raw_parcels(2).assign(at=at, meant=meant),
        raw_parcels(2).assign(at=[at, at], meant=pd.Timestamp(meant)),
    ):
        assert served[unit].predict(rows)["broken_rule"].tolist() == [None, None]
    status, answer = sent(served[unit], at, meant)
    assert (status, answer["predictions"][0]["broken_rule"]) == (200, None)


@pytest.mark.parametrize(("unit", "at", "words"), NO_TIMES, ids=str)
def test_what_is_no_time_of_the_declared_form_is_refused_by_a_served_model(
    served: dict[str, Any], unit: str, at: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        served[unit].predict(raw_parcels(2).assign(at=at, meant="2024-02-05"))
    with pytest.raises(MlflowException) as caught:
        sent(served[unit], at, "2024-02-05")
    assert words in caught.value.message


@pytest.mark.parametrize("at", ["9999-12-31", "2262-04-11", "1816-03-29", "0001-01-01"])
def test_a_served_model_says_which_row_has_a_time_of_no_plausible_year(served: dict[str, Any], at: str) -> None:
    answer = served[""].predict(raw_parcels(2).assign(at=[at, "2024-02-05"], meant="2024-02-05"))
    assert answer["broken_rule"].tolist() == ["at is a time of the years 1900 to 2199", None]
    assert answer["prediction"].isna().tolist() == [True, False]


# Synthetic rows

LIMITS = [
    Column(name="x"),
    Column(name="x", minimum=5),
    Column(name="x", maximum=-5),
    Column(name="x", minimum=0.2, maximum=0.9),
    Column(name="x", minimum=-0.9, maximum=-0.2),
    Column(name="x", type="integer", minimum=1, maximum=2),
    Column(name="x", type="text", values=("b", "a")),
    Column(name="x", type="text"),
    Column(name="x", type="timestamp"),
    Column(name="x", type="integer", minimum=1.5, maximum=2.4, example=2),
]


@pytest.mark.parametrize("column", LIMITS, ids=str)
def test_a_made_up_row_keeps_the_declared_limits(column: Column) -> None:
    use_case = parcels(columns=(column, *parcels().columns))
    refuse_broken_example(use_case, use_case.column_rules)
    assert made_up(use_case)["x"].notna().all()


def made_up(use_case: UseCase, *own: Rule) -> pd.DataFrame:
    return synthetic_rows(use_case.features, travelling(use_case, (*use_case.column_rules, *own)))


def test_a_made_up_row_keeps_what_a_suite_adds() -> None:
    own = (
        Between(column="weight", minimum=20),
        Between(column="distance", maximum=1),
        InSet(column="carrier", values=("dog",)),
    )
    assert made_up(parcels(), *own).iloc[0].tolist() == [25.0, 0.5, "dog", 1.0]
    refuse_broken_example(parcels(), (*parcels().column_rules, *own))


CODE = Matches(column="carrier", pattern="^[a-z]{3}$")
UNEQUAL = NotBelow(column="weight", other="distance")


@pytest.mark.parametrize(
    ("rule", "name", "seen", "example"),
    [(CODE, "carrier", "'AA'", "dog"), (UNEQUAL, "weight", "15.0", 16), (UNEQUAL, "weight", "15.0", None)],
)
def test_a_rule_that_a_made_up_row_breaks_asks_for_an_example(rule: Rule, name: str, seen: str, example: Any) -> None:
    far = {"weight": {}, "carrier": {}, "distance": {"example": 15.5}}
    use_case = parcels(columns=tuple(replace(c, **far.get(c.name, {})) for c in parcels().columns))
    with pytest.raises(ConfigError) as caught:
        refuse_broken_example(use_case, (*use_case.column_rules, rule))
    assert f"example of column {name} of parcels must obey the rule '{rule.sentence}'" in str(caught.value)
    assert seen in str(caught.value)
    mended = tuple(replace(c, example=example) if c.name == name else c for c in use_case.columns)
    if example is not None:
        refuse_broken_example(parcels(columns=mended), (*use_case.column_rules, rule))


def test_a_night_does_not_open_with_a_made_up_row_that_breaks_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "country", "regex": "^[A-Z]{3}$"}}
    for name, text in (
        ("use_cases/shop.py", SHOP),
        ("expectations/shop.json", {"name": "shop", "expectations": [code]}),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    monkeypatch.setenv("RETRAIN_PROJECT", str(tmp_path))
    with pytest.raises(ConfigError, match="example of column country of shop must obey"):
        open_night.fn("shop", date(2024, 3, 1), None, None, None)


def test_a_warning_asks_for_nothing() -> None:
    refuse_broken_example(parcels(), (*parcels().column_rules, replace(CODE, severity="warning")))


@pytest.mark.parametrize("name", sorted(use_case_files(None)))
def test_a_model_of_every_shipped_use_case_answers_its_made_up_row(name: str, tmp_path: Path) -> None:
    """With the rules of its suite; the weights are those before training."""
    use_case, suite = load_use_case(name, None), suite_file(name, None)
    rules = travelling(use_case, (*use_case.column_rules, *(load_rules(suite) if suite else ())))
    row, target = synthetic_rows(use_case.features, rules), use_case.target
    encoder = fit_encoder(use_case, Statistics.of(use_case, conform(row, use_case.features).assign(**{LABEL: 0.0})))
    numbers, sizes = encoder.number_width, encoder.category_sizes
    outputs = len(target.classes) if target.kind == "multiclass" else 1
    network = TabularNetwork(numbers=numbers, category_sizes=sizes, hidden=(4,), activation="relu", outputs=outputs)
    draw_first_weights(network, torch.Generator().manual_seed(0))
    shape = Architecture(hidden=(4,), activation="relu", outputs=outputs)
    base = MeanRow(numbers=(0.0,) * numbers, shares=tuple((1 / size,) * size for size in sizes))
    served = ServedNetwork(
        encoder=encoder, architecture=shape, network=network, mean=0.0, std=1.0, threads=1, base=base
    )
    served.save(tmp_path)
    output = Output(kind=target.kind, classes=target.classes, log=target.log)
    model = PackagedModel(
        columns=use_case.features, rules=rules, kind="network", folder=tmp_path, output=output, threads=1
    )
    assert model.predict(row).drop(columns="broken_rule").notna().all(axis=None)


# Files in a store


def test_a_model_comes_out_of_the_store_as_it_went_in(folder: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    files = upload_folder(store, folder / "ours", "mlflow/run/artifacts/model")
    assert len(files) == len([path for path in (folder / "ours").rglob("*") if path.is_file()])
    back = fetch_model(store, "mlflow/run/artifacts/model", files, tmp_path / "cache")
    for file in files:
        name = file.key.removeprefix("mlflow/run/artifacts/model/")
        assert (back / name).read_bytes() == (folder / "ours" / name).read_bytes()
    store.put(files[0].key, b"spoilt")
    with pytest.raises(Corrupt, match=files[0].key):
        fetch_model(store, "mlflow/run/artifacts/model", files, tmp_path / "cache")


def test_a_proof_is_raw_rows_with_the_answers_to_them(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    proof = from_parquet(get_file(store, make_proof(store, "proof.parquet", packaged(), parcel_rows(300))))
    asked = [name for name in proof.columns if not name.startswith("answer__")]
    assert asked == ["weight", "distance", "carrier", "zone"]
    assert len(proof) == 256
    answers = packaged().predict(proof[asked]).add_prefix("answer__")
    assert proof.drop(columns=asked).equals(answers)


# Scoring a file


def written(rows: pd.DataFrame, path: Path) -> Path:
    rows.to_parquet(path) if path.suffix == ".parquet" else rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.csv.gz"])
def test_a_file_is_scored_row_by_row_whatever_its_format(folder: Path, tmp_path: Path, name: str) -> None:
    file = written(rows().assign(zebra=1), tmp_path / name)
    scored = score_file(site(tmp_path), parcels(), folder / "ours", file)
    assert scored.ignored_columns == ["zebra"]
    answers = scored.answers
    assert answers["broken_rule"].notna().sum() == packaged().predict(rows())["broken_rule"].notna().sum() > 0
    pd.testing.assert_frame_equal(answers, packaged().predict(rows()), check_exact=True)


FILES: list[tuple[str, Callable[[str], bytes], dict[str, Any], str]] = [
    ("a comma at the end of a row", lambda csv: (csv[:-1] + ",\n").encode(), {}, "row 20 has 5 fields"),
    ("a cut last row", lambda csv: csv[:-2].encode(), {}, "its last line has no end"),
    ("a cut row", lambda csv: csv[:-4].encode() + b"\n", {}, "row 20 has 3 fields|column zone must be integer"),
    ("a name twice", lambda csv: csv.replace("weight", "zone", 1).encode(), {}, "the name 'zone' is there twice"),
    ("a stray quote", lambda csv: csv.replace("ant", 'a"t', 1).encode(), {}, "neither opens nor closes a field"),
    ("a wide integer", lambda csv: (csv + "1,2,ant,9007199254740993\n").encode(), {}, r"over 2\*\*53"),
    ("semicolons", lambda csv: csv.replace(",", ";").encode(), {}, "declare separator=';'"),
    ("commas where semicolons are declared", lambda csv: csv.encode(), {"separator": ";"}, "declare separator=','"),
    ("UTF-16", lambda csv: csv.encode("utf-16"), {}, "declare the encoding of its source, like encoding='utf-16'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "form", "words"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_file_to_score_is_read_as_strictly_as_a_night_reads(
    folder: Path, tmp_path: Path, change: Callable[[str], bytes], form: dict[str, str], words: str
) -> None:
    (tmp_path / "rows.csv").write_bytes(change(raw_parcels(20).to_csv(index=False)))
    use_case = parcels(source=Source(folder="parcels", **form))
    with pytest.raises(DataRejected, match=words):
        score_file(site(tmp_path), use_case, folder / "ours", tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.drop(columns="weight"), "['weight'] are missing"),
        (lambda r: r.assign(weight="SECRET"), "column weight must be number, but it is str"),
        (lambda r: r.assign(carrier=[4711] * len(r)), "column carrier must be text, but it is int64"),
        (lambda r: r.assign(weight="SECRET", zone="SECRET"), "column weight must be number, but it is str"),
    ],
)
def test_mlflow_hands_over_what_it_is_asked_and_no_value_is_quoted(folder: Path, change: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        registry.load_model(folder / "ours").predict(change(rows()))
    assert not re.search("SECRET|4711", str(refused.value))


def test_a_file_to_score_has_the_form_that_the_source_declares(folder: Path, tmp_path: Path) -> None:
    rows().to_csv(tmp_path / "rows.csv", index=False, sep=";", decimal=",", encoding="utf-16")
    use_case = parcels(source=Source(folder="parcels", separator=";", decimal=",", encoding="utf-16"))
    scored = score_file(site(tmp_path), use_case, folder / "ours", tmp_path / "rows.csv")
    pd.testing.assert_frame_equal(scored.answers, packaged().predict(rows()), check_exact=True)


def test_a_file_without_the_models_columns_is_refused(folder: Path, tmp_path: Path) -> None:
    file = written(rows().drop(columns="zone"), tmp_path / "rows.parquet")
    with pytest.raises(DataRejected, match="column zone is missing"):
        score_file(site(tmp_path), parcels(), folder / "ours", file)
    file.write_bytes(b"nothing")
    with pytest.raises(DataRejected, match="cannot be read"):
        score_file(site(tmp_path), parcels(), folder / "ours", file)
    with pytest.raises(DataRejected, match="cannot be read"):
        score_file(site(tmp_path), parcels(), folder / "ours", tmp_path / "not there.csv")
