"""A kind of model that lies in a company's project folder: it is fitted, travels inside its versions, and is judged."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from ml.errors import ConfigError
from ml.models.training import fit, package
from ml.pipeline.site import Site
from ml.serving.own_code import OwnCode
from ml.storage import registry
from ml.use_case.loading import load
from tests.story import SHOP, Shop, shop_day
from tests.tiny import cleaned, job

LEARNER = '''
"""Least squares on two columns."""

import json

import numpy as np

from ml import Fitted, Job, Learner


class LeastSquares(Learner):
    learns = ("binary",)
    served = ("my_kind",)
    libraries = ("numpy",)

    def __init__(self, ridge: float = 1.0) -> None:
        self.ridge = ridge

    def fit_rows(self, job: Job) -> Fitted:
        from my_kind import FILE, numbers

        X = np.concatenate([numbers(frame) for frame in job.train])
        y = np.concatenate([job.labels(frame) for frame in job.train]) * 4 - 2
        weights = np.linalg.solve(X.T @ X + self.ridge * np.eye(X.shape[1]), X.T @ y)
        (job.folder / FILE).write_text(json.dumps(weights.tolist()))
        return Fitted(chosen={})
'''
KIND = '''
"""What serves it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ml import Column
from my_scale import SCALE

FILE = "weights.json"
USED = (Column(name="reminders"), Column(name="amount"))


def numbers(frame: pd.DataFrame) -> np.ndarray:
    columns = [frame[column.name].fillna(0).to_numpy(np.float64) / SCALE for column in USED]
    return np.column_stack([np.ones(len(frame)), *columns])


@dataclass
class Served:
    weights: np.ndarray

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        return {}

    def outputs(self, typed: pd.DataFrame) -> np.ndarray:
        return (numbers(typed) * self.weights).sum(axis=1)[:, None]


def load(folder: Path, threads: int) -> Served:
    return Served(np.array(json.loads((folder / FILE).read_text())))
'''
OTHER_WEIGHTS = ("* self.weights)", "* self.weights * 2)")
OURS = {"ml", "tasks", "flows", "expectations", "deployments"}
REFUSED = {*OURS, "my_kind", "my_learner", "my_scale", "torch"}
ELSEWHERE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import mlflow.pyfunc, pandas as pd
rows, tracking, *versions = sys.argv[1:]
mlflow.set_tracking_uri(tracking)
models = {{number: mlflow.pyfunc.load_model(f"models:/shop/{{number}}") for number in versions}}
for number, model in models.items():
    model.predict(pd.read_parquet(rows)).to_parquet(f"{{rows}}.{{number}}")
assert not {{"my_kind", "my_scale"}} & set(sys.modules)
"""


NETWORK = "logistic_regression(batch_size=256, learning_rate=0.05, epochs=4)"
OWN_SHOP = (
    SHOP.replace(NETWORK, "LeastSquares(ridge=2.0)")
    .replace("    logistic_regression,\n", "")
    .replace("USE_CASE = ", "from my_learner import LeastSquares\n\nUSE_CASE = ")
)
PROJECT = {
    "use_cases/shop": OWN_SHOP,
    "my_learner": LEARNER,
    "my_kind": KIND,
    "my_scale": "SCALE = 1.0\n",
}


def write(project: Path | None, **files: str) -> Path:
    assert project is not None
    for name, text in files.items():
        (project / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (project / f"{name}.py").write_text(text, encoding="utf-8")
    return project


@pytest.fixture
def company(shop: Shop) -> Shop:
    """The shop with a learner of its own, whose served half lies beside it."""
    write(shop.settings.project, **PROJECT)
    return shop


def answers_elsewhere(
    shop: Shop, rows: pd.DataFrame, folder: Path, *versions: int, refused: set[str] = REFUSED
) -> dict[int, pd.DataFrame]:
    """The versions' answers from a process in which neither this project nor the company's can be imported."""
    folder.mkdir(exist_ok=True)
    file = folder / "rows.parquet"
    rows.to_parquet(file)
    script = ELSEWHERE.format(refused=refused)
    command = [sys.executable, "-P", "-c", script, str(file), shop.settings.tracking_uri, *map(str, versions)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {number: pd.read_parquet(f"{file}.{number}") for number in versions}


@pytest.mark.slow
def test_a_night_fits_it_and_its_versions_answer_where_nothing_of_the_project_is(company: Shop, tmp_path: Path) -> None:
    first = company.document("2024-03-15")
    assert first["decision"] == "FIRST"
    write(company.settings.project, my_kind=KIND.replace(*OTHER_WEIGHTS))
    second = company.document("2024-03-15")
    write(company.settings.project, my_scale="SCALE = 2.0\n")
    third = company.document("2024-03-15")
    entries = company.entries()
    assert [entry.candidate and entry.candidate.version for entry in entries] == [1, 2, 3]
    assert not any(document["replayed"] for document in (first, second, third))
    rows = pd.read_parquet(company.file("2024-03-10"))
    versions = (1, 2, 3)
    elsewhere = answers_elsewhere(company, rows, tmp_path / "a", *versions)
    reverse = answers_elsewhere(company, rows, tmp_path / "b", *versions[::-1])
    for entry, number in zip(entries, versions, strict=True):
        assert entry.candidate is not None
        folder = Path(company.settings.store) / entry.candidate.folder
        here = registry.load_model(folder).predict(rows)
        pd.testing.assert_frame_equal(elsewhere[number], here, check_exact=True, check_dtype=False)
        pd.testing.assert_frame_equal(reverse[number], here, check_exact=True, check_dtype=False)
        assert {path.stem for path in folder.glob("code/*/own/modules/*.py")} == {"my_kind", "my_scale"}
        assert "torch" not in (folder / "requirements.txt").read_text()
    assert len({path.name for path in Path(company.settings.store).glob("mlflow/*/artifacts/model/code/*")}) == 3


@pytest.mark.slow
def test_a_night_that_changes_nothing_makes_no_other_version(company: Shop) -> None:
    company.document("2024-03-15")
    assert company.document("2024-03-15")["replayed"]


@pytest.mark.slow
def test_a_module_that_changes_while_a_night_runs_is_refused_in_one_sentence(
    company: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Site.reader

    def changing(site: Site, *place: object) -> object:
        write(company.settings.project, my_kind=KIND.replace(*OTHER_WEIGHTS))
        return before(site, *place)  # type: ignore[arg-type]

    monkeypatch.setattr(Site, "reader", changing)
    with pytest.raises(ConfigError, match=r"a use case stays as it is during a night, but .*a module .* changed"):
        company.night("2024-03-15")


BAD: list[tuple[str, dict[str, str], str]] = [
    ("is not there", {"my_learner": LEARNER.replace("my_kind", "my_kin")}, "my_kin is neither"),
    ("is named by nobody", {"my_learner": LEARNER.replace('("my_kind",)', "()")}, "it names none"),
    ("needs ours", {"my_kind": "from ml.data import reading\n" + KIND}, "it uses ml.data.reading"),
    ("makes up names", {"my_kind": KIND + "__import__('my_' + FILE)\n"}, "a name that is made up"),
    ("has no fit_rows", {"my_learner": LEARNER.replace("def fit_rows", "def fit")}, "LeastSquares does not"),
    (
        "is named by a text",
        {"my_learner": LEARNER.replace('("my_kind",)', '"my_kind"')},
        "served of LeastSquares is 'my",
    ),
    ("learns a text", {"my_learner": LEARNER.replace('("binary",)', '"binary"')}, "learns of LeastSquares is 'binary'"),
    ("has no load", {"my_kind": KIND.replace("def load", "def open")}, r"my_kind must define load\(folder, threads\)"),
    (
        "has a load inside a class alone",
        {"my_kind": KIND.replace("def load", "class A:\n    def load(self): pass\n\n\ndef open")},
        "my_kind must define load",
    ),
    ("is no Python", {"my_kind": KIND + "this is no Python\n"}, "SyntaxError"),
]


@pytest.mark.parametrize(("files", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_kind_that_could_not_serve_is_refused_before_a_night(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load("shop", write(tmp_path, **(PROJECT | files)))


@pytest.mark.parametrize(
    "elsewhere",
    [
        "from my_scale import load",
        "from my_scale import open as load",
        "from my_scale import *",
        "load = open",
        "if 1:\n    load = 1",
    ],
)
def test_a_kind_may_take_its_load_from_another_module(tmp_path: Path, elsewhere: str) -> None:
    text = KIND.replace("def load", "def open") + f"\n{elsewhere}\n"
    load("shop", write(tmp_path, **(PROJECT | {"my_kind": text})))


WRONG = [
    ("has another shape", KIND.replace("[:, None]", ""), r"60 validation rows has the shape \(60,\)"),
    ("answers with a list", KIND.replace("[:, None]", ".tolist()"), "60 validation rows is a list"),
    ("answers with texts", KIND.replace("[:, None]", ".astype(str)[:, None]"), "must answer each row with 1 number"),
    ("answers with no numbers", KIND.replace("return (numbers", "return np.nan * (numbers"), "at `outputs` of my_kind"),
    (
        "fails",
        KIND.replace("return Served(", "return Served(1 / 0, "),
        "fails with ZeroDivisionError in line 36 of ",
    ),
    (
        "fails to answer",
        KIND.replace("return (numbers", "raise KeyError(1)\n        return ("),
        "fails with KeyError",
    ),
]


@pytest.mark.parametrize(("kind", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_kind_that_does_not_keep_to_the_protocol_is_refused_in_one_sentence(
    tmp_path: Path, kind: str, words: str
) -> None:
    loaded = load("shop", write(tmp_path / "project", **(PROJECT | {"my_kind": kind})))
    use_case = loaded.use_case
    rows = cleaned(use_case, shop_day(date(2024, 1, 1)))
    use_case.model.fit_rows(job(use_case, tmp_path / "fitted", rows, rows))
    own = OwnCode(loaded.serving.modules, loaded.serving.packages)
    with pytest.raises(ConfigError, match=words):
        package(use_case, use_case.column_rules, tmp_path / "fitted", 1, rows, own)


UNFIT = [
    (
        "fails",
        LEARNER.replace("weights = ", "weights = 1 / 0 * "),
        "it fails with ZeroDivisionError in line .* of my_learner",
    ),
    ("returns nothing", LEARNER.replace("return Fitted(chosen={})", "return"), "it returns a NoneType: return Fitted"),
    ("returns something else", LEARNER.replace("return Fitted(chosen={})", "return {}"), "it returns a dict: return"),
]


@pytest.mark.parametrize(("learner", "words"), [case[1:] for case in UNFIT], ids=[case[0] for case in UNFIT])
def test_a_fit_that_does_not_keep_to_the_protocol_is_refused_in_one_sentence(
    tmp_path: Path, learner: str, words: str
) -> None:
    use_case = load("shop", write(tmp_path / "project", **(PROJECT | {"my_learner": learner}))).use_case
    rows = cleaned(use_case, shop_day(date(2024, 1, 1)))
    with pytest.raises(ConfigError, match=words):
        fit(use_case.model, job(use_case, tmp_path / "fitted", rows, rows))
