"""What makes a run itself."""

import dataclasses
import inspect
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ml.data import (
    cleaning,
    code,
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
from ml.data.sources import database as database_source
from ml.data.sources import file as file_source
from ml.digests import digest_file
from ml.errors import ConfigError
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
    "lock_digest": "1" * 64,
    "device": "cuda",
    "threads": 2,
}


def test_every_field_of_a_night_is_part_of_its_key() -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(night())}
    keys = [run_key.run_key(night(), "s"), run_key.run_key(night(), "t")]
    keys += [run_key.run_key(night(**{name: value}), "s") for name, value in OTHER.items()]
    assert len(set(keys)) == len(OTHER) + 2
    assert run_key.run_key(night(), "s") == keys[0]
    assert all(len(key) == 64 for key in keys)


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
    assert file.relative_to(code.ROOT / "ml").as_posix() in code.STATE_MODULES[kind]


def test_rules_decide_verdicts_only() -> None:
    assert {kind for kind, files in code.STATE_MODULES.items() if "serving/rules.py" in files} == {"verdict"}


def test_the_code_of_a_run_is_that_of_its_own_use_case_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the sources: another use case's file changes nothing, any other file everything."""
    for name in (
        "ml/evaluation/gates.py",
        "ml/models/x.py",
        "ml/use_cases/a.py",
        "ml/use_cases/b.py",
        "expectations/suite.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    monkeypatch.setattr(run_key, "ROOT", tmp_path)

    def digest(name: str = "a") -> str:
        run_key.own_code_digest.cache_clear()
        return run_key.code_digest(digest_file(tmp_path / "ml" / "use_cases" / f"{name}.py"))

    before = digest()
    for name in ("ml/evaluation/gates.py", "ml/models/x.py", "ml/use_cases/a.py", "expectations/suite.py"):
        (tmp_path / name).write_text("x = 2")
        assert digest() != before
        (tmp_path / name).write_text("x = 1")
        assert digest() == before
    (tmp_path / "ml" / "use_cases" / "b.py").write_text("x = 2")
    assert digest() == before
    run_key.own_code_digest.cache_clear()


def test_digests_of_the_installation_are_stable() -> None:
    for digest, of in ((run_key.lock_digest, ("AVX2",)), *((code.state_code_digest, (kind,)) for kind in DECIDING)):
        digest.cache_clear()
        first = digest(*of)
        digest.cache_clear()
        assert digest(*of) == first
        assert len(first) == 64


def test_another_kind_of_cpu_is_another_lock() -> None:
    """Its sums may end in other bits."""
    assert run_key.lock_digest("AVX2") != run_key.lock_digest("AVX512")


def test_a_library_of_another_version_is_another_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_key.lock_digest("AVX2")
    version = run_key.metadata.version
    run_key.lock_digest.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(run_key.metadata, "version", lambda name: "99" if name == "torch" else version(name))
        assert run_key.lock_digest("AVX2") != before
    run_key.lock_digest.cache_clear()
    assert run_key.lock_digest("AVX2") == before


def test_sources_that_change_during_a_night_are_told_before_more_of_them_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_key.require_same_code()
    monkeypatch.setattr(run_key, "digest_sources", lambda *of: "others")
    with pytest.raises(ConfigError, match="they changed"):
        run_key.require_same_code()
