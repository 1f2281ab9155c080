"""What a disk does wrong: it is full, it may not be written, a writer is killed, the power goes."""

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ml.errors import ConfigError, StoreUnavailable
from ml.storage.store import DiskStore

NOBODY = 65534
ROOT = os.geteuid() == 0


@contextmanager
def mounted(options: str) -> Iterator[Path]:
    """A file system of its own, where we may mount one."""
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("mounting is not allowed here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may do everything: what is inside is done by nobody."""
    if ROOT:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if ROOT:
            os.seteuid(0)


@pytest.fixture
def store() -> Iterator[DiskStore]:
    """A store that nobody's process can reach too."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield DiskStore(Path(folder) / "store")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("call", ["put", "create"])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(call: str) -> None:
    with mounted("size=256k") as folder:
        store = DiskStore(folder)
        store.put("a/there", b"before")
        for key in ("a/there", "a/new") if call == "put" else ("a/new",):
            with pytest.raises(StoreUnavailable) as caught:
                getattr(store, call)(key, os.urandom(500_000))
            assert str(caught.value) == (
                f"the store {folder} must be readable and writable, but No space left on device: free some space."
            )
        assert files(folder) == ["a/there"]
        assert (store.get("a/there"), store.get("a/new")) == (b"before", None)
        assert getattr(store, call)("a/new", b"small") is (True if call == "create" else None)


def test_a_file_system_that_may_only_be_read_is_read() -> None:
    with mounted("size=256k") as folder:
        store = DiskStore(folder)
        store.put("a/there", b"1")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert (store.get("a/there"), store.get("a/none"), store.keys("a")) == (b"1", None, ["a/there"])
        for write in (
            lambda: store.put("a/there", b"2"),
            lambda: store.create("new/a", b"2"),
            lambda: store.delete("a/there"),
        ):
            with pytest.raises(ConfigError, match=r"Read-only file system at .*: give access"):
                write()
        assert store.get("a/there") == b"1"


def test_a_folder_that_may_not_be_written_is_said_at_once(store: DiskStore) -> None:
    store.put("a/there", b"1")
    (store.root / "a").chmod(0o555)
    with unprivileged():
        for write in (
            lambda: store.put("a/there", b"2"),
            lambda: store.create("a/new", b"2"),
            lambda: store.delete("a/there"),
        ):
            with pytest.raises(ConfigError, match="a folder that we may read and write, but Permission denied at"):
                write()
        assert (store.get("a/there"), store.keys("a")) == (b"1", ["a/there"])
    (store.root / "a").chmod(0o755)


def test_a_folder_that_may_not_be_read_is_never_taken_for_an_empty_one(store: DiskStore) -> None:
    store.put("a/b/there", b"1")
    (store.root / "a" / "b").chmod(0)
    with unprivileged():
        for read in (
            lambda: store.get("a/b/there"),
            lambda: store.keys("a"),
            lambda: store.keys("a/b"),
            store.sizes,
            store.leftovers,
        ):
            with pytest.raises(ConfigError, match="Permission denied"):
                read()
    (store.root / "a" / "b").chmod(0o755)


@pytest.mark.parametrize("call", ["put", "create"])
def test_a_writer_that_is_killed_leaves_no_object_and_what_it_leaves_is_found(store: DiskStore, call: str) -> None:
    store.put("a/there", b"1")
    child = os.fork()
    if child == 0:  # in the middle of its write
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
        getattr(store, call)("a/new", b"2" * 1000)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert (store.get("a/new"), store.sizes()) == (None, {"a/there": 1})
    assert store.leftovers() == []
    [name] = store.leftovers(0)
    assert name.startswith("a/.writing-")
    an_hour_ago = time.time() - 3601
    os.utime(store.root / name, (an_hour_ago, an_hour_ago))
    assert store.leftovers() == [name]
    assert store.create("a/new", b"2") is True
    for _ in range(2):
        store.delete_leftover(name)
    assert (store.leftovers(0), store.sizes()) == ([], {"a/new": 1, "a/there": 1})


@pytest.mark.parametrize("call", ["put", "create"])
def test_a_write_that_returned_outlives_a_loss_of_power(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Its bytes are synchronised before it has a name, then its name, and those of the folders that are new."""
    synced: list[tuple[str, bool]] = []
    written = store.root / "ledger" / "shop" / "1"

    def note(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        synced.append((kind, written.exists()))

    monkeypatch.setattr(os, "fsync", note)
    getattr(store, call)("ledger/shop/1", b"1")
    assert synced == [("file", False), *[("folder", True)] * 3]


def test_a_file_that_goes_while_it_is_listed_is_not_listed(store: DiskStore) -> None:
    store.put("a/there", b"1")
    (store.root / "a" / "gone").symlink_to("nowhere")
    assert store.sizes() == {"a/there": 1}


def test_what_a_link_names_again_is_listed_once_and_not_deleted_under_its_other_name(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "store")
    store.put("mlflow/one/artifacts/model", b"files")
    for _ in range(2):
        store.link("mlflow/two", "mlflow/one")
    assert (tmp_path / "store" / "mlflow" / "two" / "artifacts" / "model").read_bytes() == b"files"
    assert store.keys("mlflow") == ["mlflow/one/artifacts/model"]
    assert store.keys("mlflow/two") == store.keys("mlflow/two/artifacts") == []
    store.delete("mlflow/two")
    assert store.get("mlflow/one/artifacts/model") == b"files"
    assert not (tmp_path / "store" / "mlflow" / "two").is_symlink()


def test_a_store_may_be_a_link_or_have_folders_elsewhere(tmp_path: Path) -> None:
    for name in ("disk", "larger"):
        (tmp_path / name).mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "mlflow").symlink_to(tmp_path / "larger")
    store = DiskStore(tmp_path / "store")
    store.put("mlflow/one", b"files")
    assert store.keys("mlflow") == list(store.sizes()) == ["mlflow/one"]
