"""Others may use the same MLflow, store and Prefect: of theirs nothing is judged, mended or deleted.

And of ours nothing is other than it would be without them.
"""

import os
import shutil
import time
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mlflow.entities import LoggedModelStatus, ViewType

from deployments.cli import main
from deployments.prefect import crashed
from ml.errors import ConfigError
from ml.operations import health
from ml.operations.alias import follow_ledger, register_lost
from ml.operations.health import stray_runs
from ml.settings import Settings
from ml.storage.ledger import Ledger
from ml.storage.registry import CHAMPION, OURS, STORE, TRAINING_KEY, Registry
from ml.storage.store import DiskStore, Store, open_store
from tests.operations.test_versions import model
from tests.storage.test_ledger import entry
from tests.story import Shop, open_shop

OLD = time.time() - 9 * 86_400


class Stranger:
    """Somebody who uses the same MLflow, with experiments of every kind and files below our store's folder."""

    def __init__(self, settings: Settings) -> None:
        self.registry = Registry(settings, "nobody")
        self.client: Any = self.registry.client
        self.root = Path(settings.store) / "mlflow"

    def experiment(self, name: str) -> str:
        """With the place that an MLflow server of `retrain up` gives by default, below our store."""
        found = self.client.get_experiment_by_name(name)
        place = str(self.root / name)
        return str(found.experiment_id if found else self.client.create_experiment(name, artifact_location=place))

    def works_in(self, experiment: str) -> None:
        """Runs of every state with notes, a logged model that is not finished, and one that failed."""
        place = Path(self.client.get_experiment(experiment).artifact_location.removeprefix("file://"))
        for status in ("RUNNING", "FAILED", "FINISHED"):
            run = self.client.create_run(experiment, tags={"use_case": "shop", "mlflow.note.content": "notes"})
            self._write(place / run.info.run_id / "artifacts" / "notes.txt")
            if status != "RUNNING":
                self.client.set_terminated(run.info.run_id, status)
        self.client.delete_run(run.info.run_id)
        for status in (LoggedModelStatus.PENDING, LoggedModelStatus.FAILED):
            model = self.client.create_logged_model(experiment, name="mine")
            self._write(place / "models" / model.model_id / "artifacts" / "MLmodel")
            if status is LoggedModelStatus.FAILED:
                self.client.finalize_logged_model(model.model_id, status)

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
        os.utime(path, (OLD, OLD))

    def all_of_it(self) -> dict[str, Any]:
        """Everything in MLflow and below its root that is not ours."""
        experiments = self.client.search_experiments(ViewType.ALL)
        runs = self.client.search_runs([each.experiment_id for each in experiments], "", ViewType.ALL)
        models = self.client.search_logged_models([each.experiment_id for each in experiments])
        versions = self.client.search_model_versions("")
        own = [experiment.experiment_id for experiment in experiments if experiment.tags.get(OURS)]
        return {
            "experiments": {e.name: e.lifecycle_stage for e in experiments if e.experiment_id not in own},
            "runs": {r.info.run_id: r.info.status for r in runs if TRAINING_KEY not in r.data.tags},
            "trash": {r.info.run_id: r.info.lifecycle_stage for r in runs if TRAINING_KEY not in r.data.tags},
            "models": {model.model_id: model.status.value for model in models},
            "versions": [(each.name, each.version, each.source) for each in versions if each.name == "theirs"],
            "files": sorted(str(p) for p in self.root.rglob("*") if p.is_file() and p.read_bytes() == b"theirs"),
        }


def ours(shop: Shop) -> list[Any]:
    """What our nights said, but for what is another one in every home."""
    return [
        (each.decision, each.reason, each.candidate and each.candidate.version, each.result["scores"])
        for each in shop.entries()
    ]


def commands(shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two nights and every command that mends, moves or deletes."""
    monkeypatch.setattr(health, "OLD_SECONDS", 0.0)
    shop.night("2024-03-15")
    shop.night("2024-03-15", seed=5)
    codes = [
        main(["doctor", "shop", "--mend"]),
        main(["gc", "shop", "--yes"]),
        main(["promote", "shop", "--version", "2", "--reason", "so", "--yes"]),
        main(["rollback", "shop", "--reason", "so", "--yes"]),
        main(["doctor", "shop", "--mend"]),
    ]
    capsys.readouterr()
    return codes


@pytest.mark.slow
def test_a_stranger_loses_nothing_and_changes_nothing(
    shop: Shop, empty_mlflow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In an experiment of the use case's name, in one of another, in a deleted one, and in ours."""
    stranger = Stranger(shop.settings)
    for name in ("shop", "notes", "gone"):
        stranger.works_in(stranger.experiment(name))
    stranger.client.delete_experiment(stranger.experiment("gone"))
    stranger.client.create_registered_model("theirs")
    stranger.client.create_model_version("theirs", str(stranger.root / "notes"), None)
    shop.night("2024-03-14")
    experiment, _ = Registry(shop.settings, "shop")._find_experiment()
    assert experiment == "shop (nightly-retrain)"
    stranger.works_in(stranger.client.get_experiment_by_name(experiment).experiment_id)
    before = stranger.all_of_it()
    assert (len(before["runs"]), len(before["models"])) == (12, 8)
    assert commands(shop, capsys, monkeypatch) == [0] * 5
    assert stranger.all_of_it() == before
    with_them = ours(shop)

    alone = open_shop(tmp_path / "alone", monkeypatch)
    shutil.copy(empty_mlflow, alone.settings.home / "mlflow.db")
    alone.night("2024-03-14")
    assert commands(alone, capsys, monkeypatch) == [0] * 5
    assert ours(alone) == with_them


@pytest.mark.slow
def test_files_that_another_model_needs_stay_where_they_are(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody registered our version under a name of theirs: gc deletes our version, and not its files."""
    for seed in (1, 2, 3):
        shop.night("2024-03-15", seed=seed)
    registry = Registry(shop.settings, "shop")
    copy = registry.client.copy_model_version("models:/shop/2", "theirs")
    file = Path(shop.settings.project or "") / "use_cases" / "shop.py"
    file.write_text(
        file.read_text()
        .replace("    min_rows", "    retention=Retention(versions=1),\n    min_rows")
        .replace("    Source,\n", "    Retention,\n    Source,\n", 1)
    )
    assert main(["gc", "shop", "--yes"]) == 0
    capsys.readouterr()
    assert [version.number for version in registry.versions()] == [1, 3]
    run = copy.run_id
    assert open_store(shop.settings.store).keys(f"mlflow/{run}/artifacts/model")


def test_a_registered_model_of_our_name_that_somebody_else_made_is_refused_before_anything_is_learnt(
    shop: Shop,
) -> None:
    client = Registry(shop.settings, "shop").client
    client.create_registered_model("shop")
    client.create_model_version("shop", "/theirs", None)
    client.set_registered_model_alias("shop", CHAMPION, "1")
    with pytest.raises(ConfigError, match="registered model shop in MLflow is ours, but somebody else made it"):
        shop.night("2024-03-15")
    assert shop.entries() == []
    assert client.get_model_version_by_alias("shop", CHAMPION).run_id is None
    assert open_store(shop.settings.store).keys("stages") == []


@pytest.mark.slow
def test_a_version_that_somebody_adds_to_our_model_is_theirs(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "OLD_SECONDS", 0.0)
    shop.night("2024-03-15")
    client = Registry(shop.settings, "shop").client
    client.create_model_version("shop", "/theirs", None)
    client.set_registered_model_alias("shop", "theirs", "2")
    shop.night("2024-03-15", seed=5)
    assert main(["doctor", "shop", "--mend"]) == 0
    assert main(["gc", "shop", "--yes"]) == 0
    capsys.readouterr()
    assert [version.number for version in Registry(shop.settings, "shop").versions()] == [1, 2, 3]
    assert int(client.get_model_version_by_alias("shop", "theirs").version) == 2


@pytest.mark.parametrize("folder", ["0", "models", "7f3c/models", "0123456789abcdef0123456789abcdef"])
def test_files_below_our_root_without_a_model_of_ours_are_no_strays(
    folder: str, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "OLD_SECONDS", 0.0)
    settings = Settings(tmp_path, str(tmp_path / "store"), f"sqlite:///{empty_mlflow}", None, 1)
    store: Store = DiskStore(tmp_path / "store")
    for name in ("artifacts/model/MLmodel", "artifacts/notes.txt", "artifacts/model/data/weights"):
        store.put(f"mlflow/{folder}/{name}", b"loader_module: mlflow.sklearn")
    assert list(stray_runs(store, Registry(settings, "doctor"))) == []
    store.put(f"mlflow/{'f' * 32}/artifacts/model/code/retrain_serving_1/model.py", b"ours")
    (found,) = stray_runs(store, Registry(settings, "doctor"))
    assert found.repair is not None
    found.repair()
    assert len(store.keys("mlflow")) == 3


class Installations:
    """Two installations with a store each, and with the same use case in one MLflow."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.name = f"tills_{uuid4().hex[:8]}"
        self.ledgers: list[Ledger] = []
        self.registries: list[Registry] = []
        for name in ("first", "second"):
            ledger = Ledger(open_store(str(folder / name)), self.name)
            one = model(ledger, 1)
            assert ledger.append(
                entry(1, use_case=self.name, decision="FIRST", candidate=one, champion=one, reference=one)
            )
            self.ledgers.append(ledger)
            settings = Settings(folder / name, str(folder / name), uri, None, 1)
            self.registries.append(Registry(settings, self.name))

    def seen(self) -> Any:
        """All that the first has in MLflow and in its store."""
        registry, ledger = self.registries[0], self.ledgers[0]
        found = registry.client.search_model_versions(f"name = '{self.name}'")
        return (
            [(each.version, each.run_id, each.tags, each.description, each.aliases) for each in found],
            registry.alias(CHAMPION),
            registry.every_run_id() - self.registries[1].every_run_id(),
            ledger.store.sizes(),
        )


def mend_all(ledger: Ledger, registry: Registry) -> list[str]:
    seen = []
    for found in health.findings(ledger.store, registry, ledger.use_case, active=False, today=date(2024, 4, 1)):
        seen.append(found.seen)
        if found.repair is not None:
            found.repair()
    return seen


@pytest.fixture(params=["sqlite", pytest.param("http", marks=pytest.mark.slow)])
def both(
    request: pytest.FixtureRequest, empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Installations:
    monkeypatch.setattr(health, "OLD_SECONDS", 0.0)
    if request.param == "http":
        return Installations(tmp_path, request.getfixturevalue("mlflow_server_url"))
    return Installations(tmp_path, f"sqlite:///{shutil.copy(empty_mlflow, tmp_path / 'mlflow.db')}")


def test_another_installation_of_the_same_use_case_is_a_stranger(both: Installations) -> None:
    """The one that came first keeps the registered model; the other one says so, and neither moves nor mends it."""
    (first, second), (registry, other) = both.ledgers, both.registries
    register_lost(first, registry)
    run = registry.run_id("running", "a run", {})
    before = both.seen()
    assert [version.ours for version in other.versions()] == [False]
    assert other.running() == []
    (seen,) = mend_all(second, other)
    assert f"the registered model {both.name} in MLflow is not ours: another installation of nightly-retrain" in seen
    (difference,) = health.differences(second, other)
    assert difference.endswith("rename that model in MLflow, or the use case")
    for refused in (other.require_free_name, lambda: other.register("a run", "a key", {})):
        with pytest.raises(ConfigError, match="another installation of nightly-retrain, with another store than"):
            refused()
    move = second.last_move()
    assert move is not None
    with pytest.raises(ConfigError):
        follow_ledger(second, other, move)
    assert both.seen() == before
    assert registry.running() == [run]
    registry.end_run(run)
    assert mend_all(first, registry) == []


def test_runs_of_two_installations_are_in_experiments_of_their_own(both: Installations) -> None:
    one, other = (registry.client.get_run(registry.run_id("a key", "a run", {})) for registry in both.registries)
    assert one.info.run_id != other.info.run_id
    assert one.info.experiment_id != other.info.experiment_id
    for run, registry in zip((one, other), both.registries, strict=True):
        assert run.info.artifact_uri.startswith(registry.store.uri)
        registry.end_run(run.info.run_id)


def test_what_was_registered_before_stores_were_told_apart_stays_ours(both: Installations) -> None:
    first, registry = both.ledgers[0], both.registries[0]
    register_lost(first, registry)
    registry.client.delete_registered_model_tag(both.name, STORE)
    registry.client.delete_model_version_tag(both.name, "1", STORE)
    assert mend_all(first, registry) == []
    assert [version.ours for version in registry.versions()] == [True]
    registry.register("another run", "another key", {}, above=1)
    assert registry.client.get_registered_model(both.name).tags[STORE] == registry._store_id()


def test_crashed_runs_of_others_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their flow may be called `retrain` too."""
    runs = [
        {"id": "a", "parameters": {"request": {"use_case": "shop"}}},
        {"id": "b", "parameters": {"request": {"use_case": "theirs"}}},
        {"id": "c", "parameters": {"config": 1}},
        {"id": "d", "parameters": {}},
    ]
    monkeypatch.setattr(crashed, "ask_all", lambda url, query: runs)
    monkeypatch.setattr(crashed, "attempt_after", lambda *words, **more: 2)
    again: list[str] = []
    monkeypatch.setattr(crashed, "run_again", lambda api, run, attempt: again.append(run))
    crashed.resubmit_crashed("api", {"shop"})
    assert again == ["a"]


def test_an_entry_of_the_ledger_of_another_use_case_is_not_looked_at(shop_after_a_night: Shop) -> None:
    shop = shop_after_a_night
    open_store(shop.settings.store).put("ledger/theirs/00000001.json", b"not ours")
    assert shop.document("2024-03-15")["replayed"]
    assert len(Ledger(open_store(shop.settings.store), "shop").entries()) == 1
