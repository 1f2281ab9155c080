"""A version is known by its run and its model's digest: whatever numbers MLflow gives, the ledger's model serves."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from deployments.cli import main
from ml.digests import digest_bytes
from ml.errors import ConfigError, RegistryUnavailable, UsageError
from ml.operations import health
from ml.operations.alias import follow_ledger, register_lost, roll_alias_forward
from ml.operations.moves import require_whole
from ml.operations.usable import way_back
from ml.operations.versions import highest_number, lost_versions, recorded, recorded_as, register_again, renumbered
from ml.settings import Settings
from ml.storage import paths
from ml.storage.ledger import Ledger
from ml.storage.records import Champion, FileRef
from ml.storage.registry import CHAMPION, LEDGER_RUN, MODEL_DIGEST, REFERENCE, RUN_KEY, TRAINING_KEY, Registry
from ml.storage.store import is_whole, open_store
from tests.operations.test_backup import answers, forget_connections
from tests.storage.test_ledger import entry, version
from tests.story import Shop

BY_NAME = ("--reason", "so", "--yes")


class Lost:
    """The ways in which MLflow's numbers begin again, each from a database in which all was well."""

    def __init__(self, shop: Shop, empty: Path, older: Path) -> None:
        self.file, self.empty, self.older = shop.settings.home / "mlflow.db", empty, older
        self.settings = shop.settings

    def registered_model_deleted(self) -> None:
        Registry(self.settings, "shop").client.delete_registered_model("shop")

    def database_deleted(self) -> None:
        shutil.copy(self.empty, self.file)

    def older_copy(self) -> None:
        shutil.copy(self.older, self.file)

    def stranger_in_between(self) -> None:
        """Somebody registers under our name in an older copy: their versions have the numbers of ours."""
        self.older_copy()
        forget_connections()
        client = Registry(self.settings, "shop").client
        for _ in range(2):
            client.create_model_version("shop", "/theirs", None)

    def stranger_instead(self) -> None:
        """Somebody else makes a registered model of our name: it must be renamed first, which doctor says."""
        self.registered_model_deleted()
        client = Registry(self.settings, "shop").client
        client.create_registered_model("shop")
        for _ in range(2):
            client.create_model_version("shop", "/theirs", None)
        assert main(["doctor", "shop", "--mend"]) == 1
        client.rename_registered_model("shop", "theirs")

    def ways(self) -> list[Callable[[], None]]:
        either = [self.registered_model_deleted, self.database_deleted, self.older_copy]
        return [*either, self.stranger_in_between, self.stranger_instead]


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["doctor", "shop", "--json", *words])
    rows = json.loads(capsys.readouterr().out)["checks"]
    return code, " ".join(f"{row['state']} {row['seen']} {row['mend']}" for row in rows if row["seen"])


@pytest.mark.slow
def test_the_ledgers_models_serve_again_however_mlflow_lost_them(
    shop: Shop, empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, registry = shop.settings.home / "mlflow.db", Registry(shop.settings, "shop")
    shop.night("2024-03-15")
    older = shutil.copy(file, tmp_path / "older.db")
    first = answers(shop)
    shop.night("2024-03-15", seed=5)
    assert main(["promote", "shop", "--version", "2", *BY_NAME]) == 0
    second, whole = answers(shop), shutil.copy(file, tmp_path / "whole.db")
    assert not second.equals(first)
    lost = Lost(shop, empty_mlflow, Path(older))
    entries = len(shop.ledger.entries())
    for lose in lost.ways():
        lose()
        forget_connections()
        code, said = check(capsys)
        assert (code, "no longer in MLflow" in said, "(run " in said) == (1, True, True), lose
        assert ("other models" in said or "another model" in said) == (lose == lost.stranger_in_between), said
        assert main(["status", "shop"]) == 0
        assert "no longer in MLflow" in capsys.readouterr().out
        assert main(["promote", "shop", "--version", "2", *BY_NAME]) == 2, lose
        assert "retrain doctor shop --mend restores it" in capsys.readouterr().err
        assert len(shop.ledger.entries()) == entries, "a refused move is not recorded"
        code, said = check(capsys, "--mend")
        assert code == 0, (lose, said)
        pd.testing.assert_frame_equal(answers(shop), second)
        numbers = renumbered(shop.ledger, registry)
        assert numbers == ({2: 4} if lose == lost.stranger_in_between else {}), lose
        assert ("2 is MLflow's 4" in check(capsys)[1]) == bool(numbers)
        shutil.copy(whole, file)
        forget_connections()

    lost.database_deleted()
    forget_connections()
    kept = shop.document("2024-03-16")
    assert (kept["decision"], kept["version"]) == ("KEEP", 3), "no number of the ledger is given away twice"
    assert "The ledger's version 2 is no longer in MLflow (run" in kept["reason"]
    assert check(capsys, "--mend")[0] == 0
    pd.testing.assert_frame_equal(answers(shop), second)
    assert renumbered(shop.ledger, registry) == {1: 4, 2: 5}
    assert main(["promote", "shop", "--version", "1", *BY_NAME]) == 0
    pd.testing.assert_frame_equal(answers(shop), first)
    assert main(["rollback", "shop", "--to", "2", *BY_NAME]) == 0
    pd.testing.assert_frame_equal(answers(shop), second)
    assert shop.document("2024-03-17")["version"] == 6
    assert check(capsys)[0] == 0


# Without nights: a ledger of versions with one file each, and a registry.


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Version 1 was first, 2 was promoted, 3 was kept."""
    made = Ledger(open_store(str(tmp_path / "store")), "tills")
    one, two, three = (model(made, number) for number in (1, 2, 3))
    for night in (
        entry(1, decision="FIRST", candidate=one, champion=one, reference=one),
        entry(2, decision="PROMOTE", candidate=two, champion_before=one, champion=two, reference=one),
        entry(3, candidate=three, champion_before=two, champion=two, reference=one),
    ):
        assert made.append(night)
    return made


def model(ledger: Ledger, number: int) -> Champion:
    key, data = f"mlflow/run{number}/artifacts/model/weights", f"weights {number}".encode()
    ledger.store.put(key, data)
    file = FileRef(key=key, size=len(data), digest=digest_bytes(data))
    return replace(version(number), run_id=f"run{number}", files=(file,))


@pytest.fixture
def registry(empty_mlflow: Path, tmp_path: Path) -> Registry:
    file = shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return Registry(Settings(tmp_path, str(tmp_path / "store"), f"sqlite:///{file}", None, 1), "tills")


def register_all(ledger: Ledger, registry: Registry) -> list[int]:
    return [register_again(registry, night) for night in lost_versions(ledger, registry)]


def test_versions_get_their_own_numbers_again_in_a_registry_that_was_emptied(
    ledger: Ledger, registry: Registry
) -> None:
    assert register_all(ledger, registry) == [1, 2, 3]
    assert (lost_versions(ledger, registry), renumbered(ledger, registry)) == ([], {})
    registry.delete_version(2)
    assert register_all(ledger, registry) == [4]
    assert renumbered(ledger, registry) == {2: 4}


def test_a_version_that_is_registered_again_says_which_rows_it_takes(ledger: Ledger, registry: Registry) -> None:
    (night, older, _) = lost_versions(ledger, registry)
    words = b"metadata:\n  takes: Raw rows need weight.\nflavors: {}\n"
    ledger.store.put(f"{paths.model_folder('run1')}/MLmodel", words)
    for each in (night, older):
        register_again(registry, each)
    for _ in range(2):  # the second time MLflow has the version, without the tag
        number = register_again(registry, night)
        tags = registry.client.get_model_version(registry.name, str(number)).tags
        assert tags["takes"] == "Raw rows need weight."
        registry.client.delete_model_version_tag(registry.name, str(number), "takes")
    assert "takes" not in registry.client.get_model_version(registry.name, "2").tags


def test_a_gap_in_the_ledgers_numbers_stays_one(ledger: Ledger, registry: Registry) -> None:
    for file in ledger.nights()[1].candidate.files:  # type: ignore[union-attr]
        ledger.store.delete(file.key)
    assert register_all(ledger, registry) == [1, 3]


@pytest.mark.parametrize("data", [None, b"xxxxxxxxx", b"longer than before"])
def test_a_version_whose_files_are_not_whole_is_not_registered_again(
    ledger: Ledger, registry: Registry, data: bytes | None
) -> None:
    key = "mlflow/run2/artifacts/model/weights"
    ledger.store.put(key, data) if data is not None else ledger.store.delete(key)
    assert [each.version.version for each in lost_versions(ledger, registry)] == [1, 3]


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {RUN_KEY: "theirs"},
        {TRAINING_KEY: "theirs", MODEL_DIGEST: "of another model"},
        {MODEL_DIGEST: "of another model"},
    ],
)
def test_a_version_of_the_same_number_is_never_taken_for_the_ledgers(
    ledger: Ledger, registry: Registry, tags: dict[str, str]
) -> None:
    registry.client.create_registered_model("tills")
    for number in (1, 2):
        registry.client.create_model_version("tills", "/theirs", f"run{number}", tags=tags)
    registry.set_alias(CHAMPION, 2)
    move = ledger.last_move()
    assert move is not None and move.champion is not None
    assert registry.number_of(move.champion) is None
    assert recorded_as(ledger, registry, 2) is None
    said = roll_alias_forward(ledger, registry)
    assert said is not None and "MLflow's version 2 is another model" in said
    with pytest.raises(ConfigError, match="--mend restores it"):
        follow_ledger(ledger, registry, move)
    assert registry.alias(CHAMPION) == 2, "it was set by somebody else, and stays"
    assert not ledger.alias_confirmed(move)


def test_the_next_night_gives_no_number_away_twice(ledger: Ledger, registry: Registry) -> None:
    assert highest_number(ledger) == 3
    assert registry.register("run9", "a new key", {}, above=highest_number(ledger)) == 4
    assert registry.register("run9", "a new key", {}, above=highest_number(ledger)) == 4
    assert [each.number for each in registry.versions()] == [4]


def test_a_request_that_was_sent_twice_gives_no_number_away_twice(
    ledger: Ledger, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = registry.client.create_model_version
    monkeypatch.setattr(registry.client, "create_model_version", lambda *w, **more: [make(*w, **more) for _ in "ab"])
    assert registry.register("run9", "a new key", {}, above=highest_number(ledger)) == 4
    assert [each.number for each in registry.versions()] == [4]


def test_a_run_that_mlflow_lost_ends_no_night(registry: Registry) -> None:
    registry.finish_run("0" * 32, {}, {}, {})


def test_an_alias_on_an_older_version_of_ours_follows_once_the_champion_is_there(
    ledger: Ledger, registry: Registry
) -> None:
    """As in an older copy of the database, where the alias names the champion of then."""
    register_again(registry, recorded(ledger.entries())[0])
    registry.set_alias(CHAMPION, 1)
    move = ledger.last_move()
    assert move is not None
    ledger.confirm_alias(move)
    register_lost(ledger, registry)
    assert registry.alias(CHAMPION) == 2


def test_a_reference_that_mlflow_lost_does_not_hold_the_champion_back(ledger: Ledger, registry: Registry) -> None:
    register_all(ledger, registry)
    registry.delete_version(1)
    move = ledger.last_move()
    assert move is not None and move.reference is not None and move.reference.version == 1
    follow_ledger(ledger, registry, move)
    assert (registry.alias(CHAMPION), registry.alias(REFERENCE)) == (2, None)
    register_lost(ledger, registry)
    assert registry.number_of(move.reference) == registry.alias(REFERENCE)


@pytest.mark.parametrize("name", [MODEL_DIGEST, LEDGER_RUN])
@pytest.mark.parametrize("tag", ["", "of another", None])
def test_a_version_whose_tag_somebody_changed_is_known_again_and_loses_no_file(
    name: str, tag: str | None, ledger: Ledger, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_all(ledger, registry)
    if tag is None:
        registry.client.delete_model_version_tag("tills", "2", name)
    else:
        registry.tag_version(2, {name: tag})
    monkeypatch.setattr(health, "OLD_SECONDS", 0.0)
    for found in health.findings(ledger.store, registry, "tills", active=False, today=date(2024, 1, 1)):
        if found.repair is not None:
            found.repair()
    assert [version.number for version in registry.versions()] == [1, 2, 3]
    assert (lost_versions(ledger, registry), renumbered(ledger, registry)) == ([], {})
    assert all(is_whole(ledger.store, file) for file in ledger.nights()[1].candidate.files)  # type: ignore[union-attr]


def test_an_outage_is_never_a_lost_version(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Registry(Settings(tmp_path, str(tmp_path / "store"), "http://127.0.0.1:9", None, 1), "tills")
    with pytest.raises(RegistryUnavailable):
        lost_versions(ledger, away)


@pytest.mark.parametrize("registered_again", [True, False])
@pytest.mark.parametrize("damaged", ["champion", "all"])
def test_every_message_about_a_damaged_champion_names_the_same_step(
    ledger: Ledger, registry: Registry, registered_again: bool, damaged: str
) -> None:
    """MLflow lost all versions, and files of the champion are damaged, before it is mended or after."""
    if registered_again:
        register_lost(ledger, registry)
    models = [night.candidate for night in ledger.nights() if night.candidate]
    for each in models[1:2] if damaged == "champion" else models:
        ledger.store.put(each.files[0].key, b"damaged")
    if not registered_again:
        register_lost(ledger, registry)  # the whole ones alone
    move = ledger.last_move()
    assert move is not None and move.champion is not None and move.champion.version == 2
    step = way_back(ledger, registry, move.champion)
    assert step.startswith("retrain rollback tills --to 1" if damaged == "champion" else "retrain run tills --again")
    assert step.endswith("; or, from a backup, retrain restore FILE")
    found = list(health.findings(ledger.store, registry, "tills", active=False, today=date(2024, 4, 1)))
    assert step in [each.mend for each in found if "champion " in each.seen]
    assert not any("--mend" in each.mend for each in found)
    with pytest.raises(UsageError) as refused:
        require_whole(ledger, registry, move.champion)
    assert refused.value.next_step == step
    said = roll_alias_forward(ledger, registry)
    assert said is None if registered_again else said is not None and step in said


def test_a_backup_brings_a_damaged_champion_back_after_mlflow_lost_it(ledger: Ledger, registry: Registry) -> None:
    move = ledger.last_move()
    assert move is not None and move.champion is not None
    file = move.champion.files[0]
    kept = ledger.store.get(file.key)
    ledger.store.put(file.key, b"damaged")
    register_lost(ledger, registry)
    ledger.store.put(file.key, kept or b"")
    assert way_back(ledger, registry, move.champion) == "retrain doctor tills --mend restores it"
    register_lost(ledger, registry)
    assert registry.alias(CHAMPION) == registry.number_of(move.champion)
    assert lost_versions(ledger, registry) == []
