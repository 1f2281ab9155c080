"""The README tells the truth: its paths exist, its commands parse, its words are the code's."""

import re
from pathlib import Path

import pytest

from deployments.cli import parser
from ml.decision import ALL_STATE_NAMES
from ml.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Cells of every table below a heading, headers left out."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line][1:]


def commands() -> list[str]:
    found = re.findall(r"(?:^\.venv/bin/|`)(retrain [a-z][^`#\n]*)", README, flags=re.MULTILINE)
    mentions = {"retrain run", "retrain score", "retrain ledger"}  # named in a sentence, without what they need
    return sorted({command.strip() for command in found} - mentions)


def test_every_path_of_the_table_exists_and_every_folder_is_in_it() -> None:
    named = {row[0].strip("`").rstrip("/") for row in rows("Where things are")}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    assert folders - named - {"nightly_retrain.egg-info"} == set()


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str) -> None:
    words = command.split()[1:]
    values = {"USE_CASE": "flights", "NAME": "flights", "FILE": "rows.parquet", "OUT": "out.csv"}
    assert parser().parse_args([values.get(word, word) for word in words])


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) - {"check"} <= targets | {"it"}


def test_every_state_and_setting_is_named() -> None:
    assert [name for name in ALL_STATE_NAMES if f"`{name}`" not in README] == []
    source = (ROOT / "ml" / "settings.py").read_text()
    named = {row[0].strip("`") for row in rows("Settings")}
    assert set(re.findall(r'"((?:RETRAIN|MLFLOW)_[A-Z_]+)"', source)) <= named
    assert Settings.from_environment().threads == 1


def test_every_use_case_is_in_the_table() -> None:
    files = {path.stem for path in (ROOT / "ml" / "use_cases").glob("[a-z]*.py")}
    assert {row[0].strip("`") for row in rows("Use cases")} == files
