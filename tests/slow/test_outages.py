"""A database that another process has locked, a server that is killed and started again, in the middle of a night.

Shorter than the night's patience, it ends as an undisturbed one; longer, it ends with one sentence, and the same
command afterwards ends as an undisturbed one.
"""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.prefect.servers import Server, free_port, starting_mlflow, starting_prefect
from ml.settings import Settings
from ml.storage.registry import Registry
from tests.chaos import Run, count, end_state, left_over, start, start_night
from tests.story import Shop, open_shop
from tests.tally import tally

pytestmark = pytest.mark.slow
AS_OF = "2024-03-15"
PATIENT = "the night waits and ends as without it"
SENTENCE = "one sentence; the same command afterwards ends as without it"
# Prefect's client waits for two minutes by itself, and a stage makes four rounds of it.
HASTY = {"PREFECT_API_REQUEST_TIMEOUT": "2", "PREFECT_CLIENT_MAX_RETRIES": "1"}


@pytest.fixture(scope="module")
def undisturbed(prefect: str, empty_mlflow: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end of a night that nobody disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        shop = open_shop(tmp_path_factory.mktemp("undisturbed"), patch)
        shutil.copy(empty_mlflow, shop.settings.home / "mlflow.db")
        shop.night(AS_OF)
        return end_state(shop.settings, "shop")


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another connection has it for the time of the context, as a backup or a careless tool would."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@dataclass
class Restarted:
    """A server that can be killed and started again at the same address, on the same database."""

    start: Callable[[], AbstractContextManager[Server]]
    stack: ExitStack
    server: Server

    def kill(self) -> None:
        os.killpg(self.server.child.process.pid, signal.SIGKILL)
        self.server.child.process.wait()

    def again(self) -> None:
        self.server = self.stack.enter_context(self.start())
        self.server.wait()


@contextmanager
def restarted(start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Restarted]:
    with ExitStack() as stack:
        server = stack.enter_context(start())
        server.wait()
        yield Restarted(start, stack, server)


@pytest.fixture
def own_prefect(tmp_path: Path) -> Iterator[Restarted]:
    """A Prefect server of this test alone, with its database in a home of its own."""
    home = tmp_path / "prefect-server"
    settings = Settings(home, str(home / "store"), f"sqlite:///{home / 'mlflow.db'}", None, 1)
    port = free_port()
    with restarted(lambda: starting_prefect(settings, port, services=False)) as server:
        yield server


@pytest.fixture
def own_mlflow(shop_in_full: Shop) -> Iterator[Restarted]:
    """An MLflow server of this test alone, on the shop's database."""
    port = free_port()
    with restarted(lambda: starting_mlflow(shop_in_full.settings, port)) as server:
        yield server


def night(shop: Shop, prefect: str, **variables: str) -> Run:
    own = {"RETRAIN_HOME": str(shop.settings.home), "PREFECT_API_URL": prefect}
    return start_night("shop", AS_OF, {**own, **variables})


def ends_as(undisturbed: dict[str, Any], fault: str, happens: str, shop: Shop) -> None:
    count(fault, happens, shop.settings, "shop")
    assert end_state(shop.settings, "shop") == undisturbed
    assert left_over(shop.settings, "shop") == []


def test_mlflow_database_locked_for_a_while(shop_in_full: Shop, prefect: str, undisturbed: dict[str, Any]) -> None:
    run = night(shop_in_full, prefect)
    run.said("Uploaded")
    with locked(shop_in_full.settings.home / "mlflow.db"):
        run.said("tried again")
    run.document()
    ends_as(undisturbed, "MLflow's database locked by another process", PATIENT, shop_in_full)


def test_mlflow_database_locked_for_long(shop_in_full: Shop, prefect: str, undisturbed: dict[str, Any]) -> None:
    run = night(shop_in_full, prefect)
    run.said("Uploaded")
    with locked(shop_in_full.settings.home / "mlflow.db"):
        failed = run.failure()
    assert (failed["error"], "database is locked" in failed["value"]) == ("RegistryUnavailable", True), failed
    night(shop_in_full, prefect).document()
    ends_as(undisturbed, "MLflow's database locked for longer", SENTENCE, shop_in_full)


def test_prefect_database_locked_for_a_while(
    shop_in_full: Shop, own_prefect: Restarted, undisturbed: dict[str, Any]
) -> None:
    run = night(shop_in_full, own_prefect.server.url)
    run.said("Judged")
    with locked(database_of(own_prefect)):
        run.said("Moved the alias")
        time.sleep(5)
        assert run.process.poll() is None, "it waits for its report's page"
    run.document()
    ends_as(undisturbed, "Prefect's database locked by another process", PATIENT, shop_in_full)


def test_prefect_database_locked_for_long(
    shop_in_full: Shop, own_prefect: Restarted, undisturbed: dict[str, Any]
) -> None:
    run = night(shop_in_full, own_prefect.server.url, **HASTY)
    run.said("Judged")
    with locked(database_of(own_prefect)):
        failed = run.failure()
    assert failed["error"] == "PrefectUnavailable", failed
    night(shop_in_full, own_prefect.server.url).document()
    ends_as(undisturbed, "Prefect's database locked for longer", SENTENCE, shop_in_full)


def database_of(server: Restarted) -> Path:
    return server.server.child.log.parent.parent / "prefect" / "prefect.db"


def test_prefect_restarted(shop_in_full: Shop, own_prefect: Restarted, undisturbed: dict[str, Any]) -> None:
    """In the midst of the stages, where nobody asks it anything, and again when a stage needs it."""
    run = night(shop_in_full, own_prefect.server.url)
    run.said("Training")
    own_prefect.kill()
    own_prefect.again()
    run.said("Judged")
    own_prefect.kill()
    run.said("tried again")
    own_prefect.again()
    run.document()
    ends_as(undisturbed, "Prefect's server killed and started again", PATIENT, shop_in_full)


def test_prefect_gone(shop_in_full: Shop, own_prefect: Restarted, undisturbed: dict[str, Any]) -> None:
    run = night(shop_in_full, own_prefect.server.url, **HASTY)
    run.said("Training")
    own_prefect.kill()
    failed = run.failure()
    assert failed["error"] == "PrefectUnavailable", failed
    own_prefect.again()
    night(shop_in_full, own_prefect.server.url).document()
    ends_as(undisturbed, "Prefect's server killed, and started again afterwards", SENTENCE, shop_in_full)


def test_prefect_gone_during_a_backfill(shop_in_full: Shop, own_prefect: Restarted) -> None:
    variables = {"RETRAIN_HOME": str(shop_in_full.settings.home), "PREFECT_API_URL": own_prefect.server.url}
    days = ["--from", "2024-03-11", "--to", "2024-03-14", "--promote", "if-newer"]
    plan = start(["backfill", "plan", "shop", *days], variables).document()["plan"]
    run = start(["backfill", "apply", plan, "--max-active", "2"], {**variables, **HASTY})
    run.said("Training")
    own_prefect.kill()
    failed = run.failure()
    assert failed["error"] == "PrefectUnavailable", failed
    own_prefect.again()
    done = start(["backfill", "resume", plan], variables).document()
    assert [row["stage"] for row in done["dates"]] == ["done"] * 4
    versions = len(Registry(shop_in_full.settings, "shop").versions())
    assert [night.as_of.day for night in shop_in_full.entries()] == [11, 12, 13, 14], "in their order"
    assert versions == 4
    tally(
        "Prefect's server killed during a backfill", "one sentence; `resume` ends every date once",
        wanted=4, entries=len(shop_in_full.entries()), versions=versions,
    )  # fmt: skip
    assert left_over(shop_in_full.settings, "shop") == []


def test_mlflow_restarted(shop_in_full: Shop, prefect: str, own_mlflow: Restarted, undisturbed: dict[str, Any]) -> None:
    run = night(shop_in_full, prefect, MLFLOW_TRACKING_URI=own_mlflow.server.url)
    run.said("Uploaded")
    own_mlflow.kill()
    run.said("tried again")
    own_mlflow.again()
    run.document()
    ends_as(undisturbed, "MLflow's server killed and started again", PATIENT, shop_in_full)


def test_mlflow_gone(shop_in_full: Shop, prefect: str, own_mlflow: Restarted, undisturbed: dict[str, Any]) -> None:
    run = night(shop_in_full, prefect, MLFLOW_TRACKING_URI=own_mlflow.server.url)
    run.said("Judged")
    own_mlflow.kill()
    failed = run.failure()
    assert failed["error"] == "RegistryUnavailable", failed
    own_mlflow.again()
    night(shop_in_full, prefect, MLFLOW_TRACKING_URI=own_mlflow.server.url).document()
    ends_as(undisturbed, "MLflow's server killed, and started again afterwards", SENTENCE, shop_in_full)
