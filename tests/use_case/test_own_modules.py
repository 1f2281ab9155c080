"""A use case's own modules: which they are, that keys cover them, and that what runs is what was read."""

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ml.errors import ConfigError
from ml.use_case.loading import load, load_use_case
from tests.use_case.test_config import TILLS

ROWS = pd.DataFrame({"x": [1.0, 2.0]})
TIMES_TWO, TIMES_THREE = ("def value(rows): return rows['x'] * 2\n", "def value(rows): return rows['x'] * 3\n")
Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Writes files below a project: `imports` go before the use case, `call` is what derive takes `double` from."""
    path, modules = list(sys.path), set(sys.modules)

    def write(imports: str = "", call: str = "", name: str = "own_tills", **files: str) -> Path:
        derive = f"    {call}\n    return rows.assign(double=value(rows))" if call else "    return rows"
        text = TILLS.replace("NAME", name).replace('    return rows.assign(double=rows["x"] * 2)', derive)
        assert derive in text
        write_files(tmp_path, {f"use_cases/{name}.py": imports + text, **files})
        return tmp_path

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("retrain_use_case_"):
            del sys.modules[name]


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))


def double(folder: Path, name: str = "own_tills") -> list[float]:
    derive = load_use_case(name, folder).derive
    assert derive is not None
    return derive(ROWS)["double"].tolist()


LIB = "import os, sys; sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'lib'))\n"
LAYOUTS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    # imports, statement in derive, the file with `value`, further files
    "beside the file": ("from helper import value\n", "", "use_cases/helper.py", {}),
    "in the project": ("from helper import value\n", "", "helper.py", {}),
    "in a function": ("", "from helper import value", "helper.py", {}),
    "in a function, the module": ("", "import helper; value = helper.value", "helper.py", {}),
    "relative": ("from .helper import value\n", "", "use_cases/helper.py", {}),
    "relative, the module": ("from . import helper\n", "value = helper.value", "use_cases/helper.py", {}),
    "on a path that the file adds": (LIB + "import helper\n", "value = helper.value", "lib/helper.py", {}),
    "a package": ("from company import value\n", "", "company/__init__.py", {}),
    "a module of a package": ("import company.helper\n", "value = company.helper.value", "company/helper.py",
                              {"company/__init__.py": ""}),
    "a module of a package under a name": ("import company.helper as h\n", "value = h.value", "company/helper.py",
                                           {"company/__init__.py": ""}),
    "from a package": ("from company import helper\n", "value = helper.value", "company/helper.py",
                       {"company/__init__.py": ""}),
    "a folder without __init__": ("from company.deep import helper\n", "value = helper.value",
                                  "company/deep/helper.py", {}),
    "through another module": ("import first\n", "value = first.value", "second.py",
                               {"first.py": "from second import value\n"}),
    "in a function of another module": ("import first\n", "value = first.late", "second.py",
        {"first.py": "def late(rows):\n    import second\n    return second.value(rows)\n"}),
    "relative in a package": ("from company.first import value\n", "", "company/second.py",
        {"company/__init__.py": "", "company/first.py": "from .second import value\n"}),
    "above, in a package": ("from company.deep.first import value\n", "", "company/second.py",
        {"company/__init__.py": "", "company/deep/__init__.py": "", "company/deep/first.py":
         "def value(rows):\n    from ..second import value\n    return value(rows)\n"}),
    "two that import each other": ("import first\n", "value = first.value", "second.py",
        {"first.py": "import second\ndef value(rows): return second.value(rows)\n", "third.py": "import first\n"}),
    "all names": ("from helper import *\n", "", "helper.py", {}),
    "import_module": ("import importlib\n", "value = importlib.import_module('helper').value", "helper.py", {}),
    "import_module, relative": ("from importlib import import_module\n",
        "value = import_module('.helper', 'company').value", "company/helper.py", {"company/__init__.py": ""}),
    "__import__": ("", "value = __import__('helper').value", "helper.py", {}),
    "only for types": ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import helper\n",
        "import importlib; value = importlib.import_module('hel' + 'per').value", "helper.py", {}),
    "where an installed one fails": (
        "try:\n    import absent_library as h\nexcept ImportError:\n    import helper as h\n",
        "value = h.value", "helper.py", {}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_module_that_is_mended_is_run_and_changes_the_key(layout: str, project: Project) -> None:
    imports, call, file, files = LAYOUTS[layout]
    folder = project(imports, call or "pass", **{file: TIMES_TWO, **files})
    before = load("own_tills", folder)
    assert double(folder) == [2.0, 4.0]
    assert load("own_tills", folder) is before
    write_files(folder, {file: TIMES_THREE})
    after = load("own_tills", folder)
    assert after.training.digest != before.training.digest
    assert double(folder) == [3.0, 6.0]
    assert before.use_case.derive is not None
    assert before.use_case.derive(ROWS)["double"].tolist() == [2.0, 4.0], "a date that began before goes on as it was"
    write_files(folder, {file: TIMES_TWO})
    assert load("own_tills", folder).training.digest == before.training.digest


def test_what_is_no_own_module_is_not_in_the_key(project: Project) -> None:
    """Python's, installed ones, and ours, which have a digest of their own."""
    folder = project(
        "import json, numpy, sklearn.base, ml.evaluation.gates\nfrom expectations import suite\n", "import pandas"
    )
    assert load("own_tills", folder).own.digests == {}


def test_the_same_modules_elsewhere_have_the_same_digest(project: Project, tmp_path: Path) -> None:
    folder = project("import company.helper\n", **{"company/helper.py": TIMES_TWO})
    moved = tmp_path / "elsewhere"
    write_files(moved, {name: (folder / name).read_text() for name in ("use_cases/own_tills.py", "company/helper.py")})
    assert load("own_tills", moved).training == load("own_tills", folder).training


def test_a_module_that_no_code_names_is_not_in_the_key(project: Project) -> None:
    folder = project("import helper\n", **{"helper.py": TIMES_TWO, "other.py": ""})
    before = load("own_tills", folder)
    write_files(folder, {"other.py": "x = 1"})
    assert load("own_tills", folder) is before


def test_a_module_that_comes_to_hide_another_is_seen(project: Project) -> None:
    """The first on the path is what runs, also where it was not there before."""
    folder = project(LIB + "from helper import value\n", "pass", **{"helper.py": TIMES_TWO, "lib/other.py": ""})
    assert double(folder) == [2.0, 4.0]
    write_files(folder, {"lib/helper.py": TIMES_THREE})
    assert double(folder) == [3.0, 6.0]


def test_modules_of_one_name_are_each_use_cases_own(project: Project) -> None:
    """Their folders both stand on sys.path, and each file only adds its own where it is not there."""
    add = "import sys\nif {0!r} not in sys.path: sys.path.insert(0, {0!r})\nfrom helper import value\n"
    folder = project()
    for name, text in (("first", TIMES_TWO), ("second", TIMES_THREE)):
        project(add.format(str(folder / name)), "from helper import value", name, **{f"{name}/helper.py": text})
    assert (double(folder, "first"), double(folder, "second"), double(folder, "first")) == ([2, 4], [3, 6], [2, 4])
    for name in ("first", "second"):
        write_files(folder, {f"use_cases/{name}.py": (folder / "use_cases" / f"{name}.py").read_text() + "# new\n"})
    assert (double(folder, "second"), double(folder, "first")) == ([3, 6], [2, 4])
    assert "helper" not in sys.modules


def test_dates_side_by_side_each_run_what_they_began_with(project: Project) -> None:
    folder = project("", "import helper; value = helper.value", **{"helper.py": TIMES_TWO})
    derive: Any = load_use_case("own_tills", folder).derive
    write_files(folder, {"helper.py": TIMES_THREE})
    later: Any = load_use_case("own_tills", folder).derive
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda each: each(ROWS)["double"].tolist(), [derive, later] * 20))
    assert results == [[2.0, 4.0], [3.0, 6.0]] * 20


def test_own_gates_learners_and_records_of_a_module_work(project: Project) -> None:
    """Dataclasses with hints as texts look for their module; a gate and a learner are parts of the use case."""
    company = """
        from __future__ import annotations
        import dataclasses, pickle
        from typing import ClassVar
        from ml import MinMetric, NetworkClassifier

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Floor(MinMetric):
            kind: ClassVar[str] = "own"

        class Learner(NetworkClassifier):
            pass

        @dataclasses.dataclass
        class Rate:
            factor: float = 2.0

        def value(rows):
            return rows["x"] * pickle.loads(pickle.dumps(Rate())).factor
    """
    call = "from company.parts import value"
    folder = project("from company.parts import Floor, Learner\n", call, **{"company/parts.py": company})
    file = folder / "use_cases" / "own_tills.py"
    file.write_text(
        file.read_text().replace("MinMetric(metric", "Floor(metric").replace("NetworkClassifier(", "Learner(")
    )
    assert double(folder) == [2.0, 4.0]
    use_case = load_use_case("own_tills", folder)
    assert type(use_case.model).__name__ == "Learner"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("import importlib; value = importlib.import_module('hel' + 'per').value", "helper is imported by a name"),
        ("value = __import__('hel' + 'per').value", "helper is imported by a name"),
        ("from importlib import util; util.spec_from_file_location('h', 'helper.py')", "uses spec_from_file_location"),
        ("import runpy; value = runpy.run_path('helper.py')['value']", "uses run_path"),
    ],
)
def test_a_module_that_nobody_can_read_beforehand_is_refused(call: str, says: str, project: Project) -> None:
    folder = project("", call, **{"helper.py": TIMES_TWO})
    with pytest.raises(ConfigError, match=says) as refused:
        double(folder)
    assert refused.value.next_step


def test_a_module_in_a_zip_is_refused(project: Project) -> None:
    import zipfile

    folder = project()
    with zipfile.ZipFile(folder / "lib.zip", "w") as archive:
        archive.writestr("zipped_helper.py", TIMES_TWO)
    folder = project(f"import sys; sys.path.insert(0, {str(folder / 'lib.zip')!r})\nimport zipped_helper\n")
    try:
        with pytest.raises(ConfigError, match="zipped_helper comes from"):
            load_use_case("own_tills", folder)
    finally:
        sys.modules.pop("zipped_helper", None)


def test_a_distribution_is_its_own_where_it_is_editable_and_installed_elsewhere(project: Project) -> None:
    folder = project(LIB + "import helper, bought\n", **{"lib/helper.py": TIMES_TWO, "lib/bought.py": TIMES_TWO})
    write_files(
        folder, {"lib/bought-1.0.dist-info/RECORD": "bought.py,,\n", "lib/helper.egg-info/top_level.txt": "helper"}
    )
    try:
        assert [*load("own_tills", folder).own.digests] == ["helper"]
    finally:
        sys.modules.pop("bought", None)


def test_a_shipped_use_case_that_another_takes_from_is_its_own(project: Project) -> None:
    """The sources of use cases are not in the digest of ours."""
    folder = project("from ml.use_cases.exam_pass import USE_CASE as OTHER\n")
    assert "ml.use_cases.exam_pass" in load("own_tills", folder).own.digests


def test_a_module_that_is_no_python_is_told_with_the_use_case(project: Project) -> None:
    folder = project("", "import helper", **{"helper.py": "def value(:\n"})
    with pytest.raises(ConfigError, match=r"own_tills.py must be importable, but SyntaxError.*helper.py, line 1"):
        load_use_case("own_tills", folder)


def test_what_a_file_finds_on_the_python_path_of_its_process_is_read(project: Project) -> None:
    folder = project("from helper import value\n", "pass", **{"lib/helper.py": TIMES_TWO})
    code = (
        "from pathlib import Path; from ml.use_case.loading import load; "
        f"print(*load('own_tills', Path({str(folder)!r})).own.digests)"
    )
    path = ":".join([str(folder / "lib"), str(Path(importlib.import_module("ml").__file__ or "").parents[1])])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout.split() == ["helper"], done.stderr
