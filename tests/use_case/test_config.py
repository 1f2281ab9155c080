"""Where a use case's file is found, what is refused of it, and what its digest speaks of."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ml import (
    BetterThanRule,
    BetterThanTrivial,
    Column,
    DatabaseSource,
    FileSource,
    MinMetric,
    NetworkClassifier,
    NotWorseThanChampion,
    NotWorseThanReference,
    Retention,
    SideTable,
    Source,
    Target,
    UseCase,
)
from ml.declarations import plain
from ml.errors import ConfigError, UsageError
from ml.use_case.loading import load_use_case, require_known, use_case_files
from tests.tiny import parcels, tills

SHIPPED = sorted(use_case_files(None))


def columns(*names: str, **changes: Any) -> tuple[Column, ...]:
    return tuple(dataclasses.replace(c, **changes) if c.name in names else c for c in tills().columns)


def test_only_features_are_given_to_the_model() -> None:
    assert [column.name for column in tills().features] == ["at", "amount", "items", "shop"]
    assert (tills().dated, parcels().dated) == (True, False)


def target(**changes: Any) -> Target:
    return dataclasses.replace(tills().target, **changes)


# Files

TILLS = '''
"""A file of a company's own."""

from ml import BetterThanTrivial, Column, MinMetric, NetworkClassifier, Source, Target, UseCase


def add_double(rows):
    return rows.assign(double=rows["x"] * 2)


USE_CASE = UseCase(
    name="NAME",
    question="Is it?",
    source=Source(folder="NAME"),
    columns=(Column(name="id", feature=False), Column(name="x"), Column(name="y", feature=False)),
    target=Target(column="y", above=1, classes=("no", "yes")),
    key=("id",),
    model=NetworkClassifier(hidden=(8,), learning_rate=0.01),
    gates=(MinMetric(metric="f1", floor=0.5, why="a test"), BetterThanTrivial(metric="f1", why="a test")),
    metric="f1",
    derive=add_double,
)
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "use_cases").mkdir()
    (tmp_path / "use_cases" / "_draft.py").write_text("raise SystemExit")
    return tmp_path


def write(project: Path, text: str = TILLS, name: str = "own_tills") -> Path:
    path = project / "use_cases" / f"{name}.py"
    path.write_text(text.replace("NAME", name))
    return path


def test_a_companys_own_folder_is_found_beside_the_shipped_files(project: Path) -> None:
    path = write(project)
    assert use_case_files(project)["own_tills"] == path
    assert set(use_case_files(project)) == {*SHIPPED, "own_tills"}
    use_case = load_use_case("own_tills", project)
    assert (use_case.name, use_case.model.hidden) == ("own_tills", (8,))
    with pytest.raises(UsageError):
        load_use_case("own_tills", None)


def test_a_companys_own_file_goes_before_a_shipped_one(project: Path) -> None:
    path = write(project, name="flights")
    assert use_case_files(project)["flights"] == path
    assert load_use_case("flights", project).question == "Is it?"


@pytest.mark.parametrize(
    ("name", "word"),
    [("flight", "did you mean flights?"), ("hous_price", "did you mean house_price?"), ("zzz", "choose one of them")],
)
def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest(name: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_known(name, None)
    assert all(known in str(caught.value) for known in SHIPPED)
    assert repr(name) in str(caught.value)
    assert word in str(caught.value)


UNUSABLE = [
    ("no object", "X = 1", "must define USE_CASE, a UseCase, but it has none"),
    ("another object", "USE_CASE = 1", "is of type int"),
    ("the class", "from ml import UseCase as USE_CASE", "is of type type"),
    ("another name", TILLS.replace("NAME", "other"), "it is 'other': write 'own_tills'"),
    ("a syntax error", "def", "invalid syntax (own_tills.py, line 1)"),
    ("a byte that is no text", "x = '\0'", "null bytes"),
    ("an end of the process", "import sys\nsys.exit('stop')", "SystemExit: stop (line 2)"),
    ("a call without end", "def f():\n    f()\n\nf()", "RecursionError: maximum recursion depth exceeded"),
    ("a message of two lines", "x = 1\nraise ValueError('one\\ntwo')", "ValueError: one two (line 2)"),
    ("an endless message", "raise ValueError('x' * 10_000)", "x (line 1)"),
    ("a field of another type", TILLS.replace('key=("id",)', 'key="id"'), "key of the use case own_tills must be"),
    ("a missing module", "import nonsense_module", "nonsense_module"),
    ("a missing name", "nonsense_name", "nonsense_name"),
    ("an unknown field", TILLS.replace('metric="f1",\n    derive', 'metrik="f1",\n    derive'), "did you mean metric?"),
    ("a missing field", TILLS.replace('    key=("id",),\n', ""), "'key'"),
]


@pytest.mark.parametrize(("text", "word"), [case[1:] for case in UNUSABLE], ids=[case[0] for case in UNUSABLE])
def test_an_unusable_file_is_a_config_error_that_names_it(project: Path, text: str, word: str) -> None:
    write(project, text)
    with pytest.raises(ConfigError) as caught:
        load_use_case("own_tills", project)
    assert "own_tills" in str(caught.value)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


TYPOS = [
    ('metric="f1",\n    derive', "windw=30,\n    derive", "'windw' is none (line 11): did you mean window_days?"),
    ('Column(name="x")', 'Column(name="x", nulable=True)', "'nulable' is none (line 15): did you mean nullable?"),
    ("learning_rate=", "learning_rat=", "'learning_rat' is none (line 18): did you mean learning_rate?"),
    ("floor=0.5", "zzz=0.5", "'zzz' is none (line 19): write one of metric, why, floor, first_only."),
    ("(hidden=(8,), ", "_of(epoch=3, ", "'epoch' is none (line 18): did you mean epochs?"),
]


@pytest.mark.parametrize(("written", "typed", "told"), TYPOS)
def test_a_mistyped_field_is_told_with_the_nearest(project: Path, written: str, typed: str, told: str) -> None:
    """The last through a function of another module."""
    text = TILLS.replace("Target, UseCase", "Target, UseCase, logistic_regression")
    write(project, text.replace(written, typed).replace("NetworkClassifier_of", "logistic_regression"))
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_use_case("own_tills", project)


@pytest.mark.parametrize("where", ["file", "module"])
def test_an_own_class_with_fields_that_is_no_dataclass_is_told_so(project: Path, where: str) -> None:
    """Without the decorator, its fields are none that the class above it has."""
    own = "from ml import MinMetric\n\nclass Steady(MinMetric):\n    spread: float\n"
    text = TILLS.replace("MinMetric(metric", "Steady(spread=0.1, metric")
    (project / "use_cases" / "own_gates.py").write_text(own)
    write(project, ("from own_gates import Steady\n" if where == "module" else own) + text)
    with pytest.raises(ConfigError, match=r"Steady is none \(line \d+\): write @dataclass.* above class Steady"):
        load_use_case("own_tills", project)


def test_what_stops_a_command_stops_it_in_a_use_case_file_too(project: Path) -> None:
    write(project, "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_use_case("own_tills", project)


def test_a_file_that_is_none_is_refused(project: Path) -> None:
    (project / "use_cases" / "own_tills.py").mkdir()
    with pytest.raises(ConfigError, match=r"own_tills\.py must be a file that can be read, but .* 'Is a directory'"):
        load_use_case("own_tills", project)


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.write_text("")], ids=["none", "a file"])
def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "use_cases")
    with pytest.raises(ConfigError, match=rf"folder {tmp_path}/use_cases must .* unset RETRAIN_PROJECT"):
        use_case_files(tmp_path)


OWN_GATE = """
from __future__ import annotations
from dataclasses import dataclass
from ml import MinMetric

@dataclass(frozen=True, kw_only=True)
class Steady(MinMetric):
    limits: dict[str, LIMIT]
"""


@pytest.mark.parametrize(
    ("limit", "limits", "word"),
    [("float", "{'a': 1}", None), ("float", "{'a': '1'}", "limits[a] of the gate Steady f1")],
)
def test_a_gate_of_the_file_is_judged_by_its_hints(project: Path, limit: str, limits: str, word: str | None) -> None:
    gate = f'Steady(metric="f1", floor=0.5, why="a test", limits={limits})'
    text = TILLS.replace('MinMetric(metric="f1", floor=0.5, why="a test")', gate)
    write(project, OWN_GATE.replace("LIMIT", limit) + text)
    if word is None:
        assert load_use_case("own_tills", project).gates[0].name == "Steady f1"
        return
    with pytest.raises(ConfigError) as caught:
        load_use_case("own_tills", project)
    assert word in str(caught.value)


# Digests


def digest_of(project: Path, text: str) -> str:
    write(project, text)
    return load_use_case("own_tills", project).digest


EDITS = [
    ("a function's source", 'rows["x"] * 2', 'rows["x"] * 3', True),
    ("a gate's figure", "floor=0.5", "floor=0.6", True),
    ("the model's parameter", "learning_rate=0.01", "learning_rate=0.02", True),
    ("the model's layers", "hidden=(8,)", "hidden=(8, 8)", True),
    ("the target's limit", "above=1", "above=2", True),
    ("a column's limit", 'Column(name="x")', 'Column(name="x", minimum=0)', True),
    ("a field with a default", 'metric="f1",\n    derive', 'metric="f1",\n    rare_below=7,\n    derive', True),
    ("a gate that is gone", 'BetterThanTrivial(metric="f1", why="a test")', "", True),
    ("the file's first line", "A file of a company's own.", "Another line.", False),
    ("a default that is spelt out", 'metric="f1",\n    derive', 'metric="f1",\n    seed=42,\n    derive', False),
    ("a space", "hidden=(8,), learning", "hidden=(8,),  learning", False),
]


@pytest.mark.parametrize(("old", "new", "changes"), [case[1:] for case in EDITS], ids=[case[0] for case in EDITS])
def test_the_digest_follows_what_decides_a_result_and_nothing_else(
    project: Path, old: str, new: str, changes: bool
) -> None:
    before = digest_of(project, TILLS)
    assert old in TILLS
    assert (digest_of(project, TILLS.replace(old, new)) != before) is changes
    assert digest_of(project, TILLS) == before


def _edits() -> list[Callable[[], UseCase]]:
    return [
        tills,
        lambda: tills(source=Source(folder="other")),
        lambda: tills(target=Target(column="returned_after", above=1, classes=("kept", "returned"))),
        lambda: tills(window_days=9),
        lambda: tills(model=NetworkClassifier(hidden=(), batch_size=64, epochs=2, seed=1)),
        lambda: tills(gates=(MinMetric(metric="f1", floor=0.5, why="a test"),)),
        lambda: tills(columns=columns("amount", sensitive=True)),
    ]


def test_objects_that_differ_have_different_digests_and_equal_ones_the_same() -> None:
    assert len({make().digest for make in _edits()}) == len(_edits())
    assert [make().digest for make in _edits()] == [make().digest for make in _edits()]


def test_what_decides_no_result_changes_no_digest() -> None:
    """A night is not judged again because its schedule moved."""
    moved = tills(schedule="0 3 * * *", missed_nights="skip", retention=Retention(versions=2))
    assert moved.digest == tills().digest


DATA_EDITS: list[tuple[str, dict[str, Any], bool]] = [
    ("a gate", {"gates": (MinMetric(metric="f1", floor=0.5, why="a test"),)}, False),
    ("the model", {"model": NetworkClassifier(hidden=(3,))}, False),
    ("the window", {"window_days": 9}, False),
    ("the target's limit", {"target": target(above=1)}, True),
    ("a column's limit", {"columns": columns("amount", maximum=7)}, False),
    ("a column's type", {"columns": columns("amount", type="text", minimum=None, maximum=None)}, True),
    ("when a row is known", {"known_at_column": "at"}, True),
    ("derive", {"derive": lambda rows: rows}, True),
    ("the source", {"source": Source(folder="other")}, True),
]


@pytest.mark.parametrize(("changes", "other"), [case[1:] for case in DATA_EDITS], ids=[case[0] for case in DATA_EDITS])
def test_the_digest_of_reading_follows_what_decides_rows_and_labels_and_not_the_learning(
    changes: dict[str, Any], other: bool
) -> None:
    assert (tills(**changes).reading_digest != tills().reading_digest) is other
    assert tills(**changes).digest != tills().digest


# Digests that are stored

EVERY = UseCase(
    name="every",
    question="Does each part keep its digest?",
    source=Source(folder="every"),
    side_tables=(
        SideTable(name="files", source=FileSource(file="f.csv", time_column="at"), on=("k",), take=("f",)),
        SideTable(
            name="rows",
            source=DatabaseSource(database="D", query="select 1", time_column="at", changed_column="c"),
            on=("k",),
            take=("r",),
        ),
    ),
    key=("k",),
    columns=(
        Column(name="k", type="text"),
        Column(name="at", type="timestamp", parts=("hour",)),
        Column(name="f", nullable=True, minimum=0, maximum=9, unit="m", example=1.0),
        Column(name="r", type="integer", category=True, feature=False),
        Column(name="y", type="text", values=("a", "b"), feature=False),
    ),
    target=Target(column="y", positive="b", classes=("a", "b")),
    time_column="at",
    model=NetworkClassifier(hidden=(3,)),
    gates=(
        MinMetric(metric="f1", floor=0.5, why="w"),
        BetterThanTrivial(metric="f1", why="w"),
        BetterThanRule(metric="f1", why="w"),
        NotWorseThanChampion(metric="f1", max_drop=0.1, why="w"),
        NotWorseThanReference(metric="f1", max_drop=0.1, why="w"),
    ),
    metric="f1",
    retention=Retention(versions=3),
)

STORED = {  # by the version of 2026-11-27; champions of stores are compared by that of their target
    "digest": "4267543f7b304e13f3c540cd821f54ce53ca6cfb79687ecde54bac3ccdb83933",
    "reading_digest": "b58f86641a113b3093f7f602acc47b923210015e782ebeb6a1c4afccfd08d944",
    "statistics_digest": "bad88291ed2f9d6c7ba528876e2ba90b236a20de803bc37e413fccf817000c3a",
}


@pytest.mark.parametrize("name", STORED)
def test_digests_that_stores_hold_stay_as_they_are(name: str) -> None:
    assert getattr(EVERY, name) == STORED[name]


def test_a_champions_target_stays_comparable() -> None:
    assert EVERY.target.digest == "13c4dd852637cf9b8ff89ec3d3d3209e44a7bc3ad375549180508874f8af3d53"
    regression = Target(column="y", kind="regression", log=True, unit="m")
    assert regression.digest == "100b28275c8dde6961a3e59caa213731d8eaa562f479efae2defc869b5b437df"


def newer(kind: type, **fields: Any) -> type:
    """The class as a later version of ours has it: of the same name, with further fields."""
    made = dataclasses.make_dataclass(
        kind.__name__, [(name, Any, value) for name, value in fields.items()], bases=(kind,), frozen=True, kw_only=True
    )
    made.__module__ = kind.__module__
    return made


NEWER: list[tuple[str, Callable[..., Any]]] = [
    ("source", lambda **more: newer(Source, encoding="utf-8")(folder="every", **more)),
    ("target", lambda **more: newer(Target, encoding="utf-8")(**vars(EVERY.target), **more)),
    ("columns", lambda **more: tuple(newer(Column, encoding="utf-8")(**vars(c), **more) for c in EVERY.columns)),
    ("gates", lambda **more: (newer(MinMetric, encoding="utf-8")(**vars(EVERY.gates[0]), **more), *EVERY.gates[1:])),
    (
        "side_tables",
        lambda **more: (newer(SideTable, encoding="utf-8")(**vars(EVERY.side_tables[0]), **more), EVERY.side_tables[1]),
    ),
]


@pytest.mark.parametrize(("field", "make"), NEWER, ids=[case[0] for case in NEWER])
def test_a_new_field_is_in_a_digest_only_where_it_says_more_than_its_default(
    field: str, make: Callable[..., Any]
) -> None:
    same = dataclasses.replace(EVERY, **{field: make()})
    other = dataclasses.replace(EVERY, **{field: make(encoding="latin-1")})
    assert same.digest == EVERY.digest
    assert other.digest != EVERY.digest
    assert same.reading_digest == EVERY.reading_digest
    assert (other.reading_digest != EVERY.reading_digest) is (field != "gates")


def test_a_field_of_a_companys_own_gate_stands_in_every_digest() -> None:
    own = dataclasses.make_dataclass("Own", [("floor_of", Any, 1)], bases=(MinMetric,), frozen=True, kw_only=True)
    gate = own(**vars(EVERY.gates[0]))
    assert "floor_of" in str(plain(gate))


# The shipped use cases


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_use_case_keeps_the_house_rules(name: str) -> None:
    use_case = load_use_case(name, None)
    gates = {type(gate) for gate in use_case.gates}
    assert {BetterThanTrivial, MinMetric} <= gates
    assert all(gate.why.strip() for gate in use_case.gates)
    features = {column.name for column in use_case.features}
    assert use_case.target.column not in features
    assert len(use_case.key) > 1 or not set(use_case.key) & features
    assert use_case.demo is not None
    assert use_case.question.endswith("?")
    assert use_case.metric in {gate.metric for gate in use_case.gates}
    assert len(use_case.digest) == 64


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_target_is_complete(name: str) -> None:
    target = load_use_case(name, None).target
    if target.kind == "binary":
        assert len(target.classes) == 2
        assert (target.above is None) != (target.positive is None)
        assert target.positive in {None, target.classes[1]}
    elif target.kind == "regression":
        assert target.unit
        assert target.labels(pd.Series([1.0, 2.0])).tolist() == [1.0, 2.0]
    else:
        assert len(set(target.classes)) > 2
