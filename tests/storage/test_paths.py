"""Where artifacts lie: every place that we write to is known as ours, and others' are not."""

import inspect
from collections.abc import Callable

import pytest

from ml.storage import paths

PLACES = [
    function
    for name, function in vars(paths).items()
    if inspect.isfunction(function) and name not in {"safe_key", "is_ours"} and not name.startswith("_")
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_every_place_that_we_write_to_is_ours(place: Callable[..., str]) -> None:
    words = [0 if each.annotation is int else each.name for each in inspect.signature(place).parameters.values()]
    key = place(*words)
    assert key.split("/")[0] in paths.FOLDERS
    assert paths.is_ours(f"{key}/artifacts/model/file" if key == "mlflow" else key) or key.startswith("mlflow")


@pytest.mark.parametrize(
    "key", ["theirs", "a/b", "mlflow/7/b3c2/artifacts/model", "mlflow/models/m-1/artifacts/x", "mlflow/b3/artifacts/x"]
)
def test_a_place_of_others_is_not(key: str) -> None:
    assert not paths.is_ours(key)
