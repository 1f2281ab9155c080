"""Reasons: which columns moved a row's answer most, in words."""

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml.serving.columns import Column
from ml.serving.model import PackagedModel
from ml.serving.output import Output, TaskKind
from ml.serving.reasons import reason_count, reasons_in_words
from tests.serving.test_doors import broken, explaining
from tests.tiny import KINDS, TARGETS

COLUMNS = (
    Column(name="dep_delay", unit="minutes"),
    Column(name="carrier", type="text"),
    Column(name="income", sensitive=True),
    Column(name="at", type="timestamp", parts=("hour",)),
)
LATE = Output(kind="binary", classes=("on time", "late"))


def row_of(**changes: Any) -> pd.DataFrame:
    fields = {"dep_delay": 62.0, "carrier": "UA", "income": 31_415.0, "at": pd.Timestamp("2024-05-01 15:30")}
    return pd.DataFrame({name: [value] for name, value in (fields | changes).items()})


def words(
    told: tuple[float, ...], output: Output = LATE, count: int = 4, answered: str = "late", **changes: Any
) -> list[Any]:
    contributions = pd.DataFrame([told], columns=[column.name for column in COLUMNS])
    return reasons_in_words(row_of(**changes), contributions, COLUMNS, output, [answered], count).iloc[0].tolist()


def test_reasons_say_the_column_its_value_its_effect_and_its_share_the_strongest_first() -> None:
    assert words((2.0, -1.0, 0.5, 0.02)) == [
        "dep_delay 62 minutes speaks for late (+2, 57 % of all that moved it)",
        "carrier 'UA' speaks against late (-1, 28 % of all that moved it)",
        "income (value not shown) speaks for late (+0.5, 14 % of all that moved it)",
        "at 2024-05-01 15:30 speaks for late (+0.02, under 1 % of all that moved it)",
    ]
    assert words((2.0, -1.0, 0.5, 0.02), count=1)[0].startswith("dep_delay 62 minutes")


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"dep_delay": np.nan}, "dep_delay missing speaks"),
        ({"dep_delay": -7.25}, "dep_delay -7.25 minutes"),
        ({"dep_delay": 2013.0}, "dep_delay 2013 minutes"),
        ({"dep_delay": 1e300}, "dep_delay 1e+300 minutes"),
    ],
)
def test_a_value_is_written_as_a_person_would(changes: dict[str, Any], start: str) -> None:
    assert words((2.0, 0.0, 0.0, 0.0), **changes)[0].startswith(start)
    assert words((2.0, 0.0, 0.0, 0.0), **changes)[1:] == [None] * 3  # no other column moved it


@pytest.mark.parametrize(
    ("carrier", "shown"),
    [("x" * 60, f"carrier '{'x' * 37}...'"), (None, "carrier missing"), ("it's\n", 'carrier "it\'s\\n"')],
)
def test_a_text_is_quoted_in_one_short_line(carrier: str | None, shown: str) -> None:
    assert words((0.0, 3.0, 0.0, 0.0), carrier=carrier)[0].startswith(f"{shown} speaks for late (+3, ")


@pytest.mark.parametrize("value", [31_415.0, np.nan])
def test_neither_a_sensitive_value_nor_that_it_is_missing_is_told(value: float) -> None:
    (only, *_) = words((0.0, 0.0, -1.0, 0.0), income=value)
    assert only.startswith("income (value not shown) speaks against late")


@pytest.mark.parametrize(
    ("output", "told", "effect"),
    [
        (Output(kind="regression", unit="dollars"), 23_400.4, "raises it by 23,400 dollars"),
        (Output(kind="regression"), -0.1234, "lowers it by 0.123"),
        (Output(kind="regression", log=True, unit="dollars"), np.log(1.25), "raises it by 25 %"),
        (Output(kind="regression", log=True), np.log(0.5), "lowers it by 50 %"),
    ],
)
def test_a_value_is_raised_or_lowered_in_its_unit_or_by_a_share(output: Output, told: float, effect: str) -> None:
    assert f" {effect} (100 % of" in words((told, 0.0, 0.0, 0.0), output, answered="")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_gives_reasons_beside_its_answers_for_the_answered_class(kind: TaskKind) -> None:
    rows = broken().set_axis([7] * 20)
    told: Any = explaining(kind).predict(rows, {"answer": "reasons", "reasons": 2})
    answers = explaining(kind).predict(rows)
    assert list(told) == [*list(answers)[:-1], "reason_1", "reason_2", "broken_rule"]
    assert told.drop(columns=["reason_1", "reason_2"]).equals(answers)
    assert told.index.equals(rows.index) and told.iloc[3][["reason_1", "reason_2"]].tolist() == [None, None]
    first = told.iloc[0]["reason_1"]
    assert first.startswith(f"weight {rows['weight'].iloc[0]:.6g} kg ")
    about = {"binary": "speaks for late (", "multiclass": f"speaks for {told.iloc[0]['prediction']} ("}
    assert about.get(kind, "raises it by ") in first
    usual: Any = explaining(kind).predict(rows[:0], {"answer": "reasons"})
    assert len(usual) == 0 and {"reason_1", "reason_2", "reason_3"} < set(usual)


def test_reasons_explain_the_answered_class_though_another_is_more_probable() -> None:
    model = copy(explaining("multiclass"))
    slow_is_dear = tuple((0.0, 9.0, 9.0) if place == 0 else (0.0, 1.0, 1.0) for place in range(3))
    model.output = replace(model.output, costs=slow_is_dear)
    told = model.reasons(broken()[:3])
    assert set(told["prediction"]) == {"slow"}
    assert told["reason_1"].str.contains(" speaks for slow ").all()


def test_a_column_of_which_the_caller_made_a_secret_is_not_quoted() -> None:
    model: PackagedModel = copy(explaining("binary"))
    model.columns = tuple(Column(name=c.name, type=c.type, sensitive=True) for c in model.columns)
    assert TARGETS["binary"].classes[1] == "late"
    told = model.reasons(broken()[:1])
    assert told.iloc[0]["reason_1"].startswith("weight (value not shown) speaks for late")


@pytest.mark.parametrize("value", [0, 21, -1, "three", True, 2.5, 10**30, "²"])
def test_another_number_of_reasons_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="reasons must be a whole number from 1 to 20, but it is "):
        reason_count(value)


def test_a_number_of_reasons_may_come_as_a_text() -> None:
    assert reason_count("4") == reason_count(np.int64(4)) == 4
