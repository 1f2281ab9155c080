"""What travels inside a registered model: a closed package. It imports numpy, pandas and pyarrow, and each module of
`kinds` what its kind of model needs.

It is copied into every model, with those kinds alone that the model has, under a name that holds its own digest. So two
models with different code keep their own answers in one process. MLflow calls `_load_pyfunc`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import PackagedModel


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> "PackagedModel":
    from .model import PackagedModel  # the other modules here are imported without it

    model = PackagedModel.load(Path(path))
    chosen = model_config or {}
    model.answer, model.rows = chosen.get("answer", model.answer), chosen.get("rows", model.rows)
    return model
