"""Every field of a use case, changed after a night: the next night ends as it would have ended without the first one.

What is kept of the first night is either what the second asks for, or it is made again.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ml.pipeline.train
import ml.pipeline.upload
import tasks.data
import tasks.site
from ml.data.statistics import Statistics
from ml.errors import ConfigError, DataRejected
from ml.evaluation.baselines import rule_columns
from ml.evaluation.judging import baselines, judge_all, model_answers
from ml.models.handles import Fit
from ml.models.packaging import copy_files
from ml.models.training import package
from ml.pipeline.run_key import training_key
from ml.pipeline.train import Lesson, _fit
from ml.storage.json_form import from_json, to_json
from ml.storage.store import get_file
from tasks.site import open_site
from tests import tiny

pytestmark = pytest.mark.usefixtures("one_thread", "one_project")
AS_OF = date(2024, 1, 10)

HEAD = """
from datetime import date
from ml import BusinessDays
from ml import (
    BetterThanRule,
    BetterThanTrivial,
    Column,
    DatabaseSource,
    FileSource,
    MinMetric,
    NetworkClassifier,
    NetworkRegressor,
    NotWorseThanChampion,
    Retention,
    SideTable,
    Source,
    Target,
    UseCase,
    linear_regression,
    logistic_regression,
)

def derive(rows):
    return rows.assign(value=rows["amount"] * 2)

def derive_otherwise(rows):
    return rows.assign(value=rows["amount"] * 3)

def demo(folder):
    pass

"""
COLUMNS = {
    "sale": 'type="integer", feature=False',
    "at": 'type="timestamp", parts=("hour",)',
    "known_at": 'type="timestamp", feature=False, nullable=True',
    "amount": "minimum=0, maximum=1000",
    "items": 'type="integer", nullable=True',
    "shop": 'type="text"',
    "rent": "",
    "value": "",
    "pace": 'type="text", feature=False',
    "returned_after": "nullable=True, feature=False",
}
BINARY = 'Target(column="returned_after", above=0, classes=("kept", "returned"))'
FIELDS = {
    "name": '"tills"',
    "question": '"Will the sale be returned?"',
    "source": 'Source(folder="tills")',
    "side_tables": '(SideTable(name="shops", source=Source(folder="shops"), on=("shop",), take=("rent",)),)',
    "derive": "derive",
    "key": '("sale",)',
    "target": BINARY,
    "model": "NetworkClassifier(hidden=(), batch_size=64, epochs=1)",
    "metric": '"f1"',
    "gates": '(BetterThanTrivial(metric="f1", why="a test"),)',
    "rare_below": "1",
}
DATED = {"time_column": '"at"', "window_days": "8", "test_days": "3", "validation_days": "2"}

MODELS = {
    "hidden": "hidden=(4,)",
    "activation": 'hidden=(4,), activation="tanh"',
    "loss": 'loss="mse"',
    "optimizer": 'optimizer="sgd"',
    "learning_rate": "learning_rate=0.1",
    "weight_decay": "weight_decay=0.1",
    "batch_size": "batch_size=None",
    "epochs": "epochs=2",
    "patience": "patience=1",
    "class_weight": 'class_weight="balanced"',
    "noise_std": "noise_std=0.1",
    "seed": "seed=7",
}
GATES = {
    "another kind": 'MinMetric(metric="f1", floor=0.1, why="a test")',
    "its floor": 'MinMetric(metric="f1", floor=0.2, why="a test")',
    "its reason": 'BetterThanTrivial(metric="f1", why="another")',
    "the rule": 'BetterThanRule(metric="f1", why="a test")',
    "the champion": 'NotWorseThanChampion(metric="f1", max_drop=0.1, why="a test")',
}
REGRESSION = {
    "target": 'Target(column="amount", kind="regression")',
    "model": "linear_regression(epochs=1)",
    "metric": '"rmse"',
    "gates": '(BetterThanTrivial(metric="rmse", why="a test"),)',
}
SIDE = 'SideTable(name="shops", source={source}, on={on}, take=("rent",))'


def columns(**changes: str | None) -> dict[str, str]:
    """The field `columns` with other columns; None takes one out, an unknown one is added."""
    kept = {name: options for name, options in {**COLUMNS, **changes}.items() if options is not None}
    return {"columns": f"({', '.join(f'Column(name={name!r}, {options})' for name, options in kept.items())},)"}


def side_tables(source: str = 'Source(folder="shops")', on: str = '("shop",)') -> dict[str, str]:
    return {"side_tables": f"({SIDE.format(source=source, on=on)},)"}


CHANGES: dict[str, dict[str, str]] = {
    "question": {"question": '"Another?"'},
    "source to a copy": {"source": 'Source(folder="tills_again")'},
    "source to CSV": {"source": 'Source(folder="tills_csv")'},
    "key to one of two columns": {"key": '("sale", "shop")'},
    "key to a text": {"key": '("shop",)'},
    "group": {"group": '"shop"'},
    "group that is null": {"group": '"items"'},
    "no side table": {"side_tables": "()", **columns(rent=None)},
    "side table of another file": side_tables('Source(folder="shops_again")'),
    "side table on two columns": side_tables('Source(folder="shops_items")', '("shop", "items")'),
    "side table named otherwise": {"side_tables": FIELDS["side_tables"].replace('"shops", source', '"places", source')},
    "derive": {"derive": "derive_otherwise"},
    "no derive": {"derive": "None", **columns(value=None)},
    "demo": {"demo": "demo"},
    "seed": {"seed": "7"},
    "outlier_std": {"outlier_std": "2.0"},
    "rare_below": {"rare_below": "60"},
    "max_quarantined_fraction": {"max_quarantined_fraction": "0.5"},
    "max_missing_days": {"max_missing_days": "0"},
    "min_rows": {"min_rows": "5"},
    "min_rows over a day's": {"min_rows": "5000"},
    "retention": {"retention": "Retention(versions=3)"},
    "time_zone": {"time_zone": '"Europe/Berlin"'},
    "schedule": {"schedule": '"0 3 * * *"'},
    "on_inconclusive": {"on_inconclusive": '"ask"'},
    "metric": {"metric": '"accuracy"', "gates": '(BetterThanTrivial(metric="accuracy", why="a test"),)'},
    "metric precision": {"metric": '"precision"', "gates": '(BetterThanTrivial(metric="precision", why="a test"),)'},
    "target above": {"target": BINARY.replace("above=0", "above=0.5")},
    "target classes": {"target": BINARY.replace('"kept"', '"stays"')},
    "target positive": {
        "target": 'Target(column="pace", positive="slow", classes=("other", "slow"))',
        **columns(pace='type="text", feature=False, values=("slow", "usual", "quick")'),
    },
    "target of three classes": {
        "target": 'Target(column="pace", kind="multiclass", classes=("slow", "usual", "quick"))',
        "gates": '(MinMetric(metric="f1", floor=0.1, why="a test"),)',
    },
    "target a value": REGRESSION | columns(amount="minimum=0.01, feature=False"),
    "target the logarithm of a value": REGRESSION
    | columns(amount="minimum=0.01, feature=False")
    | {"target": 'Target(column="amount", kind="regression", log=True)'},
    "one column less": columns(items=None),
    "one column more": columns(sku='type="text"'),
    "column is no feature": columns(items='type="integer", nullable=True, feature=False'),
    "column is a feature": columns(pace='type="text"'),
    "column is a category": columns(items='type="integer", nullable=True, category=True'),
    "column of another type": columns(items="nullable=True"),
    "column of a wrong type": columns(shop=""),
    "column not nullable": columns(items='type="integer"'),
    "column with another minimum": columns(amount="minimum=5, maximum=1000"),
    "column with another maximum": columns(amount="minimum=0, maximum=500"),
    "column with values": columns(shop='type="text", values=("north", "south", "007")'),
    "column with less values": columns(shop='type="text", values=("north", "south")'),
    "column with more parts": columns(at='type="timestamp", parts=("hour", "weekday")'),
    "column with other parts": columns(at='type="timestamp", parts=("month",)'),
    "column without parts": columns(at='type="timestamp"'),
    "column sensitive": columns(amount="minimum=0, maximum=1000, sensitive=True"),
    "column with a unit": columns(amount='minimum=0, maximum=1000, unit="euros"'),
    "column with an example": columns(amount="minimum=0, maximum=1000, example=3.0"),
    "columns in another order": {"columns": columns()["columns"].replace("Column(name='sale'", "Column(name='at'", 0)},
}
ONLY_DATED: dict[str, dict[str, str]] = {
    # what follows the split is the same without time
    **{f"model's {name}": {"model": f"NetworkClassifier(**{{**dict(hidden=(), batch_size=64, epochs=1), "
        f"**dict({option})}})"} for name, option in MODELS.items()},
    **{f"gate: {name}": {"gates": f"({gate},)"} for name, gate in GATES.items()},
    "source one file": {"source": 'FileSource(file="tills.parquet", time_column="at")'},
    "source a database": {"source": 'DatabaseSource(database="TILLS", query="select * from tills", time_column="at")'},
    "side table dated": side_tables('Source(folder="shops_dated")'),
    "known_at_column": {"known_at_column": '"known_at"'},
    "window_days": {"window_days": "7"},
    "label_delay_days": {"label_delay_days": "1"},
    "test_days": {"test_days": "4"},
    "validation_days": {"validation_days": "3"},
    "calendar": {"calendar": '"weekdays"'},
    "calendar of holidays": {"calendar": "BusinessDays(holidays=(date(2024, 1, 8),))"},
    "calendar of the rhythm": {"calendar": '"rhythm"'},
    "replay_from": {"replay_from": "date(2024, 1, 6)"},
    "missed_nights": {"missed_nights": '"all"'},
    "missed_within_days": {"missed_within_days": "3"},
    "no time any more": {"time_column": "None", "source": 'Source(folder="tills_undated")'},
}  # fmt: skip
ONLY_UNDATED = {"a time": {**DATED, "source": 'Source(folder="tills")'}}


def tills(**changes: str) -> str:
    fields = {**FIELDS, **columns(), **changes}
    arguments = ",\n    ".join(f"{name}={value}" for name, value in fields.items() if value != "")
    return f"{HEAD}\nUSE_CASE = UseCase(\n    {arguments},\n)\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows in every form that a change asks for."""
    folder = tmp_path_factory.mktemp("data")
    days = {day: rows_of(day) for day in pd.date_range(tiny.FIRST_DAY, periods=10).date}
    for day, rows in days.items():
        for name in ("tills", "tills_again", "tills_csv"):
            (folder / name).mkdir(exist_ok=True)
            write = tiny.to_csv if name == "tills_csv" else tiny.to_parquet
            write(rows, folder / name / str(day))
        (folder / "tills_twice").mkdir(exist_ok=True)
        tiny.to_parquet(pd.concat([rows, rows[:5]], ignore_index=True), folder / "tills_twice" / str(day))
    whole = pd.concat(days.values(), ignore_index=True)
    whole.to_parquet(folder / "tills.parquet")
    with sqlite3.connect(folder / "tills.db") as database:
        whole.to_sql("tills", database, index=False)
    shops = pd.DataFrame({"shop": ["north", "south", "007"], "rent": [1.0, 2.0, 3.0]})
    pairs = shops.merge(pd.DataFrame({"items": [1.0, 2.0, 3.0, 4.0]}), how="cross")
    tables = {"shops": shops, "shops_again": shops.assign(rent=shops["rent"] * 2), "shops_items": pairs}
    for name, table in {**tables, "tills_undated": whole}.items():
        (folder / name).mkdir()
        table.to_parquet(folder / name / "all.parquet")
    for name in ("tills_again", "tills_csv"):
        (folder / f"{name}_undated").mkdir()
    whole.to_parquet(folder / "tills_again_undated" / "all.parquet")
    whole.to_csv(folder / "tills_csv_undated" / "all.csv", index=False)
    (folder / "shops_dated").mkdir()
    for day in days:
        tiny.to_parquet(shops, folder / "shops_dated" / str(day))
    return folder


def rows_of(day: date) -> pd.DataFrame:
    rows = tiny.sales(day, 40)
    known_at = rows["at"] + pd.Timedelta(days=1)
    known_at[::10] = pd.NaT
    pace = pd.Series(["slow", "usual", "quick", "usual"] * 10, dtype="str")
    return rows.assign(known_at=known_at, pace=pace, sku="x" + rows["shop"], rent=None).drop(columns="rent")


@pytest.fixture
def one_project(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "project" / "use_cases").mkdir(parents=True)
    monkeypatch.setenv("RETRAIN_PROJECT", str(tmp_path / "project"))
    monkeypatch.setenv("TILLS", f"sqlite:///{data / 'tills.db'}")
    monkeypatch.setattr(tasks.site, "confirm", lambda facts: None)  # Great Expectations says the same, slowly
    for module in (ml.pipeline.train, ml.pipeline.upload):
        monkeypatch.setattr(module, "require_same_code_and_machine", lambda site, night: None)
    yield


def declare(folder: Path, text: str) -> None:
    (folder / "project" / "use_cases" / "tills.py").write_text(text)


def new_home(folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "data").symlink_to(data)
    monkeypatch.setenv("RETRAIN_HOME", str(folder))


def outcome(as_of: date = AS_OF) -> dict[str, Any]:
    """All that a night comes to, or the sentence with which it ends."""
    try:
        return night_of(as_of)
    except (ConfigError, DataRejected) as error:
        return {"sentence": str(error)}


def night_of(as_of: date) -> dict[str, Any]:
    site = open_site("tills")
    night = tiny.night_of(site, as_of)
    snapshot = tasks.data.take_snapshot.fn(night)
    checks = tasks.data.validate_partitions.fn(night, snapshot)
    cleaned = tasks.data.clean_partitions.fn(night, snapshot, checks)
    split = tasks.data.split_rows.fn(night, cleaned)
    statistics = from_json(Statistics, get_file(site.store, split.statistics))
    lesson = Lesson(training_key(night, snapshot.digest), ("train",), lambda: statistics)
    fit: Fit = _fit(site, night, lesson, cleaned)
    reader = site.reader(cleaned)
    with tempfile.TemporaryDirectory() as folder:
        copy_files(site.store, fit.folder, fit.files, Path(folder))
        model = package(site.use_case, site.rules, Path(folder), night.threads, reader.raw_rows(as_of, "validation"))
    found = baselines(site.use_case, reader.labelled_columns(as_of, "train", rule_columns(site.use_case)))
    test = reader.raw_rows(as_of, "test")
    answers = {who: baseline.answers(test) for who, baseline in found.items()}
    answers["candidate"] = model_answers(site.use_case, lambda rows: model.predict(rows[[*_names(model)]]), test)
    judged = judge_all(site.use_case, test, answers, dict.fromkeys(answers, ""))
    absent = {who: "there is none" for who in ("champion", "reference")}
    evidence = replace(judged.evidence, not_applicable=absent)
    return {
        "snapshot": snapshot.digest,
        "checks": checks.digest,
        "cleaned": cleaned.digest,
        "test": split.test_digest,
        "rows": [split.train, split.validation, split.test],
        "statistics": get_file(site.store, split.statistics),
        "fitted": [file.digest for file in fit.files],
        "output": model.output,
        "evidence": to_json(evidence),
        "verdicts": [gate.judge(evidence) for gate in site.use_case.gates],
    }


def _names(model: Any) -> list[str]:
    return [column.name for column in model.columns]


def every(number: int, changes: dict[str, Any]) -> list[Any]:
    """All changes, of which each so many-th is quick enough for the suite that everybody runs."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] if place % number else []) for place, name in enumerate(changes)
    ]


@pytest.mark.parametrize("change", every(4, CHANGES | ONLY_DATED))
def test_a_dated_use_case_goes_on_after_each_change(
    change: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_change(tmp_path, data, monkeypatch, DATED, {**DATED, **(CHANGES | ONLY_DATED)[change]})


@pytest.mark.parametrize("change", every(3, CHANGES | ONLY_UNDATED))
def test_an_undated_use_case_goes_on_after_each_change(
    change: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"source": 'Source(folder="tills_undated")'}
    fields = {name: value for name, value in (CHANGES | ONLY_UNDATED)[change].items()}
    if change.startswith("source"):
        fields["source"] = fields["source"].replace('")', '_undated")')
    after_change(tmp_path, data, monkeypatch, before, {**before, **fields})


FIRST: dict[str, dict[str, Any]] = {}  # what the first night came to, which all changes share


def after_change(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: dict[str, str]
) -> None:
    """A night, the change, the next night; and the same use case's night where nothing is kept."""
    first = data.parent / f"first-{'time_column' in before}"
    if not first.exists():
        new_home(first, data, monkeypatch)
        declare(folder, tills(**before))
        FIRST[str(first)] = outcome()
    assert "sentence" not in FIRST[str(first)], FIRST[str(first)]
    shutil.copytree(first, folder / "kept", symlinks=True)
    monkeypatch.setenv("RETRAIN_HOME", str(folder / "kept"))
    declare(folder, tills(**after))
    again = outcome()
    new_home(folder / "fresh", data, monkeypatch)
    assert again == outcome()


PLAIN = {**DATED, "source": 'Source(folder="tills_twice")', "derive": "None", **columns(value=None)}
WITHOUT_DERIVE: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "a key": ({"key": "()"}, {}),
    "no key": ({}, {"key": "()"}),
    "target": ({}, {"target": BINARY.replace("above=0", "above=0.5")}),
    "column's type": ({}, columns(value=None, items="nullable=True")),
    "column's sensitivity": ({}, columns(value=None, shop='type="text", sensitive=True')),
    "side table": ({}, side_tables('Source(folder="shops_again")')),
    "time zone": ({}, {"time_zone": '"Europe/Berlin"'}),
    "known_at_column": ({}, {"known_at_column": '"known_at"'}),
    **{
        f"CSV's {form}": (
            {"source": 'Source(folder="tills_csv")'},
            {"source": f'Source(folder="tills_csv", {form})'},
        )
        for form in ('separator=";"', 'decimal=","', 'thousands="_"', 'encoding="utf-16"')
    },
}


@pytest.mark.parametrize(("before", "after"), WITHOUT_DERIVE.values(), ids=WITHOUT_DERIVE)
def test_a_use_case_without_derive_goes_on_too(
    before: dict[str, str], after: dict[str, str], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of one with `derive` is in the keys of all partitions, and would hide a field that is in none. The rows
    hold equal ones."""
    new_home(tmp_path / "kept", data, monkeypatch)
    declare(tmp_path, tills(**{**PLAIN, **before}))
    assert "sentence" not in outcome()
    declare(tmp_path, tills(**{**PLAIN, **after}))
    again = outcome()
    new_home(tmp_path / "fresh", data, monkeypatch)
    assert again == outcome()
