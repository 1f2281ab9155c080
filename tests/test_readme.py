"""The README tells the truth: its paths exist, its commands parse, its words are the code's."""

import ast
import dataclasses
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import MISSING
from datetime import date
from pathlib import Path

import pytest

from deployments.cli import parser
from ml import Column, NetworkClassifier, NetworkRegressor, Retention, SideTable, Target, UseCase
from ml.data.calendars import BusinessDays
from ml.data.declared_sources import Source
from ml.data.snapshots import read_partition, take_manifest
from ml.evaluation.decision import ALL_END_WORDS
from ml.models.packaging import refuse_broken_example
from ml.serving.rules import first_broken
from ml.settings import Settings
from ml.use_case.loading import load_use_case

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Cells of every table below a heading, headers left out."""
    section = README.split(f"# {heading}\n")[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line][1:]


def block(heading: str, language: str) -> str:
    """The first block of a language below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return section.split(f"```{language}\n")[1].split("```")[0]


def commands() -> list[str]:
    found = re.findall(r"(?:^\.venv/bin/|`)(retrain [a-z][^`#\n]*)", README, flags=re.MULTILINE)
    mentions = {"retrain run", "retrain score", "retrain ledger", "retrain backfill"}  # named without what they need
    return sorted({command.strip() for command in found} - mentions)


def test_every_path_of_the_table_exists_and_every_folder_is_in_it() -> None:
    named = {row[0].strip("`").rstrip("/") for row in rows("Where things are")}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    assert folders - named - {"nightly_retrain.egg-info"} == set()


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    values = {
        "USE_CASE": "flights", "NAME": "flights", "FILE": "rows.parquet", "OUT": "out.csv", "N": "2", "PLAN": "0a1b",
        "D1": "2013-09-20", "D2": "2013-09-30", "DAY": "2013-09-30", "VERSION": "1", "URL": "http://127.0.0.1:9",
    }  # fmt: skip
    assert parser().parse_args([values.get(word, word) for word in words])


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) - {"check"} <= targets | {"it"}


def test_every_state_and_setting_is_named() -> None:
    assert [name for name in ALL_END_WORDS if f"`{name}`" not in README] == []
    source = (ROOT / "ml" / "settings.py").read_text()
    named = {row[0].strip("`") for row in rows("Settings")}
    assert set(re.findall(r'"((?:RETRAIN|MLFLOW)_[A-Z_]+)"', source)) <= named
    assert Settings.from_environment().threads == 1


def test_every_use_case_is_in_the_table() -> None:
    files = {path.stem for path in (ROOT / "ml" / "use_cases").glob("[a-z]*.py")}
    assert {row[0].strip("`") for row in rows("Use cases")} == files


@pytest.mark.parametrize("kind", [UseCase, Column, Target, Source, SideTable, BusinessDays])
def test_every_field_of_a_use_case_is_in_its_table_with_its_default(kind: type) -> None:
    stated = {name.strip("`"): default.strip("`") for name, _, default in rows(kind.__name__)}
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    own = list(inspect.get_annotations(kind))
    assert list(stated) == [*own, *(name for name in fields if name not in own)]
    special = {"required": MISSING, "Retention()": Retention()}
    defaults = {name: special[text] if text in special else ast.literal_eval(text) for name, text in stated.items()}
    assert defaults == fields


def test_every_parameter_of_a_network_is_in_its_table_with_its_default() -> None:
    stated = {name.strip("`"): ast.literal_eval(default.strip("`")) for name, _, default in rows("NetworkClassifier")}
    for kind in (NetworkClassifier, NetworkRegressor):
        parameters = inspect.signature(kind).parameters.values()
        assert list(stated.items()) == [(each.name, each.default) for each in parameters]


@pytest.fixture
def second_order(tmp_path: Path) -> Settings:
    """The example of the README in a project of its own, with its CSV continued to 2,000 rows."""
    (tmp_path / "use_cases").mkdir()
    (tmp_path / "use_cases" / "second_order.py").write_text(block("Adding", "python"))
    header, *first = block("Adding", "csv").split()
    more = (f"{n},{n % 90}.50,{('DE', 'FR', '')[n % 3]},{'yes' if n % 90 > 50 else 'no'}" for n in range(3, 2001))
    (tmp_path / "data" / "second_order").mkdir(parents=True)
    (tmp_path / "data" / "second_order" / "all.csv").write_text("\n".join([header, *first, *more, ""]))
    return dataclasses.replace(Settings.from_environment(), home=tmp_path, project=tmp_path)


def test_the_example_is_loaded_and_its_rows_obey_it(second_order: Settings) -> None:
    use_case = load_use_case("second_order", second_order.project)
    manifest, missing = take_manifest(second_order, use_case, date(2024, 1, 1), {})
    read = read_partition(second_order, use_case, manifest, "all")
    table, unknown = read.rows, read.unknown_columns
    assert (len(table), missing, unknown) == (2000, (), ())
    assert first_broken(use_case.column_rules, table).isna().all()
    refuse_broken_example(use_case, use_case.column_rules)


@pytest.mark.slow
def test_the_example_has_a_champion_after_its_first_night(second_order: Settings) -> None:
    environment = {**os.environ, "RETRAIN_HOME": str(second_order.home), "RETRAIN_PROJECT": str(second_order.project)}
    command = [Path(sys.executable).parent / "retrain", "run", "second_order", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decision"] == "FIRST"
