"""What of a use case's own code a field needs: what the cut holds, what changes its digest, and what cannot be cut."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ml
import ml.code
from ml.code import imported_code
from ml.pipeline.site import own_code_digest
from ml.use_case.loading import Loaded, load
from ml.use_case.travelling import NOTHING, Travelling
from tests.use_case.test_own_modules import Project, project, write_files

__all__ = ["project"]  # a fixture
ROWS = pd.DataFrame({"x": [1.0, 2.0]})
DERIVE = "def add_double(rows):\n    return rows.assign(double=value(rows))\n"
HEAD = """
from company.gates import Mine
from ml import BetterThanTrivial, Column, NetworkClassifier, Source, Target, UseCase

"""
TAIL = """

USE_CASE = UseCase(
    name="own_tills",
    question="Is it?",
    source=Source(folder="own_tills"),
    columns=(Column(name="id", feature=False), Column(name="x"), Column(name="y", feature=False)),
    target=Target(column="y", above=1, classes=("no", "yes")),
    key=("id",),
    model=NetworkClassifier(hidden=(8,), learning_rate=0.01),
    gates=(Mine(metric="f1", floor=0.5, why="a test"),),
    metric="f1",
    derive=add_double,
)
"""
GATES = "from ml import MinMetric\n\nclass Mine(MinMetric):\n    pass\n"
FILES = {"company/__init__.py": "", "company/gates.py": GATES, "company/rows.py": "def twice(x):\n    return x * 2\n"}


def written(folder: Path, body: str, tail: str = TAIL, **files: str) -> Loaded:
    text = HEAD + body + tail
    write_files(folder, {"use_cases/own_tills.py": text, **FILES, **files})
    return load("own_tills", folder)


def doubled(cut: Travelling, folder: Path) -> list[float]:
    """What DERIVE answers in a fresh process that has only the cut and its modules, and no project of ours."""
    folder.mkdir()
    for name, source in cut.modules.items():
        file = folder / (name.replace(".", "/") + ("/__init__.py" if name in cut.packages else ".py"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source)
    (folder / "cut.py").write_bytes(cut.source)
    ROWS.to_parquet(folder / "rows.parquet")
    script = "import cut, pandas as pd; print(list(cut.DERIVE(pd.read_parquet('rows.parquet'))['double']))"
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, check=True
    )
    return [float(part) for part in said.stdout.decode().strip(" []\n").split(",")]


BODIES: dict[str, tuple[str, list[str]]] = {
    # what stands in the file, and what must not be in the cut
    "a function": ("def value(rows):\n    return rows['x'] * 2\n", []),
    "a constant": ("FACTOR = 2\nFLOOR = 0.5\n\ndef value(rows):\n    return rows['x'] * FACTOR\n", ["FLOOR"]),
    "a table that is filled": (
        "TABLE = {}\nTABLE.update(factor=1)\nTABLE['factor'] += 1\nOTHER = {}\nOTHER.update(TABLE_NOT=1)\n\n"
        "def value(rows):\n    return rows['x'] * TABLE['factor']\n",
        ["OTHER"],
    ),
    "a table that a function fills": (
        "TABLE = {}\n\ndef fill():\n    TABLE['factor'] = 2\n\nfill()\n\n"
        "def value(rows):\n    return rows['x'] * TABLE['factor']\n",
        [],
    ),
    "a table under another name": (
        "TABLE = {}\nSAME = TABLE\nSAME['factor'] = 2\n\ndef value(rows):\n    return rows['x'] * TABLE['factor']\n",
        [],
    ),
    "a table that an assignment changes": (
        "TABLE = {'old': 2}\nNEW = TABLE.pop('old')\nTABLE['factor'] = NEW\n\n"
        "def value(rows):\n    return rows['x'] * TABLE['factor']\n",
        [],
    ),
    "a loop": (
        "TABLE = {}\nfor name in ('factor',):\n    TABLE[name] = 2\n\n"
        "def value(rows):\n    return rows['x'] * TABLE['factor']\n",
        [],
    ),
    "a choice": (
        "try:\n    import absent_library\nexcept ImportError:\n    absent_library = None\n\n"
        "def value(rows):\n    return rows['x'] * (2 if absent_library is None else 3)\n",
        [],
    ),
    "a function that registers itself": (
        "STEPS = []\n\ndef step(function):\n    STEPS.append(function)\n    return function\n\n"
        "@step\ndef double(x):\n    return x * 2\n\n"
        "def value(rows):\n    return STEPS[0](rows['x'])\n",
        [],
    ),
    "a class": ("class Twice:\n    def __call__(self, x):\n        return x * 2\n\n"
                "def value(rows):\n    return Twice()(rows['x'])\n", []),
    "a variable that functions set": (
        "FACTOR = 1\n\ndef set_factor():\n    global FACTOR\n    FACTOR = 2\n\nset_factor()\n\n"
        "def value(rows):\n    return rows['x'] * FACTOR\n",
        [],
    ),
    "a function bound anew": (
        "def value(rows):\n    return rows['x']\n\ndef doubled(f):\n    return lambda rows: f(rows) * 2\n\n"
        "value = doubled(value)\n",
        [],
    ),
    "annotations as texts": (
        "import numpy as np\n\n"
        "def value(rows: 'np.ndarray'):\n    return rows['x'] * 2\n", [],
    ),
    "an own module": ("from company.rows import twice\n\ndef value(rows):\n    return twice(rows['x'])\n", []),
    "an own module in a function": (
        "def value(rows):\n    from company.rows import twice\n    return twice(rows['x'])\n", []),
    "a relative import": ("from .helper import twice\n\ndef value(rows):\n    return twice(rows['x'])\n", []),
    "some names of an import": (
        "import numpy as np, json\nfrom company import gates, rows as own\n\n"
        "def value(rows):\n    return own.twice(rows['x'])\n\nTEXT = json.dumps(gates.__name__)\n",
        ["json", "gates"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_the_cut_of_derive_runs_alone_and_answers_as_the_file_does(name: str, project: Project, tmp_path: Path) -> None:
    body, absent = BODIES[name]
    loaded = written(project(), body + DERIVE, **{"use_cases/helper.py": FILES["company/rows.py"]})
    cut = loaded.deriving
    assert cut.why_not is None
    assert doubled(cut, tmp_path / "alone") == [2.0, 4.0]
    text = cut.source.decode()
    assert not [word for word in (*absent, "USE_CASE", "Mine", "NetworkClassifier") if word in text], text
    assert "company.gates" not in cut.modules
    assert cut == loaded.reading


EDITS: dict[str, tuple[str, str, set[str]]] = {
    # old, new, whose digests change
    "the factor": ("FACTOR = 2", "FACTOR = 3", {"deriving", "reading", "training"}),
    "what fills the table": ("'factor': 1", "'factor': 2", {"deriving", "reading", "training"}),
    "a floor of an own gate": ("floor=0.5", "floor=0.6", {"judging"}),
    "another gate's import": ("BetterThanTrivial, Column", "BetterThanTrivial, Column, MinMetric", set()),
    "a name that nothing uses": ("UNUSED = 1", "UNUSED = 2", set()),
    "a comment": ("# a comment", "# another", set()),
    "the question": ("Is it?", "Is it so?", set()),
    "the model": ("learning_rate=0.01", "learning_rate=0.02", set()),
}
BODY = """
import numpy as np
from company.rows import twice

FACTOR = 2
UNUSED = 1
TABLE = {}
TABLE.update({'factor': 1})

def value(rows):
    # a comment
    return twice(rows['x']) * FACTOR * TABLE['factor'] * np.pi
"""
PARTS = ("deriving", "reading", "training", "judging")


def changed(loaded: Loaded, other: Loaded) -> set[str]:
    return {part for part in PARTS if getattr(loaded, part).digest != getattr(other, part).digest}


@pytest.mark.parametrize("name", EDITS)
def test_a_digest_changes_with_what_its_part_executes_and_with_nothing_else(name: str, project: Project) -> None:
    old, new, parts = EDITS[name]
    folder = project()
    before = written(folder, BODY + DERIVE)
    file = folder / "use_cases" / "own_tills.py"
    assert old in file.read_text()
    write_files(folder, {"use_cases/own_tills.py": file.read_text().replace(old, new)})
    assert changed(before, load("own_tills", folder)) == parts


@pytest.mark.parametrize(
    ("file", "parts"),
    [("company/gates.py", {"judging"}), ("company/rows.py", {"deriving", "reading", "training"}),
     ("company/__init__.py", set(PARTS))],
)  # fmt: skip
def test_an_own_module_belongs_to_the_parts_that_import_it(file: str, parts: set[str], project: Project) -> None:
    folder = project()
    before = written(folder, BODY + DERIVE)
    write_files(folder, {file: (folder / file).read_text() + "x = 1\n"})
    assert changed(before, load("own_tills", folder)) == parts


LEARNER = """
from ml import NetworkClassifier

class Mine(NetworkClassifier):
    pass
"""


def test_the_module_of_an_own_learner_is_part_of_training_only(project: Project) -> None:
    folder = project()
    tail = TAIL.replace("model=NetworkClassifier(", "model=learners.Mine(")
    files = {"company/learners.py": LEARNER}
    before = written(folder, "from company import learners\n" + BODY + DERIVE, tail, **files)
    write_files(folder, {"company/learners.py": LEARNER + "x = 1\n"})
    assert changed(before, load("own_tills", folder)) == {"training"}


def test_without_own_code_there_is_nothing(project: Project) -> None:
    plain = TAIL.replace("    derive=add_double,\n", "").replace("Mine(", "MinMetric(")
    loaded = written(project(), "from ml import MinMetric\n", plain)
    assert [getattr(loaded, part) for part in PARTS] == [NOTHING] * 4


UNSEEN: dict[str, tuple[str, str]] = {
    "exec": ("import company.rows\n\nexec('def value(rows): return rows.x')\n", "uses exec"),
    "globals": ("import company.rows\n\nglobals()['value'] = lambda rows: rows['x']\n", "uses globals"),
    "all names": ("from company.rows import *\n\ndef value(rows):\n    return twice(rows['x'])\n", "imports *"),
    "a made-up name": (
        "import importlib\nif False:\n    import company.rows\n\n"
        "def value(rows):\n    return importlib.import_module('company.' + 'rows').twice(rows['x'])\n",
        "made up",
    ),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_cannot_be_followed_counts_as_a_whole(name: str, project: Project) -> None:
    body, why = UNSEEN[name]
    folder = project()
    before = written(folder, body + DERIVE)
    assert before.deriving.why_not is not None and why in before.deriving.why_not
    for file in ("company/gates.py", "company/rows.py"):
        write_files(folder, {file: (folder / file).read_text() + "x = 1\n"})
        after = load("own_tills", folder)
        assert {"deriving", "reading", "training"} <= changed(before, after)
        before = after


@pytest.mark.parametrize(
    ("tail", "travels"),
    [
        ("\nFIELDS = dict(derive=add_double)\n" + TAIL.replace("    derive=add_double,\n", "    **FIELDS,\n"), True),
        (TAIL.replace("USE_CASE = UseCase(", "MADE = UseCase(") + "USE_CASE = MADE\n", True),
        (TAIL.replace("USE_CASE = UseCase(", "MADE = UseCase(").replace("derive=add_double", "derive=lambda rows: "
         "add_double(rows)") + "USE_CASE = MADE\n", False),
    ],
)  # fmt: skip
def test_a_derive_that_is_not_written_in_use_case_is_found_by_its_name(
    tail: str, travels: bool, project: Project, tmp_path: Path
) -> None:
    cut = written(project(), BODIES["a function"][0] + DERIVE, tail).deriving
    assert (cut.why_not is None) is travels, cut.why_not
    assert not travels or doubled(cut, tmp_path / "alone") == [2.0, 4.0]


@pytest.mark.parametrize(
    ("imported", "why"),
    [("Column", None), ("Target", "ml.Target"), ("UseCase", "ml.UseCase")],
)
def test_of_ml_only_a_column_travels(imported: str, why: str | None, project: Project) -> None:
    body = f"from ml import {imported} as Taken\n\ndef value(rows):\n    assert Taken\n    return rows['x'] * 2\n"
    cut = written(project(), body + DERIVE).deriving
    assert (cut.why_not is None) is (why is None)
    assert why is None or why in str(cut.why_not)
    assert cut.ours == {f"ml.{imported}"}


@pytest.mark.parametrize(
    ("where", "libraries"),
    [
        ("in the file", {"numpy", "scikit-learn"}),
        ("in an own module", {"numpy", "scikit-learn"}),
        ("by a function", {"numpy", "scikit-learn"}),
        ("by another field", {"numpy"}),
    ],
)
def test_the_libraries_that_own_code_imports_are_part_of_its_keys(
    where: str, libraries: set[str], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = "import sklearn\n\ndef value(rows):\n    return rows['x']\n"
    value = "def value(rows):\n    return np.abs(rows['x'])"
    imports = {
        "in the file": f"from sklearn import preprocessing\n\n{value} if preprocessing else None",
        "in an own module": "import company.scaled\n\ndef value(rows):\n    return np.abs(company.scaled.value(rows))",
        "by a function": value.replace("    ", "    import sklearn.preprocessing\n    "),
        "by another field": f"import sklearn\n\ndef other():\n    return sklearn\n\n{value}",
    }
    loaded = written(project(), f"import numpy as np\n{imports[where]}\n" + DERIVE, **{"company/scaled.py": scaled})
    assert loaded.deriving.libraries == libraries
    before = own_code_digest(loaded.deriving)
    monkeypatch.setattr(ml.code, "version_of", lambda library: "9.9" if library == "scikit-learn" else "1.0")
    ml.code._digest_of.cache_clear()
    first = own_code_digest(loaded.deriving)
    monkeypatch.setattr(ml.code, "version_of", lambda library: "1.0")
    ml.code._digest_of.cache_clear()
    assert (own_code_digest(loaded.deriving) != first) is ("scikit-learn" in libraries)
    monkeypatch.undo()
    ml.code._digest_of.cache_clear()
    assert own_code_digest(loaded.deriving) == before


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import ml\n\nclass Late(ml.BetterThanRule):\n    pass\n", {"ml", "ml.BetterThanRule"}),
        ("import ml as retrain\n\nclass Late(retrain.BetterThanRule):\n    pass\n", {"ml", "ml.BetterThanRule"}),
        ("from ml import BetterThanRule\n\nclass Late(BetterThanRule):\n    ml = 1\n", {"ml.BetterThanRule"}),
    ],
)
def test_what_own_code_takes_of_ml_is_known_however_it_imports_it(text: str, names: set[str], project: Project) -> None:
    body = "from company.late import Late\n\nassert Late\n" + BODIES["a function"][0] + DERIVE
    tail = TAIL.replace("gates=(", "gates=(Late(metric='f1', why='a test'), ")
    late = written(project(), body, tail, **{"company/late.py": text}).judging
    assert late.ours >= names
    assert "ml/evaluation/gates.py" in imported_code(names, ml.FACE).files


SETTINGS = {
    "a statement": "pd.options.display.width = WIDTH\n",
    "a block": "if pd.__version__:\n    pd.options.display.width = WIDTH\n",
    "a function": "def set_width():\n    pd.set_option('display.width', WIDTH)\n\nset_width()\n",
    "a function in a function": (
        "def inner():\n    pd.set_option('display.width', WIDTH)\n\ndef outer():\n    inner()\n\nouter()\n"
    ),
    "a constant": "WIDE = WIDTH\npd.options.display.width = WIDE\n",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_file_sets_in_a_library_is_part_of_a_key(name: str, project: Project) -> None:
    folder = project()
    body = f"import pandas as pd\n\n{SETTINGS[name]}" + BODIES["a function"][0] + DERIVE
    settings: list[Any] = [written(folder, body.replace("WIDTH", width)).at_import for width in ("80", "81")]
    assert settings[0] != settings[1]


def test_an_own_module_whose_function_the_file_calls_is_part_of_a_key(project: Project) -> None:
    folder = project()
    body = "from company.setup import set_width\n\nset_width()\n" + BODIES["a function"][0] + DERIVE
    text = "import pandas as pd\n\ndef set_width():\n    pd.options.display.width = {}\n"
    settings: list[Any] = [written(folder, body, **{"company/setup.py": text.format(n)}).at_import for n in (80, 81)]
    assert settings[0] != settings[1]


@pytest.mark.parametrize(
    "body",
    [
        "GATES = []\nGATES.append(Mine(metric='f1', floor=0.5, why='a test'))\n",
        "def say():\n    print('loaded')\n\nsay()\n",
        "import math\nFLOOR = math.sqrt(0.25)\n",
    ],
)
def test_a_file_that_sets_nothing_in_a_library_has_nothing_of_it_in_its_keys(body: str, project: Project) -> None:
    assert written(project(), body + BODIES["a function"][0] + DERIVE).at_import == ""


def test_a_module_that_is_imported_for_its_effect_counts_for_everything(project: Project) -> None:
    folder = project()
    body = "import company.rows\n" + BODIES["a function"][0] + DERIVE
    before = written(folder, body)
    write_files(folder, {"company/rows.py": "x = 1\n"})
    after = load("own_tills", folder)
    assert changed(before, after) == set(PARTS)
    assert before.at_import != after.at_import
    assert written(folder, BODIES["a function"][0] + DERIVE).at_import == ""
