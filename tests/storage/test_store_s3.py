"""What every store promises, on disk and on a real S3 server."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from deployments.commands.doctor import _store as checked_by_doctor
from ml.errors import ConfigError, UsageError
from ml.storage.store import S3Store, Store, get_file, open_store, put_file
from tests.s3_server import BUCKET, S3Server


@pytest.fixture
def s3_store(s3: S3Server) -> S3Store:
    return S3Store(BUCKET, uuid4().hex)


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return request.getfixturevalue("s3_store") if request.param == "s3" else open_store(str(tmp_path / "store"))


def test_what_was_put_is_read_and_what_was_not_is_none(store: Store) -> None:
    assert store.get("a/b.json") is None
    store.put("a/b.json", b"1")
    store.put("a/b.json", b"2")
    store.put("a/empty", b"")
    assert (store.get("a/b.json"), store.get("a/empty"), store.get("a")) == (b"2", b"", None)


def test_the_doctor_finds_nothing_wrong_with_it(store: Store) -> None:
    assert list(checked_by_doctor(store)) == []
    assert store.keys("doctor") == []


def test_what_was_created_is_never_replaced(store: Store) -> None:
    assert store.create("ledger/1.json", b"first") is True
    assert store.create("ledger/1.json", b"second") is False
    assert store.create("ledger/1.json", b"first") is True, "what is there is what was to be there"
    assert store.get("ledger/1.json") == b"first"


def test_of_eight_creators_at_once_one_wins_and_its_bytes_stay(store: Store) -> None:
    store.put("warm", b"")
    for number in range(2):
        start = threading.Barrier(8)

        def create(writer: int, key: str = f"race/{number}", start: threading.Barrier = start) -> bool:
            start.wait()
            return store.create(key, f"writer {writer}".encode())

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert won.count(True) == 1
        assert store.get(f"race/{number}") == f"writer {won.index(True)}".encode()


def test_keys_are_those_of_one_folder_sorted(store: Store) -> None:
    for key in ("b/2", "b/1/x", "b/10", "bb/1", "a/1"):
        store.put(key, b"1")
    assert store.keys("b") == ["b/1/x", "b/10", "b/2"]
    assert store.keys("b/1") == ["b/1/x"]
    assert store.keys("c") == []


def test_sizes_are_those_of_one_folder_or_of_all(store: Store) -> None:
    assert store.sizes() == store.sizes("b") == {}
    store.put("a/1", b"12345")
    store.put("b/1", b"123")
    store.put("b/1", b"1")
    store.put("b/c/1", b"")
    store.put("bb", b"12")
    assert store.sizes() == {"a/1": 5, "b/1": 1, "b/c/1": 0, "bb": 2}
    assert store.sizes("b") == {"b/1": 1, "b/c/1": 0}


def test_many_are_read_in_the_order_that_was_asked_for(store: Store) -> None:
    for number in range(20):
        store.put(f"many/{number}", str(number).encode())
    asked = [f"many/{number}" for number in (19, 3, 20, 3, *range(20))]
    assert store.get_many(asked) == [b"19", b"3", None, b"3", *(str(number).encode() for number in range(20))]
    assert store.get_many([]) == []


def test_what_was_deleted_is_gone_and_can_be_created_again(store: Store) -> None:
    store.put("a/b/1", b"1")
    store.put("a/b/2", b"2")
    for _ in range(2):
        store.delete("a/b/1")
        assert (store.get("a/b/1"), store.keys("a")) == (None, ["a/b/2"])
    store.delete("a")
    store.delete("nothing/here")
    assert store.sizes() == {"a/b/2": 1}
    assert store.create("a/b/1", b"3") is True


def test_a_file_comes_back_with_its_digest(store: Store) -> None:
    data = os.urandom(200_000)
    assert get_file(store, put_file(store, "a/file", data)) == data


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\\b", "a\nb", "ä"])
def test_a_key_that_could_leave_the_store_is_refused(store: Store, key: str) -> None:
    for call in (
        store.get,
        store.keys,
        store.delete,
        lambda k: store.get_many([k]),
        lambda k: store.put(k, b"1"),
        lambda k: store.create(k, b"1"),
    ):
        with pytest.raises(UsageError, match="plain parts"):
            call(key)
    if key:
        with pytest.raises(UsageError, match="plain parts"):
            store.sizes(key)
    assert store.sizes() == {}


def test_more_keys_than_a_page_of_a_listing_holds(s3_store: S3Store) -> None:
    def ask_for_few(params: dict[str, object], **more: object) -> None:
        params["MaxKeys"] = 3

    s3_store.client.meta.events.register("before-parameter-build.s3.ListObjectsV2", ask_for_few)
    for number in range(10):
        s3_store.put(f"many/{number}", b"1")
    assert s3_store.keys("many") == [f"many/{number}" for number in range(10)]
    assert sum(s3_store.sizes().values()) == 10


def test_a_prefix_hides_what_lies_outside_it(s3: S3Server) -> None:
    inside, beside, around = (open_store(f"s3://{BUCKET}/{place}") for place in ("team/a", "team/ab", "team"))
    inside.put("x/1", b"1")
    beside.put("x/2", b"22")
    assert (inside.keys("x"), sum(inside.sizes().values()), inside.get("x/2")) == (["x/1"], 1, None)
    assert around.keys("a") == ["a/x/1"]
    assert open_store(f"s3://{BUCKET}").get("team/a/x/1") == b"1"


@pytest.mark.parametrize(
    ("given", "uri"),
    [(f"s3://{BUCKET}/", f"s3://{BUCKET}"), (f"s3://{BUCKET}/team/b/", f"s3://{BUCKET}/team/b")],
)
def test_a_last_slash_changes_no_key(s3: S3Server, given: str, uri: str) -> None:
    store = open_store(given)
    store.put("slash/1", b"1")
    assert store.uri == uri
    key = f"{uri}/slash/1".removeprefix(f"s3://{BUCKET}/")
    assert s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"1"


@pytest.mark.parametrize(
    "uri",
    ["s3://", "s3:///prefix", "s3://b//prefix", "s3://b/../c", "s3://b/p?x=1", "s3://b/p#x", "s3://k:s@b/p", "gs://b"],
)
def test_an_address_that_is_no_place_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="RETRAIN_STORE is a folder or s3://bucket/prefix"):
        open_store(uri)


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("here")
    store.put("a", b"1")
    monkeypatch.chdir("/")
    assert store.get("a") == b"1"
