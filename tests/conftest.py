"""One home, one Prefect server and one MLflow store for all story tests; pure tests use none of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.environment import prepare_environment
from ml.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """RETRAIN_HOME of the whole session, set before Prefect or MLflow is imported."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("RETRAIN_STORE", "RETRAIN_PROJECT", "RETRAIN_THREADS", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        os.environ.pop(name, None)
    os.environ["RETRAIN_HOME"] = str(folder)
    prepare_environment(Settings.from_environment())
    yield folder


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.from_environment()
