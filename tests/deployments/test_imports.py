"""What importing costs: no file, and for `retrain --help` no library; and how the command refuses."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments import cli
from deployments.terminal import asked_on_terminal
from ml.errors import DataRejected, UsageError
from tests.story import Shop, undated

ROOT = Path(cli.__file__).parents[1]
HEAVY = ("torch", "mlflow", "prefect", "pandas", "sklearn", "great_expectations", "numpy", "boto3", "matplotlib")
LEARNING = ("torch", "mlflow", "great_expectations")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("ml", "tasks", "flows", "expectations")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)


def fresh(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the code with a HOME, a working directory and a temporary folder where nothing is yet."""
    places = {name: folder / name for name in ("home", "work", "temporary")}
    for place in places.values():
        place.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(places["home"]),
        "TMPDIR": str(places["temporary"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=places["work"], env=environment, capture_output=True, text=True, check=False)


def test_importing_any_module_writes_no_file(tmp_path: Path) -> None:
    names = [*MODULES, "deployments.cli"]
    done = fresh("".join(f"import {name}\n" for name in names), tmp_path)
    assert done.returncode == 0, done.stderr
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "ml.evaluation.gates" in names
    assert "flows.retrain" in names


def test_help_imports_no_library(tmp_path: Path) -> None:
    code = (
        "import sys, json\n"
        "from deployments.cli import main\n"
        "for words in (['--help'], ['run', '--help']):\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit as end:\n"
        "        assert not end.code\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))\n"
    )
    done = fresh(code, tmp_path)
    assert done.returncode == 0, done.stderr
    *shown, loaded = done.stdout.splitlines()
    assert json.loads(loaded) == []
    assert shown[0].startswith("usage: retrain")
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == []


REFUSED = [
    ([], "COMMAND"),
    (["fly"], "fly"),
    (["run"], "USE_CASE"),
    (["run", "flights", "--as-of", "yesterday"], "'yesterday'"),
    (["run", "flights", "--as-of", "2013-02-30"], "'2013-02-30'"),
    (["run", "flights", "--seed", "-1"], "--seed"),
    (["run", "flights", "--seed", "x"], "'x'"),
    (["run", "flights", "--fast"], "--fast"),
    (["up", "--work-pool"], "--work-pool"),
    (["score", "flights", "rows.csv"], "-o"),
]


@pytest.mark.parametrize(
    ("words", "seen"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_command_that_cannot_be_is_refused_in_one_sentence_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], seen: str
) -> None:
    assert cli.main(words) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("UsageError: `retrain")
    assert seen in error
    assert error.count("\n") == 1
    assert "see retrain" in error


def test_an_error_is_one_json_document_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "flights", "--seed", "x", "--json"]) == 2
    out, error = capsys.readouterr()
    document = json.loads(out)
    assert set(document) == {"error", "rule", "value", "next_step", "exit_code"}
    assert (document["error"], document["exit_code"], error) == ("UsageError", 2, "")


@pytest.mark.parametrize(
    ("raised", "code"), [(DataRejected("a", "b", "c"), 3), (KeyboardInterrupt(), 130)], ids=["rejected", "interrupted"]
)
def test_each_ending_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    def end(options: Any) -> int:
        raise raised

    monkeypatch.setattr(cli, "_command", lambda name: end)
    assert cli.main(["run", "flights"]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_an_interruption_that_was_explained_is_told_once_and_otherwise_how_to_resume(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(said: tuple[str, ...]) -> str:
        def interrupt(options: Any) -> int:
            raise KeyboardInterrupt(*said)

        monkeypatch.setattr(cli, "_command", lambda name: interrupt)
        assert cli.main(["run", "flights"]) == 130
        return capsys.readouterr().err

    assert end(("The run goes on.",)) == "The run goes on.\n"
    assert end(()) == "Interrupted; run the same command again to resume.\n"


def test_up_has_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["next_step"] == "leave --json out"


def test_a_question_that_gets_no_answer_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-D."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(UsageError, match="a question is answered, but the input ended: nothing was done"):
        asked_on_terminal("Why? ")


def test_a_traceback_is_shown_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(options: Any) -> int:
        raise DataRejected("a", "b", "c")

    monkeypatch.setattr(cli, "_command", lambda name: end)
    assert cli.main(["run", "flights", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


IDLE = """
import sys
from deployments.environment import prepare_environment
from ml.settings import Settings
prepare_environment(Settings.from_environment())
from deployments.prefect.night import run_here
for as_of in ("2024-03-16", "2024-03-16"):
    print(run_here({"use_case": "shop", "as_of": as_of})["replayed"])
"""
COMMAND = """
import sys
from deployments.cli import main
for words in (["--as-of", "2024-03-17"], ["--as-of", "2024-03-15"]):
    assert main(["run", "shop", "--quiet", *words]) == 0
print("prefect" in sys.modules)
"""


@pytest.mark.slow
def test_a_night_with_nothing_new_and_a_replay_import_neither_torch_nor_mlflow_nor_great_expectations(
    shop: Shop, prefect: str
) -> None:
    """27 s: a first night and two processes. The command does not even import Prefect."""
    undated(shop)
    assert shop.document("2024-03-15")["decision"] == "FIRST"
    tell = f"print([name for name in {LEARNING} if name in sys.modules])\n"
    flow = new_process(IDLE + tell, {"PREFECT_API_URL": prefect})
    assert flow.splitlines() == ["False", "True", "[]"]
    command = new_process(COMMAND + tell, {})
    assert command.splitlines()[-2:] == ["False", "[]"]
    assert [entry.decision for entry in shop.entries()] == ["FIRST", "NOTHING_NEW", "NOTHING_NEW"]


def new_process(code: str, variables: dict[str, str]) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
