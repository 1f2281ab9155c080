"""`Auto`: what it takes for which table, and that a refit repeats it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml import Auto, Trees
from ml.errors import ConfigError
from ml.models.auto import Size, parts_for
from ml.models.composite import with_parts
from ml.serving.output import TaskKind
from tests.tiny import KINDS, cleaned, job, learnt, parcel_rows, parcels, raw_parcels

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = [
    Size(rows, features, 2, device) for rows in (1, 10**4, 10**6) for features in (1, 900) for device in ("cpu", "cuda")
]


@pytest.mark.parametrize("kind", KINDS)
def test_auto_learns_every_target_and_says_what_it_took(kind: TaskKind, tmp_path: Path) -> None:
    fitted, model = learnt(kind, model=Auto())
    classes = {
        "binary": ", 4 columns and 2 classes",
        "multiclass": ", 4 columns and 3 classes",
        "regression": " and 4 columns",
    }
    assert fitted.notes[0].startswith("Auto averages Trees, ")
    assert fitted.notes[0].endswith(f", sized for 400 train rows{classes[kind]} on cpu.")
    assert "alone (without it" in fitted.notes[1]
    assert len(model.contributions(raw_parcels(10))) == 10  # which refuses those that do not add up
    assert np.isfinite(model.predict(raw_parcels(30)).select_dtypes("number").to_numpy()).all()
    use_case = parcels(kind, model=Auto())
    more = cleaned(use_case, parcel_rows(700, 4))
    refit = use_case.model.fit_rows(job(use_case, tmp_path / "refit", more, None, chosen=fitted.chosen))
    assert refit.chosen["sized_by"]["rows"] == 400
    assert refit.chosen["ensemble"]["weights"] == fitted.chosen["ensemble"]["weights"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_size_the_parts_are_of_the_declared_kinds(kind: TaskKind, size: Size) -> None:
    """Their code and libraries are in the key of a night, which is made before rows are counted."""
    parts, declared = (
        parts_for(kind, replace(size, classes={"binary": 2, "multiclass": 12, "regression": 0}[kind])),
        Auto(),
    )
    for part in (inner for one in parts for inner in with_parts(one)):
        assert kind in part.learns
        assert {*part.served} <= {*declared.served}
        assert {*part.code} <= {*declared.code}
        assert {*part.libraries} <= {*declared.libraries}
        assert {*part.needs} <= {*declared.needs}


def test_auto_serves_without_torch() -> None:
    assert Auto().needs == ("lightgbm", "safetensors")


def test_many_classes_get_fewer_rounds_of_trees() -> None:
    rounds = [
        parts_for("multiclass", Size(1000, 5, classes, "cpu"))[0].get_params()["rounds"] for classes in (3, 10, 500)
    ]
    assert rounds == [1000, 300, 50]


def test_a_file_may_write_auto_in_a_word() -> None:
    in_a_word = parcels(model="auto")
    assert isinstance(in_a_word.model, Auto)
    assert in_a_word.digest == parcels(model=Auto()).digest != parcels(model=Trees()).digest
    with pytest.raises(ConfigError, match="it is 'Auto': write an estimator of ml, like Trees\\(\\), 'auto', or"):
        parcels(model="Auto")
