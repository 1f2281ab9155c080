"""Counts of a day: bins that no window decides, categories that hold no value, and shares from the verdict."""

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml.data.cleaning import clean, to_arrow
from ml.data.day_counts import bins_of, count_categories, count_day, count_numbers, start_of
from ml.data.handles import PartitionCheck
from ml.data.rewritten import Rewritten, cleaned_rows, rewritten_columns, together
from tests.tiny import sales, tills

ORDERED = [-1e300, -60.5, -60.0, -2.0, -1.0, -1e-310, -0.0, 0.0, 1e-310, 0.5, 1.0, 2.0, 255.0, 256.0, 1013.0, 1e300]


def test_a_larger_value_is_never_in_a_lower_bin() -> None:
    bins = bins_of(np.array(ORDERED))
    assert (np.diff(bins) >= 0).all()
    assert bins[ORDERED.index(0.0)] == 0


def test_whole_numbers_up_to_256_and_years_have_bins_of_their_own() -> None:
    whole = np.arange(-256.0, 257.0)
    assert len(set(bins_of(whole).tolist())) == len(whole)
    assert len(set(bins_of(np.arange(1950.0, 2030.0, 4)).tolist())) == 20


@pytest.mark.parametrize("value", ORDERED)
def test_a_bin_begins_at_the_value_nearest_to_zero(value: float) -> None:
    start = start_of(int(bins_of(np.array([value]))[0]))
    assert abs(start) <= abs(value) <= abs(start) * (1 + 2**-8) + 1e-308


def test_a_bin_does_not_depend_on_the_values_beside_it() -> None:
    values = np.random.default_rng(1).normal(0, 1e3, 1000)
    alone = np.concatenate([bins_of(values[place : place + 1]) for place in range(len(values))])
    assert (bins_of(values) == alone).all()


def test_values_that_are_missing_or_not_finite_are_not_counted() -> None:
    assert count_numbers(np.array([1.0, 1.0, np.nan, np.inf, -np.inf])) == {int(bins_of(np.array([1.0]))[0]): 2}


def test_categories_are_counted_without_their_values() -> None:
    counts = count_categories(pd.Series(["a secret", "a secret", "another", None], dtype="str"), None)
    assert sorted(counts.values()) == [1, 2]
    assert all(isinstance(bucket, int) for bucket in counts)


def check(**changes: Any) -> PartitionCheck:
    fields: dict[str, Any] = {"day": "2024-01-01", "rows": 30, "duplicates": 0, "quarantined": 3, "unlabelled": 2}
    return PartitionCheck(
        **{**fields, "unknown_columns": (), "rejected": None, "broken": (), "quarantine": None, **changes}
    )


def test_a_day_counts_every_feature_the_label_and_the_shares() -> None:
    use_case = tills()
    rows = clean(use_case, sales(date(2024, 1, 1)))
    counts = count_day(use_case, rows, check()).counts
    assert {kind: sorted(columns) for kind, columns in counts.items()} == {
        "number": ["amount", "items"],
        "category": ["at (hour)", "returned_after", "shop"],
        "missing": ["amount", "at", "items", "shop"],
        "unmatched": [],
        "quarantined": [""],
        "unlabelled": [""],
    }
    missing = int(rows["items"].isna().sum())
    assert counts["missing"]["items"] == {0: len(rows) - missing, 1: missing}
    assert (counts["quarantined"][""], counts["unlabelled"][""]) == ({0: 27, 1: 3}, {0: 28, 1: 2})
    assert sum(counts["category"]["returned_after"].values()) == len(rows)


def cleaned(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"amount": [1.0, 2.0, np.nan], "shop": ["n", "s", None], "label__": [0.0, 1.0, 1.0], **columns})


@pytest.mark.parametrize(
    ("columns", "differ"),
    [
        ({}, {}),
        ({"amount": [61.0, 62.0, np.nan]}, {"amount": (2, (60.0, 60.0))}),
        ({"amount": [1.0, np.nan, 5.0]}, {"amount": (2, ())}),
        ({"shop": ["n", "n", "n"]}, {"shop": (2, ())}),
        ({"label__": [1.0, 1.0, 1.0]}, {"paid": (1, (1.0,))}),
        ({"new": [1, 2, 3]}, {}),
    ],
)
def test_the_columns_that_other_code_made_otherwise(columns: Any, differ: dict[str, Any]) -> None:
    found = together([rewritten_columns(cleaned(), cleaned(**columns), "paid")])
    assert {name: (one.rows, one.by) for name, one in found.items()} == differ


def test_rows_are_compared_by_their_number_and_days_are_added_up() -> None:
    before, after = cleaned(), cleaned(amount=[1.0, 2.5, np.nan]).drop(index=0)
    day = rewritten_columns(before, after, "paid")
    assert day["amount"] == Rewritten(rows=1, of=2, by=(0.5,))
    assert together([day, day])["amount"] == Rewritten(rows=2, of=4, by=(0.5, 0.5))


def test_rows_of_a_day_that_came_anew_are_known_by_their_key() -> None:
    before = cleaned(sale=[1, 2, 3], row_number__=[0, 1, 2])
    after = before.iloc[[2, 0, 1]].assign(row_number__=[0, 1, 2], amount=lambda rows: rows.amount + 5)
    twice = pd.concat([after, after.iloc[:1]])
    one, other = (cleaned_rows(to_arrow(rows), ("sale",)) for rows in (before, twice))
    found = together([rewritten_columns(one, other, "paid")])
    assert {name: (column.rows, column.of, column.by) for name, column in found.items()} == {
        "amount": (2, 2, (5.0, 5.0))
    }
