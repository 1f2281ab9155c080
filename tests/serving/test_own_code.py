"""A company's own modules inside a model: they run under names of their own, and find each other."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from ml.serving.columns import Column
from ml.serving.own_code import OwnCode

FILES = {
    "helper.py": "from ml import Column\nimport rates\n\ndef value(x): return x * rates.FACTOR\n",
    "rates.py": "FACTOR = {factor}\n",
    "company/__init__.py": "NAME = 'company'\n",
    "company/parts.py": """
        from __future__ import annotations
        import dataclasses, importlib, pickle
        from importlib import import_module
        from . import NAME
        from .deeper.inner import FIVE

        @dataclasses.dataclass
        class Rate:
            factor: float = 2.0

        def value(x):
            import rates
            assert importlib.import_module("rates") is import_module("rates") is rates
            assert import_module(".deeper.inner", "company").FIVE == FIVE == 5
            return x * pickle.loads(pickle.dumps(Rate())).factor * rates.FACTOR
    """,
    "company/deeper/inner.py": "FIVE = 5\n",
    "round_one.py": "import round_two\nNUMBER = 1\n",
    "round_two.py": "import round_one\ndef number(): return round_one.NUMBER\n",
}


def own(folder: Path, factor: int = 2, **more: str) -> OwnCode:
    for name, text in (FILES | more).items():
        name = f"modules/{name}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text.replace("{factor}", str(factor))))
    return OwnCode.of_folder(folder)


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_two_codes_give_their_own_answers_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    before = set(sys.modules)
    codes = {factor: own(tmp_path / str(factor), factor) for factor in order}
    for _ in range(2):
        for factor, code in codes.items():
            assert code.load("helper").value(10) == 10 * factor
            assert code.load("company.parts").value(10) == 20 * factor
    added = {name for name in set(sys.modules) - before if not name.startswith("ml.serving.own_")}
    assert added.isdisjoint({"helper", "rates", "company", "company.parts", "company.deeper", "ml.use_cases"})


def test_modules_that_import_each_other_load(tmp_path: Path) -> None:
    assert own(tmp_path).load("round_two").number() == 1


def test_derive_runs_with_the_own_modules(tmp_path: Path) -> None:
    source = b"from helper import value\nfrom company import parts\nDERIVE = lambda x: value(x) + parts.FIVE\n"
    code = own(tmp_path)
    code = OwnCode(code.modules, code.packages, source)
    code.save(tmp_path / "again")
    for each in (code, OwnCode.of_folder(tmp_path / "again")):
        assert each.derive_function()(1) == 7  # type: ignore[arg-type, comparison-overlap]


def test_a_column_is_that_of_the_package_that_serves(tmp_path: Path) -> None:
    assert own(tmp_path).load("helper").Column is Column


def test_they_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    code = own(tmp_path / "first")
    code.save(tmp_path / "second")
    again = OwnCode.of_folder(tmp_path / "second")
    assert (again.modules, again.packages, again.prefix) == (code.modules, code.packages, code.prefix)
    assert again.load("helper") is code.load("helper")


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("import helper.nothing", ModuleNotFoundError),
        ("from helper import nothing", ImportError),
        ("import company.nothing", ModuleNotFoundError),
        ("import ml.data", ModuleNotFoundError),
        ("from ml import UseCase", ImportError),
        ("import there_is_no_such_library", ModuleNotFoundError),
        ("this is no Python", SyntaxError),
    ],
)
def test_what_is_not_there_is_not_found_and_leaves_nothing_behind(
    tmp_path: Path, statement: str, error: type[Exception]
) -> None:
    code = own(tmp_path, **{"broken.py": statement + "\n"})
    for _ in range(2):
        with pytest.raises(error):
            code.load("broken")
    assert f"{code.prefix}.broken" not in sys.modules


def test_what_is_there_is_found_as_ever(tmp_path: Path) -> None:
    text = "import os.path, numpy as np\nfrom collections import abc\nROOT = np.sqrt(os.path.sep.count('/'))\n"
    module: Any = own(tmp_path, **{"plain.py": text}).load("plain")
    assert module.ROOT == 1.0 and module.os.path is sys.modules["os.path"] and module.abc
