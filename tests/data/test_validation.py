"""The verdict on partitions: counts, attribution, quarantine and rejection."""

import dataclasses
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml import UseCase
from ml.data.cleaning import ROW_NUMBER
from ml.data.handles import PartitionCheck
from ml.data.partitions import PartitionRows
from ml.data.statistics import Moments
from ml.data.validation import (
    Batch,
    BatchVerdict,
    check_batch,
    claims_of_fields,
    drop_duplicates,
    partition_rules,
    rejected_check,
    rejection,
    snapshot_rules,
)
from ml.serving.columns import conform
from ml.serving.features import NumberFeature
from ml.serving.rules import LARGEST, Between, Finite, InSet, NotNull, Rule
from tests.tiny import FIRST_DAY, parcel_rows, parcels, sales, tills

DAY = str(FIRST_DAY)
OTHER_DAY = "2024-01-02"


def day(rows: int = 30, **changes: Any) -> pd.DataFrame:
    """A day's rows with values changed: name=(row numbers, value)."""
    frame = conform(sales(FIRST_DAY, rows), tills().columns)
    for name, (where, value) in changes.items():
        frame.loc[where, name] = value
    return frame


def judged(frames: dict[str, pd.DataFrame], *more: Rule, **changes: Any) -> BatchVerdict:
    use_case = tills(**{"max_quarantined_fraction": 0.2, **changes})
    return check_batch(use_case, rules(use_case, *more), batch_of(use_case, frames))


def batch_of(use_case: UseCase, frames: dict[str, pd.DataFrame]) -> Batch:
    return Batch.of(use_case.key, {day: PartitionRows(rows) for day, rows in frames.items()})


def rules(use_case: UseCase, *more: Rule) -> list[Rule]:
    return [*use_case.column_rules, *partition_rules(use_case), *more]


def check_of(frame: pd.DataFrame, *more: Rule, **changes: Any) -> PartitionCheck:
    return judged({DAY: frame}, *more, **changes).checks[DAY]


def broken(check: PartitionCheck) -> dict[str, int]:
    return {count.rule: count.unexpected for count in check.broken}


def test_good_rows_break_nothing() -> None:
    check = check_of(day())
    assert (check.rows, check.duplicates, check.quarantined, check.unlabelled, check.rejected) == (30, 0, 0, 2, None)
    assert broken(check) == {}
    assert check.labelled == 28


BREAKS = [
    ("amount", -1.0, "amount lies between 0 and 1000"),
    ("amount", 1001.0, "amount lies between 0 and 1000"),
    ("amount", np.nan, "amount is present"),
    ("shop", None, "shop is present"),
    ("sale", 7.0, "(sale) is unique"),
]


@pytest.mark.parametrize(("name", "value", "rule"), BREAKS)
def test_a_row_that_breaks_a_rule_is_set_aside_under_its_sentence(name: str, value: Any, rule: str) -> None:
    verdict = judged({DAY: day(**{name: ([3, 8], value)})})
    assert broken(verdict.checks[DAY]) == {rule: 2}
    aside = verdict.quarantine[DAY]
    assert aside[ROW_NUMBER].tolist() == [3, 8]
    assert set(aside["broken_rule"]) == {rule}
    assert verdict.checks[DAY].rejected is None


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e200, -1e308])
@pytest.mark.parametrize("column", ["amount", "items", "returned_after"])
def test_what_a_division_by_zero_leaves_breaks_a_rule(column: str, value: float) -> None:
    """Also of a column with a declared range, which refuses it first, and of the target."""
    verdict = judged({DAY: day(**{column: ([3], value)})})
    rule = "amount lies between 0 and 1000" if column == "amount" else f"{column} is finite (within 1e+100)"
    assert broken(verdict.checks[DAY]) == {rule: 1}
    assert verdict.quarantine[DAY][ROW_NUMBER].tolist() == [3]
    assert verdict.checks[DAY].unlabelled == 2


def test_numbers_that_the_rule_lets_pass_can_be_summed() -> None:
    values = np.array([LARGEST, -LARGEST, 1.0, 0.0] * 1000)
    assert not Finite(column="x").unexpected(pd.DataFrame({"x": values})).any()
    moments = Moments.of(values)
    assert np.isfinite([moments.mean, moments.std, moments.deviations]).all()
    feature = NumberFeature(column="x", mean=moments.mean, std=moments.std, clip=8.0, indicator=False)
    x = np.empty((len(values), 1), np.float32)
    feature.write(values, x)
    assert np.isfinite(x).all()


LABELS: list[tuple[dict[str, Any], str, Any, int]] = [
    ({"kind": "multiclass", "column": "pace"}, "pace", "SLOW", 1),
    ({"kind": "multiclass", "column": "pace"}, "pace", " slow", 1),
    ({"kind": "multiclass", "column": "pace"}, "pace", "", 1),
    ({"kind": "multiclass", "column": "pace"}, "pace", None, 0),
    ({"kind": "binary", "column": "outcome"}, "outcome", "Late", 1),
    ({"kind": "binary", "column": "outcome"}, "outcome", None, 0),
    ({"kind": "regression", "column": "price"}, "price", np.inf, 1),
    ({"kind": "regression", "column": "price"}, "price", -np.inf, 1),
    ({"kind": "regression", "column": "price"}, "price", np.nan, 0),
]


@pytest.mark.parametrize(("target", "column", "label", "refused"), LABELS)
def test_a_label_of_no_declared_class_is_refused_and_a_missing_one_is_counted(
    target: dict[str, Any], column: str, label: Any, refused: int
) -> None:
    use_case = parcels(target["kind"])
    rows = conform(parcel_rows(60), use_case.columns)
    rows.loc[4, column] = label
    batch = batch_of(use_case, {"all": rows})
    check = check_batch(use_case, rules(use_case), batch).checks["all"]
    assert (check.quarantined, check.unlabelled) == (refused, 1 - refused)
    assert check.labelled == 59


@pytest.mark.parametrize("sensitive", [False, True])
def test_a_day_whose_labels_are_spelt_otherwise_is_rejected_by_name(sensitive: bool) -> None:
    plain = parcels("multiclass")
    columns = tuple(replace(column, sensitive=sensitive and column.name == "weight") for column in plain.columns)
    use_case = parcels("multiclass", columns=columns)
    rows = conform(parcel_rows(60), columns)
    spelt = rows.assign(pace=rows["pace"].str.title())
    batch = batch_of(use_case, {"all": spelt})
    check = check_batch(use_case, rules(use_case), batch).checks["all"]
    assert check.rejected is not None
    assert "60 rows break 'pace is one of slow, usual, quick'" in check.rejected
    assert ("is the nearest that may be" in check.rejected) is not sensitive
    assert any(name in check.rejected for name in ("Slow", "Usual", "Quick")) is not sensitive
    assert check.cure == "declare the new values for pace, or raise max_quarantined_fraction"


def test_a_row_without_a_label_is_counted_and_not_set_aside() -> None:
    verdict = judged({DAY: day(returned_after=([1], np.nan))})
    assert verdict.checks[DAY].unlabelled == 3
    assert verdict.quarantine == {}


def test_a_row_is_set_aside_once_and_counted_under_every_rule_it_breaks() -> None:
    verdict = judged({DAY: day(amount=([3], -1.0), shop=([3], None))})
    assert verdict.checks[DAY].quarantined == 1
    assert len(broken(verdict.checks[DAY])) == 2
    assert verdict.quarantine[DAY]["broken_rule"].tolist() == ["amount lies between 0 and 1000"]


def test_a_warning_is_counted_and_sets_nothing_aside() -> None:
    verdict = judged({DAY: day()}, InSet(column="shop", values=("north", "south"), severity="warning"))
    assert verdict.checks[DAY].quarantined == 0
    assert list(broken(verdict.checks[DAY])) == ["shop is one of north, south"]


def test_exact_duplicates_are_dropped_and_counted_before_rules() -> None:
    rows = day()
    check = check_of(pd.concat([rows, rows.iloc[:4]], ignore_index=True))
    assert (check.rows, check.duplicates, check.quarantined) == (34, 4, 0)
    assert drop_duplicates(pd.concat([rows, rows]), tills().key).equals(rows)


def test_a_key_is_unique_within_a_partition() -> None:
    verdict = judged({DAY: day(), OTHER_DAY: day(amount=([0], 5.0))})
    assert [check.quarantined for check in verdict.checks.values()] == [0, 0]


def test_every_row_of_a_clash_is_set_aside() -> None:
    clash = pd.concat([day(), day().iloc[[5]].assign(amount=3.0)], ignore_index=True)
    assert judged({DAY: clash}).quarantine[DAY][ROW_NUMBER].tolist() == [5, 30]


def test_too_large_a_share_set_aside_rejects_the_partition_and_names_the_rule_behind_it() -> None:
    frame = day(amount=(range(7), -1.0))
    check = check_of(frame)
    assert check.rejected is not None
    assert "at most 0.2 of its rows are set aside (max_quarantined_fraction), and 0.233 are" in check.rejected
    assert "7 rows break 'amount lies between 0 and 1000'" in check.rejected
    assert check_of(frame, max_quarantined_fraction=0.25).rejected is None
    one = check_of(day(amount=([0], -1.0)), max_quarantined_fraction=0.0).rejected
    assert one is not None and "1 row breaks 'amount lies between 0 and 1000'" in one


def test_one_bad_day_does_not_reject_its_neighbour() -> None:
    checks = judged({DAY: day(amount=(range(30), -1.0)), OTHER_DAY: day()}).checks
    assert checks[DAY].rejected is not None
    assert checks[OTHER_DAY].rejected is None
    assert broken(checks[OTHER_DAY]) == {}


@pytest.mark.parametrize(("rows", "least"), [(0, 10), (9, 10), (1234, 5000)])
def test_too_few_rows_reject_the_partition(rows: int, least: int) -> None:
    reason = check_of(day(rows), min_rows=least).rejected
    assert reason == f"the rule is that at least {least:,} of its rows are usable (min_rows), and {rows:,} are"


def test_a_partition_gets_the_same_verdict_in_any_company() -> None:
    bad, good = day(amount=([2], -1.0)), day()
    together = judged({DAY: bad, OTHER_DAY: good})
    alone = judged({DAY: bad})
    assert together.checks[DAY] == alone.checks[DAY]
    assert together.quarantine[DAY].reset_index(drop=True).equals(alone.quarantine[DAY].reset_index(drop=True))
    assert [fact.unexpected for fact in together.facts] == [fact.unexpected for fact in alone.facts]


def test_partition_rules_of_a_suite_speak_of_facts() -> None:
    few = Between(scope="partition", column="unlabelled", maximum=1)
    assert "unlabelled is at most 1 (it is 2)" in str(check_of(day(), few).rejected)
    mild = Between(scope="partition", column="unlabelled", maximum=1, severity="warning")
    assert check_of(day(), mild).rejected is None


def test_snapshot_rules_bound_the_days_left_out() -> None:
    facts, more = pd.DataFrame({"left_out_days": [4.0], "rows": [100.0]}), tills(max_missing_days=4)
    reason = rejection(tills(), snapshot_rules(tills()), facts, [])
    assert reason == "the rule is that at most 3 days are left out (max_missing_days), and 4 are"
    assert rejection(more, snapshot_rules(more), facts, []) is None


def test_every_rule_of_a_use_case_s_own_fields_is_told_by_its_field() -> None:
    """The names of the facts that are compared stand in no use case."""
    use_case = tills(max_quarantined_fraction=0.2)
    claims = claims_of_fields(use_case)
    assert {*claims} == {*partition_rules(use_case), *snapshot_rules(use_case)}
    named = {field.name for field in dataclasses.fields(UseCase)}
    assert all({*re.findall(r"\((\w+)\)", claim)} <= named for claim in claims.values())
    check = check_of(day(amount=(range(7), -1.0)))
    assert [count.rule for count in check.broken if count.scope == "partition"] == [
        claims[partition_rules(use_case)[1]]
    ]


def test_an_unreadable_partition_is_rejected_with_its_reason() -> None:
    assert rejected_check(DAY, "it cannot be read").rejected == "it cannot be read"


def test_the_columns_imply_the_row_rules() -> None:
    assert [rule.sentence for rule in tills().column_rules] == [
        "sale is present",
        "sale is finite (within 1e+100)",
        "at is present",
        "amount is present",
        "amount lies between 0 and 1000",
        "items is finite (within 1e+100)",
        "shop is present",
        "returned_after is finite (within 1e+100)",
        "at is a time of the years 1900 to 2199",
        "(sale) is unique",
    ]
    assert NotNull(column="returned_after") not in tills().column_rules
