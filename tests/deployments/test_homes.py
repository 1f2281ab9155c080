"""Where a command works: the home of the folder or of one above it; only commands that write make one."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import main, parser
from deployments.terminal import home_if_any
from ml.settings import Settings
from ml.storage.ledger import Ledger
from ml.storage.store import open_store
from tests.reporting.test_endings import RESULT
from tests.storage.test_ledger import entry, version

BY_NAME = ["--reason", "so", "--yes"]
# Each with its exit code where there is no home.
READING = {
    "status": (["status"], 0),
    "status of one": (["status", "flights"], 0),
    "ledger": (["ledger", "flights"], 1),
    "score": (["score", "flights", "rows.csv", "-o", "out.csv"], 1),
    "doctor": (["doctor"], 1),
    "doctor of one": (["doctor", "flights"], 1),
    "gc": (["gc"], 1),
    "alerts": (["alerts", "http://127.0.0.1:9/x"], 2),
    "alerts --test": (["alerts", "--test"], 2),
    "alerts --remove": (["alerts", "--remove"], 2),
    "backfill status": (["backfill", "status", "abc"], 1),
}
# These write, but only into what is there: in a folder without a home they make none either.
CHANGING = {
    "promote": (["promote", "flights", "--version", "1", *BY_NAME], 1),
    "rollback": (["rollback", "flights", *BY_NAME], 1),
    "hold": (["hold", "flights", *BY_NAME], 1),
    "release": (["release", "flights", *BY_NAME], 1),
    "data": (["data", "exclude", "flights", "2013-10-01", *BY_NAME], 1),
    "gc --yes": (["gc", "--yes"], 1),
    "doctor --mend": (["doctor", "--mend"], 1),
    "backup": (["backup", "a.tar"], 1),
    "backfill apply": (["backfill", "apply", "abc"], 1),
    "backfill pause": (["backfill", "pause", "abc"], 1),
    "backfill resume": (["backfill", "resume", "abc"], 1),
    "backfill cancel": (["backfill", "cancel", "abc"], 1),
    "backfill retry-failed": (["backfill", "retry-failed", "abc"], 1),
}
# A mistyped command of those that make a home makes none.
MISTYPED = {
    "run": (["run", "flihgts"], 2),
    "demo-data": (["demo-data", "flihgts"], 2),
    "backfill plan": (["backfill", "plan", "flihgts", "--from", "2013-10-01", "--to", "2013-10-02"], 2),
}
BEGINNING = {"run", "up", "demo-data", "backfill plan", "restore", "simulate"}
ALL = {**READING, **CHANGING, **MISTYPED}


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a home, in which no variable names one."""
    for name in ("RETRAIN_HOME", "RETRAIN_STORE", "RETRAIN_PROJECT", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "work" / "below"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("json_too", [False, True], ids=["words", "json"])
@pytest.mark.parametrize(("words", "code"), ALL.values(), ids=ALL)
def test_in_a_folder_without_a_home_nothing_is_made_and_it_is_said(
    nowhere: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, json_too: bool
) -> None:
    (nowhere / "rows.csv").write_text("a\n1\n")
    assert main([*words, *(["--json"] if json_too else [])]) == code
    said = capsys.readouterr()
    assert files_below(nowhere.parents[1]) == ["work", "work/below", "work/below/rows.csv"]
    if json_too:
        json.loads(said.out)
    if "flihgts" not in words:
        text = said.out + said.err
        assert f"either {nowhere} nor a folder above it has .retrain, and RETRAIN_HOME is not set" in text
        assert "retrain up" in text if words[0] == "alerts" else "begin one with retrain run USE_CASE" in text


@pytest.mark.parametrize(("words", "code"), READING.values(), ids=READING)
def test_a_home_that_retrain_home_names_and_that_is_not_there_is_not_made_by_reading(
    nowhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], code: int
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(nowhere / "mistyped"))
    assert main(words) == code
    said = capsys.readouterr()
    assert f"here is no folder {nowhere / 'mistyped'}, which RETRAIN_HOME names" in said.out + said.err
    assert files_below(nowhere) == []


def commands(of: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    """Every command of the parser, with its actions."""
    inner = [each for each in of._actions if isinstance(each, argparse._SubParsersAction)]
    if not inner:
        yield before
    for choices in inner:
        for name, each in choices.choices.items():
            yield from commands(each, f"{before} {name}".strip())


def test_every_command_is_tried_here() -> None:
    tried = {name.removesuffix(" of one").partition(" --")[0] for name in ALL} | BEGINNING
    assert tried == set(commands(parser()))


def test_every_command_finds_the_home_of_the_nearest_folder_above(
    nowhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    above = nowhere.parents[1] / ".retrain"
    above.mkdir()
    assert Settings.from_environment().home == above
    assert main(["demo-data", "exam_pass"]) == 0
    assert sorted(path.name for path in nowhere.parents[1].iterdir()) == [".retrain", "work"]
    assert (above / "data" / "exam_pass").is_dir()
    monkeypatch.delenv("RETRAIN_HOME")  # a command that writes tells its children
    nearer = nowhere / ".retrain"
    nearer.mkdir()
    assert Settings.from_environment().home == nearer
    (nowhere.parent / ".retrain").write_text("a file is no home")
    nearer.rmdir()
    assert Settings.from_environment().home == above
    capsys.readouterr()
    assert main(["status", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["no_home"], document["store"]) == (None, str(above / "store"))


def test_only_a_command_that_writes_makes_a_home(nowhere: Path) -> None:
    assert main(["demo-data", "exam_pass"]) == 0
    assert (nowhere / ".retrain" / "data" / "exam_pass").is_dir()


@pytest.fixture
def recorded(nowhere: Path) -> Settings:
    """A store that knows the use case `shop`, of which no file is here."""
    (nowhere / ".retrain").mkdir()
    settings = Settings.from_environment()
    model = version(1)
    made = entry(1, use_case="shop", decision="FIRST", candidate=model, champion=model, reference=model, result=RESULT)
    assert Ledger(open_store(settings.store), "shop").append(made)
    return settings


@pytest.mark.parametrize("project", [None, "project"])
def test_a_use_case_whose_file_is_gone_stays_in_status(
    recorded: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    nowhere: Path,
    project: str | None,
) -> None:
    """Its champion goes on serving. Without RETRAIN_PROJECT, that is what is missing."""
    hint = "set RETRAIN_PROJECT to the folder that has use_cases/shop.py"
    if project:
        (nowhere / project / "use_cases").mkdir(parents=True)
        monkeypatch.setenv("RETRAIN_PROJECT", str(nowhere / project))
        hint = f"bring back {nowhere / project / 'use_cases' / 'shop.py'}"
    assert main(["status", "--json"]) == 0
    rows = {row["use_case"]: row for row in json.loads(capsys.readouterr().out)["use_cases"]}
    assert (rows["shop"]["schedule"], rows["shop"]["champion"]) == ("no file", 1)
    assert rows["shop"]["no_file"].startswith(hint)
    assert rows["flights"]["no_file"] is None
    assert main(["status", "shop"]) == 0
    assert f"shop has no file here: {hint}" in capsys.readouterr().out
    assert main(["ledger", "shop"]) == 0
    capsys.readouterr()
    for words in (["run", "shop"], ["score", "shop", "rows.csv", "-o", "out.csv"], ["rollback", "shop", *BY_NAME]):
        assert main(words) == 2, words
        assert f"USE_CASE has a file, but the store knows shop, and its file is not here: {hint}" in (
            capsys.readouterr().err
        )


def test_what_libraries_write_without_a_home_is_deleted_at_the_end(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Callable[[], Any]] = []
    monkeypatch.setattr("atexit.register", lambda delete, *place, **how: kept.append(lambda: delete(*place, **how)))
    settings, _ = home_if_any()
    assert settings.home.is_dir() and not settings.home.is_relative_to(nowhere)
    (settings.home / "prefect").mkdir()
    for each in kept:
        each()
    assert not settings.home.exists()
