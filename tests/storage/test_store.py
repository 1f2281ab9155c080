"""The store on disk: whole objects or none, one winner, no way out of its folder."""

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from ml.errors import ConfigError, Corrupt, StoreUnavailable, UsageError
from ml.storage import paths
from ml.storage.records import FileRef
from ml.storage.store import DiskStore, Store, get_file, open_store, put_file

BAD_KEYS = ["", "/etc/passwd", "a/../b", "..", "a/..", "./a", "a//b", "a/", "a\\b", "a\nb", "a\x00b", "a\x7f", "é"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_is_put_is_read_back_and_can_be_replaced(store: Store) -> None:
    assert store.get("a/b") is None
    store.put("a/b", b"one")
    store.put("a/b", b"two")
    assert store.get("a/b") == b"two"
    assert store.get("a") is None


def test_create_happens_once(store: Store) -> None:
    assert store.create("a", b"first") is True
    assert store.create("a", b"second") is False
    assert store.create("a", b"first") is True, "what is there is what was to be there"
    assert store.get("a") == b"first"


@pytest.mark.parametrize("turn", range(3))
def test_of_many_creators_one_wins_and_the_object_is_whole(store: Store, tmp_path: Path, turn: int) -> None:
    start = Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        return store.create("ledger/one", bytes([number]) * 200_000)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert store.get("ledger/one") == bytes([won.index(True)]) * 200_000
    assert files(tmp_path) == ["store/ledger/one"]


def test_a_reader_sees_whole_objects_while_they_are_replaced(store: Store) -> None:
    store.put("a", b"0" * 100_000)
    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(store.put, "a", bytes([48 + n % 10]) * 100_000) for n in range(20)]
        seen = [store.get("a") for _ in range(60)]
        for future in writing:
            future.result()
    assert {len(data or b"") for data in seen} == {100_000}
    assert all(len(set(data or b"")) == 1 for data in seen)


def test_keys_are_sorted_and_those_of_the_folder_only(store: Store) -> None:
    for key in ("a/2", "a/10", "a/b/1", "ab/1", "b"):
        store.put(key, b"")
    assert store.keys("a") == ["a/10", "a/2", "a/b/1"]
    assert store.keys("nothing") == []


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_could_leave_the_store_is_refused(store: Store, tmp_path: Path, key: str) -> None:
    for work in (store.get, lambda k: store.put(k, b"x"), lambda k: store.create(k, b"x"), store.keys):
        with pytest.raises(UsageError) as caught:
            work(key)
        assert repr(key) in str(caught.value)
    assert files(tmp_path) == []


def test_every_path_we_spell_is_a_safe_key() -> None:
    digest = "0" * 64
    spelt = [
        paths.manifest("flights", digest),
        paths.partition_result("flights", "verdict", digest),
        paths.months("flights", "verdict"),
        paths.quarantine("flights", digest),
        paths.cleaned_rows("flights", digest),
        paths.stage("flights", "split", digest),
        paths.stage_file("flights", "split", digest, "encoder.json"),
        paths.mlflow_root(),
        paths.model_folder("run"),
        paths.ledger_entry("flights", 12),
        paths.published("flights", 12),
        paths.alias_confirmation("flights", 12),
    ]
    assert [paths.safe_key(key) for key in spelt] == spelt
    assert len(set(spelt)) == len(spelt)
    assert paths.ledger_entry("flights", 9) < paths.ledger_entry("flights", 10)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize(("method", "call"), [("replace", "put"), ("hardlink_to", "create")])
def test_a_write_that_fails_leaves_nothing_half_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, call: str, replaced: bool
) -> None:
    if replaced:
        store.put("a/b", b"before")

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, fail)
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            getattr(store, call)("a/b", b"after")
    assert files(tmp_path) == (["store/a/b"] if replaced else [])
    assert store.get("a/b") == (b"before" if replaced else None)


def test_a_disk_that_fills_up_while_writing_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StoreUnavailable):
        store.create("a", b"data")
    assert files(tmp_path) == []


def test_a_store_that_is_no_folder_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = DiskStore(tmp_path / "file")
    for work in (
        lambda: store.put("a", b""),
        lambda: store.create("a", b""),
        lambda: store.get("a"),
        lambda: store.delete("a"),
        lambda: store.keys("a"),
        lambda: store.sizes(),
    ):
        with pytest.raises(ConfigError) as caught:
            work()
        assert str(tmp_path / "file") in str(caught.value)


def test_a_file_is_read_back_only_as_it_was_written(store: Store) -> None:
    file = put_file(store, "a/model", b"weights")
    assert file == FileRef(key="a/model", size=7, digest=sha256(b"weights").hexdigest())
    assert get_file(store, file) == b"weights"
    store.put("a/model", b"Weights")
    with pytest.raises(Corrupt, match="a/model must have SHA-256"):
        get_file(store, file)
    with pytest.raises(Corrupt, match="it is gone"):
        get_file(store, FileRef(key="a/other", size=7, digest=file.digest))


@pytest.mark.parametrize("uri", ["gs://bucket", "http://server/path", "s3://", "s3://bucket/../other"])
def test_a_place_of_another_kind_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="RETRAIN_STORE"):
        open_store(uri)
