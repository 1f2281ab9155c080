"""Resuming: a whole handle is kept, anything less is made again, and of two makers the first wins."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml.storage.kept import Kept
from ml.storage.records import FileRef, Handle
from ml.storage.store import Store, open_store, put_file

KEY = "stages/tills/split/key.json"


@dataclass(frozen=True, kw_only=True)
class Inner:
    files: tuple[FileRef, ...]


@dataclass(frozen=True, kw_only=True)
class Made(Handle):
    name: str
    file: FileRef
    more: dict[str, Inner]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def results(store: Store) -> Kept[Made]:
    return Kept(store, Made, lambda key: key)


class Maker:
    """Makes a handle with three files, and counts how often."""

    def __init__(self, store: Store) -> None:
        self.store, self.calls = store, 0

    def __call__(self) -> Made:
        self.calls += 1
        near, deep = (put_file(self.store, f"files/{name}", name.encode()) for name in ("near", "deep"))
        return Made(name=f"call {self.calls}", file=near, more={"x": Inner(files=(deep,))})


def test_a_kept_handle_is_returned_without_making_it(store: Store) -> None:
    maker = Maker(store)
    first, kept = results(store).resume_or_make(KEY, maker)
    assert (first.name, kept, maker.calls) == ("call 1", False, 1)
    assert results(store).resume_or_make(KEY, maker) == (first, True)
    assert maker.calls == 1
    assert results(store).resume_or_make("stages/tills/split/other.json", maker)[1] is False


def remove(store: Store, name: str) -> None:
    (Path(store.uri) / name).unlink()


def flip(store: Store, name: str) -> None:
    data = bytearray(store.get(name) or b"")
    data[1] ^= 1
    store.put(name, bytes(data))


def cut(store: Store, name: str) -> None:
    store.put(name, (store.get(name) or b"")[:-3])


SPOILT: list[tuple[Callable[[Store, str], None], str]] = [
    (flip, "files/near"),
    (flip, "files/deep"),
    (remove, "files/near"),
    (remove, "files/deep"),
    (cut, KEY),
    (remove, KEY),
    (lambda store, name: store.put(name, b"[]"), KEY),
    (lambda store, name: store.put(name, b"\xff"), KEY),
]


@pytest.mark.parametrize(("spoil", "name"), SPOILT)
def test_what_is_not_whole_is_made_again_and_kept(store: Store, spoil: Callable[[Store, str], None], name: str) -> None:
    maker = Maker(store)
    results(store).resume_or_make(KEY, maker)
    spoil(store, name)
    again, kept = results(store).resume_or_make(KEY, maker)
    assert (again.name, kept) in {("call 2", False), ("call 1", True)}
    assert maker.calls == 2
    assert store.get("files/near") == b"near"
    assert store.get("files/deep") == b"deep"
    assert results(store).resume_or_make(KEY, maker) == (again, True)


def test_of_two_makers_the_first_to_keep_its_handle_wins(store: Store) -> None:
    slow = Maker(store)

    def while_another_is_faster() -> Made:
        results(store).resume_or_make(KEY, Maker(store))
        return Made(name="late", file=slow().file, more={})

    handle, kept = results(store).resume_or_make(KEY, while_another_is_faster)
    assert (handle.name, kept) == ("call 1", True)
    assert results(store).resume_or_make(KEY, slow)[0].name == "call 1"


def test_an_error_while_making_keeps_nothing(store: Store) -> None:
    def fail() -> Made:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        results(store).resume_or_make(KEY, fail)
    assert store.get(KEY) is None
