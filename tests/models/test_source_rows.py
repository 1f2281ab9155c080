"""A version takes rows of its source: each derive and each side table that can travel gives the night's own answers."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest

from ml.data.joins import complete
from ml.models import source_rows
from ml.models.description import predict_raw
from ml.models.packaging import write_model
from ml.models.source_rows import Sample, Taken, rows_taken, sentence
from ml.serving.columns import conform
from ml.serving.model import PackagedModel
from ml.serving.own_code import OwnCode
from ml.storage import registry
from ml.use_case.loading import Loaded, load
from tests.tiny import packaged, parcels, raw_parcels

FILE = """
import numpy as np
import pandas as pd
from ml import BetterThanTrivial, Column, NetworkClassifier, SideTable, Source, Target, UseCase

{code}

USE_CASE = UseCase(
    name="parcels",
    question="When will it arrive?",
    source=Source(folder="parcels"),
    key=("parcel",),
    columns=(
        Column(name="parcel", type="integer", feature=False),
        Column(name="weight", minimum=0, maximum=30),
        Column(name="distance", nullable=True, minimum=0),
        Column(name="carrier", type="text", nullable=True),
        Column(name="zone", type="integer", category=True),
        Column(name="outcome", type="text", values=("in time", "late"), feature=False),
        {more}
    ),
    target=Target(column="outcome", positive="late", classes=("in time", "late")),
    model=NetworkClassifier(hidden=(8,), epochs=3),
    metric="f1",
    gates=(BetterThanTrivial(metric="f1", why="a test"),),
    derive={derive},
    side_tables={sides},
)
"""
DEF = "def kilometres(rows):\n"
DERIVES: dict[str, tuple[str, str]] = {  # code, and the value of derive
    "nothing": ("", "None"),
    "adds a column": (DEF + "    return rows.assign(distance=rows['metres'] / 1000)", "kilometres"),
    "sorts": (
        DEF + "    by = rows.sort_values('weight', ignore_index=True)\n"
        "    return by.assign(distance=by['metres'] / 1000)", "kilometres"
    ),
    "groups": (
        DEF + "    parts = rows.groupby('carrier', dropna=False)\n"
        "    return pd.concat([part[::-1].assign(distance=part['metres'] / 1000) for _, part in parts])", "kilometres"
    ),
    "uses a helper module": ("from company.lengths import kilometres", "kilometres"),
    "imports one when it runs": (
        DEF + "    from company import lengths\n    return lengths.kilometres(rows)", "kilometres"
    ),
    "uses constants of the file": (
        "METRES = {'kilometre': 1000}\nMETRES['mile'] = 1609\n" + DEF
        + "    return rows.assign(distance=rows['metres'] / METRES['kilometre'])", "kilometres"
    ),
    "uses numpy": (DEF + "    return rows.assign(distance=np.divide(rows['metres'], 1000))", "kilometres"),
    "is a lambda": ("", "lambda rows: rows.assign(distance=rows['metres'] / 1000)"),
    "keeps only what it needs": (
        DEF + "    rows = rows.assign(distance=rows['metres'] / 1000)\n"
        "    return rows[['row__', 'parcel', 'weight', 'distance', 'carrier', *rows.columns.intersection("
        "['zone', 'depot', 'outcome'])]]", "kilometres"
    ),
    "makes the label": (
        DEF + "    late = np.where(rows['arrived'] > rows['due'], 'late', 'in time')\n"
        "    return rows.assign(distance=rows['metres'] / 1000, outcome=late)", "kilometres"
    ),
    "uses a column of ml": (
        "METRES = Column(name='metres')\n" + DEF
        + "    return rows.assign(distance=rows[METRES.name] / 1000)", "kilometres"
    ),
}  # fmt: skip
TABLE = "(SideTable(name='depots', source=Source(folder='depots'), on=('depot',), take=('zone',)),)"
SIDES = {"none": "()", "undated": TABLE, "dated": TABLE, "large": TABLE, "sensitive": TABLE}
SENSITIVE = "Column(name='depot', type='text', nullable=True, feature=False, sensitive=True),"
BLANK = {"makes the label": ["arrived", "due"], "keeps only what it needs": ["parcel"]}
LENGTHS = "from ml import Column\nfrom .units import KILOMETRE\n\n" + DEF + (
    "    return rows.assign(distance=rows[Column(name='metres').name] / KILOMETRE)\n"
)  # fmt: skip
DEPOTS = pd.DataFrame({"depot": ["x", "y", "z", None], "zone": [1, 2, 3, 3], "more": "not taken"})
ANSWERING = """
import sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ml", "tasks", "flows", "expectations", "deployments", "company"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import mlflow.pyfunc, pandas

for folder in map(Path, sys.argv[1:]):
    model = mlflow.pyfunc.load_model(str(folder / "model"))
    for rows in folder.glob("form-*.parquet"):
        model.predict(pandas.read_parquet(rows)).to_parquet(folder / f"answers-{rows.name}")
"""


def project(folder: Path, code: str, derive: str, sides: str = "()", more: str = "") -> Loaded:
    """The use case, written to a file."""
    text = FILE.format(code=code, derive=derive, sides=sides, more=more)
    files = {
        "use_cases/parcels.py": text,
        "company/__init__.py": "",
        "company/lengths.py": LENGTHS,
        "company/units.py": "KILOMETRE = 1000\n",
    }
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(source))
    return load("parcels", folder)


def sample(derive: str, sides: str) -> Sample:
    """Rows of the source. The last ones break a rule, have nulls, and meet nothing in the side table."""
    metres = np.random.default_rng(0).integers(1, 9, 80) * 1000
    rows = raw_parcels(80).drop(columns="distance").assign(parcel=range(80), metres=metres, arrived=2, due=3)
    rows["at"] = pd.Timestamp("2024-01-01")
    rows.loc[[70, 71], "weight"] = 99.0
    if derive == "nothing":
        rows = rows.rename(columns={"metres": "distance"})
    if sides == "none":
        return Sample(rows=rows, sides={}, undated=set())
    depots = rows["zone"].map({1: "x", 2: "y", 3: "z"}).mask(rows.index > 75)
    rows = rows.drop(columns="zone").assign(depot=depots)
    return Sample(rows=rows, sides={"depots": DEPOTS}, undated=set() if sides == "dated" else {"depots"})


def packed(loaded: Loaded, some: Sample) -> tuple[PackagedModel, Taken]:
    """What a night makes of them, the fit excepted."""
    own = OwnCode(loaded.deriving.modules, loaded.deriving.packages, loaded.deriving.source)
    derive = own.derive_function() if own.derive and not loaded.deriving.why_not else None
    taken = rows_taken(loaded.use_case, derive, loaded.deriving.why_not, some)
    model = copy(packaged())
    model.source, model.raw_only = taken.source, taken.raw_only
    model.own = own if taken.source is not None else model.own
    return model, taken


Case = tuple[str, str]


FEW = {("nothing", "none"), ("groups", "dated"), ("groups", "large"), ("nothing", "sensitive")}  # undated beside them
CASES = [
    pytest.param(derive, sides, marks=() if sides == "undated" or (derive, sides) in FEW else pytest.mark.slow)
    for derive in DERIVES
    for sides in SIDES
]


@pytest.fixture(scope="module")
def cases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, tuple[Path, Taken, pd.DataFrame]]:
    """Of every derive with a side table that is to be tested: a version's folder with its answers from a process
    without this project, what it takes, and the night's raw rows."""
    folder, made = tmp_path_factory.mktemp("versions"), dict[Case, tuple[Path, Taken, pd.DataFrame]]()
    of_cases = (item.callspec.params for item in request.session.items if "cases" in getattr(item, "fixturenames", ()))
    for number, (derive, sides) in enumerate((params["derive"], params["sides"]) for params in of_cases):
        place = folder / str(number)
        loaded = project(place, *DERIVES[derive], SIDES[sides], SENSITIVE if sides == "sensitive" else "")
        with pytest.MonkeyPatch.context() as patch:
            if sides == "large":
                patch.setattr(source_rows, "MOST_BYTES", 100)
            model, taken = packed(loaded, sample(derive, sides))
        write_model(model, parcels().model, place / "model")
        raw = complete(loaded.use_case, sample(derive, sides).rows, sample(derive, sides).sides).rows
        for form, rows in enumerate([raw, *taken.forms]):
            rows.to_parquet(place / f"form-{form}.parquet")
        made[derive, sides] = (place, taken, raw)
    places = [str(place) for place, _, _ in made.values()]
    command = [sys.executable, "-P", "-c", ANSWERING, *places]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.mark.parametrize(("derive", "sides"), CASES)
def test_rows_of_the_source_get_the_answers_of_raw_rows_where_nothing_of_the_project_is(
    cases: dict[Case, tuple[Path, Taken, pd.DataFrame]], derive: str, sides: str
) -> None:
    place, taken, raw = cases[derive, sides]
    if (derive, sides) == ("nothing", "none"):
        assert (taken.source, taken.raw_only) == (None, "")
        return
    assert taken.source is not None, taken.raw_only
    expected = packaged().predict(raw)
    assert expected["broken_rule"].notna().sum() >= 2
    answers = sorted(place.glob("answers-*.parquet"))
    assert len(answers) == 3
    for file in answers:
        pd.testing.assert_frame_equal(pd.read_parquet(file), expected, check_exact=True, check_dtype=False)
    travels = [side.name for side in taken.source.sides]
    assert travels == (["depots"] if sides == "undated" else [])
    assert taken.source.brought == (() if sides in {"none", "undated"} else ("zone",))
    assert [column.name for column in taken.source.blank] == BLANK.get(derive, [])
    assert not {"parcel", "at"} & set(taken.source.needed)
    left_out = list(place.glob("model/code/*/own/derive.py")) == []
    assert left_out == (derive == "nothing")


Change = Callable[[pd.DataFrame], pd.DataFrame]
FORMS: dict[str, Change] = {
    "as JSON": lambda rows: pd.DataFrame(rows.to_dict("records")),
    "in another order, with more columns": lambda rows: rows.assign(zebra=1).iloc[:, ::-1],
    "one row": lambda rows: rows.iloc[[3]],
    "no rows": lambda rows: rows.iloc[:0],
    "categories": lambda rows: rows.astype({"carrier": "category", "depot": "category"}),
    "from Arrow": lambda rows: rows.convert_dtypes(dtype_backend="pyarrow"),
    "whole numbers": lambda rows: rows.astype({"metres": "int32"}),
    "a repeating index": lambda rows: rows.set_axis([7] * len(rows)),
    "turned round": lambda rows: rows[::-1],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PackagedModel:
    loaded = project(tmp_path_factory.mktemp("one"), *DERIVES["groups"], TABLE)
    return packed(loaded, sample("groups", "undated"))[0]


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_the_source_are_taken_in_any_form(model: PackagedModel, form: str) -> None:
    rows = sample("groups", "undated").rows
    expected, changed = model.predict(rows), FORMS[form](rows)
    answers = model.predict(changed)
    assert answers.index.equals(changed.index)
    same = expected.iloc[changed["parcel"].astype("int64")].set_axis(changed.index)
    pd.testing.assert_frame_equal(answers, same, check_exact=True, check_dtype=False)


REFUSED: dict[str, tuple[Change, str]] = {
    "neither raw nor of the source": (
        lambda rows: rows.drop(columns=["metres", "weight"]),
        r"\['weight', 'distance', 'zone'\] are missing; as rows of the source they lack \['weight', 'metres'\]",
    ),
    "no key of the side table": (
        lambda rows: rows.drop(columns="depot"), r"\['distance', 'zone'\] are missing; .* lack \['depot'\]"
    ),
    "a column twice": (lambda rows: pd.concat([rows, rows["metres"]], axis=1), r"\['metres'\] are there twice"),
    "a text in a number": (lambda rows: rows.assign(metres="SECRET"), r"fails with \w+ in line \d+ of derive\.py"),
    "a key of another type": (lambda rows: rows.assign(depot=4711), "depots cannot be joined on depot"),
    "a wrong type that derive passes on": (lambda rows: rows.assign(weight="SECRET"), "weight must be number"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_are_neither_are_refused_with_both_ways_and_no_value(model: PackagedModel, name: str) -> None:
    change, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as caught:
        model.predict(change(sample("groups", "undated").rows))
    assert "SECRET" not in str(caught.value) and "4711" not in str(caught.value)


RAW_ONLY: dict[str, tuple[str, str, str]] = {
    "changes a feature": (
        DEF + "    return rows.assign(distance=rows['metres'] / 1000, weight=rows['weight'] / 2)", "kilometres",
        "derive changes weight, so rows with it may be those before derive or after"
    ),
    "uses more of ml": (
        "from ml.data import calendars\n" + DEF
        + "    return rows.assign(distance=rows['metres'] / len(str(calendars.__name__)))", "kilometres",
        "derive does not travel: it uses ml.data.calendars"
    ),
    "runs what it does not say": (
        DEF + "    return rows.assign(distance=eval('rows.metres') / 1000)", "kilometres", "uses eval"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW_ONLY)
def test_a_version_that_cannot_take_rows_of_the_source_says_why(tmp_path: Path, name: str) -> None:
    code, derive, why = RAW_ONLY[name]
    model, taken = packed(project(tmp_path, code, derive), sample(name, "none"))
    assert taken.source is None and why in taken.raw_only
    write_model(model, parcels().model, tmp_path / "model")
    again = PackagedModel.load(tmp_path / "model" / "data" / "model")
    with pytest.raises(ValueError, match=r"are missing .*derive"):
        again.predict(sample(name, "none").rows)
    assert why in (tmp_path / "model" / "MLmodel").read_text().replace("\n   ", "")
    assert not list(tmp_path.glob("model/code/*/own"))


def test_a_derive_that_changes_a_feature_of_few_rows_is_found_where_it_does(tmp_path: Path) -> None:
    code = DEF + "    return rows.assign(distance=rows['metres'] / 1000, weight=rows['weight'].clip(0, 100))"
    model, taken = packed(project(tmp_path, code, "kilometres"), sample("clips", "none"))
    assert taken.source is not None
    rows = sample("clips", "none").rows.assign(distance=1.0)
    model.predict(rows)
    with pytest.raises(ValueError, match=r"derive changes weight: .* \(say rows='raw' or rows='source'\)"):
        model.predict(rows.assign(weight=200.0))


RARE = {
    "adds a column": (
        "    changed = rows['weight'].mask(rows['weight'] > 90, 7)\n"
        "    return rows.assign(distance=rows['metres'] / 1000, weight=changed)"
    ),
    "has the source's own columns": "    return rows.assign(weight=rows['weight'].mask(rows['weight'] > 90, 7))",
}


@pytest.mark.parametrize("derive", RARE)
def test_rows_are_answered_in_the_form_that_they_are_said_to_have(tmp_path: Path, derive: str) -> None:
    """The day on which the derive was tried has none of the rows that it changes."""
    some = sample("nothing" if "own" in derive else "", "none")
    usual = some.rows.assign(weight=some.rows["weight"].clip(0, 30))
    model, taken = packed(
        project(tmp_path, DEF + RARE[derive], "kilometres"), Sample(rows=usual, sides={}, undated=set())
    )
    assert taken.source is not None
    rare = some.rows.assign(weight=95.0)
    raw = rare if "own" in derive else rare.assign(distance=rare["metres"] / 1000)
    write_model(model, parcels().model, tmp_path / "model")
    loaded = registry.load_model(tmp_path / "model")
    plain = copy(packaged())
    assert predict_raw(loaded, raw).equals(plain.predict(raw))
    assert loaded.predict(raw, params={"rows": "raw"}).equals(plain.predict(raw))
    after = raw.assign(weight=7)
    assert loaded.predict(rare, params={"rows": "source"}).equals(plain.predict(after))
    assert loaded.predict(raw, params={"rows": "source"}).equals(plain.predict(after))
    chosen = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"rows": "raw"})
    assert chosen.predict(raw).equals(plain.predict(raw))
    with pytest.raises(ValueError, match="rows must be one of either, raw, source, but it is 'any'"):
        loaded.predict(raw, params={"rows": "any"})


def test_a_version_that_takes_raw_rows_only_refuses_rows_that_are_said_to_be_of_the_source(tmp_path: Path) -> None:
    code, derive, why = RAW_ONLY["changes a feature"]
    model, _ = packed(project(tmp_path, code, derive), sample("changes", "none"))
    rows = raw_parcels(5)
    assert model.predict(rows, {"rows": "raw"}).equals(packaged().predict(rows))
    with pytest.raises(ValueError, match=f"rows must be raw rows, as the model takes no rows of the source .*{why}"):
        model.predict(rows, {"rows": "source"})
    assert packaged().predict(rows, {"rows": "source"}).equals(packaged().predict(rows))  # both are the same


def test_rows_that_are_said_to_be_of_the_source_must_have_its_columns(model: PackagedModel) -> None:
    rows = sample("groups", "undated").rows.assign(distance=1.0, zone=1).drop(columns="metres")
    model.predict(rows)
    with pytest.raises(ValueError, match=r"rows of the source must have .* but \['metres'\] are missing"):
        model.predict(rows, {"rows": "source"})


def test_what_a_version_takes_is_said_in_words(model: PackagedModel) -> None:
    said = sentence(model.columns, model.source, model.raw_only)
    assert said == (
        "Raw rows need weight, distance, carrier, zone. Rows of the source may be given instead: they need weight, "
        "carrier, metres, depot. depots is joined here."
    )


def test_a_version_names_the_libraries_that_its_own_code_imports(tmp_path: Path) -> None:
    code = "import os\nfrom sklearn import base\n" + DEF + (
        "    return rows.assign(distance=rows['metres'] / (1000 if base and os.sep else 1))"
    )  # fmt: skip
    loaded = project(tmp_path, code, "kilometres")
    model, _ = packed(loaded, sample("one", "none"))
    write_model(model, parcels().model, tmp_path / "model", libraries=loaded.deriving.libraries)
    needed = (tmp_path / "model" / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in needed] == [
        "mlflow", "numpy", "pandas", "pyarrow", "torch", "safetensors", "scikit-learn"
    ]  # fmt: skip


def test_the_same_raw_rows_are_made_as_in_a_night(model: PackagedModel, tmp_path: Path) -> None:
    some: Any = sample("groups", "undated")
    use_case = project(tmp_path, *DERIVES["groups"], TABLE).use_case
    assert model.source is not None
    made, night = model.source.completed(some.rows)[0], complete(use_case, some.rows, some.sides).rows
    features = use_case.features
    pd.testing.assert_frame_equal(conform(made, features), conform(night, features), check_exact=True)
