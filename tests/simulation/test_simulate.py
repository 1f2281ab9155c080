"""The command over a tiny use case: a whole run, a run that was killed, and what it refuses."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import tasks.site
from deployments.cli import main
from ml.settings import Settings
from ml.simulation import candidates as candidates_module
from ml.simulation.learning import learn
from ml.storage.store import open_store
from tests.tiny import parcel_rows, sales, write_sales

DAYS = 40
USE_CASES = {
    "tills": """USE_CASE = tills(
    test_days=20, window_days=60,
    gates=(MinMetric(metric="f1", floor=0.01, why="a test"), NotSurelyWorse(metric="f1", why="a test")),
)""",
    "tills_of_chance": "USE_CASE = tills(test_days=20, window_days=60)",
    "tills_of_prices": """USE_CASE = tills(
    test_days=20, window_days=60, metric="rmse", target=Target(column="returned_after", kind="regression"),
    model=NetworkRegressor(hidden=()), gates=(BetterThanTrivial(metric="rmse", why="a test"),),
)""",
    "parcels": "USE_CASE = parcels()",
}
FILE = '''"""A tiny use case."""

from ml import BetterThanTrivial, MinMetric, NotSurelyWorse, Target
from ml.models.networks.estimators import NetworkRegressor
from tests.tiny import parcels, tills

{}
'''


@pytest.fixture
def tiny_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with forty days of sales, and the use cases of a company."""
    project = tmp_path / "project" / "use_cases"
    project.mkdir(parents=True)
    for name, text in USE_CASES.items():
        (project / f"{name}.py").write_text(FILE.format(text.replace("tills(", f"tills(name={name!r}, ", 1)))
    (project / "parcels.py").write_text(FILE.format(USE_CASES["parcels"]))
    write_sales(tmp_path / "home" / "data" / "tills", DAYS)
    parcels = tmp_path / "home" / "data" / "parcels"
    parcels.mkdir()
    parcel_rows().to_parquet(parcels / "all.parquet")
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RETRAIN_PROJECT", str(tmp_path / "project"))
    monkeypatch.setattr(tasks.site, "confirm", lambda facts: None)  # Great Expectations says the same, slowly
    return tmp_path / "home"


def simulated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["simulate", "--json", "--quiet", "--jobs", "1", *words]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def words_of_refusal(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["simulate", *words])
    return code, capsys.readouterr().err


FROM = "--from", "2024-01-26"


def test_a_year_is_learnt_once_and_replayed_with_other_gates(
    tiny_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[object] = []
    monkeypatch.setattr(candidates_module, "learn", lambda *a: fits.append(a) or learn(*a))
    picture = tiny_home / "year.png"
    first = simulated(capsys, "tills", *FROM, "--every", "2", "--seeds", "2", "--picture", str(picture))
    assert (first["nights"], first["seeds"], len(fits)) == (8, 2, 16)
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = {(row["policy"], row["serving"]): row for row in first["rows"]}
    assert rows["every night", "judged"]["promotions"] == 7
    assert rows["never", "refitted"]["scores"]["f1"]["value"] is not None
    assert rows["ours", "refitted"]["scores"]["f1"]["difference"] == 0

    file = tiny_home.parent / "project" / "use_cases" / "tills.py"
    file.write_text(file.read_text().replace("window_days=60", 'window_days=60, question="Another?"'))
    again = simulated(capsys, "tills", *FROM, "--every", "2", "--seeds", "2")
    assert len(fits) == 16, "nothing is learnt twice"
    assert again["rows"] == first["rows"]


def test_a_run_that_was_killed_goes_on(
    tiny_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = simulated(capsys, "tills", *FROM, "--every", "3")
    store = open_store(Settings.from_environment().store)
    for key in store.keys("stages/tills/simulate"):
        store.delete(key)
    fits: list[object] = []

    def killed_at_the_third(*arguments: Any) -> Any:
        fits.append(arguments)
        if len(fits) == 3:
            raise KeyboardInterrupt
        return learn(*arguments)

    monkeypatch.setattr(candidates_module, "learn", killed_at_the_third)
    assert main(["simulate", "tills", *FROM, "--every", "3", "--jobs", "1", "--quiet"]) == 130
    assert "run the same command again" in capsys.readouterr().err
    resumed = simulated(capsys, "tills", *FROM, "--every", "3")
    assert len(fits) == 3 + whole["nights"] - 2
    assert resumed == whole


def test_a_damaged_answer_is_learnt_again(tiny_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = simulated(capsys, "tills", *FROM, "--every", "6")
    store = open_store(Settings.from_environment().store)
    for key in [key for key in store.keys("stages/tills/simulate") if key.endswith("answers.npz")][:1]:
        store.put(key, b"damaged")
    assert simulated(capsys, "tills", *FROM, "--every", "6") == whole


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tiny_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "tills", *FROM, "--every", "6", "--jobs", "2", "--quiet", "--json"]) == 0
    two = json.loads(capsys.readouterr().out)
    store = open_store(Settings.from_environment().store)
    for key in store.keys("stages/tills/simulate"):
        store.delete(key)
    assert simulated(capsys, "tills", *FROM, "--every", "6") == two


def test_gates_that_nothing_passes_leave_nothing_to_compare_with(
    tiny_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = simulated(capsys, "tills_of_chance", *FROM, "--every", "6")
    assert "ours" in document["without_champion"]
    assert {row["scores"]["f1"]["difference"] for row in document["rows"]} == {None}
    assert main(["simulate", "tills_of_chance", *FROM, "--every", "6", "--quiet"]) == 0
    assert "Nothing ever served under: ours" in capsys.readouterr().out


def test_the_table_names_every_policy(tiny_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "tills", *FROM, "--every", "4", "--jobs", "1", "--quiet"]) == 0
    table = capsys.readouterr().out
    for words in ("never", "every night", "weekly", "monthly", "point score", "ours", "unless surely worse", "harmful"):
        assert words in table


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("parcels",), 2, "has a time column"),
        (("tills",), 2, "needs two nights"),
        (("tills", "--from", "2030-01-01"), 2, "needs two nights"),
        (("nothing",), 2, "nothing"),
        (("tills", "--every", "0"), 2, "whole number from 1"),
        (("tills", "--jobs", "17"), 2, "from 1 to 16"),
        (("tills", "--picture", "year.txt"), 2, ".png or .svg"),
        (("tills", "--picture", "/nowhere/year.png"), 2, "in a folder that is there"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_sentence(
    tiny_home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    got, sentence = words_of_refusal(capsys, "--quiet", *words)
    assert got == code
    assert said in sentence
    assert len(sentence.strip().splitlines()) == 1


def test_an_empty_source_is_refused(tiny_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (tiny_home / "data" / "tills").iterdir():
        file.unlink()
    code, sentence = words_of_refusal(capsys, "--quiet", "tills")
    assert code in {1, 3}
    assert "tills" in sentence


def test_days_that_a_night_leaves_out_are_left_out(tiny_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_home / "data" / "tills"
    whole = simulated(capsys, "tills", *FROM, "--every", "6")
    sales(date(1970, 1, 1)).to_parquet(folder / "1970-01-01.parquet")
    (folder / "2024-01-05.parquet").write_bytes(b"damaged")
    document = simulated(capsys, "tills", *FROM, "--every", "6")
    assert document["nights"] == whole["nights"]
    assert document["last_served"] == whole["last_served"]


def test_a_regression_is_simulated_by_its_own_metric(tiny_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = simulated(capsys, "tills_of_prices", *FROM, "--every", "4", "--faults")
    assert document["metrics"] == ["rmse"]
    assert {row["fault"] for row in document["faults"]} <= {"newest labels", "all labels", "other unit"} | {
        "rate x10", "rate x100", "rate /10", "other seed"
    }  # fmt: skip
