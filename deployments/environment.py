"""What the libraries we start read from the environment; to be prepared before any of them is imported."""

import os
import shutil
import sys
import time
from pathlib import Path

from ml.errors import ConfigError
from ml.settings import Settings
from ml.storage.store import LEFTOVER_SECONDS


def prepare_environment(settings: Settings, *, make: bool = True) -> None:
    """Sets homes and telemetry for this process and its children, and defaults for what a user has not set; makes what
    libraries need in the home, where it is one that may be written.

    Prefect, MLflow, Great Expectations and matplotlib read these once, at import: call it before.
    Raises ConfigError for a password in PREFECT_API_URL: Prefect logs the address of every run's page.
    """
    if "@" in os.environ.get("PREFECT_API_URL", ""):
        raise ConfigError("PREFECT_API_URL holds no password", "it has an @", "set PREFECT_API_AUTH_STRING")
    homes = homes_and_telemetry(settings)
    if make:
        (settings.home / "tmp").mkdir(parents=True, exist_ok=True)  # Prefect makes its own, not the one around it
    else:
        del homes["RETRAIN_HOME"]  # it is found again, or there is none
    os.environ.update(homes)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def homes_and_telemetry(settings: Settings) -> dict[str, str]:
    """Nothing is written outside RETRAIN_HOME and nothing is reported to anyone, whatever the shell says."""
    home, prefect = settings.home, settings.home / "prefect"
    return {
        "RETRAIN_HOME": str(home),  # absolute, for children in another working directory
        "PREFECT_HOME": str(prefect),
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(prefect / "ui"),  # by default inside the installed package
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "XDG_CACHE_HOME": str(home / "cache"),  # of torch, and of fontconfig, which matplotlib asks for fonts
        "TMPDIR": str(home / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache" / "torchinductor"),  # made at import, by default in TMPDIR
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is our document's
        "GX_ANALYTICS_ENABLED": "false",
    }


def left_behind(home: Path) -> list[Path]:
    """What killed processes left in the folder for passing things, as Prefect's do; a run may use what is younger."""
    before = time.time() - LEFTOVER_SECONDS
    return [path for path in sorted((home / "tmp").glob("*")) if path.lstat().st_mtime < before]


def discard(path: Path) -> None:
    """Deletes a file or a folder, if it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # a server nobody asked for; ours are in deployments.prefect.servers
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # by default a submitted run waits up to 10 s before it is looked at
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "retrain",  # so that the page of a run shows our lines
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # the same loggers speak outside of runs too
    # `retrain` inherits the root's level and reaches the page; the console shows warnings, as Python would.
    "PREFECT_LOGGING_ROOT_LEVEL": "INFO",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # By default one call to a dead server takes four minutes; the tasks try again on their own.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def main() -> None:
    """Becomes the command of its arguments, with the same variables as what `retrain` starts."""
    prepare_environment(Settings.from_environment())
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
