"""What every store promises, on disk and on a real S3 server; and what only S3 can do wrong."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

import ml.store
from ml.errors import ConfigError, StoreUnavailable, UsageError
from ml.store import Store, get_file, open_store, put_file
from tests.s3_server import BUCKET, S3Server, free_ports, line_to

CALLS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("a/b"),
    "put": lambda store: store.put("a/b", b"1"),
    "create": lambda store: store.create("a/b", b"1"),
    "keys": lambda store: store.keys("a"),
    "get_many": lambda store: store.get_many(["a/b", "a/c"]),
    "delete": lambda store: store.delete("a/b"),
    "sizes": lambda store: store.sizes(),
}


@pytest.fixture
def s3_store(s3: S3Server) -> Store:
    return open_store(f"s3://{BUCKET}/{uuid4().hex}")


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return request.getfixturevalue("s3_store") if request.param == "s3" else open_store(str(tmp_path / "store"))


def test_what_was_put_is_read_and_what_was_not_is_none(store: Store) -> None:
    assert store.get("a/b.json") is None
    store.put("a/b.json", b"1")
    store.put("a/b.json", b"2")
    store.put("a/empty", b"")
    assert (store.get("a/b.json"), store.get("a/empty"), store.get("a")) == (b"2", b"", None)


def test_what_was_created_is_never_replaced(store: Store) -> None:
    assert store.create("ledger/1.json", b"first") is True
    assert store.create("ledger/1.json", b"second") is False
    assert store.create("ledger/1.json", b"first") is False
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


def test_more_keys_than_a_page_of_a_listing_holds(s3_store: Store) -> None:
    expected = [f"many/{number:04}" for number in range(1005)]
    s3_store.put("many/0000", b"1")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3_store.put(key, b"1"), expected))
    assert s3_store.keys("many") == expected
    assert sum(s3_store.sizes().values()) == 1005


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


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_missing_bucket_is_an_error_and_never_nothing(s3: S3Server, call: Callable[[Store], object]) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        call(open_store("s3://no-such-bucket/p"))
    assert_one_sentence(caught.value, "the store s3://no-such-bucket/p must answer", "NoSuchBucket")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "nobody", "InvalidAccessKeyId"),
        ("AWS_ACCESS_KEY_ID", None, "credentials"),
    ],
)
def test_wrong_credentials_are_an_error_and_never_nothing(
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Store], object],
    name: str,
    value: str | None,
    seen: str,
) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it saw first
    monkeypatch.delenv(name)
    if value is None:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnavailable) as caught:
        call(open_store(f"s3://{BUCKET}/p"))
    assert_one_sentence(caught.value, f"the store s3://{BUCKET}/p must answer", seen)


@pytest.mark.parametrize("name", ["get", "create"])
def test_a_server_that_is_away_is_an_error_and_never_nothing(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StoreUnavailable) as caught:
        CALLS[name](open_store(f"s3://{BUCKET}/p"))
    assert_one_sentence(caught.value, f"the store s3://{BUCKET}/p must answer", "Could not connect")


def test_a_page_of_something_else_is_an_error_and_never_nothing(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway before S3 answers 404 where a server is down; only S3's own NoSuchKey says that there is none."""
    with line_to(s3.endpoint) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.endpoint)
        store = open_store(f"s3://{BUCKET}/gateway")
        assert store.get("a") is None
        for page in (b"<html>404</html>", b""):
            line.answered = lambda request, body, page=page: page
            with pytest.raises(StoreUnavailable):
                store.get("a")


def test_a_creation_whose_answer_was_lost_is_known_as_ones_own(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[str] = []

    def lose_first_put(request: str, body: bytes) -> bytes | None:
        if request.startswith("PUT") and not lost:
            lost.append(request)
            return None
        return body

    with line_to(s3.endpoint) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.endpoint)
        store = open_store(f"s3://{BUCKET}/{uuid4().hex}")
        line.answered = lose_first_put
        assert store.create("ledger/1", b"mine") is True
        lost.clear()
        assert store.create("ledger/1", b"another's") is False
        assert store.get("ledger/1") == b"mine"
    assert len(lost) == 1


def test_a_byte_that_changes_on_its_way_is_noticed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with line_to(s3.endpoint) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.endpoint)
        store = open_store(f"s3://{BUCKET}/{uuid4().hex}")
        line.sent = lambda request, body: body.replace(b"true", b"trve")
        with pytest.raises(StoreUnavailable):
            store.put("a", b"is it true?")
        assert store.get("a") is None
        line.sent = lambda request, body: body
        store.put("a", b"is it true?")
        line.answered = lambda request, body: body.replace(b"true", b"trve")
        with pytest.raises(StoreUnavailable, match="checksum"):
            store.get("a")


def test_a_large_object_goes_in_parts(s3: S3Server, s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ml.store, "MULTIPART_BYTES", 9 * 1024**2)
    for size, parts in ((20 * 1024**2, "3"), (ml.store.MULTIPART_BYTES - 1, "")):
        data = os.urandom(size)
        s3_store.put("large", data)
        assert s3_store.get("large") == data
        key = f"{s3_store.uri}/large".removeprefix(f"s3://{BUCKET}/")
        checksum = s3.client().head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")["ChecksumCRC32"]
        assert checksum.partition("-")[2] == parts
    assert sum(s3_store.sizes().values()) == ml.store.MULTIPART_BYTES - 1


def assert_one_sentence(error: StoreUnavailable, rule: str, seen: str) -> None:
    assert error.rule == rule
    assert seen in error.value
    assert "\n" not in str(error) and str(error).count(": check the bucket") == 1
