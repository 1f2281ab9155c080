"""A champion that cannot answer tonight's rows, for good, is not compared: the night goes on and says why.

A fault that may pass, of the store or of this machine, stays an error.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from ml import Column, UseCase
from ml.data.cleaning import DAY
from ml.data.split import split_digest
from ml.errors import StoreUnavailable
from ml.models.packaging import SERVING, upload_folder, write_model
from ml.pipeline.evaluate import _compare_opponents
from ml.storage.records import Champion
from ml.storage.store import DiskStore
from tests.tiny import cleaned, packaged, parcel_rows, parcels, site

SECRET = "Ada Lovelace, 918273"
RAISES = "raise ValueError(rows.to_csv())"
CODE = {  # the body of `predict`, and what is said
    "raises": (RAISES, r"it raises ValueError at model\.py:\d+"),
    "its own exception": ("class Odd(Exception): pass\n    raise Odd(rows.to_csv())", r"it raises Odd at model\.py"),
    "asserts": ("assert False, rows.to_csv()", "it raises AssertionError"),
    "a lookup": ("return {}[rows.carrier[0]]", "it raises KeyError"),
    "an import inside": ("import torchtext_of_old", "it raises ModuleNotFoundError of torchtext_of_old"),
    "no table": ("return list(rows.carrier)", "its answers have no prediction"),
    "nothing": ("return None", "it raises TypeError"),
    "other columns": ("return rows", "its answers have no prediction, probability, broken_rule"),
    "too few": ("return ANSWERS(self, rows).head(3)", "it gives 3 answers to 50 rows"),
    "too many": ("return ANSWERS(self, rows.iloc[[0, *range(50)]])", "it gives 51 answers to 50 rows"),
    "NaN": ("return ANSWERS(self, rows).assign(probability=float('nan'))", "is no number or no declared class"),
    "infinite": ("return ANSWERS(self, rows).assign(probability=float('inf'))", "is no number or no declared class"),
    "text": ("return ANSWERS(self, rows).assign(probability=rows.carrier)", "it raises ValueError"),
    "another class": ("return ANSWERS(self, rows).assign(prediction='lost')", "is no number or no declared class"),
    "refuses": ("return ANSWERS(self, rows).assign(broken_rule='a rule')", "it refuses 50 of 50 test rows"),
}
AT_IMPORT = {
    "a library that is gone": ("import torchtext_of_old", "it raises ModuleNotFoundError of torchtext_of_old"),
    "no Python": ("def (", "it raises SyntaxError"),
}


def tonights_rows() -> pd.DataFrame:
    rows = parcel_rows(50, 5)
    rows.loc[0, "carrier"] = SECRET
    return cleaned(parcels(), rows).assign(**{DAY: "all"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def champion_of(store: DiskStore, folder: Path, use_case: UseCase) -> Champion:
    files = upload_folder(store, folder, "mlflow/run/artifacts/model")
    return Champion(
        version=3, run_id="run", as_of=pd.Timestamp("2024-03-01").date(), fit_until=None,
        target_digest=use_case.target.digest, split_digest=split_digest(use_case), folder="mlflow/run/artifacts/model",
        files=files,
    )  # fmt: skip


def compared(
    tmp_path: Path, folder: Path, spoil: Callable[[DiskStore, Champion], Any] | None = None, **changes: Any
) -> tuple[dict[str, Any], str]:
    """The answers of the opponents, and why the champion has none."""
    use_case, store = parcels(), DiskStore(tmp_path / "store")
    champion = champion_of(store, folder, use_case)
    if spoil is not None:
        spoil(store, champion)
    today = parcels(**changes)
    place: Any = SimpleNamespace(use_case=today, store=store, settings=site(tmp_path))
    split: Any = SimpleNamespace(test=SimpleNamespace(first_day=None))
    answers: dict[str, Any] = {}
    test = tonights_rows()
    gone = {column.name for column in use_case.columns} - {column.name for column in today.columns}
    test = test.drop(columns=list(gone & set(test.columns)))
    absent, incomparable = _compare_opponents(
        place, split, {"champion": champion, "reference": None}, test, answers, {}
    )
    assert list(absent) == ["reference"]
    return answers, incomparable.get("champion", "")


def written(folder: Path, tmp_path: Path, code: str = "") -> None:
    source = shutil.copytree(SERVING, tmp_path / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    with (source / "model.py").open("a") as file:
        file.write(code)
    write_model(packaged(), parcels().model, folder, source)


def test_a_whole_champion_answers(tmp_path: Path, folder: Path) -> None:
    written(folder, tmp_path)
    answers, why = compared(tmp_path, folder)
    assert (list(answers), why) == (["champion"], "")


@pytest.mark.parametrize(("body", "words"), CODE.values(), ids=CODE)
def test_a_champion_whose_answer_is_none_is_not_judged(tmp_path: Path, folder: Path, body: str, words: str) -> None:
    other = f"def _other(self, rows, params=None):\n    {body}\n"
    code = f"\nANSWERS = PackagedModel.predict\n{other}PackagedModel.predict = _other\n"
    written(folder, tmp_path, code)
    answers, why = compared(tmp_path, folder)
    assert answers == {}
    assert why.startswith("the champion (version 3) cannot be compared: ")
    assert re.search(words, why), why
    assert SECRET not in why


@pytest.mark.parametrize(("code", "words"), AT_IMPORT.values(), ids=AT_IMPORT)
def test_a_champion_whose_code_cannot_be_loaded_is_not_judged(
    tmp_path: Path, folder: Path, code: str, words: str
) -> None:
    written(folder, tmp_path)
    (file,) = (path for path in folder.rglob("model.py"))
    package = file.parent.rename(file.parent.with_name("retrain_serving_spoilt" + str(len(code))))
    (package / "model.py").write_text(code)
    described = folder / "MLmodel"
    described.write_text(described.read_text().replace(file.parent.name, package.name))
    answers, why = compared(tmp_path, folder)
    assert (answers, words in why) == ({}, True), why


def test_a_champion_whose_files_are_gone_or_changed_is_not_judged(tmp_path: Path, folder: Path) -> None:
    written(folder, tmp_path)
    spoils: list[Callable[[DiskStore, Champion], Any]] = [
        lambda store, model: store.delete(model.files[0].key),
        lambda store, model: store.put(model.files[-1].key, b"other bytes"),
        lambda store, model: [store.delete(file.key) for file in model.files],
    ]
    for spoil, count in zip(spoils, (1, 1, None), strict=True):
        answers, why = compared(tmp_path, folder, spoil)
        assert answers == {}
        assert "is gone or changed" in why
        assert count is None or f"({count} of its files)" in why


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"columns": [{"name": "a", "of_a_later_version": 1}]}', "\x00"])
def test_a_champion_whose_description_cannot_be_read_is_not_judged(tmp_path: Path, folder: Path, text: str) -> None:
    written(folder, tmp_path)
    next(folder.rglob("model.json")).write_text(text)
    answers, why = compared(tmp_path, folder)
    assert (answers, "its description cannot be read" in why) == ({}, True), why


@pytest.mark.parametrize("other", ["text", "timestamp", "integer"])
@pytest.mark.parametrize("name", ["weight", "distance"])
def test_a_champion_that_takes_a_column_as_another_type_is_not_judged(
    tmp_path: Path, folder: Path, name: str, other: str
) -> None:
    written(folder, tmp_path)
    of_other_type: Any = {"name": name, "type": other, "nullable": True}
    columns = tuple(Column(**of_other_type) if column.name == name else column for column in parcels().columns)
    answers, why = compared(tmp_path, folder, columns=columns)
    assert (answers, f"it takes {name} as number, and that is {other} now" in why) == ({}, True), why


def test_a_champion_that_needs_a_column_of_before_is_not_judged(tmp_path: Path, folder: Path) -> None:
    written(folder, tmp_path)
    columns = tuple(column for column in parcels().columns if column.name not in {"zone", "carrier"})
    answers, why = compared(tmp_path, folder, columns=columns)
    assert (answers, "it needs carrier, zone, which is no longer declared" in why) == ({}, True), why


NO_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize(
    "error", [StoreUnavailable("a", "b", "c"), MemoryError(), OSError(5, "Input/output error"), NO_MEMORY]
)
def test_a_fault_that_may_pass_is_an_error_and_never_a_verdict(
    tmp_path: Path, folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(folder, tmp_path)

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    place = (
        "ml.storage.store.DiskStore.get" if isinstance(error, StoreUnavailable) else "ml.storage.registry.load_model"
    )
    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(MemoryError if error is NO_MEMORY else type(error)):
            compared(tmp_path, folder)
