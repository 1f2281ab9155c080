"""What earlier versions wrote goes on: a store of 2026-11-27 (two nights of the shop, without MLflow's files), and a
whole installation of 2026-11-28, which `tests.fixtures.make_landed` made."""

import json
import logging
import re
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deployments.cli import main
from ml.data.handles import CheckedDays, CleanedDays, CleanedPartition, PartitionCheck
from ml.digests import unsealed
from ml.errors import ConfigError
from ml.evaluation.handles import Evaluations
from ml.models import packaging
from ml.models.handles import Upload, Verified
from ml.settings import Settings
from ml.storage import paths
from ml.storage.json_form import from_json
from ml.storage.kept import KeptMonths, words_of
from ml.storage.ledger import Ledger
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import Store, open_store
from ml.use_case.loading import load_use_case
from tests.conftest import _answers_here
from tests.data import test_data
from tests.data.test_data import Done, edit_use_case, forget_all
from tests.fixtures import make_landed
from tests.story import Shop, open_shop

LANDED = Path(__file__).parents[1] / "fixtures" / "landed.tar.gz"
HANDLES: dict[str, Any] = {"upload": Upload, "verify": Verified, "evaluate": Evaluations}  # others are made again


@pytest.fixture
def landed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The home of those nights, with the data that they had and one day more."""
    shop = open_shop(tmp_path, monkeypatch)
    with tarfile.open(LANDED) as archive:
        archive.extractall(shop.settings.store, filter="data")
    edit_use_case(shop, "    gates=(", "    window_days=14, test_days=4, validation_days=3,\n    gates=(")
    for file in shop.settings.data.glob("shop/*.parquet"):
        if file.stem > "2024-01-17":
            file.unlink()
    return shop


def store_of(shop: Shop) -> Store:
    return open_store(shop.settings.store)


def test_its_ledger_is_read(landed: Shop) -> None:
    ledger = Ledger(store_of(landed), "shop")
    assert [(night.seq, night.as_of, night.decision) for night in ledger.nights()] == [
        (1, date(2024, 1, 16), "REJECT"),
        (2, date(2024, 1, 17), "REJECT"),
    ]
    head = ledger.head()
    assert head is not None
    assert head.champion is not None


@pytest.mark.parametrize("name", HANDLES)
def test_its_stages_are_read(name: str, landed: Shop) -> None:
    store = store_of(landed)
    keys = [key for key in store.keys(f"{paths.stages('shop')}/{name}") if key.count("/") == 3]
    assert len(keys) == 2
    for key in keys:
        body = unsealed(store.get(key) or b"")
        assert body is not None
        assert isinstance(from_json(HANDLES[name], body), HANDLES[name])


MONTHS: dict[str, tuple[Any, Any]] = {
    "verdict": (CheckedDays, PartitionCheck), "cleaned": (CleanedDays, CleanedPartition),
}  # fmt: skip


@pytest.mark.parametrize("kind", MONTHS)
def test_what_it_kept_of_partitions_is_read(kind: str, landed: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """In the form of that day: sums beside the key, and results under another name."""
    sums, result = MONTHS[kind]
    month = KeptMonths(store_of(landed), "shop", kind, sums).kept["2024-01"]
    found = month.by_key(result)
    assert month.sums.partitions == len(found) == 14
    assert sorted(each.day for each in found.values())[0] == "2024-01-03"
    assert all(key in (words_of(store_of(landed).get(paths.months("shop", kind))) or "") for key in found)
    assert caplog.messages == []


def test_its_champion_stays_comparable(landed: Shop) -> None:
    """By the digests of its target and of its split, with those of the same use case tonight."""
    from ml.data.split import split_digest

    champion, use_case = Ledger(store_of(landed), "shop").head().champion, test_data.site().use_case  # type: ignore[union-attr]
    assert champion is not None
    assert champion.target_digest == use_case.target.digest
    assert champion.split_digest == split_digest(use_case)


def test_the_next_night_reads_it_says_once_what_is_made_again_and_ends_as_from_scratch(
    landed: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        after = Done(date(2024, 1, 18))
    assert sum(test_data.READ_AGAIN in text or test_data.COUNTED_AGAIN in text for text in caplog.messages) == 1
    assert "damaged" not in caplog.text
    found = after.found
    forget_all(landed)
    assert Done(date(2024, 1, 18)).found == found


OLD_IMPORTS = (
    "from ml.config import Source, Target, UseCase",
    "from ml.gates import BetterThanTrivial, MinMetric, NotWorseThanChampion, NotWorseThanReference",
    "from ml.models.estimators import logistic_regression",
)
MOVES = ("FIRST", "PROMOTE", "KEEP", "EXCLUDE", "PROMOTE", "ROLLBACK", "OPERATOR_PROMOTE", "HOLD", "RELEASE")
BY_NAME = ("--reason", "a test says so", "--yes")


def _with_moved_imports(project: Path) -> str:
    """The use case's file as the refusals of its old imports say that it is to be written."""
    file = project / "use_cases" / "shop.py"
    text = file.read_text()
    for old in OLD_IMPORTS:
        assert old in text
        with pytest.raises(ConfigError) as refused:
            load_use_case("shop", project)
        told = re.search("write `(.*)`", str(refused.value))
        assert told is not None, refused.value
        text = text.replace(old, told[1])
        file.write_text(text)
    return text


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The whole installation, at another place than where it was made: MLflow's database is told."""
    with tarfile.open(make_landed.LANDED) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RETRAIN_PROJECT", str(tmp_path / "project"))
    monkeypatch.setattr(packaging, "answers_of_a_fresh_process", _answers_here)
    (tmp_path / "project" / "use_cases" / "shop.py").write_text(_with_moved_imports(tmp_path / "project"))
    make_landed.place_in_mlflow(tmp_path / "home" / "mlflow.db", make_landed.PLACE, str(tmp_path / "home"))
    return Shop(Settings.from_environment())


@pytest.fixture(params=["landed", "installation"])
def either(request: pytest.FixtureRequest) -> Shop:
    shop = request.getfixturevalue(request.param)
    assert isinstance(shop, Shop)
    return shop


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The document of a command that succeeds."""
    code = main([*words, "--json"])
    said = capsys.readouterr()
    assert code == 0, said
    return json.loads(said.out)


def test_its_status_and_its_ledger_are_shown(either: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    entries, head = either.ledger.entries(), either.ledger.head()
    assert head is not None and head.champion is not None
    (status,) = [row for row in typed(capsys, "status", "shop")["use_cases"] if row["use_case"] == "shop"]
    assert (status["entries"], status["champion"]) == (len(entries), head.champion.version)
    assert status["last_as_of"] == str(either.entries()[-1].as_of)
    shown = typed(capsys, "ledger", "shop")["entries"]
    assert sorted(row["entry"] for row in shown) == [entry.seq for entry in entries]


def test_an_installation_has_every_kind_of_entry(installation: Shop) -> None:
    assert tuple(entry.decision for entry in installation.ledger.entries()) == MOVES


def test_its_champion_answers_as_it_did(installation: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On another kind of processor its sums may end in other bits."""
    file, out = installation.settings.data / "shop" / make_landed.SCORED, tmp_path / "now.csv"
    typed(capsys, "score", "shop", str(file), "-o", str(out))
    now, then = pd.read_csv(out), pd.read_csv(tmp_path / "scored.csv")
    assert list(now["prediction"]) == list(then["prediction"])
    np.testing.assert_allclose(now["probability"], then["probability"], rtol=1e-5)


def test_it_is_rolled_back_and_all_is_well(installation: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    checks = typed(capsys, "doctor", "shop")
    assert checks["left"] == 0, checks
    typed(capsys, "rollback", "shop", *BY_NAME)
    head = installation.ledger.head()
    assert head is not None and head.champion is not None
    assert Registry(installation.settings, "shop").alias(CHAMPION) == head.champion.version == 2
    assert typed(capsys, "doctor", "shop")["left"] == 0


def test_its_next_night_is_judged_against_its_champion(installation: Shop, prefect: str) -> None:
    night = installation.document(str(make_landed.as_of(1)))
    assert night["decision"] in {"PROMOTE", "KEEP"}, night["reason"]
    assert (night["version"], night["champion_before"]) == (5, 4)
    assert night["not_comparable"] == {}
    assert night["scores"]["champion"] is not None
    assert "excluded" in night["data"]["left_out"][make_landed.EXCLUDED]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("doctor", "shop"), 1, "-> retrain restore FILE, or retrain doctor shop --mend"),
        (
            ("rollback", "shop", *BY_NAME),
            2,
            "a rollback goes back to an earlier champion that can serve, but none does",
        ),
        (
            ("score", "shop", "2024-01-05.parquet", "-o", "out.csv"),
            1,
            "is gone: retrain doctor shop says what leads out",
        ),
    ],
)
def test_a_store_without_its_models_says_so(
    words: tuple[str, ...], code: int, said: str, landed: Shop, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(landed.settings.data / "shop")
    assert main([*words]) == code
    assert said in "".join(capsys.readouterr())
