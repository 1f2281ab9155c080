"""Prepares the environment variables that our libraries read. This comes before any of these libraries is imported."""

import os
import shutil
import sys
import time
from pathlib import Path

from ml.errors import ConfigError
from ml.settings import Settings
from ml.storage.store import LEFTOVER_SECONDS


def prepare_environment(settings: Settings, *, make: bool = True) -> None:
    """Sets the variables of this process and its children: folders and telemetry always, other ones if they are unset.

    Call it first: Prefect, MLflow, Great Expectations and matplotlib read these variables once, when they are imported.
    With `make`, folders that libraries need are made in the home. Without it, the home may be one that is only read.
    Raises ConfigError for a password in PREFECT_API_URL, because Prefect logs the address of every run's page.
    """
    if "@" in os.environ.get("PREFECT_API_URL", ""):
        raise ConfigError("PREFECT_API_URL holds no password", "it has an @", "set PREFECT_API_AUTH_STRING")
    homes = homes_and_telemetry(settings)
    if make:
        (settings.home / "tmp").mkdir(parents=True, exist_ok=True)  # Prefect makes a folder in it, but not this one
    else:
        del homes["RETRAIN_HOME"]  # a child process finds the home as we did, if there is one
    os.environ.update(homes)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def homes_and_telemetry(settings: Settings) -> dict[str, str]:
    """Variables that hold whatever the shell says: nothing is written outside RETRAIN_HOME, nothing is reported."""
    home, prefect = settings.home, settings.home / "prefect"
    return {
        "RETRAIN_HOME": str(home),  # absolute, for children in another working directory
        "PREFECT_HOME": str(prefect),
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(prefect / "ui"),  # by default inside the installed package
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "XDG_CACHE_HOME": str(home / "cache"),  # torch uses it, and fontconfig, which matplotlib asks for fonts
        "TMPDIR": str(home / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache" / "torchinductor"),  # torch makes it, by default in TMPDIR
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout holds our document and nothing else
        "GX_ANALYTICS_ENABLED": "false",
    }


def left_behind(home: Path) -> list[Path]:
    """What killed processes left in the home's `tmp`. Younger files are not listed: a run may still use them."""
    before = time.time() - LEFTOVER_SECONDS
    return [path for path in sorted((home / "tmp").glob("*")) if path.lstat().st_mtime < before]


def discard(path: Path) -> None:
    """Deletes a file or a folder, if it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # Prefect starts no server by itself; deployments.prefect.servers does
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # seconds; by default a submitted run waits up to 10 s
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "retrain",  # so that the page of a run shows our log
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # the same loggers are used outside of runs too
    # The logger `retrain` has the root's level, so that the page shows INFO. The console shows only warnings.
    "PREFECT_LOGGING_ROOT_LEVEL": "INFO",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    # Prefect's lines that a run begins would push what a red night died of off the first screen of its page.
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "WARNING",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # By default a thread that waits for the others keeps its core busy. On a machine that has other work, two threads
    # of LightGBM then take ten times as long as one.
    "OMP_WAIT_POLICY": "PASSIVE",
    # By default one call to a dead server takes four minutes. Our tasks have retries of their own.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def main() -> None:
    """Runs the command in its arguments with the variables that `retrain` gives its own children."""
    prepare_environment(Settings.from_environment())
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
