"""What each stage of a night really executes is what its key covers, apart from what is declared as plumbing.

Every stage runs in a fresh process on a small use case, and is traced. Another kind of model is one more entry in
LEARNERS.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from ml.code import PLUMBING_LIBRARIES, ROOT, Code, is_plumbing
from ml.data.code import KEPT, ROWS
from ml.evaluation.code import DEFAULT_TREES, EXPLAINING, JUDGING, REFITTING, SERVED_DAYS
from ml.models.trees import Trees
from ml.pipeline.run_key import training_code
from ml.use_case.loading import load_use_case
from tests.story import open_shop

pytestmark = pytest.mark.slow  # ten processes import torch, MLflow and Great Expectations

PROCESSES = (
    ("night", "brought", "snapshot", "manifest"),
    ("verdict", "validate"),
    ("forget cleaned", "cleaned", "clean"),
    ("statistics", "split"),
    ("train",),
    ("upload",),
    ("verify",),
    ("trees",),
    ("watch", "evaluate", "gates"),
    ("explain",),
    ("refit",),
    ("recorded", "served"),
)
LEARNERS = {
    "a network": "NetworkClassifier(hidden=(4,), epochs=2, batch_size=256)",
    "of scikit-learn": 'ScikitLearn(HistGradientBoostingClassifier(max_iter=5), rows="frame")',
    "a pack": "EmbeddedNetwork(members=2, hidden=(4,), epochs=2)",
    "boosted trees": "Trees(rounds=3, options={'max_depth': 3})",
}
ADDED = "EmbeddedNetwork FileSource NetworkClassifier ScikitLearn SideTable Trees".split()
# skops imports every module of scikit-learn, and one of them each of these that is installed; nothing asks them.
# Trees do not use torch at all.
IDLE = {"of scikit-learn": {"torch", "pytest", "pluggy", "iniconfig"}, "boosted trees": {"torch"}}
IMPORTS = "from company import twice\nfrom sklearn.ensemble import HistGradientBoostingClassifier"
COMPANY = "def twice(rows):\n    return rows.assign(twice=rows['amount'] * 2)\n"
RATES = 'side_tables=(SideTable(name="rates", source=Source(folder="rates"), on=("country",), take=("rate",)),),'
SERVED = re.compile(r".*/retrain_serving_[0-9a-f]+/(.*)")  # a model's copy of ml/serving


@dataclass
class Traced:
    """The folder in which all stages ran, the code of the use case's kind of model, and what is only imported."""

    folder: Path
    training: Code
    idle: frozenset[str]

    def code_of(self, stage: str) -> Code:
        """What the key of this stage's results covers."""
        if stage in KEPT:
            return KEPT[stage]
        if stage in {"validate", "clean", "split"}:
            return ROWS
        if stage == "trees":
            return training_code(Trees()) + DEFAULT_TREES
        if stage == "served":  # what answers is in the key as the version that served, and the rows by their digest
            return self.training + SERVED_DAYS
        if stage == "explain":  # what answers is in the key by its digest
            return self.training + EXPLAINING
        judging = JUDGING if stage in {"watch", "evaluate", "gates", "refit"} else Code()
        return self.training + judging + (REFITTING if stage == "refit" else Code())

    def executed(self, stage: str) -> set[str]:
        """Our files and the distributions that the stage executed."""
        files = json.loads((self.folder / f"{stage}.json").read_text())
        return {name for file in files for name in _owner(file)} - self.idle


def _owner(file: str) -> list[str]:
    """What the file is of: itself, if it is ours, or an installed distribution; nothing for Python's own."""
    served = SERVED.fullmatch(file)
    if served:
        return [f"ml/serving/{served[1]}"]
    path = Path(file)
    if path.is_relative_to(ROOT) and ".venv" not in path.parts:
        return [path.relative_to(ROOT).as_posix()]
    if "site-packages" in path.parts:
        top = path.parts[path.parts.index("site-packages") + 1].removesuffix(".py")
        return _distributions().get(top, [])
    return []


@functools.cache
def _distributions() -> dict[str, list[str]]:
    found = metadata.packages_distributions()
    return {top: [min(names, key=len).lower().replace("_", "-")] for top, names in found.items()}  # mlflow's is two


@pytest.fixture(scope="module", params=LEARNERS)
def night(request: pytest.FixtureRequest, empty_mlflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """All stages of a night of the shop: its rows come from one file, and it derives with a module of its own."""
    folder = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch:
        shop = open_shop(folder, patch)
        project = folder / "project"
        file = project / "use_cases" / "shop.py"
        for old, new in (
            ("logistic_regression(batch_size=256, learning_rate=0.05, epochs=4)", LEARNERS[request.param]),
            (
                "logistic_regression,",
                "".join(f"{name},\n    " for name in ADDED),
            ),
            ('Source(folder="shop")', 'FileSource(file="shop.parquet", time_column="bought_at")'),
            (
                "USE_CASE = UseCase(",
                f"{IMPORTS}\n\nUSE_CASE = UseCase(\n    derive=twice,\n    {RATES}",
            ),
            (
                'Column(name="amount"',
                'Column(name="twice"),\n        Column(name="rate"),\n        Column(name="amount"',
            ),
        ):
            assert old in file.read_text()
            file.write_text(file.read_text().replace(old, new))
        (project / "company.py").write_text(COMPANY)
        _in_one_file(shop.settings.data)
        shutil.copy(empty_mlflow, shop.settings.home / "mlflow.db")
        for names in PROCESSES:
            command = [sys.executable, "-m", "tests.pipeline.traced_stage", str(folder), *names]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        idle = frozenset(IDLE.get(request.param, ()))
        return Traced(folder, training_code(load_use_case("shop", project).model), idle)


def _in_one_file(data: Path) -> None:
    import pandas as pd

    days = sorted((data / "shop").glob("*.parquet"))
    pd.concat([pd.read_parquet(day) for day in days]).to_parquet(data / "shop.parquet")
    (data / "rates").mkdir()
    rates = pd.DataFrame({"country": ["DE", "FR", "US"], "rate": [1.0, 2.0, 3.0]})
    rates.to_parquet(data / "rates" / "all.parquet")


UNTRACED = {"night", "snapshot", "manifest", "forget cleaned", "recorded"}  # their answers are in the keys by value
STAGES = [name for names in PROCESSES for name in names if name not in UNTRACED]


def uncovered(executed: set[str], code: Code) -> list[str]:
    """What is executed and neither covered nor plumbing."""
    covered = {*code.files, *code.libraries}
    return sorted(name for name in executed - covered if not _is_plumbing(name, code))


def _is_plumbing(name: str, code: Code) -> bool:
    if name.startswith("ml/data/sources/") and "ml/data/sources/brought.py" in code.modules:
        return False  # what copies sources is plumbing for all but the keys of copies
    if "/" in name:
        return name.startswith("tests/") or is_plumbing(name)
    return any(name in names for names in PLUMBING_LIBRARIES.values())


@pytest.mark.parametrize("stage", STAGES)
def test_a_key_covers_what_its_stage_executes(stage: str, night: Traced) -> None:
    assert uncovered(night.executed(stage), night.code_of(stage)) == []


@pytest.mark.parametrize(
    ("stage", "left_out"),
    [
        ("brought", "ml/data/sources/file.py"),
        ("verdict", "ml/serving/rules.py"),
        ("cleaned", "pandas"),
        ("statistics", "ml/data/statistics.py"),
        ("train", "ml/models/training.py"),
        ("train", "torch"),
        ("verify", "ml/serving/model.py"),
        ("gates", "ml/evaluation/gates.py"),
        ("served", "ml/metrics/day_sums.py"),
    ],
)
def test_a_module_or_library_that_is_left_out_is_found(stage: str, left_out: str, night: Traced) -> None:
    if left_out in night.idle:
        pytest.skip("this kind of model does not use it")
    code = night.code_of(stage)
    less = Code(tuple(file for file in code.files if file != left_out), tuple({*code.libraries} - {left_out}))
    assert uncovered(night.executed(stage), less) == [left_out]
