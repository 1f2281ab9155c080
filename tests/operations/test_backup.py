"""Backup and restore: one file made while nights go on; whatever is lost then, all that it held comes back."""

import io
import json
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.store.model_registry import sqlalchemy_store as model_registry
from mlflow.store.tracking import sqlalchemy_store as tracking

from deployments.cli import INTERRUPTED, main
from ml.digests import digest_bytes
from ml.errors import Busy, Corrupt, UsageError
from ml.operations.backup import FORMAT, write_backup
from ml.settings import Settings
from ml.storage import databases, paths
from ml.storage.databases import copy_database, is_lost, relocate
from ml.storage.ledger import Ledger
from ml.storage.locks import held_lock, run_lock
from ml.storage.records import FileRef
from ml.storage.registry import Registry
from ml.storage.store import DiskStore, open_store
from tests.s3_server import BUCKET, S3Server
from tests.storage.test_ledger import entry, version
from tests.story import Shop

ROWS = "2024-03-01"


def quiet(_total: int) -> Callable[[int], object]:
    return lambda _done: None


def answers(shop: Shop) -> pd.DataFrame:
    """What the champion says, as a service gets it: through MLflow's alias."""
    try:
        mlflow.set_tracking_uri(shop.settings.tracking_uri)
        return mlflow.pyfunc.load_model("models:/shop@champion").predict(pd.read_parquet(shop.file(ROWS)))
    finally:
        mlflow.set_tracking_uri(None)


def scored(shop: Shop, out: Path) -> pd.DataFrame:
    assert main(["score", "shop", str(shop.file(ROWS)), "-o", str(out)]) == 0
    return pd.read_parquet(out)


def forget_connections() -> None:
    """MLflow keeps its connections to a file that was deleted; a command is a new process, and has none."""
    for kept in (tracking.SqlAlchemyStore, model_registry.SqlAlchemyStore):
        for engine in kept._engine_map.values():
            engine.dispose()


def lose_home(shop: Shop, empty: Path) -> None:
    """All but the data, which an operator brings back from where they come from."""
    for path in shop.settings.home.iterdir():
        if path != shop.settings.data:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def lose_store(shop: Shop, empty: Path) -> None:
    shutil.rmtree(shop.settings.store)


def lose_mlflow(shop: Shop, empty: Path) -> None:
    (shop.settings.home / "mlflow.db").unlink()


def lose_mlflow_and_look(shop: Shop, empty: Path) -> None:
    """A command makes an empty database in place of a lost one."""
    shutil.copy(empty, shop.settings.home / "mlflow.db")


def spoil_mlflow(shop: Shop, empty: Path) -> None:
    (shop.settings.home / "mlflow.db").write_bytes(b"no database" * 1000)


def spoil_store(shop: Shop, empty: Path) -> None:
    """A flipped bit in the ledger, and in the champion's weights."""
    champion = shop.entries()[0].champion
    assert champion is not None
    weights = next(file.key for file in champion.files if file.key.endswith(".safetensors"))
    for key in (paths.ledger_entry("shop", 1), weights):
        path = Path(shop.settings.store) / key
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)


LOSSES = (lose_home, lose_store, lose_mlflow, lose_mlflow_and_look, spoil_mlflow, spoil_store)


@pytest.mark.slow
def test_after_the_loss_of_any_part_all_that_the_backup_held_is_there_again(
    shop: Shop, empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.night("2024-03-15")
    shop.night("2024-03-15", seed=5)
    before, ledger = answers(shop), shop.ledger.by_digest()
    backup = str(tmp_path / "backup.tar")
    assert main(["backup", backup]) == 0
    assert "shop up to entry 2 of its ledger, MLflow's database" in capsys.readouterr().out
    for lose in LOSSES:
        lose(shop, empty_mlflow)
        forget_connections()
        assert main(["restore", backup, "--yes"]) == 0, lose
        forget_connections()
        assert shop.ledger.by_digest() == ledger, lose
        pd.testing.assert_frame_equal(answers(shop), before)
        assert [version.number for version in Registry(shop.settings, "shop").versions()] == [1, 2]
        assert main(["restore", backup, "--json"]) == 0, "nothing is missing, so nothing is asked"
    capsys.readouterr()
    assert main(["doctor", "shop"]) == 0, capsys.readouterr().out
    assert shop.document("2024-03-15")["replayed"]
    shop.night("2024-03-16")
    later = shop.ledger.by_digest()
    capsys.readouterr()
    assert main(["restore", backup]) == 0
    assert "Nothing is missing" in capsys.readouterr().out
    assert shop.ledger.by_digest() == later, "what is newer stays"


MOMENTS = {
    "before it registers": (Registry, "register"),
    "before it records": (Ledger, "append"),
    "before the alias": (Registry, "set_alias"),
    "before it notes the alias": (Ledger, "confirm_alias"),
    "before it notes the report": (Ledger, "mark_published"),
}


def copy_at_every_moment(shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a night writes a backup at each of the moments that it comes to."""
    for number, (owner, name) in enumerate(MOMENTS.values()):
        target = folder / f"{number}.tar"

        monkeypatch.setattr(owner, name, copied_first(shop.settings, target, getattr(owner, name)))


def copied_first(settings: Settings, target: Path, do: Any) -> Any:
    def copy_and_do(*words: Any, **named: Any) -> Any:
        if not target.exists():
            write_backup(settings, str(target), quiet)
        return do(*words, **named)

    return copy_and_do


@pytest.mark.slow
def test_a_backup_made_at_any_moment_of_a_night_is_one_that_the_night_ends_from(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first night, which moves the alias: each backup comes back at another place, and the night is run again."""
    with monkeypatch.context() as patch:
        copy_at_every_moment(shop, tmp_path, patch)
        shop.night("2024-03-15")
    before, result = answers(shop), shop.entries()[0].result
    for number, moment in enumerate(MOMENTS):
        home = tmp_path / f"home{number}"
        shutil.copytree(shop.settings.data, home / "data")
        monkeypatch.setenv("RETRAIN_HOME", str(home))
        assert main(["restore", str(tmp_path / f"{number}.tar"), "--yes"]) == 0, moment
        there = Shop(Settings.from_environment())
        assert len(there.entries()) == (number > 1), moment
        again = there.document("2024-03-15")
        assert (again["decision"], again["scores"]) == ("FIRST", result["scores"]), moment
        assert [version.number for version in Registry(there.settings, "shop").versions()] == [1], moment
        pd.testing.assert_frame_equal(answers(there), before)
        assert main(["doctor", "shop"]) == 0, moment


@pytest.mark.slow
def test_a_backup_comes_back_from_s3_into_a_store_in_s3(
    shop: Shop, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow names the new place of every file, so that its models load when the old place is gone."""
    shop.night("2024-03-15")
    before, backup = answers(shop), f"s3://{BUCKET}/{tmp_path.name}/backup.tar"
    assert main(["backup", backup]) == 0
    assert main(["backup", backup]) == 2, "a backup is never written over"
    home, old = tmp_path / "another", shop.settings.store
    shutil.copytree(shop.settings.data, home / "data")
    shutil.rmtree(shop.settings.home)
    monkeypatch.setenv("RETRAIN_HOME", str(home))
    monkeypatch.setenv("RETRAIN_STORE", f"s3://{BUCKET}/{tmp_path.name}/store")
    assert main(["restore", backup, "--yes"]) == 0
    moved = Shop(Settings.from_environment())
    pd.testing.assert_frame_equal(answers(moved), before)
    assert cells_with(home / "mlflow.db", old) == []
    assert moved.document("2024-03-15")["replayed"]
    assert moved.document("2024-03-16")["decision"] in {"KEEP", "PROMOTE"}
    assert main(["doctor", "shop"]) == 0


def cells_with(database: Path, text: str) -> list[str]:
    """Columns of any table in which the text stands somewhere."""
    with sqlite3.connect(database) as opened:
        tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [(table, row[1]) for table in tables for row in opened.execute(f"PRAGMA table_info({table})")]
        return [
            f"{table}.{column}"
            for table, column in columns
            if opened.execute(f'SELECT 1 FROM "{table}" WHERE instr("{column}", ?)', (text,)).fetchone()
        ]


# Without nights: a store with a ledger and files, and no databases.


WEIGHTS = "mlflow/r1/artifacts/model/weights"
SERVES = replace(version(1), files=(FileRef(key=WEIGHTS, size=7, digest=digest_bytes(b"weights")),))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An installation whose use case `tills` has three entries, and a model that serves."""
    for name in ("RETRAIN_STORE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RETRAIN_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    settings = Settings.from_environment()
    (settings.home / "tmp").mkdir(parents=True)
    store = open_store(settings.store)
    for number in (1, 2, 3):
        append(store, number)
        store.create(paths.alias_confirmation("tills", number), b"{}")
    store.put("partitions/tills/abc/block.arrow", b"rows")
    store.put("mlflow/r1/artifacts/report.md", b"a report")
    store.put(WEIGHTS, b"weights")
    return settings


def append(store: Any, number: int, reason: str = "so") -> None:
    made = entry(number, candidate=version(number), champion_before=SERVES, champion=SERVES, reference=SERVES)
    assert Ledger(store, "tills").append(replace(made, reason=reason))


def all_objects(settings: Settings) -> dict[str, bytes | None]:
    store = open_store(settings.store)
    return {key: store.get(key) for key in store.sizes()}


def members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_the_file_holds_what_cannot_be_made_again_and_says_what_it_lacks(place: Settings, tmp_path: Path) -> None:
    open_store(place.store).put("theirs/holiday.mov", b"beside ours")
    made = write_backup(place, str(tmp_path / "b.tar"), quiet)
    held = members(tmp_path / "b.tar")
    names = list(held)
    assert (names[0], names[-1]) == ("manifest.json", "index.json")
    ledgers = [name for name in names if "/ledger/" in name]
    assert [name[-6] for name in ledgers] == ["3", "2", "1"], "the newest first, and after all that they name"
    assert names.index("store/mlflow/r1/artifacts/report.md") < names.index(ledgers[0])
    assert not any("partitions" in name or "theirs" in name for name in names)
    manifest = json.loads(held["manifest.json"])
    assert (manifest["format"], manifest["entries"]) == (FORMAT, {"tills": 3})
    said = " ".join(made.manifest.left_out)
    for words in ("partitions/", "the data that use cases read", "secrets", "RETRAIN_PROJECT"):
        assert words in said, words


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "PREFECT_SERVER_DATABASE_CONNECTION_URL"])
def test_a_database_elsewhere_is_named_without_its_password(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "postgresql+psycopg://retrain:hunter2@db/mlflow")
    made = write_backup(Settings.from_environment(), str(tmp_path / "b.tar"), quiet)
    assert any("pg_dump" in each for each in made.manifest.left_out)
    assert b"hunter2" not in (tmp_path / "b.tar").read_bytes()


def test_a_backup_of_a_model_that_is_damaged_says_so(place: Settings, tmp_path: Path) -> None:
    assert write_backup(place, str(tmp_path / "a.tar"), quiet).damaged == ()
    open_store(place.store).put(WEIGHTS, b"other bytes")
    assert write_backup(place, str(tmp_path / "b.tar"), quiet).damaged == (f"{WEIGHTS} of tills is changed",)
    open_store(place.store).delete(WEIGHTS)
    assert write_backup(place, str(tmp_path / "c.tar"), quiet).damaged == (f"{WEIGHTS} of tills is gone",)
    open_store(place.store).put(paths.ledger_entry("tills", 2), b"damaged")
    assert "00000002.json" in write_backup(place, str(tmp_path / "d.tar"), quiet).damaged[0]


@pytest.mark.parametrize("where", ["home/b.tar", "home/store/mlflow/b.tar", "nowhere/b.tar", "home"])
def test_a_backup_lies_outside_of_what_it_copies(place: Settings, tmp_path: Path, where: str) -> None:
    (Path(place.store) / "mlflow").mkdir(exist_ok=True)
    with pytest.raises(UsageError):
        write_backup(place, str(tmp_path / where), quiet)


def test_an_empty_home_is_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder where nobody ever ran a night."""
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="has nothing: set RETRAIN_HOME"):
        write_backup(Settings.from_environment(), str(tmp_path / "b.tar"), quiet)
    assert not (tmp_path / "b.tar").exists()


def test_a_backup_that_fails_leaves_no_file(place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    monkeypatch.setattr(DiskStore, "get", lambda self, key: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_backup(place, str(folder / "b.tar"), quiet)
    assert list(folder.iterdir()) == []


def test_a_decision_between_the_copies_makes_them_be_made_again(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Always one more: then the backup gives up in a sentence, and leaves nothing."""
    store, number = open_store(place.store), iter(range(4, 100))
    monkeypatch.setattr(
        "ml.operations.backup.database_files", lambda settings: {"mlflow": Path(place.home / "mlflow.db")}
    )
    monkeypatch.setattr("ml.operations.backup.is_lost", lambda name, file: False)
    copies: list[Path] = []

    def copy(name: str, source: Path, target: Path) -> bool:
        target.write_bytes(b"copy")
        if len(copies) < limit:
            append(store, next(number))
        copies.append(target)
        return False

    monkeypatch.setattr("ml.operations.backup.copy_database", copy)
    limit = 2
    assert write_backup(place, str(tmp_path / "b.tar"), quiet).manifest.entries == {"tills": 5}
    assert len(copies) == 3
    limit = 1000
    with pytest.raises(Busy, match="decisions came during"):
        write_backup(place, str(tmp_path / "c.tar"), quiet)
    assert not (tmp_path / "c.tar").exists()


def restored(file: Path, *words: str) -> int:
    return main(["restore", str(file), "--yes", *words])


def test_what_is_newer_stays_and_what_is_gone_or_damaged_comes_back(place: Settings, tmp_path: Path) -> None:
    write_backup(place, str(tmp_path / "b.tar"), quiet)
    store = open_store(place.store)
    append(store, 4)
    store.put("mlflow/r1/artifacts/report.md", b"a newer report")
    after = all_objects(place)
    store.put(paths.ledger_entry("tills", 2), b"damaged")
    store.put(WEIGHTS, b"damage!")
    store.delete(paths.ledger_entry("tills", 1))
    store.delete(paths.alias_confirmation("tills", 1))
    assert restored(tmp_path / "b.tar") == 0
    assert all_objects(place) == after


def test_another_decision_in_the_place_of_one_is_kept_unless_by_name(
    place: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after nights that went on in an empty store."""
    write_backup(place, str(tmp_path / "b.tar"), quiet)
    before = Ledger(open_store(place.store), "tills").by_digest()
    shutil.rmtree(place.store)
    store = open_store(place.store)
    for number in (1, 2, 3, 4):
        append(store, number, reason="another way")
    other = all_objects(place)
    assert restored(tmp_path / "b.tar") == 2
    assert "retrain restore" not in (said := capsys.readouterr().err) and "--replace tills" in said
    assert all_objects(place) == other
    assert restored(tmp_path / "b.tar", "--replace", "nobody") == 2
    assert restored(tmp_path / "b.tar", "--replace", "tills") == 0
    assert Ledger(store, "tills").by_digest() == before
    aside = {key.split("/", 2)[2]: data for key, data in all_objects(place).items() if key.startswith("replaced/")}
    assert {key: data for key, data in other.items() if key in aside} == aside, "nothing is lost"
    assert len(aside) == 4


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    at = data.index(b"a report")
    return data[:at] + b"b" + data[at + 1 :]


def without_end(data: bytes) -> bytes:
    return data[: data.index(b"index.json")]


def of_a_later_format(data: bytes) -> bytes:
    return data.replace(b'"format":1', b'"format":2')


def with_a_stranger(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("manifest.json", "../../evil"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return buffer.getvalue()


@pytest.mark.parametrize("spoil", [cut, flipped, without_end, of_a_later_format, with_a_stranger, lambda data: b"text"])
def test_a_file_that_is_no_whole_backup_changes_nothing(
    place: Settings, tmp_path: Path, spoil: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    write_backup(place, str(tmp_path / "b.tar"), quiet)
    (tmp_path / "b.tar").write_bytes(spoil((tmp_path / "b.tar").read_bytes()))
    shutil.rmtree(place.store)
    assert restored(tmp_path / "b.tar") == 1
    assert str(tmp_path / "b.tar") in capsys.readouterr().err
    assert all_objects(place) == {}


@pytest.mark.parametrize("stop_after", range(1, 8))
def test_a_restore_that_was_cut_off_leaves_nothing_that_looks_whole_and_is_finished_by_the_same_command(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    write_backup(place, str(tmp_path / "b.tar"), quiet)
    before = {key: data for key, data in all_objects(place).items() if "partitions" not in key}
    shutil.rmtree(place.store)
    put, done = DiskStore.put, list[str]()

    def put_some(self: DiskStore, key: str, data: bytes) -> None:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(key)
        put(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(DiskStore, "put", put_some)
        code = restored(tmp_path / "b.tar")
    store = open_store(place.store)
    assert code == INTERRUPTED
    if store.keys("ledger"):
        with pytest.raises(Corrupt):
            Ledger(store, "tills").entries()
    assert restored(tmp_path / "b.tar") == 0
    assert all_objects(place) == before


def went_another_way(store: Any, first: int, entries: int) -> None:
    """From entry `first` on, nights took other decisions than the backup holds."""
    for number in range(first, 4):
        store.delete(paths.ledger_entry("tills", number))
        store.delete(paths.alias_confirmation("tills", number))
    for number in range(first, entries + 1):
        append(store, number, reason="another way")
        store.create(paths.alias_confirmation("tills", number), b"another")


@pytest.mark.parametrize(
    ("first", "entries"),
    [
        pytest.param(3, 4, id="the last and one more"),
        *(
            pytest.param(*ways, id=name, marks=pytest.mark.slow)
            for name, ways in {"shorter": (1, 1), "longer": (1, 5), "the last": (3, 3), "only more": (4, 6)}.items()
        ),
    ],
)
def test_a_restore_that_replaces_a_ledger_and_is_cut_off_leaves_none_that_looks_whole(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, entries: int
) -> None:
    """At every moment of it: another restore goes on, and no command takes what is left for the truth."""
    write_backup(place, str(tmp_path / "b.tar"), quiet)
    store, command = open_store(place.store), (tmp_path / "b.tar", "--replace", "tills")
    whole = Ledger(store, "tills").by_digest()
    kept = all_objects(place)
    steps = 0
    while True:
        shutil.rmtree(place.store)
        for key, data in kept.items():
            store.put(key, data)
        went_another_way(store, first, entries)
        store.delete(WEIGHTS)
        other = all_objects(place)
        with monkeypatch.context() as patch:
            code = stopped_after(patch, steps, command)
        if code == 0:
            break
        assert code == INTERRUPTED
        if all_objects(place) != other:
            with pytest.raises(Corrupt, match="retrain restore FILE --replace tills"):
                Ledger(store, "tills").head()
            with pytest.raises(Corrupt, match="was cut off"):
                write_backup(place, str(tmp_path / "c.tar"), quiet)
            assert restored(tmp_path / "b.tar") == 2
        assert restored(*command) == 0
        assert_replaced(place, whole, kept, other)
        steps += 1
    assert_replaced(place, whole, kept, other)
    assert steps > 3


def stopped_after(patch: pytest.MonkeyPatch, steps: int, command: tuple[Any, ...]) -> int:
    """The command's answer, where it is killed after so many changes of the store."""
    done = list[str]()

    def counting(change: Any) -> Any:
        def counted(self: DiskStore, key: str, *data: bytes) -> None:
            if len(done) == steps:
                raise KeyboardInterrupt
            done.append(key)
            change(self, key, *data)

        return counted

    patch.setattr(DiskStore, "put", counting(DiskStore.put))
    patch.setattr(DiskStore, "delete", counting(DiskStore.delete))
    return restored(*command)


def assert_replaced(
    place: Settings, whole: dict[str, Any], kept: dict[str, bytes | None], other: dict[str, bytes | None]
) -> None:
    """The ledger is the backup's, and every decision that gave way is there."""
    found = all_objects(place)
    assert Ledger(open_store(place.store), "tills").by_digest() == whole
    assert {key: data for key, data in found.items() if not key.startswith("replaced/")} == kept
    aside = {(key.split("/", 2)[2], data) for key, data in found.items() if key.startswith("replaced/")}
    given_way = {(key, data) for key, data in other.items() if key.startswith(("ledger/", "aliases/"))}
    assert given_way - kept.items() <= aside
    assert aside <= other.items()


@pytest.mark.parametrize("lock", ["up.lock", "tills", "tills.2024-03-01"])
def test_nothing_is_restored_while_something_runs(place: Settings, tmp_path: Path, lock: str) -> None:
    write_backup(place, str(tmp_path / "b.tar"), quiet)
    shutil.rmtree(place.store)
    path = place.home / lock if lock == "up.lock" else run_lock(place.home, lock)
    with held_lock(path, 0, Busy("free", "held", "wait")):
        assert restored(tmp_path / "b.tar") == 1
    assert all_objects(place) == {}
    assert main(["restore", str(tmp_path / "b.tar")]) == 2, "nobody was asked"


def test_use_cases_of_ones_own_are_in_it_and_come_back_where_they_are_gone(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    kept = {"use_cases/tills.py": "USE_CASE = 1", "expectations/tills.json": "{}", "learners.py": "x = 1"}
    never = {".env": "PASSWORD=1", ".git/a.py": "", "data/rows.csv": "1", "venv/pyvenv.cfg": "", "venv/lib.py": "1"}
    for name, text in {**kept, **never}.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    monkeypatch.setenv("RETRAIN_PROJECT", str(project))
    write_backup(Settings.from_environment(), str(tmp_path / "b.tar"), quiet)
    assert {n.removeprefix("project/") for n in members(tmp_path / "b.tar") if n.startswith("project/")} == set(kept)
    (project / "use_cases" / "tills.py").unlink()
    (project / "learners.py").write_text("x = 2")
    assert restored(tmp_path / "b.tar") == 0
    assert (project / "use_cases" / "tills.py").read_text() == "USE_CASE = 1"
    assert (project / "learners.py").read_text() == "x = 2", "what differs is newer"
    monkeypatch.delenv("RETRAIN_PROJECT")
    assert restored(tmp_path / "b.tar") == 0


# Databases alone.


def test_a_database_is_copied_while_others_write_to_it(empty_mlflow: Path, tmp_path: Path) -> None:
    """Each transaction writes two rows: a copy never has one of them only."""
    source, stop = Path(shutil.copy(empty_mlflow, tmp_path / "mlflow.db")), threading.Event()

    def write() -> None:
        with sqlite3.connect(source, timeout=30) as database:
            number = 0
            while not stop.is_set():
                number += 1
                for half in "ab":
                    insert = "INSERT INTO experiment_tags (key, value, experiment_id) VALUES (?, '', 0)"
                    database.execute(insert, (f"{number}{half}",))
                database.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts = []
        for number in range(5):
            copy_database("mlflow", source, tmp_path / f"{number}.db")
            with sqlite3.connect(tmp_path / f"{number}.db") as copy:
                counts.append(copy.execute("SELECT count(*) FROM experiment_tags").fetchone()[0])
    finally:
        stop.set()
        writer.join()
    assert all(count % 2 == 0 for count in counts)
    assert counts[-1] > 0


def test_secrets_of_prefect_never_enter_a_copy(prefect: str, home: Path, tmp_path: Path) -> None:
    """A webhook's address is in a block, encrypted, and its key in the same database: neither may be in the file."""
    from datetime import timedelta

    from prefect.client.orchestration import get_client

    from deployments.prefect import alerts

    source, secret = home / "prefect" / "prefect.db", "https://hooks.example/T0/B0/hunter2"
    with get_client(sync_client=True) as client:
        alerts.set_up(client, secret, 7, timedelta(hours=36))
        try:
            assert copy_database("prefect", source, tmp_path / "prefect.db")
        finally:
            alerts.remove(client)
    with sqlite3.connect(tmp_path / "prefect.db") as copy:
        for table in ("block_document", "configuration", "automation", "automation_related_resource"):
            assert copy.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
        assert copy.execute("SELECT count(*) FROM block_type").fetchone()[0] > 0
    with sqlite3.connect(source) as live:
        known = [value for (value,) in live.execute("SELECT value FROM configuration WHERE key = 'ENCRYPTION_KEY'")]
    data = (tmp_path / "prefect.db").read_bytes()
    assert known and not any(str(value).encode() in data for value in known)


def test_a_copied_prefect_comes_back_where_its_database_is_lost(
    place: Settings, prefect: str, home: Path, tmp_path: Path
) -> None:
    file = place.home / "prefect" / "prefect.db"
    file.parent.mkdir()
    copy_database("prefect", home / "prefect" / "prefect.db", file)
    with sqlite3.connect(file) as database:
        database.execute("DELETE FROM flow_run")
        database.execute("INSERT INTO flow (id, name, tags, labels) VALUES ('1', 'nightly', '[]', '{}')")
        database.execute(
            "INSERT INTO flow_run (id, flow_id, name, run_count, auto_scheduled, total_run_time, tags, parameters,"
            " context, empirical_policy, labels) VALUES ('1', '1', 'a night', 1, 0, 0, '[]', '{}', '{}', '{}', '{}')"
        )
    write_backup(place, str(tmp_path / "b.tar"), quiet)
    (file.parent / "prefect.db-wal").write_bytes(b"of another database")
    file.write_bytes(b"damaged")
    assert restored(tmp_path / "b.tar") == 0
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT name FROM flow_run").fetchall() == [("a night",)]
    assert any(path.name.startswith("prefect.db.replaced-") for path in file.parent.iterdir())
    assert not is_lost("prefect", file)


@pytest.mark.parametrize(
    ("old", "new", "at", "then"),
    [
        ("/a/store", "s3://b/p", "/a/store/mlflow/r/artifacts", "s3://b/p/mlflow/r/artifacts"),
        ("/a/store", "/b", "/a/store/mlflow", "/b/mlflow"),
        ("/a/store", "/b", "file:///a/store/mlflow", "file:///b/mlflow"),
        ("/a/store", "/b", "/a/store2/mlflow", "/a/store2/mlflow"),
        ("/a/store", "/b", "/x/a/store/mlflow", "/x/a/store/mlflow"),
        ("s3://b/p", "/b", "s3://b/p/mlflow", "/b/mlflow"),
        ("s3://b/p", "/b", "s3://b/pq", "s3://b/pq"),
    ],
)
def test_addresses_below_the_old_store_and_no_others_are_changed(
    empty_mlflow: Path, tmp_path: Path, old: str, new: str, at: str, then: str
) -> None:
    file = Path(shutil.copy(empty_mlflow, tmp_path / "mlflow.db"))
    with sqlite3.connect(file) as database:
        database.execute("UPDATE experiments SET artifact_location = ?", (at,))
    relocate(file, old, new)
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT artifact_location FROM experiments").fetchall() == [(then,)]


def test_every_table_and_column_that_is_named_here_is_in_the_databases_of_today(
    empty_mlflow: Path, prefect: str, home: Path
) -> None:
    """A renamed one would be passed over, and a secret with it."""
    for name, file in {"mlflow": empty_mlflow, "prefect": home / "prefect" / "prefect.db"}.items():
        with sqlite3.connect(file) as database:
            for statement in databases.SECRETS[name]:
                database.execute(f"EXPLAIN {statement}")
            for table in (*databases.USED[name], *databases.HOLDERS[name]):
                database.execute(f"SELECT 1 FROM {table}")
            for table, column in databases.LOCATIONS if name == "mlflow" else ():
                database.execute(f"SELECT {column} FROM {table}")
