"""The public face: what it lists, what asking for it costs, and what an import from an old place is told."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ml
from ml.errors import ConfigError
from ml.use_case.loading import load_use_case

OURS = Path(ml.__file__).parent
LISTED = (
    "BetterThanRule BetterThanTrivial BusinessDays Column Comparison DatabaseSource DaySource Difference "
    "EmbeddedNetwork Evidence FileSource Fitted Gate Interval Job Learner MinMetric NetworkClassifier "
    "NetworkRegressor NotSurelyWorse NotWorseThanChampion NotWorseThanReference Pair Retention ScikitLearn "
    "SideTable Source SourceUnchanged Step TabM Target Trees UseCase Verdict VerdictName linear_regression "
    "logistic_regression metric_interval"
).split()


def test_the_face_is_what_it_says() -> None:
    assert ml.__all__ == LISTED
    types = {"VerdictName"}  # which is one of Python's own: it does not know where it was written
    assert {name: getattr(ml, name).__module__ for name in ml.__all__ if name not in types} == {
        name: module for name, module in ml.FACE.items() if name not in types
    }
    assert set(LISTED) <= set(dir(ml))
    with pytest.raises(AttributeError, match="ml has no Columm"):
        _ = ml.Columm  # type: ignore[attr-defined]


def test_importing_the_face_imports_nothing_behind_it() -> None:
    code = "import sys, ml; print([name for name in sys.modules if name.startswith('ml.') or name == 'pandas'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((OURS / "use_cases").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_our_use_cases_import_nothing_deeper(path: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in imports if (node.module or "").partition(".")[0] == "ml"} == {"ml"}


OLD = [
    ("from ml.config import Source, Target, UseCase", "write `from ml import Source, Target, UseCase`"),
    (
        "from ml.gates import (\n    BetterThanTrivial,\n    metric_interval,\n)",
        "write `from ml import BetterThanTrivial, metric_interval`",
    ),
    ("from ml.models.estimators import logistic_regression", "write `from ml import logistic_regression`"),
    ("from ml.artifacts import Night", "ml has BusinessDays, SideTable, Target, "),
    ("from ml.evaluation import CLASS_METRICS", "ml has BusinessDays, SideTable, Target, "),
    ("import ml.config", "ml has BusinessDays, SideTable, Target, "),
    ("from ml import Columm", "ml has BusinessDays, SideTable, Target, "),
]


@pytest.mark.parametrize("where", ["file", "module"])
@pytest.mark.parametrize(("line", "told"), OLD, ids=[line for line, _ in OLD])
def test_an_import_from_an_old_place_is_told_the_line_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, line: str, told: str
) -> None:
    """In the use case's file, and in a module of its own."""
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "Editable" not in str(f)])
    folder = tmp_path / "use_cases"
    folder.mkdir()
    (folder / "old.py").write_text(line if where == "file" else "import oldest\n")
    (folder / "oldest.py").write_text(line)
    with pytest.raises(ConfigError) as refused:
        load_use_case("old", tmp_path)
    assert told in str(refused.value)
    assert "must import from ml itself" in str(refused.value)
