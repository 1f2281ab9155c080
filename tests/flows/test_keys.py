"""What is done again after a change: a change of what decides about a model trains no model."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ml.pipeline.evaluate
import ml.pipeline.site
from ml.code import Code
from ml.errors import ConfigError
from ml.models import packaging
from ml.storage.registry import CHAMPION, RUN_KEY, TRAINING_KEY, Registry
from tests.flows.test_nights import registry, versions
from tests.story import Shop, undated

STAGES = ("validate partitions", "clean partitions", "split rows", "train candidate", "upload candidate",
          "verify candidate")  # fmt: skip
OWN_GATES = '''
from ml import Gate, MinMetric


class Usual(MinMetric):
    """A company's own gate."""
'''
OWN_DERIVE = """
def amounts(rows):
    return rows.assign(twice=rows["amount"] * 2)
"""
IMPORTS = (
    "from company.gates import Usual\nfrom company.rows import amounts\n\nUSE_CASE = UseCase(\n    derive=amounts,"
)


@pytest.fixture
def company(shop: Shop) -> Shop:
    """The shop with a gate and a derive of its own, each in a module of its own."""
    _write(shop, "company/gates.py", OWN_GATES)
    _write(shop, "company/rows.py", OWN_DERIVE)
    _edit(shop, "USE_CASE = UseCase(", IMPORTS)
    _edit(shop, "MinMetric(metric", "Usual(metric")
    _edit(shop, "    MinMetric,\n", "")
    _edit(shop, 'Column(name="amount"', 'Column(name="twice"),\n        Column(name="amount"')
    return shop


def _file(shop: Shop, name: str = "use_cases/shop.py") -> Path:
    assert shop.settings.project is not None
    return shop.settings.project / name


def _write(shop: Shop, name: str, text: str) -> None:
    _file(shop, name).parent.mkdir(exist_ok=True)
    _file(shop, name).write_text(text)


def _edit(shop: Shop, old: str, new: str, name: str = "use_cases/shop.py") -> None:
    assert old in _file(shop, name).read_text()
    _file(shop, name).write_text(_file(shop, name).read_text().replace(old, new))


JUDGED: dict[str, Callable[[Shop], None]] = {
    "a floor": lambda shop: _edit(shop, "floor=0.5", "floor=0.51"),
    "the reason of a gate": lambda shop: _edit(shop, "twice that", "two times that"),
    "a gate that is gone": lambda shop: _edit(
        shop, '        BetterThanTrivial(metric="f1", why="calling all late needs no model"),\n', ""
    ),
    "the code of an own gate": lambda shop: _edit(shop, '"""A company', 'x = 1\n    """A company', "company/gates.py"),
}
REPLAYED: dict[str, Callable[[Shop], None]] = {
    "the question": lambda shop: _edit(shop, "Will the basket be paid late?", "Is it paid late?"),
    "the schedule": lambda shop: _edit(shop, "0 3 * * *", "0 4 * * *"),
    "a comment": lambda shop: _edit(shop, "USE_CASE =", "# The shop's.\nUSE_CASE ="),
}
TRAINED: dict[str, Callable[[Shop], None]] = {
    "a parameter": lambda shop: _edit(shop, "epochs=4", "epochs=3"),
    "the code of an own derive": lambda shop: _edit(shop, "* 2", "* 3", "company/rows.py"),
}


def _reused_all(night: dict[str, Any]) -> bool:
    return all(night["computed"][stage] == 0 for stage in STAGES)


@pytest.mark.slow
def test_what_decides_about_a_model_judges_it_again_and_trains_nothing(company: Shop) -> None:
    first = company.document()
    assert first["decision"] == "FIRST"
    for number, (name, change) in enumerate(JUDGED.items(), start=2):
        change(company)
        again = company.document()
        assert _reused_all(again), (name, again["computed"])
        assert again["computed"]["evaluate models"] == (number == 2), "the champion came since the first night"
        assert (again["replayed"], again["decision"], again["version"]) == (False, "KEEP", 1), name
        assert "version 1 is the champion already" in again["reason"]
        assert company.entries()[-1].seq == number
        assert company.document()["replayed"]
    assert versions(company) == [1]
    assert company.ledger.kept_nights() == 0, "it was not kept in place of another"
    for name, change in REPLAYED.items():
        change(company)
        assert company.document()["replayed"], name
    for number, (name, change) in enumerate(TRAINED.items(), start=2):
        change(company)
        again = company.document()
        assert again["computed"]["train candidate"] == 1, name
        assert again["version"] == number
    keys = [(entry.training_key, entry.candidate.version) for entry in company.entries() if entry.candidate]
    assert len({key for key, _ in keys}) == len({version for _, version in keys}) == 1 + len(TRAINED)


@pytest.mark.slow
def test_a_gate_that_was_too_strict_is_mended_and_the_same_model_promoted(shop: Shop) -> None:
    _edit(shop, "floor=0.5", "floor=0.99")
    strict = shop.document()
    assert (strict["decision"], strict["version"]) == ("REJECT", 1)
    _edit(shop, "floor=0.99", "floor=0.5")
    mended = shop.document()
    assert _reused_all(mended)
    assert (mended["decision"], mended["version"], mended["champion_after"]) == ("FIRST", 1, 1)
    assert registry(shop).alias(CHAMPION) == 1
    version = registry(shop).client.get_model_version("shop", "1")
    assert version.tags["decision"] == "FIRST"
    assert version.tags[TRAINING_KEY] == shop.entries()[-1].training_key
    assert RUN_KEY not in version.tags


@pytest.mark.slow
def test_a_new_gate_on_a_score_that_was_not_kept_scores_the_same_model_again(shop: Shop) -> None:
    assert shop.document()["version"] == 1
    _edit(shop, "floor=0.5", "floor=0.51")
    assert shop.document()["version"] == 1, "scored beside the champion, whose opponents stay the same from now on"
    _edit(shop, "    gates=(", '    gates=(\n        MinMetric(metric="log_loss", floor=9.0, why="a test"),')
    again = shop.document()
    assert _reused_all(again)
    assert again["computed"]["evaluate models"] == 1
    verdicts = {verdict["gate"]: (verdict["verdict"], verdict["reason"]) for verdict in again["verdicts"]}
    assert verdicts["MinMetric log_loss"][0] == "PASS", verdicts["MinMetric log_loss"]
    assert (again["decision"], again["version"]) == ("KEEP", 1)


@pytest.mark.slow
def test_a_night_without_dates_that_has_other_gates_trains_nothing_again(shop: Shop) -> None:
    """Although it is of another day: as_of decides nothing about its model."""
    undated(shop)
    assert shop.document("2024-03-15")["decision"] == "FIRST"
    _edit(shop, "floor=0.5", "floor=0.51")
    again = shop.document("2024-03-16")
    assert (again["computed"]["train candidate"], again["decision"], again["version"]) == (0, "KEEP", 1)
    assert shop.document("2024-03-17")["decision"] == "NOTHING_NEW"
    assert versions(shop) == [1]


@pytest.mark.slow
def test_a_new_evaluation_is_made_again_without_training(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shop.document()["version"] == 1
    other = Code(("ml/evaluation/gates.py",))
    monkeypatch.setattr(ml.pipeline.evaluate, "JUDGING", other)
    monkeypatch.setattr(ml.pipeline.site, "JUDGING", other)
    again = shop.document()
    assert _reused_all(again)
    assert (again["computed"]["evaluate models"], again["version"], again["replayed"]) == (1, 1, False)


@pytest.mark.slow
def test_a_seed_and_a_reason_still_train_a_new_version(shop: Shop) -> None:
    assert [shop.document(**more)["version"] for more in ({}, {"seed": 7}, {"again": "a test"})] == [1, 2, 3]
    assert Registry(shop.settings, "shop").alias(CHAMPION) == 1


@pytest.mark.slow
def test_a_registered_model_is_made_again_with_equal_bytes_or_not_at_all(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `retrain gc` nothing is kept of its stages. As its files may serve, none is written over."""
    assert shop.document()["version"] == 1
    store = Path(shop.settings.store)
    shutil.rmtree(store / "stages")
    _edit(shop, "floor=0.5", "floor=0.51")
    again = shop.document()
    assert (again["computed"]["train candidate"], again["version"]) == (1, 1)
    files = {path: path.read_bytes() for path in store.glob("mlflow/*/artifacts/model/**/*") if path.is_file()}
    shutil.rmtree(store / "stages")
    _edit(shop, "floor=0.51", "floor=0.52")
    write = packaging.write_model

    def write_otherwise(model: Any, learner: Any, folder: Path, **more: Any) -> None:
        write(model, learner, folder, **more)
        (folder / "MLmodel").write_text("other bytes")

    monkeypatch.setattr(packaging, "write_model", write_otherwise)
    with pytest.raises(ConfigError, match="--again REASON"):
        shop.document()
    assert files == {path: path.read_bytes() for path in files}
    assert len(shop.entries()) == 2
