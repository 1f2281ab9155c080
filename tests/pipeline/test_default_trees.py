"""Default trees as a baseline: one fit for each snapshot, equal rows, and a reason where there are none."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from expectations.suite import confirm, suite_rules
from ml.data.cleaning import from_parquet
from ml.pipeline import clean, default_trees, opening, split, validate
from ml.pipeline.default_trees import LEARNER, _sampled, fit_default_trees
from ml.pipeline.site import Site, open_site
from ml.storage.records import Night
from ml.storage.store import get_file
from tests.story import open_shop
from tests.tiny import night_of

AS_OF = date(2024, 3, 15)
Steps = tuple[Site, Night, Any, Any, Any]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    """The shop's night up to its split."""
    with pytest.MonkeyPatch.context() as patch:
        open_shop(tmp_path_factory.mktemp("trees"), patch)
        site = open_site("shop", suite_rules, confirm)
        night = night_of(site, AS_OF)
        night = replace(night, instructions=opening.this_machine(site.settings.home).instructions)
        snapshot = opening.take_snapshot(site, night)
        cleaned = clean.clean_partitions(site, snapshot, validate.validate_partitions(site, night, snapshot))
        yield site, night, snapshot, cleaned, split.split_rows(site, night, cleaned)


def fitted(steps: Steps, **changes: Any) -> Any:
    site, night, snapshot, cleaned, parts = steps
    site = replace(site, use_case=replace(site.use_case, **changes))
    return fit_default_trees(site, night, snapshot, cleaned, parts, nightly=True)


def test_they_answer_every_test_row_and_a_snapshot_costs_one_fit(steps: Steps) -> None:
    first = fitted(steps)
    table = from_parquet(get_file(steps[0].store, first.answers))
    assert len(table) == steps[4].test.rows
    assert table["probability_1"].between(0, 1).all()
    late = table["label"] == 1
    assert table["probability_1"][late].mean() > table["probability_1"][~late].mean() + 0.1
    again = fitted(steps, model=LEARNER.__class__(rounds=3))  # whatever the use case trains
    assert (again.answers, again.work.reused) == (first.answers, 1)
    assert fitted(steps, rare_below=5).work.computed == 1


def test_a_machine_without_lightgbm_goes_on_without_them(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    without = fitted(steps)
    assert (without.answers, without.reason) == (
        None, "LightGBM cannot be imported on this machine (ModuleNotFoundError)",
    )  # fmt: skip


def test_many_rows_are_sampled_evenly_over_all_frames() -> None:
    frames = [pd.DataFrame({"row": np.arange(start, end)}) for start, end in ((0, 5), (5, 5), (5, 18), (18, 30))]
    for every in (1, 2, 3, 7, 40):
        rows = pd.concat(_sampled(lambda: iter(frames), every))["row"]
        assert list(rows) == list(range(0, 30, every))


def test_a_sample_says_so(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_trees, "MOST_ROWS", 100)
    rows = steps[4].train.rows
    assert fitted(steps).description.endswith(f"default settings, on one in {-(-rows // 100)} train rows")


def test_the_fit_is_no_key_of_the_candidates(steps: Steps) -> None:
    """A network's night does not depend on LightGBM, unless a gate compares with it."""
    from ml import NotWorseThanTrees

    site = steps[0]
    gates = (*site.use_case.gates, NotWorseThanTrees(metric="f1", max_drop=0.1, why="a test"))
    with_gate = replace(site, use_case=replace(site.use_case, gates=gates))
    assert (with_gate.training, with_gate.code) == (site.training, site.code)
    assert with_gate.judging != site.judging
    assert Path(default_trees.__file__).name not in " ".join(site.use_case.model.code)
