"""What S3 does wrong, on a real server behind a proxy: an answer after all or one sentence, and never a wrong one."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError

from ml.errors import ConfigError, RetrainError, StoreUnavailable
from ml.storage.ledger import Ledger, next_after
from ml.storage.s3_errors import in_words
from ml.storage.store import MULTIPART_BYTES, S3Store, Store
from tests import s3_proxy
from tests.s3_proxy import Fault, Proxy, page, proxy_to, say
from tests.s3_server import BUCKET, S3Server, free_ports
from tests.storage.test_ledger import entry

LARGE = os.urandom(MULTIPART_BYTES + 1)
VALUE = b"is it true? " * 100
CALLS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("a/there"),
    "get what is not there": lambda store: store.get("a/none"),
    "get_many": lambda store: store.get_many(["a/there", "a/none"]),
    "put": lambda store: store.put("b/put", VALUE),
    "create": lambda store: store.create("b/created", VALUE),
    "create what is there": lambda store: store.create("a/there", b"another's"),
    "keys": lambda store: store.keys("a"),
    "sizes": lambda store: store.sizes(),
    "delete": lambda store: store.delete("a/old"),
}
RIGHT: dict[str, object] = {
    "get": VALUE,
    "get what is not there": None,
    "get_many": [VALUE, None],
    "put": None,
    "create": True,
    "create what is there": False,
    "keys": ["a/old", "a/there"],
    "sizes": {"a/old": 1, "a/there": len(VALUE)},
    "delete": None,
}
FAULTS: dict[str, Fault] = {
    "answer lost": s3_proxy.lose_answer,
    "reset in the request": s3_proxy.reset_request,
    "reset in the answer": s3_proxy.reset_answer,
    "answer cut": s3_proxy.cut_answer,
    "byte changed in the request": s3_proxy.flip_request,
    "byte changed in the answer": s3_proxy.flip_answer,
    "slow": s3_proxy.slow,
    "500": say(500, "InternalError"),
    "503": say(503, "ServiceUnavailable"),
    "SlowDown": say(503, "SlowDown"),
    "409": say(409, "ConditionalRequestConflict"),
    "bad gateway": page(502, b"<html>Bad gateway</html>"),
    "gateway's 404": page(404, b"<html>Not found</html>"),
    "empty 404": page(404, b""),
}


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with proxy_to(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def client(proxy: Proxy) -> Any:
    """The store's own client, made once, as that takes most of a test's time; it never tires of trying again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        patch.setattr("botocore.retries.standard.RetryQuotaChecker.acquire_retry_quota", lambda self, context: True)
        yield S3Store(BUCKET, "").client


@pytest.fixture
def store(proxy: Proxy, client: Any, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A store behind the proxy, which pauses only as long as a test can bear."""
    proxy.fault = s3_proxy.hand_on
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0)
    monkeypatch.setattr("ml.storage.store.random.uniform", lambda low, high: 0.0)
    store = S3Store(BUCKET, uuid4().hex)
    vars(store)["client"] = client
    return store


def opened_anew(store: S3Store) -> S3Store:
    """The same place, by the variables as they are now."""
    return S3Store(BUCKET, store.prefix[:-1])


@pytest.fixture(scope="module")
def direct(s3: S3Server) -> Any:
    """A client that no fault meets."""
    return s3.client()


@pytest.fixture
def filled(store: S3Store, direct: Any) -> S3Store:
    for key, data in (("a/there", VALUE), ("a/old", b"1")):
        direct.put_object(Bucket=BUCKET, Key=f"{store.prefix}{key}", Body=data)
    return store


def assert_one_sentence(error: RetrainError, uri: str) -> None:
    said = str(error)
    assert uri in said and "\n" not in said and said.endswith(".")
    again = type(error)(said)  # as Prefect hands it on
    assert (again.rule, again.value, again.next_step) == (error.rule, error.value, error.next_step.rstrip("."))


def calls_under(fault: str) -> dict[str, Callable[[Store], object]]:
    """S3 sends no checksum of a listing: that nothing changes there is left to TLS. The rest shares its way."""
    left_out = {"get_many", "sizes", "delete"} | ({"keys"} if fault == "byte changed in the answer" else set())
    return {name: call for name, call in CALLS.items() if name not in left_out}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_changes_no_answer(filled: S3Store, proxy: Proxy, fault: str) -> None:
    for name, call in calls_under(fault).items():
        proxy.strike(FAULTS[fault], times=1)
        assert call(filled) == RIGHT[name], name
        assert len(proxy.struck) == 1
    assert filled.get_many(["b/put", "b/created", "a/there"]) == [VALUE] * 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_one_sentence_or_the_right_answer(filled: S3Store, proxy: Proxy, fault: str) -> None:
    failed = set()
    for name, call in calls_under(fault).items():
        proxy.strike(FAULTS[fault])
        try:
            assert call(filled) == RIGHT[name], name
        except StoreUnavailable as error:
            assert_one_sentence(error, filled.uri)
            assert error.rule == f"the store {filled.uri} must answer"
            failed.add(name)
    assert failed or fault == "slow"
    proxy.fault = s3_proxy.hand_on
    put, created, there = filled.get_many(["b/put", "b/created", "a/there"])
    assert there == VALUE and {put, created} <= {None, VALUE}


@pytest.mark.parametrize("body", [b"<html><body>Welcome</body></html>", b""])
def test_something_else_that_answers_is_no_store(filled: S3Store, proxy: Proxy, body: bytes) -> None:
    proxy.strike(page(200, body))
    for call in [*CALLS.values(), lambda store: store.put("large", LARGE)]:
        with pytest.raises(StoreUnavailable, match="must be an S3 server") as caught:
            call(filled)
        assert_one_sentence(caught.value, filled.uri)


def test_a_bucket_that_is_not_there_is_said_at_once(store: S3Store, proxy: Proxy) -> None:
    elsewhere = S3Store("no-such-bucket", "p")
    for name, call in CALLS.items():
        before = len(proxy.seen)
        with pytest.raises(ConfigError, match=r"there is no such bucket \(NoSuchBucket\): create it") as caught:
            call(elsewhere)
        assert_one_sentence(caught.value, "s3://no-such-bucket/p")
        assert len(proxy.seen) - before <= (2 if name == "get_many" else 1)


@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret key is wrong (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "the access key is unknown (InvalidAccessKeyId)"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials (NoCredentialsError)"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "half of the credentials is missing (PartialCredentialsError)"),
        ({"AWS_PROFILE": "nobody"}, "the profile of AWS_PROFILE does not exist (ProfileNotFound)"),
        ({"AWS_REQUEST_CHECKSUM_CALCULATION": "no"}, "a checksum setting is unknown (InvalidChecksumConfigError)"),
        ({"AWS_DEFAULT_REGION": "eu west"}, "no region has that name (InvalidRegionError)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_wrong_settings_are_said_and_never_tried_again(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], seen: str
) -> None:
    set_aws(monkeypatch, variables)
    wrong = opened_anew(store)
    for name in ("get", "put", "create", "keys"):
        with pytest.raises(ConfigError) as caught:
            CALLS[name](wrong)
        assert_one_sentence(caught.value, store.uri)
        assert caught.value.value == seen


def set_aws(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Variables of AWS; an empty one is unset."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it saw first
    for name, value in variables.items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name)


def test_an_endpoint_that_is_no_address_is_said(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "localhost:9000")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL is an address such as https://host:port, but") as caught:
        opened_anew(store).get("a")
    assert "Traceback" not in str(caught.value)


def test_what_may_only_be_read_is_read(filled: S3Store, proxy: Proxy) -> None:
    for method in ("PUT", "DELETE"):
        proxy.strike(say(403, "AccessDenied"), on=method)
        for name, call in CALLS.items():
            if name.split()[0] not in ("put", "create", "delete"):
                assert call(filled) == RIGHT[name]
            elif name.startswith("delete") == (method == "DELETE"):
                with pytest.raises(ConfigError, match=r"is not allowed \(AccessDenied\): allow s3:ListBucket"):
                    call(filled)


def test_a_server_that_comes_back_is_found_again(s3: S3Server, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    away = opened_anew(store)
    for name, call in CALLS.items():
        with pytest.raises(StoreUnavailable) as caught:
            call(away)
        assert caught.value.value == f"{address} cannot be reached (EndpointConnectionError)", name
    with proxy_to(s3.endpoint, int(address.rpartition(":")[2])):
        assert away.create("a", b"1") is True
        assert away.get("a") == b"1"


def test_a_server_that_falls_silent_is_named() -> None:
    said = str(in_words(ReadTimeoutError(endpoint_url="https://s3.example.com/b/a?x", error=""), "s3://b"))
    assert said.startswith("the store s3://b must answer, but https://s3.example.com fell silent (ReadTimeoutError)")


def test_an_error_that_we_do_not_know_is_said_in_its_own_words(filled: S3Store, proxy: Proxy) -> None:
    proxy.strike(say(418, "Teapot"))
    with pytest.raises(StoreUnavailable, match=r"An error occurred \(Teapot\) when calling the GetObject") as caught:
        filled.get("a/there")
    assert_one_sentence(caught.value, filled.uri)


@pytest.mark.parametrize("fault", [s3_proxy.lose_answer, s3_proxy.garble_answer])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_creation_whose_answers_were_lost_is_known_as_ones_own(
    store: S3Store, proxy: Proxy, fault: Fault, times: int
) -> None:
    """Three is one more than boto3 tries again: a gateway's page is tried again by us, silence by the task."""
    proxy.strike(fault, times=times, on="PUT")
    if (fault, times) == (s3_proxy.lose_answer, 3):
        with pytest.raises(StoreUnavailable):
            store.create("ledger/1", b"mine")
    assert store.create("ledger/1", b"mine") is True
    assert len(proxy.struck) == times
    assert store.get("ledger/1") == b"mine"


@pytest.mark.parametrize("size", [0, 4, MULTIPART_BYTES + 1])
@pytest.mark.parametrize("times", [1, 2, None])
def test_a_write_that_a_gateway_repeats_has_succeeded(
    store: S3Store, proxy: Proxy, size: int, times: int | None
) -> None:
    """The gateway answers what its second request was answered: 412 to a creation, 404 to the end of an upload."""
    data = b"x" * size
    proxy.strike(s3_proxy.repeat, times=times, on="PUT|POST|DELETE")
    if size < MULTIPART_BYTES:
        assert store.create("ledger/1", data) is True
    store.put("stages/a", data)
    assert store.get("stages/a") == data
    store.delete("stages/a")
    store.delete("stages/a")
    assert store.get("stages/a") is None
    assert size > MULTIPART_BYTES or store.leftovers(0.0) == []
    assert store.create("ledger/1", b"another's") is (size > MULTIPART_BYTES)


def test_of_two_who_say_the_same_one_is_first(store: S3Store) -> None:
    """Two operators in the same second, in the same words: a creation of equal bytes counts as one's own."""
    said = [entry(1, nonce=next_after(None, "tills")["nonce"]) for _ in range(2)]
    assert [Ledger(store, "tills").append(each) for each in said] == [True, False]
    assert Ledger(store, "tills").append(said[0]), "its own, told again"


@pytest.mark.parametrize("fault", [s3_proxy.lose_answer, s3_proxy.garble_answer])
def test_anothers_creation_is_never_taken_for_ones_own(store: S3Store, proxy: Proxy, fault: Fault) -> None:
    store.put("ledger/1", b"another's")
    proxy.strike(fault, times=3, on="PUT")
    try:
        assert store.create("ledger/1", b"mine") is False
    except StoreUnavailable:
        assert fault is s3_proxy.lose_answer
    assert store.get("ledger/1") == b"another's"


def test_a_stage_that_is_run_again_finds_the_entry_whose_every_answer_was_lost(store: S3Store, proxy: Proxy) -> None:
    ledger, mine = Ledger(store, "tills"), entry(1)
    proxy.strike(s3_proxy.lose_answer, times=3, on="PUT")
    with pytest.raises(StoreUnavailable):
        ledger.append(mine)
    assert ledger.append(mine) is True
    assert ledger.finished(mine.run_key) == mine
    assert ledger.entries() == [mine]


def test_an_object_of_parts_is_whole_and_checked_as_a_whole(store: S3Store, proxy: Proxy, direct: Any) -> None:
    for size, parts in ((len(LARGE), 2), (MULTIPART_BYTES, 1), (MULTIPART_BYTES - 1, 0)):
        before = len(proxy.seen)
        store.put("large", LARGE[:size])
        assert sum("partNumber=" in exchange.path for exchange in proxy.seen[before:]) == parts
        head = direct.head_object(Bucket=BUCKET, Key=f"{store.prefix}large", ChecksumMode="ENABLED")
        assert "-" not in head["ChecksumCRC32"]
        assert store.get("large") == LARGE[:size]
    store.put("large", LARGE)
    proxy.strike(s3_proxy.flip_answer, on="GET")
    with pytest.raises(StoreUnavailable, match="what arrived has another checksum"):
        store.get("large")
    with pytest.raises(AssertionError):
        store.create("large", LARGE)


@pytest.mark.parametrize(
    ("on", "fault"),
    [
        ("POST", "answer lost"),
        *(("PUT", name) for name in ("reset in the request", "byte changed in the request", "503")),
    ],
)
def test_one_part_that_fails_is_sent_again(store: S3Store, proxy: Proxy, on: str, fault: str) -> None:
    proxy.strike(FAULTS[fault], times=1, on=on)
    store.put("large", LARGE)
    assert len(proxy.struck) == 1
    assert store.get("large") == LARGE


def test_an_upload_whose_end_was_not_heard_is_sent_again(store: S3Store, proxy: Proxy) -> None:
    def lose_completion(exchange: s3_proxy.Exchange) -> None:
        (s3_proxy.lose_answer if "uploadId=" in exchange.path else s3_proxy.hand_on)(exchange)

    proxy.strike(lose_completion, times=2, on="POST")
    store.put("large", LARGE)
    assert store.get("large") == LARGE


def end_lost(answers: int) -> Fault:
    """The end of every upload is done, and its first answers are lost; afterwards the server knows the upload no more,
    as S3 does where a lifecycle rule or another server of the same bucket has forgotten it."""
    asked: dict[str, int] = {}

    def lose(exchange: s3_proxy.Exchange) -> None:
        if "uploadId=" not in exchange.path:
            s3_proxy.hand_on(exchange)
            return
        asked[exchange.path] = asked.get(exchange.path, 0) + 1
        first = asked[exchange.path] == 1
        lost = asked[exchange.path] <= answers
        fault = s3_proxy.lose_answer if first and lost else say(404, "NoSuchUpload")
        if first and not lost:
            exchange.ask()
            exchange.answer(404, [("Content-Type", "application/xml")], NO_SUCH_UPLOAD)
            return
        fault(exchange)

    return lose


NO_SUCH_UPLOAD = b"<?xml version='1.0'?><Error><Code>NoSuchUpload</Code><Message>no</Message></Error>"


def streamed(store: S3Store) -> None:
    with store.writing("large") as sink:
        sink.write(LARGE)


def put_whole(store: S3Store) -> None:
    store.put("large", LARGE)


@pytest.mark.parametrize("write", [put_whole, streamed])
@pytest.mark.parametrize("answers", [0, 1])
def test_an_upload_that_was_completed_is_known_as_ones_own(
    store: S3Store, proxy: Proxy, write: Callable[[S3Store], None], answers: int
) -> None:
    proxy.strike(end_lost(answers), on="POST")
    before = len(proxy.seen)
    write(store)
    begun = [seen for seen in proxy.seen[before:] if seen.command == "POST" and seen.path.endswith("uploads")]
    assert len(begun) == 1, "it was sent once"
    assert store.get("large") == LARGE


def test_a_stream_whose_every_end_was_lost_is_known_as_ones_own(store: S3Store, proxy: Proxy) -> None:
    def lose(exchange: s3_proxy.Exchange) -> None:
        (s3_proxy.lose_answer if "uploadId=" in exchange.path else s3_proxy.hand_on)(exchange)

    proxy.strike(lose, on="POST")
    streamed(store)
    assert store.get("large") == LARGE


@pytest.mark.parametrize("write", [put_whole, streamed])
@pytest.mark.parametrize("there", [None, b"another's", LARGE[:-1] + b"?"])
def test_an_upload_that_was_not_completed_is_an_error_whatever_is_there(
    store: S3Store, proxy: Proxy, write: Callable[[S3Store], None], there: bytes | None
) -> None:
    """Nothing, or what another one wrote meanwhile."""

    def refuse(exchange: s3_proxy.Exchange) -> None:
        if "uploadId=" not in exchange.path:
            s3_proxy.hand_on(exchange)
            return
        if there is not None:
            other.put_object(Bucket=BUCKET, Key=f"{store.prefix}large", Body=there)
        say(404, "NoSuchUpload")(exchange)

    other = boto3.client("s3", endpoint_url=f"http://{proxy.target}")
    proxy.strike(refuse, on="POST")
    with pytest.raises(StoreUnavailable, match="an upload in parts was lost"):
        write(store)
    assert store.get("large") == there


@pytest.mark.parametrize("before", [None, b"before"])
def test_an_upload_that_fails_leaves_what_was_there(store: S3Store, proxy: Proxy, before: bytes | None) -> None:
    if before:
        store.put("large", before)

    def fail_second_part(exchange: s3_proxy.Exchange) -> None:
        (say(500, "InternalError") if "partNumber=2" in exchange.path else s3_proxy.hand_on)(exchange)

    proxy.strike(fail_second_part)
    with pytest.raises(StoreUnavailable, match=r"it failed inside \(InternalError\)"):
        store.put("large", LARGE)
    assert (store.get("large"), store.leftovers(0)) == (before, [])


def test_a_byte_changed_in_a_part_is_never_stored(store: S3Store, proxy: Proxy) -> None:
    proxy.strike(s3_proxy.flip_request, on="PUT")
    with pytest.raises(StoreUnavailable, match="what arrived has another checksum"):
        store.put("large", LARGE)
    assert store.get("large") is None


def test_an_upload_that_was_killed_is_listed_and_can_be_cleared(store: S3Store) -> None:
    upload = store.client.create_multipart_upload(Bucket=BUCKET, Key=f"{store.prefix}stages/b")["UploadId"]
    for name in ("theirs", "mlflow/7/artifacts/notes", "mlflow/models/m-1/artifacts/weights"):
        store.client.create_multipart_upload(Bucket=BUCKET, Key=f"{store.prefix}{name}")  # is not ours to clear
    assert store.leftovers() == []
    assert store.leftovers(0) == [f"stages/b?{upload}"]
    assert store.sizes() == {}
    for _ in range(2):
        store.delete_leftover(f"stages/b?{upload}")
        assert store.leftovers(0) == []


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("", (None, None)),
        ("AES256", ("AES256", None)),
        ("aws:kms", ("aws:kms", None)),
        ("aws:kms:arn:aws:kms:eu-west-1:1:key/a", ("aws:kms", "arn:aws:kms:eu-west-1:1:key/a")),
    ],
)
def test_all_that_is_written_is_encrypted_as_asked(
    store: S3Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, asked: str, sent: tuple[str | None, str | None]
) -> None:
    """SeaweedFS has no key service here: what asks for one is answered by the proxy."""
    monkeypatch.setenv("RETRAIN_S3_ENCRYPTION", asked)
    asking = opened_anew(store)
    if "kms" in asked:
        proxy.strike(say(400, "KMS.NotFoundException"))
    before = len(proxy.seen)
    for write in (lambda: asking.put("a", b"1"), lambda: asking.create("b", b"1"), lambda: asking.put("c", LARGE)):
        if "kms" in asked:
            with pytest.raises(ConfigError, match=r"its key cannot be used .*: mend RETRAIN_S3_ENCRYPTION"):
                write()
        else:
            write()
    header = "x-amz-server-side-encryption"
    begun = [seen for seen in proxy.seen[before:] if seen.command != "HEAD" and "uploadId=" not in seen.path]
    assert len(begun) == 3
    assert {(seen.headers[header], seen.headers[f"{header}-aws-kms-key-id"]) for seen in begun} == {sent}
    if asked == "AES256":
        for key in ("a", "b", "c"):
            head = asking.client.head_object(Bucket=BUCKET, Key=f"{asking.prefix}{key}")
            assert head["ServerSideEncryption"] == "AES256"


@pytest.mark.parametrize("asked", ["aes256", "AES256:key", "aws:kms:", "kms", "yes"])
def test_another_encryption_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("RETRAIN_S3_ENCRYPTION", asked)
    with pytest.raises(ConfigError, match="RETRAIN_S3_ENCRYPTION is AES256, aws:kms or aws:kms:KEY, but it is"):
        S3Store(BUCKET, "")


def test_a_profile_and_a_session_token_and_one_endpoint_for_all_are_enough(
    s3: S3Server, proxy: Proxy, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    lines = "".join(f"{name.lower()} = {value}\n" for name, value in keys.items())
    (tmp_path / "credentials").write_text(f"[team]\n{lines}", encoding="utf-8")
    profile = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_PROFILE": "team"}
    set_aws(monkeypatch, {**dict.fromkeys(keys, ""), "AWS_ENDPOINT_URL_S3": "", "AWS_ENDPOINT_URL": proxy.endpoint})
    set_aws(monkeypatch, profile)
    before = len(proxy.seen)
    assert opened_anew(store).create("a", b"1") is True
    assert len(proxy.seen) == before + 1
    set_aws(monkeypatch, {**dict.fromkeys(profile, ""), **keys, "AWS_SESSION_TOKEN": "a-token"})
    proxy.strike(say(400, "ExpiredToken"))
    with pytest.raises(ConfigError, match=r"the session token has expired .*: set a new AWS_SESSION_TOKEN"):
        S3Store(BUCKET, "p").get("a")
    assert proxy.seen[-1].headers["x-amz-security-token"] == "a-token"


def test_stores_that_are_opened_at_once_do_not_disturb_each_other(store: S3Store) -> None:
    store.put("a", b"1")
    seen: list[bytes | None] = []
    readers = [threading.Thread(target=lambda: seen.append(opened_anew(store).get("a"))) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert seen == [b"1"] * 8
