"""One home, one Prefect server and one MLflow database for all story tests; pure tests use none of them."""

import gc
import logging
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from filelock import FileLock
from sqlalchemy import Engine

from deployments.environment import prepare_environment
from ml.digests import digest_value
from ml.models import packaging
from ml.reporting import figures as plots
from ml.reporting import importance_figure
from ml.settings import Settings
from ml.storage.registry import load_model
from tests.fixtures.make_landed import place_in_mlflow
from tests.postgres_server import PostgresServer, postgres_server
from tests.s3_server import FOREIGN, S3Server, s3_server
from tests.story import DAYS, FIRST_DAY, Shop, open_shop
from tests.tally import table


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """RETRAIN_HOME of the whole session, set before Prefect or MLflow is imported."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("RETRAIN_STORE", "RETRAIN_PROJECT", "RETRAIN_THREADS", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        os.environ.pop(name, None)
    os.environ["RETRAIN_HOME"] = str(folder)
    prepare_environment(Settings.from_environment())
    yield folder


@pytest.fixture(scope="session", autouse=True)
def no_loss_of_power() -> Iterator[None]:
    """Files are not forced to the disk: only a loss of power would show it, and a night forces hundreds.

    That they are, and in which order, is tested in test_store.py and test_store_disk.py.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield


@pytest.fixture(autouse=True)
def no_console_of_another_test() -> Iterator[None]:
    """A command writes its log to the stderr of its process, which in a test is closed afterwards."""
    yield
    logging.getLogger("retrain").handlers = []


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A night trains with one thread by default, and with more these small steps only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.from_environment()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this session have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def prefect(home: Path, shared: Path) -> Iterator[str]:
    """A real Prefect server, with its page and schedules; the URL of its API.

    To migrate a new database takes more than to start on a migrated one: one process does it, the others copy.

    The first flow of a process sets up Prefect's logging, which takes off the handlers of the root logger: among them
    the one by which pytest captures the log of the test that runs. So it is set up here, before any test.
    """
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.prefect.servers import prefect_server

    setup_logging()
    migrated, own = shared / "migrated-prefect.db", home / "prefect" / "prefect.db"
    with ExitStack() as stack:
        with FileLock(f"{migrated}.lock"):
            if migrated.exists():
                own.parent.mkdir(exist_ok=True)
                shutil.copy(migrated, own)
            api = stack.enter_context(prefect_server(Settings.from_environment(), services=True))
            if not migrated.exists():
                with closing(sqlite3.connect(own)) as source, closing(sqlite3.connect(migrated)) as kept:
                    source.backup(kept)
        stack.enter_context(temporary_settings({PREFECT_API_URL: api}))
        yield api


@pytest.fixture(scope="session", autouse=True)
def new_databases_of_mlflow_are_copies(home: Path, shared: Path) -> Iterator[None]:
    """MLflow runs its sixty migrations for every new database, in 3 s, and reads them whenever it opens another one.

    Here one process runs them once in the whole session, and each reads them once.
    """
    from mlflow.store.db import utils

    migrate, migrated = utils._initialize_tables, shared / "migrated-mlflow.db"

    def copied(engine: Engine) -> None:
        if engine.dialect.name != "sqlite" or not utils._is_empty_database(engine):
            migrate(engine)
            return
        with FileLock(f"{migrated}.lock"), closing(sqlite3.connect(migrated)) as kept:
            is_first = not kept.execute("SELECT 1 FROM sqlite_master").fetchone()
            if is_first:
                migrate(engine)
            with closing(engine.raw_connection()) as pooled:
                new: Any = pooled.driver_connection
                new.backup(kept) if is_first else kept.backup(new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", copied)
        patch.setattr(utils, "_get_latest_schema_revision", cache(utils._get_latest_schema_revision))
        yield


@pytest.fixture(scope="session")
def empty_mlflow(home: Path) -> Path:
    """An MLflow database without content."""
    from ml.storage.registry import Registry

    Registry(Settings.from_environment(), "nobody").alias("champion")
    return home / "mlflow.db"


@pytest.fixture(autouse=True)
def no_mlflow_is_left_behind(home: Path) -> Iterator[None]:
    """What `mlflow.set_tracking_uri` is told, it also writes into the environment, and all later tests would use it."""
    yield
    mlflow = sys.modules.get("mlflow.tracking")
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert mlflow is None or not mlflow.is_tracking_uri_set()


@pytest.fixture
def shop_in_full(prefect: str, empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A fresh home with 80 days of a shop, on the session's Prefect server."""
    opened = open_shop(tmp_path, monkeypatch)
    shutil.copy(empty_mlflow, opened.settings.home / "mlflow.db")
    return opened


@pytest.fixture
def new_shop(shop_in_full: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The shop without what takes half of a small night's time: its models are verified in this process, as a fresh one
    imports for long, and its figures are made and not drawn."""
    _take_less_time(monkeypatch)
    return shop_in_full


@pytest.fixture
def shop(new_shop: Shop) -> Shop:
    """A new shop; in some modules one that has done more already."""
    return new_shop


def _take_less_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(packaging, "answers_of_a_fresh_process", _answers_here)
    for drawn in (plots, importance_figure):
        patch.setattr(drawn, "png", lambda _figure: b"not drawn")


def _answers_here(folder: Path, raw: pd.DataFrame, *of_source: pd.DataFrame) -> list[pd.DataFrame]:
    model = load_model(folder)
    return [model.predict(raw, {"rows": "raw"}), *(model.predict(rows, {"rows": "source"}) for rows in of_source)]


@pytest.fixture(scope="session")
def cleaned_days(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what nights keep of the days that they validated and cleaned, for all days of the shop."""
    from tests.data.test_data import Done

    with pytest.MonkeyPatch.context() as patch:
        shop = open_shop(tmp_path_factory.mktemp("days"), patch)
        Done(FIRST_DAY + timedelta(days=DAYS))
        return Path(shop.settings.store) / "partitions"


@pytest.fixture
def shop_with_cleaned_days(new_shop: Shop, cleaned_days: Path) -> Shop:
    """The shop before its first night, with all days validated and cleaned: half of a first night's time."""
    shutil.copytree(cleaned_days, Path(new_shop.settings.store) / "partitions")
    return new_shop


Seeds = tuple[int | None, ...]


@pytest.fixture(scope="session")
def home_after(
    prefect: str, empty_mlflow: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Shop, Seeds], None]:
    """Gives a fresh shop the home that it has after a night of 2024-03-15 with each of these seeds.

    Each row of nights is run once a session and copied from then on.
    """
    kept: dict[Seeds, Path] = {}

    def give(shop: Shop, seeds: Seeds) -> None:
        if seeds not in kept:
            kept[seeds] = run(seeds)
        here, there = kept[seeds], shop.settings.home
        shutil.rmtree(there)
        shutil.copytree(here, there)
        place_in_mlflow(there / "mlflow.db", str(here), str(there))
        for night in shop.entries():  # an upload is for MLflow at one address
            key, uri = night.training_key, shop.settings.tracking_uri
            old, new = (digest_value([key, each]) for each in (uri.replace(str(there), str(here)), uri))
            uploads = there / "store" / "stages" / "shop" / "upload"
            if (uploads / f"{old}.json").exists():  # two nights may have one model
                (uploads / f"{old}.json").rename(uploads / f"{new}.json")

    def run(seeds: Seeds) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            shop = open_shop(tmp_path_factory.mktemp("nights"), patch)
            _take_less_time(patch)
            if seeds[:-1]:
                give(shop, seeds[:-1])
            else:
                shutil.copy(empty_mlflow, shop.settings.home / "mlflow.db")
            shop.night("2024-03-15", seed=seeds[-1])
            return shop.settings.home

    return give


@pytest.fixture
def shop_after_a_night(new_shop: Shop, home_after: Callable[[Shop, Seeds], None]) -> Shop:
    """The shop after the night of 2024-03-15: version 1 is champion."""
    home_after(new_shop, (None,))
    return new_shop


@pytest.fixture
def shop_after_two_nights(new_shop: Shop, home_after: Callable[[Shop, Seeds], None]) -> Shop:
    """The shop after the night of 2024-03-15, and the same with another seed: version 1 is champion, 2 never served."""
    home_after(new_shop, (None, 5))
    return new_shop


@pytest.fixture(scope="session")
def mlflow_server_url(empty_mlflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server over HTTP, on a database of its own; its URL."""
    from deployments.prefect.servers import mlflow_server

    folder = tmp_path_factory.mktemp("mlflow")
    database = shutil.copy(empty_mlflow, folder / "mlflow.db")
    settings = replace(Settings.from_environment(), home=folder, tracking_uri=f"sqlite:///{database}")
    with mlflow_server(settings) as url:
        yield url


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server, and the AWS variables by which this process and its children find it."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; each test makes a database of its own."""
    with postgres_server() as server:
        yield server


def pytest_configure() -> None:
    """What ends a long session early, as `timeout` does, lets it tell what was tried until then, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is there now stays until the end. Without this, 6 % of all time goes into looking through it for garbage."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of faults, where any was tried."""
    for line in table():
        terminalreporter.write_line(line)
