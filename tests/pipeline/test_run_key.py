"""What makes a run itself."""

import dataclasses
import inspect
import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import ml.code
from ml import NetworkClassifier
from ml.code import ROOT, Code, require_unchanged
from ml.data import (
    cleaning,
    csv_fields,
    dataset,
    derived,
    joins,
    partitions,
    reading,
    side_tables,
    split,
    validation,
)
from ml.data import statistics as features
from ml.data.code import KEPT
from ml.data.sources import database as database_source
from ml.data.sources import file as file_source
from ml.errors import ConfigError
from ml.evaluation.code import EXPLAINING, JUDGING
from ml.models.protocol import Learner
from ml.pipeline import run_key
from ml.serving import columns, rules
from ml.serving import features as encoding
from tests.tiny import night

OTHER: dict[str, Any] = {
    "use_case": "tills",
    "as_of": date(2024, 3, 2),
    "seed": 2,
    "again": "a reason",
    "use_case_digest": "1" * 64,
    "code_digest": "1" * 64,
    "judging_digest": "1" * 64,
    "instructions": "AVX512",
    "device": "cuda",
    "threads": 2,
}
JUDGED = {"use_case", "judging_digest"}  # they decide what is said of a model, and not the model


def test_every_field_of_a_night_is_part_of_its_key() -> None:
    assert {*OTHER, "dated"} == {field.name for field in dataclasses.fields(night())}
    keys = [run_key.run_key(night(), "s"), run_key.run_key(night(), "t")]
    keys += [run_key.run_key(night(**{name: value}), "s") for name, value in OTHER.items()]
    assert len(set(keys)) == len(OTHER) + 2
    assert run_key.run_key(night(), "s") == keys[0]
    assert all(len(key) == 64 for key in keys)


@pytest.mark.parametrize("name", OTHER)
def test_the_training_key_has_what_decides_a_model_and_no_more(name: str) -> None:
    other, same = run_key.training_key(night(**{name: OTHER[name]}), "s"), run_key.training_key(night(), "s")
    assert (other == same) is (name in JUDGED)
    assert run_key.training_key(night(), "s") != run_key.training_key(night(), "t")


@pytest.mark.parametrize("dated", [True, False])
def test_a_date_decides_about_models_of_dated_rows_only(dated: bool) -> None:
    nights = [night(dated=dated), night(dated=dated, as_of=OTHER["as_of"])]
    assert len({run_key.training_key(one, "s") for one in nights}) == 1 + dated
    assert len({run_key.run_key(one, "s") for one in nights}) == 2


@pytest.mark.parametrize("name", OTHER)
def test_the_learning_key_is_the_run_key_without_its_date(name: str) -> None:
    same = run_key.learning_key(night(**{name: OTHER[name]}), "s") == run_key.learning_key(night(), "s")
    assert same is (name == "as_of")
    assert run_key.learning_key(night(), "s") != run_key.learning_key(night(), "t")


READING: list[Callable[..., Any]] = [
    partitions.read_partition,
    reading.parse_table,
    derived.derived,
    side_tables.join,
    csv_fields.read_fields,
    joins.complete,
    columns.conform,
    columns.wrong_type,
    dataset.Target.labels,
    validation.drop_duplicates,
    cleaning.clean,
]
DECIDING: dict[str, list[Callable[..., Any]]] = {
    "verdict": [*READING, rules.first_broken, validation.check_batch],
    "cleaned": READING,
    "brought": [file_source.bring_file, database_source.bring_rows, csv_fields.read_fields, columns.typed],
    "statistics": [features.Statistics.of, encoding.category_counts, cleaning.from_arrow, split.rows_of],
}
PAIRS = [(kind, function) for kind, functions in DECIDING.items() for function in functions]


@pytest.mark.parametrize(("kind", "function"), PAIRS)
def test_code_that_decides_a_partitions_state_is_part_of_its_key(kind: str, function: Callable[..., Any]) -> None:
    file = Path(inspect.getsourcefile(function) or "")
    assert file.relative_to(ROOT).as_posix() in KEPT[kind].files


def test_rules_decide_verdicts_only() -> None:
    assert {kind for kind, code in KEPT.items() if "ml/serving/rules.py" in code.files} == {"verdict"}


def test_digests_of_code_are_stable() -> None:
    for code in (*KEPT.values(), run_key.training_code(NETWORK), JUDGING):
        first = code.digest
        _forget()
        assert code.digest == first
        assert len(first) == 64


def _forget() -> None:
    ml.code._digest_of.cache_clear()
    ml.code._READ.clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of our sources, whose digests are taken anew."""
    shutil.copytree(ROOT / "ml", tmp_path / "ml", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(ml.code, "ROOT", tmp_path)
    _forget()
    yield tmp_path
    _forget()


NETWORK = NetworkClassifier()
CODES = {"training": run_key.training_code(NETWORK), "judging": JUDGING, "explaining": EXPLAINING, **KEPT}
CHANGES = {
    "ml/evaluation/gates.py": {"judging", "explaining"},
    "ml/evaluation/explanation.py": {"explaining"},
    "ml/metrics/scores.py": {"training", "judging", "explaining"},  # a threshold serves a metric
    "ml/reporting/importance_figure.py": set(),
    "ml/reporting/figures.py": set(),
    "ml/reporting/page.py": set(),
    "ml/operations/backup.py": set(),
    "ml/use_cases/flights.py": set(),
    "ml/storage/ledger.py": set(),
    "ml/models/networks/descent.py": {"training"},
    "ml/models/training.py": {"training"},
    "ml/serving/model.py": {"training"},
    "ml/data/split.py": {"training", "statistics"},
    "ml/serving/rules.py": {"training", "verdict"},
    "ml/data/reading.py": {"training", "brought", "verdict", "cleaned"},
}


@pytest.mark.parametrize("file", CHANGES)
def test_a_change_of_ours_changes_the_keys_of_what_runs_it(file: str, checkout: Path) -> None:
    before = {name: code.digest for name, code in CODES.items()}
    with (checkout / file).open("a") as source:
        source.write("# another line\n")
    _forget()
    assert {name for name, code in CODES.items() if code.digest != before[name]} == CHANGES[file]


def test_another_kind_of_model_has_other_keys_than_networks(checkout: Path) -> None:
    class Constant(Learner):
        code = ("ml/metrics/scores.py",)

    ours, theirs = (run_key.training_code(learner) for learner in (NETWORK, Constant()))
    before = theirs.digest
    assert before != ours.digest
    assert "torch" in ours.libraries and "torch" not in theirs.libraries
    (checkout / "ml/models/networks/descent.py").write_text("")
    _forget()
    assert theirs.digest == before


@pytest.mark.parametrize("code", [Code(("ml/nowhere.py",)), Code(("ml/nowhere",)), Code((), ("nowhere",))])
def test_code_that_is_not_there_is_refused(code: Code) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        assert code.digest


@pytest.mark.parametrize("library", ["torch", "pandas"])
def test_a_library_of_another_version_is_another_key(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = CODES["training"].digest, ml.code.metadata.version
    _forget()
    with monkeypatch.context() as patch:
        patch.setattr(ml.code.metadata, "version", lambda name: "99" if name == library else version(name))
        assert CODES["training"].digest != before
        _forget()
    assert CODES["training"].digest == before


def test_sources_that_change_during_a_night_are_told_before_more_of_them_is_imported(checkout: Path) -> None:
    assert CODES["training"].digest
    require_unchanged()
    (checkout / "ml/models/networks/another.py").write_text("x = 1")
    with pytest.raises(ConfigError, match="they changed"):
        require_unchanged()
