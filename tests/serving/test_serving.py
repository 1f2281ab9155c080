"""The model that takes raw rows: one answer a row, the same in any company, and the same after a journey to disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.serving.columns import NOT_COUNTED, NOT_ISO, Column, conform, wrong_type
from ml.serving.model import PackagedModel
from ml.serving.output import Output, TaskKind, probabilities, sigmoid, values
from ml.serving.rules import (
    RULE_TYPES,
    Between,
    Finite,
    InSet,
    InYears,
    Matches,
    NotBelow,
    NotNull,
    UniqueKey,
    first_broken,
)
from tests.tiny import KINDS, packaged, raw_parcels


def answers_of(kind: TaskKind, rows: pd.DataFrame) -> np.ndarray:
    """(rows, answers) of all columns that are numbers, the class names as their positions."""
    answers = packaged(kind).predict(rows)
    if kind != "regression":
        answers["prediction"] = pd.Index(packaged(kind).output.classes).get_indexer(pd.Index(answers["prediction"]))
    return answers.drop(columns="broken_rule").to_numpy(np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_gets_one_answer_bit_for_bit_in_any_company(kind: TaskKind) -> None:
    """Alone, in another order, twice, and among a thousand others."""
    rows = raw_parcels(1000)
    together = answers_of(kind, rows)
    some = [0, 1, 17, 255, 256, 257, 511, 999]
    assert all(np.array_equal(answers_of(kind, rows.iloc[[n]])[0], together[n]) for n in some)
    order = np.random.default_rng(0).permutation(len(rows))
    assert np.array_equal(answers_of(kind, rows.iloc[order]), together[order])
    assert np.array_equal(answers_of(kind, rows.iloc[:300]), together[:300])
    assert np.array_equal(answers_of(kind, pd.concat([rows, rows]))[1000:], together)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_keep_order_and_index(kind: TaskKind) -> None:
    rows = raw_parcels(20)
    labels = [f"row {n % 7}" for n in range(20)]
    answers = packaged(kind).predict(rows.set_axis(labels))
    assert list(answers.index) == labels
    assert answers.reset_index(drop=True).equals(packaged(kind).predict(rows))


INDEXES: dict[str, pd.Index] = {
    "repeats": pd.Index([3, 3, 1, 3] * 5),
    "levels": pd.MultiIndex.from_arrays([[1, 1, 2, 2] * 5, list("abab") * 5], names=["a", None]),
    "times": pd.DatetimeIndex(["2024-01-01", pd.NaT] * 10),
    "nulls": pd.Index([None, "x"] * 10),
    "backwards": pd.RangeIndex(19, -1, -1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", INDEXES)
def test_each_row_keeps_its_own_answer_under_any_index_also_where_rows_are_refused(kind: TaskKind, index: str) -> None:
    rows = raw_parcels(20)
    rows.loc[[0, 4, 19], "weight"] = np.array([99.0, np.nan, -1.0])
    plain = packaged(kind).predict(rows)
    answers = packaged(kind).predict(rows.set_axis(INDEXES[index]))
    assert answers.index.equals(INDEXES[index]) and answers.index.names == INDEXES[index].names
    assert answers.reset_index(drop=True).equals(plain)
    assert np.flatnonzero(answers["broken_rule"].notna()).tolist() == [0, 4, 19]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", [raw_parcels(3).iloc[:0], pd.DataFrame(columns=list(raw_parcels(3)))])
def test_no_rows_of_any_type_get_the_columns_of_answers(kind: TaskKind, empty: pd.DataFrame) -> None:
    answers = packaged(kind).predict(empty)
    assert (list(answers), len(answers)) == (list(packaged(kind).predict(raw_parcels(3))), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_get_no_answers(kind: TaskKind) -> None:
    full = packaged(kind).predict(raw_parcels(3))
    assert list(packaged(kind).predict(raw_parcels(3).iloc[:0]).columns) == list(full.columns)
    assert len(packaged(kind).predict(raw_parcels(3).iloc[:0])) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_back_from_disk_with_the_same_answers_and_no_pickle(kind: TaskKind, tmp_path: Path) -> None:
    packaged(kind).save(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["model.json", "network.json", "weights.safetensors"]
    loaded = PackagedModel.load(tmp_path / "model")
    for rows in (raw_parcels(), raw_parcels(5).assign(weight=[1, 99, None, 3, 4.0], carrier=None)):
        assert loaded.predict(rows).equals(packaged(kind).predict(rows))
    for name in ("columns", "rules", "kind", "output", "threads", "time_zone"):
        assert getattr(loaded, name) == getattr(packaged(kind), name)


BROKEN = [
    ({"weight": 31.0}, "weight lies between 0 and 30"),
    ({"weight": np.nan}, "weight is present"),
    ({"distance": -1.0}, "distance is at least 0"),
    ({"zone": np.nan}, "zone is present"),
    *(({"distance": value}, "distance is finite (within 1e+100)") for value in (np.inf, 1e200)),
    *(({"weight": value}, "weight lies between 0 and 30") for value in (np.inf, -np.inf, -1e200)),
    ({"weight": -1.0, "distance": -1.0}, "weight lies between 0 and 30"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("values", "rule"), BROKEN, ids=str)
def test_a_row_that_breaks_a_rule_gets_nulls_and_the_rules_sentence(
    kind: TaskKind, values: dict[str, float], rule: str
) -> None:
    rows = raw_parcels(10).astype({"zone": "float64"})
    whole = packaged(kind).predict(rows)
    rows.loc[4, list(values)] = list(values.values())
    answers = packaged(kind).predict(rows)
    assert answers["broken_rule"].dropna().to_dict() == {4: rule}
    assert answers.loc[4].drop("broken_rule").isna().all()
    others = answers.drop(index=4).drop(columns="broken_rule").to_numpy()
    assert np.array_equal(others, whole.drop(index=4).drop(columns="broken_rule").to_numpy())
    alone = packaged(kind).predict(rows.iloc[[4]])
    assert alone["broken_rule"].tolist() == [rule]


def test_extra_columns_and_another_order_change_nothing() -> None:
    rows = raw_parcels(10)
    extra = rows.assign(zebra="x", price=1.0)[["zebra", "zone", "price", "carrier", "weight", "distance"]]
    assert packaged().predict(extra).equals(packaged().predict(rows))


REFUSED = [
    ("a missing column", {"weight": None}, r"\['weight'\] are missing"),
    ("two missing columns", {"weight": None, "zone": None}, r"\['weight', 'zone'\] are missing"),
    ("text for a number", {"weight": "heavy"}, "column weight must be number, but it is str"),
    ("a time for a number", {"weight": pd.Timestamp("2024-01-01")}, "column weight must be number"),
    ("a number for text", {"carrier": 7}, "column carrier must be text, but it is int64"),
    ("half an integer", {"zone": 1.5}, "column zone must be integer, but it is float64"),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_missing_or_wrongly_typed_columns_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    rows = raw_parcels(5)
    for name, value in change.items():
        rows = rows.drop(columns=name) if value is None else rows.assign(**{name: value})
    with pytest.raises(ValueError, match=words):
        packaged().predict(rows)


def test_a_column_that_is_there_twice_is_refused_by_name() -> None:
    rows = raw_parcels(3)
    with pytest.raises(ValueError, match=r"each column once, but \['weight'\] are there twice"):
        packaged().predict(pd.concat([rows, rows[["weight"]]], axis=1))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("kind", ["datetime", "Timestamp"])
def test_times_of_which_only_some_have_a_zone_are_refused(first: int, kind: str) -> None:
    """Arrow would give them all the clock of the first."""
    naive = pd.Timestamp("2024-01-03T12:00:00")
    both = [naive, naive.tz_localize("Asia/Tokyo"), None]
    times = [time if kind == "Timestamp" or time is None else time.to_pydatetime() for time in both]
    column = Column(name="at", type="timestamp", nullable=True)
    series = pd.Series([times[first], None, times[1 - first]], dtype="object")
    assert wrong_type(column, series) == "times of which some have a zone and some have none"
    assert wrong_type(column, series[:2]) is None


def test_unknown_and_missing_values_have_an_answer_of_their_own() -> None:
    rows = pd.DataFrame({"weight": 5.0, "distance": [100.0, None, 100.0, 100.0], "carrier": "bee", "zone": 2})
    rows["carrier"] = ["bee", "bee", "never seen", None]
    answers = packaged().predict(rows)
    assert answers["broken_rule"].isna().all()
    assert answers["probability"].notna().all()
    unknown, missing = answers["probability"].iloc[[2, 3]]
    assert unknown != missing
    other = packaged().predict(rows.assign(carrier="nor this one"))["probability"].iloc[2]
    assert other == unknown


def test_a_missing_number_is_the_trained_mean_with_a_mark() -> None:
    encoder = packaged().served.encoder
    distance = next(feature for feature in encoder.numbers if feature.column == "distance")
    rows = conform(raw_parcels(2).assign(distance=[None, distance.mean]), packaged().columns)
    missing, present = encoder.transform(rows)[:, 1:3]
    assert (missing.tolist(), present.tolist()) == ([0, 1], [0, 0])


@pytest.mark.parametrize(
    "rows",
    [
        raw_parcels(6).assign(weight=[1, 2, 3, 4, 5, 6]),
        raw_parcels(6).astype({"weight": "float32"}),
        raw_parcels(6).astype({"zone": "float64"}),
        raw_parcels(6).astype({"carrier": "object"}),
        raw_parcels(6).assign(carrier=pd.Series(["ant", None] * 3, dtype="object")),
        raw_parcels(6).astype({"weight": "Float64", "zone": "Int64", "carrier": "string"}),
        raw_parcels(6).assign(carrier=None, distance=None),
    ],
    ids=["whole numbers", "float32", "float zone", "objects", "objects with None", "nullable types", "all null"],
)
def test_types_that_hold_the_same_values_are_welcome(rows: pd.DataFrame) -> None:
    answers = packaged().predict(rows)
    assert answers["broken_rule"].isna().all()
    exact = rows.astype({"weight": "float64", "zone": "int64", "distance": "float64", "carrier": "str"})
    assert answers.equals(packaged().predict(exact))


def test_probabilities_lie_between_0_and_1_and_the_threshold_decides() -> None:
    model = packaged()
    wild = raw_parcels(1000).assign(distance=np.geomspace(1e-9, 1e99, 1000))
    answers = model.predict(wild)
    assert answers["probability"].between(0, 1).all()
    above = answers["probability"] >= model.output.threshold
    assert ((answers["prediction"] == "late") == above).all()
    assert above.any()
    assert not above.all()


def test_probabilities_of_classes_add_up_and_the_largest_is_the_prediction() -> None:
    answers = packaged("multiclass").predict(raw_parcels())
    columns = [f"probability_{name}" for name in ("slow", "usual", "quick")]
    assert answers[columns].sum(axis=1).to_numpy() == pytest.approx(np.ones(400))
    assert (answers["prediction"] == answers[columns].idxmax(axis=1).str.removeprefix("probability_")).all()


def test_a_learnt_logarithm_answers_in_its_own_unit() -> None:
    model, rows = packaged("regression"), raw_parcels(50)
    learnt = model.served.outputs(conform(rows, model.columns))[:, 0]
    assert model.predict(rows)["prediction"].to_numpy() == pytest.approx(np.exp(learnt), rel=1e-12)
    price = np.exp(1 + rows["weight"] / 10)
    assert np.corrcoef(model.predict(rows)["prediction"], price)[0, 1] > 0.9


# Outputs


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(-1e308, 1e308), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_a_calibrated_probability_is_one_without_overflow(logit: float, slope: float, offset: float) -> None:
    p = probabilities(Output(kind="binary", slope=min(slope, 1.0), offset=offset), np.array([[logit]]))
    assert ((p >= 0) & (p <= 1)).all()
    assert p.sum() == pytest.approx(1)


def test_outputs_become_probabilities_and_values() -> None:
    assert sigmoid(np.array([0.0, -800, 800])).tolist() == [0.5, 0.0, 1.0]
    binary = probabilities(Output(kind="binary", slope=2.0, offset=-1.0), np.array([[0.5], [2.0]]))
    assert binary[:, 1] == pytest.approx([0.5, 1 / (1 + np.exp(-3))])
    three = probabilities(Output(kind="multiclass"), np.array([[0.0, np.log(2), 1000.0], [0.0, 0.0, 0.0]]))
    assert three == pytest.approx(np.array([[0, 0, 1], [1 / 3, 1 / 3, 1 / 3]]))
    assert values(Output(kind="regression"), np.array([[1.5]])).tolist() == [1.5]
    assert values(Output(kind="regression", log=True), np.array([[1.5]])) == pytest.approx([np.exp(1.5)])


# Columns and rules

TYPES = [
    ("number", pd.Series([1, 2]), None),
    ("number", pd.Series(["1"]), "str"),
    ("number", pd.Series([True]), None),
    ("number", pd.Series([2**53 + 1]), "int64 over 2**53, which float64 cannot tell apart (declare it text)"),
    ("number", pd.Series([2**60]), None),
    ("integer", pd.Series([1, 2]), None),
    ("integer", pd.Series([1.0, np.nan]), None),
    ("integer", pd.Series([1.5]), "float64"),
    ("integer", pd.Series([np.inf]), None),
    ("integer", pd.Series([2**53]), None),
    ("integer", pd.Series([2**53 + 1]), "int64 over 2**53, which float64 cannot tell apart (declare it text)"),
    ("text", pd.Series(["a", None]), None),
    ("text", pd.Series(["a", None], dtype="object"), None),
    ("text", pd.Series(["a", 1], dtype="object"), "object"),
    ("text", pd.Series([1.0]), "float64"),
    ("timestamp", pd.Series(pd.to_datetime(["2024-01-01", None])), None),
    ("timestamp", pd.Series(pd.to_datetime(["2024-01-01"])).dt.tz_localize("UTC"), None),
    ("timestamp", pd.Series(["2024-01-01", None]), None),
    ("timestamp", pd.Series(["05.02.2024"]), f"str, {NOT_ISO}"),
    ("timestamp", pd.Series([1704276000]), f"int64 ({NOT_COUNTED})"),
    ("timestamp", pd.Series([np.nan, np.nan]), None),
    ("text", pd.Series([None, None]), None),
]


@pytest.mark.parametrize(("kind", "series", "seen"), TYPES, ids=str)
@pytest.mark.parametrize("nullable", [False, True])
def test_a_type_is_accepted_if_it_can_hold_the_declared_one(
    kind: Any, series: pd.Series, seen: str | None, nullable: bool
) -> None:
    column = Column(name="x", type=kind, nullable=nullable)
    assert wrong_type(column, series) == seen
    if seen is None:
        typed = conform(series.to_frame("x"), (column,), "UTC")["x"]
        assert typed.isna().tolist() == series.isna().tolist()
        expected = {"text": "str", "timestamp": "datetime64[us]"}.get(kind, "float64")
        assert str(typed.dtype) == expected


FRAME = pd.DataFrame({"x": [1.0, np.nan, 3.0, 3.0], "y": [2.0, 2.0, np.nan, 1.0], "s": ["aa", None, "b", "aa"]})
FRAME["t"] = pd.to_datetime(["1816-03-29", "2199-12-31T23:59:59", None, "9999-12-31"], format="ISO8601")
MASKS = [
    (NotNull(column="x"), [0, 1, 0, 0], "x is present"),
    (Between(column="x", minimum=2), [1, 0, 0, 0], "x is at least 2"),
    (Between(column="x", maximum=2), [0, 0, 1, 1], "x is at most 2"),
    (Between(column="x", minimum=1, maximum=3), [0, 0, 0, 0], "x lies between 1 and 3"),
    (InYears(column="t"), [1, 0, 0, 1], "t is a time of the years 1900 to 2199"),
    (InYears(column="t", last=9999), [1, 0, 0, 0], "t is a time of the years 1900 to 9999"),
    (Finite(column="x"), [0, 0, 0, 0], "x is finite (within 1e+100)"),
    (InSet(column="s", values=("b", "c")), [1, 0, 0, 1], "s is one of b, c"),
    (Matches(column="s", pattern="^a"), [0, 0, 1, 0], "s matches ^a"),
    (NotBelow(column="x", other="y"), [1, 0, 0, 0], "x is not below y"),
    (UniqueKey(key=("x",)), [0, 0, 1, 1], "(x) is unique"),
    (UniqueKey(key=("x", "s")), [0, 0, 0, 0], "(x, s) is unique"),
]


@pytest.mark.parametrize(("rule", "mask", "sentence"), MASKS, ids=[case[2] for case in MASKS])
def test_a_mask_is_true_where_a_row_breaks_the_rule_and_nulls_are_judged_by_not_null_alone(
    rule: Any, mask: list[int], sentence: str
) -> None:
    assert rule.unexpected(FRAME).tolist() == [bool(bit) for bit in mask]
    assert rule.sentence == sentence
    assert set(rule.columns) <= set(FRAME)


def test_every_rule_type_is_tried() -> None:
    assert {type(rule).__name__ for rule, _, _ in MASKS} == set(RULE_TYPES)


def test_the_first_broken_rule_of_severity_error_is_named() -> None:
    rules = (
        NotNull(column="s", severity="warning"),
        NotNull(column="x", scope="partition"),
        Between(column="x", minimum=2),
        NotBelow(column="x", other="y"),
        InSet(column="s", values=("b",)),
    )
    assert first_broken(rules, FRAME).tolist() == ["x is at least 2", None, None, "s is one of b"]
