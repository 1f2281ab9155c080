"""The command as an operator types it: its answers, its questions, and one sentence for whatever cannot be."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deployments.cli import main
from ml.evaluation.handles import short
from ml.storage.ledger import NightEntry
from ml.storage.registry import CHAMPION, REFERENCE, Registry
from tests.story import Shop

BY_NAME = ["--yes", "--reason", "a test says so"]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Any:
    """Types a command; its exit code, and what it printed."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def nights(shop_after_a_night: Shop, prefect: str, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop whose first night is done."""
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    return shop_after_a_night


@pytest.fixture
def two_nights(shop_after_two_nights: Shop, prefect: str, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop with a champion and a second version of the same date."""
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    return shop_after_two_nights


def test_an_operator_holds_promotes_rolls_back_and_leaves_a_day_out(nights: Shop, typed: Any) -> None:
    """Each move is one entry, says what it did, and the next night obeys it."""
    assert typed("hold", "shop", *BY_NAME)[0] == 0
    assert typed("data", "exclude", "shop", "2024-03-01", *BY_NAME)[0] == 0
    code, out, _ = typed("run", "shop", "--as-of", "2024-03-16")
    assert (code, "nothing moves until retrain release shop" in out) == (0, True)
    assert re.search(r"^validate partitions +73 +1 +\d", out, re.MULTILINE), "73 days reused, one computed"
    assert "Left out: 2024-03-01, excluded (a test says so)." in out
    held = nights.entries()[-1].result
    assert (held["decision"], held["champion_after"], held["snapshot"]["partitions"]) == ("KEEP", 1, 74)

    registry = Registry(nights.settings, "shop")
    code, out, _ = typed("promote", "shop", "--version", "2", *BY_NAME)
    assert (code, out) == (0, "Champion of shop is now version 2 (it was 1).\n")
    assert (registry.alias(CHAMPION), registry.alias(REFERENCE)) == (2, 2)
    assert "Champion of shop is now version 1 (it was 2)." in typed("rollback", "shop", *BY_NAME)[1]
    assert registry.alias(CHAMPION) == 1
    assert typed("release", "shop", *BY_NAME)[0] == 0

    _, out, _ = typed("ledger", "shop", "--json")
    told = [(each["decision"], each["champion_after"], each["held"] is not None) for each in json.loads(out)["entries"]]
    assert told == [
        ("FIRST", 1, False), ("HOLD", 1, True), ("EXCLUDE", 1, True), ("KEEP", 1, True), ("OPERATOR_PROMOTE", 2, True),
        ("ROLLBACK", 1, True), ("RELEASE", 1, False),
    ]  # fmt: skip
    _, out, _ = typed("status", "shop")
    assert "Excluded: 2024-03-01, a test says so" in out
    _, out, _ = typed("status", "shop", "--json")
    (row,) = json.loads(out)["use_cases"]
    first, held = nights.entries()
    assert (row["score"].split()[:2], row["last_success"]) == (["f1", main_score(first)], held.at)
    changed = nights.file("2024-03-14")
    pd.read_parquet(changed).iloc[1:].to_parquet(changed)
    _, out, said = typed("run", "shop", "--as-of", "2024-03-16", "--dry-run")
    assert "2024-03-16 was judged before (entry 4), on other data." in said


def main_score(night: NightEntry) -> str:
    return short(night.result["scores"]["candidate"]["f1"]["value"])


@pytest.mark.slow
def test_score_says_from_which_probability_on_it_says_so(nights: Shop, typed: Any, tmp_path: Path) -> None:
    """5 s."""
    rows = nights.file("2024-03-14")
    code, out, _ = typed("score", "shop", str(rows), "-o", str(tmp_path / "out.csv"), "--json")
    threshold = json.loads(out)["threshold"]
    assert (code, threshold) == (0, nights.entries()[0].result["training"]["threshold"])
    _, out, _ = typed("score", "shop", str(rows), "-o", str(tmp_path / "out.csv"))
    assert f"From probability {threshold:.4g} on it says late." in out
    assert f"into {tmp_path / 'out.csv'}, beside basket; " in out
    assert pd.read_csv(tmp_path / "out.csv")["basket"].tolist() == pd.read_parquet(rows)["basket"].tolist()


def test_a_replayed_night_speaks_of_then_and_names_the_champion_of_today(two_nights: Shop, typed: Any) -> None:
    assert typed("promote", "shop", "--version", "2", *BY_NAME)[0] == 0
    code, out, _ = typed("run", "shop", "--as-of", "2024-03-15")
    assert code == 0
    assert "became the first champion" in out
    assert "Champion is now version 2." in out
    code, out, _ = typed("run", "shop", "--as-of", "2024-03-15", "--dry-run")
    assert "entry 1 of the ledger would be replayed" in out


def test_an_alias_moved_by_hand_is_settled_by_the_operator(two_nights: Shop, typed: Any) -> None:
    registry = Registry(two_nights.settings, "shop")
    registry.set_alias(CHAMPION, 2)
    assert typed("promote", "shop", "--version", "1", *BY_NAME)[0] == 0
    assert registry.alias(CHAMPION) == 1


@pytest.mark.slow
def test_a_version_that_was_deleted_in_mlflow_cannot_serve_and_locks_nothing(two_nights: Shop, typed: Any) -> None:
    registry = Registry(two_nights.settings, "shop")
    registry.delete_version(2)
    code, _, said = typed("promote", "shop", "--version", "2", *BY_NAME)
    lost = "the ledger's version 2 is no longer in MLflow (run " in said and "retrain doctor shop --mend" in said
    assert (code, lost) == (2, True)
    assert len(two_nights.ledger.entries()) == 2
    registry.delete_version(1)
    two_nights.night("2024-03-16", seed=6)
    assert typed("promote", "shop", "--version", "3", *BY_NAME)[0] == 0
    assert registry.alias(CHAMPION) == 3


@pytest.mark.slow
def test_a_night_that_was_only_held_back_is_judged_again_after_the_release(nights: Shop, typed: Any) -> None:
    assert typed("hold", "shop", *BY_NAME)[0] == 0
    held = nights.document("2024-03-16")
    assert (held["decision"], nights.document("2024-03-16")["replayed"]) == ("KEEP", True)
    assert typed("release", "shop", *BY_NAME)[0] == 0
    again = nights.document("2024-03-16")
    assert (again["decision"], again["version"], again["replayed"]) == ("PROMOTE", held["version"], False)
    assert nights.document("2024-03-16")["replayed"]


QUESTIONS = [
    (["hold", "shop", "--reason", "so"], 2, "add --yes"),
    (["hold", "shop", "--yes"], 2, "add --reason"),
    (["promote", "shop", "--version", "9", *BY_NAME], 2, "recorded (1), but it is 9"),
    (["rollback", "shop", *BY_NAME], 2, "version 1 is the first"),
    (["release", "shop", *BY_NAME], 2, "shop is not held"),
    (["data", "include", "shop", "2024-03-01", *BY_NAME], 2, "excluded none"),
    (["data", "exclude", "shop", "yesterday", *BY_NAME], 2, "2013-10-01"),
    (["data", "exclude", "shop", "1999-01-01", *BY_NAME], 2, "first data (2024-01-01) and today"),
    (["run", "shop", "--as-of", "2999-01-01"], 2, "up to today"),
    (["run", "shop", "--as-off=2024-03-15"], 2, "it does not know --as-off=2024-03-15: did you mean --as-of?"),
    (["run", "shop", "--zzz"], 2, "see retrain run --help"),
    (["backfill", "apply", "1234", "--max-activ", "2"], 2, "`retrain backfill apply` takes what its --help says"),
    (["data", "exclude", "breast_cancer", "2024-03-01", *BY_NAME], 2, "breast_cancer has none"),
    (["hold", "shopp", *BY_NAME], 2, "did you mean shop?"),
]


def test_what_cannot_be_is_refused_in_one_sentence_and_nothing_is_recorded(
    nights: Shop, typed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for words, code, part in QUESTIONS:
        assert typed(*words)[0] == code, words
        _, _, said = typed(*words)
        assert part in said, words
        assert said.count("\n") == 1, words
    assert [entry.seq for entry in nights.ledger.entries()] == [1]


@pytest.mark.slow
def test_every_command_of_the_operators_table_runs(two_nights: Shop, typed: Any) -> None:
    """In the order of the table, on the shop in place of the flights."""
    assert typed("promote", "shop", "--version", "2", *BY_NAME)[0] == 0
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    table, plan = page.split("## What you see, and what to do\n")[1].split("\n## ")[0], ""
    for command in re.findall(r"`retrain ([a-z][^`]*)`", table):
        said = (
            command.replace("flights", "shop").replace("2013-09-20", "2024-03-12").replace("2013-09-30", "2024-03-13")
        )
        words = [plan if word == "PLAN" else word for word in shlex.split(said)]
        code, out, err = typed(*words)
        assert code == 0 or (words[0] == "doctor" and "wrong" not in out), (words, out, err)
        plan = out.split()[-1] if words[:2] == ["backfill", "plan"] else plan


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m deployments.cli ledger flights --json | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_says_what_it_does(typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["run", "--help"], ["data", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert len(capsys.readouterr().out.splitlines()) >= (1 if words == ["--version"] else 5)


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_to_score_is_not_overwritten_by_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], linked: bool
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    rows, out = tmp_path / "rows.csv", tmp_path / ("link.csv" if linked else "rows.csv")
    rows.write_text("a\n1\n")
    if linked:
        out.symlink_to(rows)
    assert main(["score", "flights", str(rows), "-o", str(out)]) == 2
    assert "-o names a file of its own, but it is the file to score" in capsys.readouterr().err
    assert rows.read_text() == "a\n1\n"
