"""What travels inside a registered model: a closed package that imports numpy, pandas, torch and safetensors only.

It is copied into every model under a name that holds its own digest, so that two models with different code keep
their own answers in one process. MLflow calls `_load_pyfunc`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import PackagedModel


def _load_pyfunc(path: str) -> "PackagedModel":
    from .model import PackagedModel  # torch takes a second to import, and the other modules here do without

    return PackagedModel.load(Path(path))
