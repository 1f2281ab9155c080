"""What the registry answers about models and aliases, on sqlite and over HTTP; an outage is never an answer."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from ml.errors import ConfigError, RegistryUnavailable
from ml.settings import Settings
from ml.storage.registry import CHAMPION, LONGEST_TAG, REFERENCE, RUN_KEY, TRAINING_KEY, Registry
from tests.s3_proxy import hand_on, lose_answer, page, proxy_to, repeat
from tests.s3_server import free_ports

CALLS: dict[str, Callable[[Registry], object]] = {
    "alias": lambda registry: registry.alias(CHAMPION),
    "version_of": lambda registry: registry.version_of("a key"),
    "run_id": lambda registry: registry.run_id("a key", "a run", {}),
    "register": lambda registry: registry.register("a run", "a key", {}),
    "set_alias": lambda registry: registry.set_alias(CHAMPION, 1),
    "finish_run": lambda registry: registry.finish_run("0" * 32, {}, {}, {}),
}


def registry_at(uri: str, store: str | None = None) -> Registry:
    """A registry of a model that nobody has registered yet."""
    store = store or f"{os.environ['RETRAIN_HOME']}/store"
    settings = Settings(home=Path(), store=store, tracking_uri=uri, project=None, threads=1)
    return Registry(settings, f"model_{uuid4().hex}")


def register(registry: Registry, run_key: str) -> int:
    return registry.register(registry.run_id(run_key, "a run", {}), run_key, {})


def count(registry: Registry) -> int:
    return len(registry.client.search_model_versions(f"name = '{registry.name}'"))


@pytest.fixture(params=["sqlite", "http"])
def registry(request: pytest.FixtureRequest, empty_mlflow: Path, tmp_path: Path) -> Registry:
    if request.param == "http":
        return registry_at(request.getfixturevalue("mlflow_server_url"))
    return registry_at(f"sqlite:///{shutil.copy(empty_mlflow, tmp_path / 'mlflow.db')}")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def test_a_missing_model_and_a_missing_alias_are_none(registry: Registry) -> None:
    assert registry.alias(CHAMPION) is None
    assert registry.version_of("a key") is None
    version = register(registry, "a key")
    assert registry.alias(CHAMPION) is None
    registry.set_alias(CHAMPION, version)
    assert (registry.alias(CHAMPION), registry.alias(REFERENCE)) == (version, None)


def test_what_was_registered_under_a_run_key_is_found_by_it(registry: Registry) -> None:
    """As before 2026-11-28, when the run key named the model too."""
    run = registry.run_id("a new key", "a run", {})
    register(registry, "a new key")
    registry.client.set_tag(run, RUN_KEY, "an old key")
    registry.client.delete_tag(run, TRAINING_KEY)
    registry.client.set_model_version_tag(registry.name, "1", RUN_KEY, "an old key")
    registry.client.delete_model_version_tag(registry.name, "1", TRAINING_KEY)
    assert registry.run_id("an old key", "a run", {}, known=run) == run
    assert register(registry, "an old key") == 1
    assert [version.ours for version in registry.versions()] == [True]
    assert registry.running() == [run]


def test_a_training_key_has_one_run_and_one_version(registry: Registry) -> None:
    assert registry.run_id("a key", "a run", {}) == registry.run_id("a key", "another", {})
    assert register(registry, "a key") == register(registry, "a key") == registry.version_of("a key") == 1
    assert register(registry, "another key") == 2
    assert count(registry) == 2


def test_the_source_of_a_version_lies_in_the_store_and_in_its_run(registry: Registry) -> None:
    run = registry.run_id("a key", "a run", {})
    registry.register(run, "a key", {})
    version = registry.client.get_model_version(registry.name, "1")
    assert version.source == f"{registry.store.uri}/mlflow/{run}/artifacts/model"
    assert version.source == f"{registry.client.get_run(run).info.artifact_uri}/model"


def test_over_http_a_folder_is_a_source_too(mlflow_server_url: str, tmp_path: Path) -> None:
    registry = registry_at(mlflow_server_url, str(tmp_path / "store"))
    assert register(registry, "a key") == 1
    assert registry.client.get_model_version(registry.name, "1").source.startswith(str(tmp_path / "store"))


def test_two_who_register_one_training_key_at_once_make_one_version(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked and found none before either makes one."""
    run, both_looked, look = registry.run_id("a key", "a run", {}), threading.Barrier(2), Registry.version_of

    def look_and_wait(self: Registry, run_key: str) -> int | None:
        found = look(self, run_key)
        both_looked.wait(20)
        return found

    monkeypatch.setattr(Registry, "version_of", look_and_wait)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: registry.register(run, "a key", {}), range(2)))
    monkeypatch.undo()
    assert made[0] == made[1] == registry.version_of("a key")
    assert count(registry) == 1


def test_a_registration_whose_answer_was_lost_is_not_made_twice(mlflow_server_url: str) -> None:
    """MLflow's client sends every request again, those that create something too."""
    with proxy_to(mlflow_server_url) as proxy:
        proxy.strike(lose_answer, times=1, on=".*model-versions/create$")
        registry = registry_at(proxy.endpoint)
        version = register(registry, "a key")
        assert version == registry.version_of("a key")
        assert (len(proxy.struck), count(registry)) == (1, 1)


def test_a_registration_of_which_every_answer_was_lost_is_found_again(impatient: None, mlflow_server_url: str) -> None:
    with proxy_to(mlflow_server_url) as proxy:
        registry = registry_at(proxy.endpoint)
        run = registry.run_id("a key", "a run", {})
        proxy.strike(lose_answer, on=".*model-versions/create$")
        with pytest.raises(RegistryUnavailable):
            registry.register(run, "a key", {})
        assert count(registry) == 2
        assert registry.register(run, "a key", {}) == 1
        assert count(registry) == 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_server_that_is_away_is_an_error_and_never_nothing(
    impatient: None, call: Callable[[Registry], object]
) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(RegistryUnavailable) as caught:
        call(registry_at(address))
    assert (caught.value.rule, caught.value.value) == (f"MLflow at {address} must answer", "Connection refused")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_server_that_goes_away_is_an_error_and_never_nothing(
    impatient: None, mlflow_server_url: str, call: Callable[[Registry], object]
) -> None:
    with proxy_to(mlflow_server_url) as proxy:
        registry = registry_at(proxy.endpoint)
        registry.set_alias(CHAMPION, register(registry, "a key"))
        for fault in (lose_answer, page(200, b"<html>Bad gateway</html>")):
            proxy.strike(fault)
            with pytest.raises(RegistryUnavailable):
                call(registry)
            with pytest.raises(RegistryUnavailable):
                registry.alias(REFERENCE)
        proxy.fault = hand_on
        assert (registry.alias(CHAMPION), registry.alias(REFERENCE)) == (1, None)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("there", "seen"), [("a folder", "unable to open database file"), ("another file", "file is not a database")]
)
def test_a_database_that_cannot_be_read_is_an_error_and_never_nothing(
    tmp_path: Path, there: str, seen: str, call: Callable[[Registry], object]
) -> None:
    path = tmp_path / "mlflow.db"
    path.mkdir() if there == "a folder" else path.write_text("not a database\n" * 100)
    start = time.monotonic()
    with pytest.raises(RegistryUnavailable) as caught:
        call(registry_at(f"sqlite:///{path}"))
    assert caught.value.value == seen
    assert time.monotonic() - start < 20  # MLflow's own patience is 101 s


def test_a_password_in_the_address_is_not_shown(impatient: None) -> None:
    with pytest.raises(RegistryUnavailable) as caught:
        registry_at(f"http://somebody:secret@127.0.0.1:{free_ports(1)[0]}").alias(CHAMPION)
    assert "***@127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "store", "refused"),
    [
        ("http://mlflow.example:5000", "store", True),
        ("https://mlflow.example", "/data/store", True),
        ("http://mlflow.example:5000", "s3://bucket/prefix", False),
        ("http://127.0.0.1:5000", "store", False),
        ("http://localhost:5000", "store", False),
        ("http://[::1]:5000", "store", False),
        ("sqlite:////data/mlflow.db", "store", False),
    ],
)
def test_a_remote_server_with_files_on_this_disk_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, uri: str, store: str, refused: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("RETRAIN_STORE", store)
    if not refused:
        assert Settings.from_environment().tracking_uri == uri
        return
    with pytest.raises(
        ConfigError, match=r"on mlflow\.example and the store is the folder .*store: set RETRAIN_STORE=s3"
    ):
        Settings.from_environment()


@pytest.mark.parametrize(
    "call",
    ["experiments/create", "runs/create", "registered-models/create", "model-versions/create", "alias", "log-batch"],
)
def test_a_request_that_a_gateway_repeats_makes_nothing_twice(mlflow_server_url: str, call: str) -> None:
    """The second answer, which alone is heard, may say that there is one already."""
    with proxy_to(mlflow_server_url) as proxy:
        proxy.strike(repeat, on=f".*{call}")
        registry = registry_at(proxy.endpoint)
        run = registry.run_id("a key", "a run", {})
        assert registry.run_id("a key", "a run", {}) == run
        version = registry.register(run, "a key", {})
        registry.set_alias(CHAMPION, version)
        registry.finish_run(run, {"loss": {0: 1.0}}, {"seed": 1}, {"a": "b"})
        assert proxy.struck
        assert (count(registry), registry.alias(CHAMPION)) == (1, version)


def test_a_long_word_is_cut_where_mlflow_would_refuse_it(registry: Registry) -> None:
    version = register(registry, "a key")
    registry.tag_version(version, {"reason": "x" * 200_000})
    registry.describe_version(version, "y" * 200_000)
    run = registry.run_id("a key", "a run", {})
    registry.finish_run(run, {}, {"p": "z" * 10_000}, {"mlflow.note.content": "n" * 200_000})
    found = registry.client.get_model_version(registry.name, str(version))
    assert {len(found.tags["reason"]), len(found.description)} == {LONGEST_TAG}
    assert found.tags["reason"].endswith("x…")


def test_a_run_ends_once_and_may_get_its_last_name_later(registry: Registry) -> None:
    run = registry.run_id("a key", "a run", {})
    registry.finish_run(run, {}, {}, {})
    ended = registry.client.get_run(run).info
    registry.finish_run(run, {}, {}, {}, "a run, F1 0.9")
    named = registry.client.get_run(run).info
    assert (ended.run_name, named.run_name) == ("a run", "a run, F1 0.9")
    assert (named.status, named.end_time) == ("FINISHED", ended.end_time)


STARTED = """
import sys, time
from ml.storage.registry import _client

time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
_client("sqlite:///" + sys.argv[1]).search_experiments()
"""


@pytest.mark.slow
def test_processes_that_need_a_new_database_at_the_same_time_make_it_once(tmp_path: Path) -> None:
    """5 s. Without a lock the migrations of one of them fail."""
    begin = str(time.time() + 3)
    words = [sys.executable, "-c", STARTED, str(tmp_path / "mlflow.db"), begin]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(process.communicate()[1][-300:], process.returncode) for process in processes]
    assert [text for text, code in ended if code] == []
