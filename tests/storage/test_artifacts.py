"""Handles between stages: strict JSON there and back; and the digests of canonical JSON."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.data.handles import Checks, LeftOut, Manifest, Move, RuleCount, Snapshot, Split, SplitRows, Undeclared
from ml.digests import canonical_json, digest_bytes, digest_file, digest_sources, digest_value
from ml.evaluation.gates import Evidence
from ml.evaluation.handles import Interval, ModelScores
from ml.metrics.intervals import Pair
from ml.models.handles import Fit, Step
from ml.serving.features import CategoryFeature, Encoder, NumberFeature
from ml.storage.json_form import from_json, to_json
from ml.storage.records import Champion, FileRef, Work, with_work
from tests.tiny import night

FILE = FileRef(key="a/b", size=3, digest="0" * 64)
ROWS = SplitRows(rows=5, positive_share=0.25, first_day=None, last_day=None)
HANDLES = [
    night(again="a test"),
    FILE,
    Manifest(
        months={"2024-01": '{"partitions":[],"side_tables":{}}'},
        size=0,
    ),
    Snapshot(
        digest="d",
        manifest="m",
        partitions=1,
        first_day="all",
        last_day="all",
        missing_days=("x",),
        excluded={},
        changed_days=(),
        unusable={"x": "it is a pipe"},
        left_out=(LeftOut(source="a.csv", what="row", count=2, why="have no at and belong to no day"),),
    ),
    Checks(
        digest="d",
        months={},
        left_out={"2024-01-01": "it is missing"},
        rows=1,
        duplicates=0,
        quarantined=0,
        unlabelled=0,
        undeclared=Undeclared(days=1, most=2, names={"a": 1, "b": 1}),
        moves=(Move(day="2024-01-02", kind="null", name="a", share=0.5, usual=0.1),),
        broken=(RuleCount(rule="r", scope="row", severity="error", evaluated=3, unexpected=1),),
        quarantined_days={},
        rules=4,
    ),
    Split(
        digest="d", statistics=FILE, train=ROWS, validation=ROWS, test=ROWS, fit_until=None, test_digest="t"
    ),
    Fit(
        kind="NetworkClassifier",
        folder="stages/shop/train/k/model",
        files=(FILE,),
        chosen={"epochs": 1},
        step_name="epoch",
        best=1,
        steps=(Step(number=1, train_loss=0.1 + 0.2, validation_loss=1e-300, validation_score=None),),
        device="cpu",
        threads=1,
        notes=("Memory of cuda ran out in epoch 1: from there on the CPU trains.",),
    ),
    Champion(
        version=1, run_id="r", as_of=date(2024, 3, 1), fit_until=None, target_digest="t", split_digest="s",
        folder="f", files=(FILE, FILE),
    ),
    ModelScores(
        who="candidate",
        description="tonight's \u00e9",
        scores={"f1": Interval(value=0.5, low=0.4, high=0.6), "r2": Interval(value=None, reason="so")},
        confusion=((1, 2), (3, 4)),
    ),
    Evidence(
        unit="day",
        pairs={"constant": Pair(kind="binary", classes=2, statistics=((1.0,) * 8,), counts=(3,))},
    ),
    Encoder(
        (NumberFeature(column="x", mean=0.1, std=2.0, clip=8.0, indicator=True),),
        (CategoryFeature(column="c", part=None, values=("a",)), CategoryFeature(column="t", part="hour", values=())),
    ),
]  # fmt: skip


@pytest.mark.parametrize("handle", HANDLES, ids=lambda handle: type(handle).__name__)
def test_a_handle_comes_back_from_json_as_it_was(handle: Any) -> None:
    data = to_json(handle)
    assert from_json(type(handle), data) == handle
    assert to_json(from_json(type(handle), data)) == data


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_never_becomes_json(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json(Interval(value=value))
    with pytest.raises(ValueError, match="JSON"):
        digest_value({"x": [value]})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"key": "a"}', b'{"key": "a", "size": "x", "digest": "d"}'])
def test_what_is_no_whole_handle_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="FileRef"):
        from_json(FileRef, data)


def test_the_work_of_a_handle_can_be_said_later() -> None:
    work = Work(stage="split", seconds=1.5, computed=1)
    assert with_work(HANDLES[3], work).work == work
    assert HANDLES[3].work == Work(stage="")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé"\\\n'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.text("abc", max_size=2), values, max_size=4))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


def test_a_day_has_one_form_and_a_moment_none() -> None:
    assert canonical_json([date(2024, 3, 1)]) == b'["2024-03-01"]'
    for other in (datetime(2024, 3, 1), {1, 2}, Path()):
        with pytest.raises(TypeError, match="canonical JSON cannot hold"):
            canonical_json([other])


def test_digests_are_sha_256() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_bytes(b"") == empty
    assert digest_value({}) == digest_bytes(b"{}")


def test_sources_count_by_path_and_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text("x = 1")
    other.write_text("x = 1")
    assert digest_file(one) == digest_file(other) == digest_bytes(b"x = 1")
    assert digest_sources(tmp_path, [one]) != digest_sources(tmp_path, [other])
    before = digest_sources(tmp_path, [one, other])
    assert digest_sources(tmp_path, [other, one]) == before
    other.write_text("x = 2")
    assert digest_sources(tmp_path, [one, other]) != before
