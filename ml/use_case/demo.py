"""Writes the real data of the example use cases, once, below RETRAIN_HOME/data.

Only this needs the packages that the data come from; nothing else in the project imports them.
"""

import logging
import shutil
import tempfile
from pathlib import Path

from ml.errors import ConfigError
from ml.settings import Settings
from ml.use_case.definition import UseCase

log = logging.getLogger("retrain.demo")


def write_demo_data(settings: Settings, use_case: UseCase) -> None:
    """Writes the demo data of a use case that has any, unless its folder exists. The folder appears only when complete.

    Raises ConfigError if the package that the data come from is not installed.
    """
    folder = settings.data / use_case.name
    if use_case.demo is None or folder.exists():
        return
    log.info("Writing the demo data of %s.", use_case.name)
    settings.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.data, prefix=".writing-") as scratch:
        try:
            use_case.demo(Path(scratch) / use_case.name)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the demo data of {use_case.name} comes from a package",
                f"{error.name} is not installed",
                "run make setup",
            ) from error
        shutil.move(Path(scratch) / use_case.name, folder)
