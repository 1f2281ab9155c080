"""Every row keeps its identity: whatever a derive does to the order, whatever a side table lacks, row by row."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import Source, UseCase
from ml.data.dataset import SideTable
from ml.data.handles import JoinCounts
from ml.data.joins import complete, complete_by_day
from ml.data.reading import UnusablePartition
from ml.errors import ConfigError, StoreUnavailable
from ml.serving.columns import Column, wrong_type
from ml.serving.derived import ROW
from ml.settings import Settings
from tests.tiny import FIRST_DAY, parcel_rows, parcels, sales, site, tills, to_parquet, write_sales

Derive = Callable[[pd.DataFrame], Any]


def sold() -> pd.DataFrame:
    """Source rows in no order at all; equal amounts are among them."""
    return sales(FIRST_DAY).assign(amount=np.tile([3.0, 1.0, 2.0], 10)).sample(frac=1, random_state=1)


def made(derive: Derive, rows: pd.DataFrame | None = None, **changes: Any) -> pd.DataFrame:
    use_case = tills(derive=derive, **changes)
    return complete(use_case, sold() if rows is None else rows, {}).rows


# Derive


def tenths(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(tenth=rows["amount"] * 0.1)


def by_group(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([tenths(part) for _, part in rows.groupby("shop")])


def written_into(rows: pd.DataFrame) -> pd.DataFrame:
    rows["tenth"] = rows["amount"] * 0.1
    rows["amount"] = 0.0
    rows.loc[::2, "shop"] = "west"
    rows.index = rows.index[::-1]
    del rows["items"]
    rows.columns = [*rows.columns[:-1], "tenth"]
    return rows[::-1]


def merged(rows: pd.DataFrame) -> pd.DataFrame:
    prices = pd.DataFrame({"amount": [2.0, 3.0, 1.0], "tenth": np.array([2.0, 3.0, 1.0]) * 0.1})
    return rows.merge(prices, on="amount", how="right")


FAITHFUL: dict[str, Derive] = {
    "as it came": tenths,
    "sorted": lambda rows: tenths(rows.sort_values("amount")),
    "sorted, with a new index": lambda rows: tenths(rows.sort_values("amount", ignore_index=True)),
    "backwards": lambda rows: tenths(rows[::-1]),
    "shuffled": lambda rows: tenths(rows.sample(frac=1, random_state=3)),
    "group by group": by_group,
    "filtered and put together": lambda rows: tenths(pd.concat([rows[rows.amount > 2], rows[rows.amount <= 2]])),
    "merged": merged,
    "under one index label": lambda rows: tenths(rows.sort_values("amount")).set_axis([0] * len(rows)),
    "under an index of several levels": lambda rows: tenths(rows).set_index(["shop", "sale"], drop=False),
    "under its own number": lambda rows: tenths(rows.sort_values("amount")).set_index(ROW, drop=False),
    "indexed and back": lambda rows: tenths(rows.set_index("sale").sort_index().reset_index()),
    "numbers as floats": lambda rows: tenths(rows[::-1]).astype({ROW: "float64"}),
    "numbers as nullable integers": lambda rows: tenths(rows[::-1]).astype({ROW: "Int64"}),
    "numbers as objects": lambda rows: tenths(rows[::-1]).astype({ROW: "object"}),
    "row by row": lambda rows: pd.DataFrame([row.to_dict() for _, row in tenths(rows[::-1]).iterrows()]),
    "by records": lambda rows: pd.DataFrame.from_records(tenths(rows[::-1]).to_dict("records")),
    "into its argument": written_into,
    "fewer columns": lambda rows: tenths(rows)[[ROW, "sale", "at", "amount", "tenth"]][::-1],
    "another key column": lambda rows: tenths(rows.assign(sale=rows["sale"] * 2)[::-1]).assign(sale=rows["sale"]),
}


@pytest.mark.parametrize("index", ["numbers", "repeats", "levels", "texts"])
@pytest.mark.parametrize("name", FAITHFUL)
def test_a_derive_may_change_the_order_and_every_row_keeps_what_is_its_own(name: str, index: str) -> None:
    rows = sold()
    rows.index = {
        "numbers": rows.index,
        "repeats": pd.Index([0, 1] * 15),
        "levels": pd.MultiIndex.from_arrays([rows["shop"], rows["sale"]]),
        "texts": pd.Index([f"row {n}" for n in range(30)]),
    }[index]
    before = rows.copy()
    whole = made(FAITHFUL[name], rows)
    assert whole.index.equals(rows.index)
    assert np.array_equal(whole["sale"], rows["sale"])
    assert np.array_equal(whole["tenth"], rows["amount"] * 0.1)
    assert ROW not in whole
    pd.testing.assert_frame_equal(rows, before)


async def later(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


REFUSED: dict[str, tuple[Derive, str]] = {
    "drops rows": (lambda rows: rows.dropna(), r"leaves out \d of 30 rows \(return every row once"),
    "drops one": (lambda rows: rows.iloc[1:], "leaves out 1 of 30 rows"),
    "drops all": (lambda rows: rows.iloc[:0], "leaves out 30 of 30 rows"),
    "keeps one of a group": (lambda rows: rows.drop_duplicates("shop"), "leaves out 27 of 30 rows"),
    "repeats rows": (lambda rows: pd.concat([rows, rows.head(2)]), "repeats 2 of 30 rows"),
    "a merge that multiplies": (
        lambda rows: rows.merge(pd.DataFrame({"amount": [1.0, 1.0, 2.0, 3.0], "price": range(4)}), on="amount"),
        "repeats 10 of 30 rows",
    ),
    "a merge that loses": (
        lambda rows: rows.merge(pd.DataFrame({"amount": [1.0, 2.0]}), on="amount"),
        "leaves out 10 of 30 rows",
    ),
    "one for another": (lambda rows: pd.concat([rows.iloc[1:], rows.tail(1)]), "leaves out 1 and repeats 1 of 30"),
    "adds a row without number": (
        lambda rows: pd.concat([rows, pd.DataFrame({"amount": [1.0]})], ignore_index=True),
        f"adds, under another {ROW}, 1 of 30",
    ),
    "adds a row of its own number": (
        lambda rows: pd.concat([rows, rows.head(1).assign(**{ROW: 30})]), f"adds, under another {ROW}, 1 of 30"
    ),
    "numbers from one": (lambda rows: rows.assign(**{ROW: rows[ROW] + 1}), "leaves out 1 and adds"),
    "halves": (lambda rows: rows.assign(**{ROW: rows[ROW] / 2}), "leaves out 15 and adds"),
    "no numbers at all": (lambda rows: rows.assign(**{ROW: "?"}), "leaves out 30 and adds"),
    "lists for numbers": (lambda rows: rows.assign(**{ROW: [[n] for n in range(30)]}), "leaves out 30 and adds"),
    "groups": (lambda rows: rows.groupby("shop", as_index=False).first(), "leaves out 27 of 30 rows"),
    "sums": (lambda rows: rows.groupby("shop").sum(numeric_only=True).drop(columns=ROW), f"no column {ROW}"),
    "numbers written anew": (
        lambda rows: rows.sort_values("amount").assign(**{ROW: range(30)}), f"gives rows another {ROW} than they had"
    ),
    "numbers shuffled": (
        lambda rows: rows.assign(**{ROW: rows[ROW].to_numpy()[::-1]}), "as sale shows"
    ),
    "values shifted by a row": (lambda rows: rows.assign(sale=np.roll(rows["sale"], 1)), "as sale shows"),
    "loses the column": (lambda rows: rows.drop(columns=ROW), f"returns no column {ROW}"),
    "renames it": (lambda rows: rows.rename(columns={ROW: "row"}), f"returns no column {ROW}"),
    "puts it into the index": (lambda rows: rows.set_index(ROW), f"returns no column {ROW}"),
    "only what is new": (lambda rows: rows[["amount"]], f"returns no column {ROW}"),
    "twice": (lambda rows: pd.concat([rows, rows[[ROW]]], axis=1), f"returns the column {ROW} twice"),
    "a column twice": (lambda rows: pd.concat([rows, rows["shop"]], axis=1), "returns the column shop twice"),
    "columns of levels": (lambda rows: pd.concat({"a": rows}, axis=1), "columns of several levels"),
    "nothing": (lambda rows: None, "returns a NoneType"),
    "a series": (lambda rows: rows["amount"], r"returns a pandas\.Series"),
    "a dictionary": (lambda rows: rows.to_dict(), "returns a dict"),
    "an array": (lambda rows: rows.to_numpy(), r"returns a numpy\.ndarray"),
    "a coroutine": (lambda rows: later(rows), "returns a coroutine"),
    "a generator": (lambda rows: (row for row in rows), "returns a generator"),
    "text": (lambda rows: "rows", "returns a str"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_derive_that_loses_repeats_or_confuses_rows_is_refused_in_words(name: str) -> None:
    derive, words = REFUSED[name]
    with pytest.raises(UnusablePartition, match=words) as caught:
        made(derive)
    assert str(caught.value).startswith("derive of tills ")
    assert str(caught.value).endswith(")")  # the next step


@pytest.mark.parametrize("name", ["numbers written anew", "numbers shuffled"])
def test_without_a_key_any_declared_column_shows_that_numbers_were_swapped(name: str) -> None:
    with pytest.raises(UnusablePartition, match=f"gives rows another {ROW} than they had"):
        made(REFUSED[name][0], key=())


@pytest.mark.parametrize("name", ["numbers written anew", "numbers shuffled"])
def test_a_file_to_score_without_its_key_shows_by_its_other_columns_that_numbers_were_swapped(name: str) -> None:
    with pytest.raises(UnusablePartition, match=f"gives rows another {ROW} than they had"):
        made(REFUSED[name][0], rows=sold().drop(columns="sale"))


def failing(error: BaseException) -> Derive:
    def derive(rows: pd.DataFrame) -> pd.DataFrame:
        raise error

    return derive


def failing_for(cause: Exception) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A derive that wraps what the machine did."""

    def derive(rows: pd.DataFrame) -> pd.DataFrame:
        raise KeyError("secret") from cause

    return derive


KINDS = (KeyError, ValueError, ZeroDivisionError, RecursionError, AttributeError, SystemExit, pd.errors.MergeError)
ERRORS = [*(kind("secret") for kind in KINDS), UnicodeDecodeError("utf8", b"secret", 0, 1, "?")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_derive_raises_is_a_sentence_without_values(error: BaseException) -> None:
    with pytest.raises(UnusablePartition) as caught:
        made(failing(error))
    said = str(caught.value)
    assert said.startswith(f"derive of tills fails with {type(error).__name__} in line ")
    assert said.endswith("of test_joins.py (mend derive, or the day's file)")
    assert "secret" not in said


def test_a_failure_inside_a_library_names_the_companys_line() -> None:
    with pytest.raises(UnusablePartition, match=r"fails with KeyError in line \d+ of test_joins\.py"):
        made(lambda rows: rows.assign(x=rows["nowhere"]))


def test_a_failure_of_the_machine_is_no_verdict_on_the_day() -> None:
    """A verdict would be kept, and the day left out for good."""
    with pytest.raises(
        ConfigError, match=r"derive of tills must run on the rows alone, but fails with FileNotFoundError"
    ):
        made(failing(FileNotFoundError("secret")))
    for cause in (MemoryError(), OSError(28, "No space left on device")):
        with pytest.raises(ConfigError, match="but fails with KeyError in line"):
            made(failing_for(cause))
    for error in (MemoryError(), StoreUnavailable("a", "b", "c")):
        with pytest.raises(type(error)):
            made(failing(error))


def test_a_source_column_of_the_same_name_is_not_taken_for_the_number() -> None:
    rows = sold().assign(**{ROW: 7})
    assert np.array_equal(made(FAITHFUL["sorted"], rows)["sale"], rows["sale"])


def test_of_no_rows_derive_makes_none() -> None:
    assert len(made(FAITHFUL["sorted"], sold().iloc[:0])) == 0


# Side tables

NULLS: dict[str, Any] = {"None": None, "NaN": float("nan"), "NaT": pd.NaT, "NA": pd.NA, "empty": "", "blank": "  "}


def stock(**changes: Any) -> UseCase:
    fields: dict[str, Any] = {"name": "stock", "source": Source(folder="stock"), "on": ("code",), "take": ("left",)}
    return tills(
        columns=(*tills().columns, Column(name="left", nullable=True)),
        side_tables=(SideTable(**fields | changes),),
    )


def join(codes: Any, side: Any, left: Any = None) -> tuple[list[float], JoinCounts]:
    """What each row takes from a side table with these codes: the number of its row there."""
    side = pd.Series(side)
    values = np.arange(len(side), dtype=np.float64) if left is None else left
    rows = pd.DataFrame({"code": codes, "sale": range(len(codes))})
    found = complete(stock(), rows, {"stock": pd.DataFrame({"code": side, "left": values})})
    assert found.rows["sale"].tolist() == list(range(len(codes)))
    return found.rows["left"].fillna(-1).tolist(), found.joins["stock"]


DATES = [dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 3)]
TIMES = pd.to_datetime(["2024-01-01 05:00", "2024-01-02 00:00", "2024-01-03 00:00"])
KEYS: dict[str, pd.Series] = {
    "text": pd.Series(["a", "b", "c"], dtype="str"),
    "text as objects": pd.Series(["a", "b", "c"], dtype="object"),
    "text in Arrow": pd.Series(["a", "b", "c"], dtype="string[pyarrow]"),
    "category": pd.Series(["a", "b", "c"], dtype="category"),
    "integer": pd.Series([1, 2, 3]),
    "small integer": pd.Series([1, 2, 3], dtype="int8"),
    "unsigned integer": pd.Series([1, 2, 3], dtype="uint64"),
    "nullable integer": pd.Series([1, 2, 3], dtype="Int64"),
    "number": pd.Series([1.0, 2.0, 3.0]),
    "fraction": pd.Series([0.1, 0.2, 0.3]),
    "boolean": pd.Series([True, False, None], dtype="boolean"),
    "date": pd.Series(DATES, dtype="object"),
    "timestamp": pd.Series(TIMES),
    "timestamp in seconds": pd.Series(TIMES).astype("datetime64[s]"),
    "timestamp in nanoseconds": pd.Series(TIMES).astype("datetime64[ns]"),
    "timestamp with a zone": pd.Series(TIMES.tz_localize("Europe/Berlin")),
    "decimal": pd.Series([Decimal("1.50"), Decimal("2"), Decimal("3")], dtype="object"),
    "bytes": pd.Series([b"a", b"b", b"c"], dtype="object"),
}
ALIKE = [
    {"text", "text as objects", "text in Arrow", "category"},
    {"integer", "small integer", "unsigned integer", "nullable integer", "number"},
    {"timestamp", "timestamp in seconds", "timestamp in nanoseconds"},
]


def with_nulls(series: pd.Series, null: Any, at: tuple[int, ...]) -> pd.Series:
    """The values with a null in those places; as objects where their type has no such null."""
    values = series.astype("object").tolist()
    for place in at:
        values.insert(place, null)
    if not isinstance(null, str):
        try:
            return pd.Series(values, dtype=series.dtype)
        except (TypeError, ValueError):
            pass
    return pd.Series(values, dtype="object")


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("kind", KEYS)
def test_a_null_key_meets_nothing_on_either_side(kind: str, null: str) -> None:
    series = KEYS[kind].dropna()
    size = len(series)
    plain = join(series, series)
    assert plain == (list(map(float, range(size))), JoinCounts(rows=size, null_keys=0, unmatched=0, side_null_keys=0))
    lacking = with_nulls(series, NULLS[null], (0, 2))
    taken, counts = join(lacking, lacking)
    assert [value for value, code in zip(taken, lacking, strict=True) if not is_null(code)] == [
        float(place) for place, code in enumerate(lacking) if not is_null(code)
    ]
    assert [value for value, code in zip(taken, lacking, strict=True) if is_null(code)] == [-1, -1]
    assert counts == JoinCounts(rows=size + 2, null_keys=2, unmatched=0, side_null_keys=2)
    assert join(lacking, series)[1] == JoinCounts(rows=size + 2, null_keys=2, unmatched=0, side_null_keys=0)
    assert join(series, lacking)[1] == JoinCounts(rows=size, null_keys=0, unmatched=0, side_null_keys=2)


def is_null(code: Any) -> bool:
    return bool(pd.isna(code)) or (isinstance(code, str) and not code.strip())


PAIRS = [(a, b) for a in KEYS for b in KEYS if a != b and {a, b} != {"number", "fraction"}]


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=[" and ".join(pair) for pair in PAIRS])
def test_keys_of_two_types_are_compared_exactly_or_refused_by_name(left: str, right: str) -> None:
    """Never unmatched without a word."""
    if any({left, right} <= kinds for kinds in ALIKE):
        assert join(KEYS[left], KEYS[right])[0] == [0, 1, 2]
        return
    with pytest.raises(
        UnusablePartition, match=r"stock cannot be joined on code, which is .* \(write both alike"
    ) as caught:
        join(KEYS[left], KEYS[right])
    assert "in the rows and" in str(caught.value)


@pytest.mark.parametrize("kind", KEYS)
def test_a_column_without_any_value_is_of_every_type(kind: str) -> None:
    """As a CSV's empty column is read."""
    empty = pd.Series([np.nan, np.nan])
    assert join(empty, KEYS[kind]) == (
        [-1, -1],
        JoinCounts(rows=2, null_keys=2, unmatched=0, side_null_keys=len(KEYS[kind]) - KEYS[kind].count()),
    )
    assert join(KEYS[kind].dropna(), empty)[1].unmatched == KEYS[kind].count()


UNEQUAL: dict[str, tuple[Any, Any]] = {
    "texts that look like numbers": (["1", "2"], [1, 2]),
    "007": (["007"], [7]),
    "texts that look like floats": (["1.0"], [1.0]),
    "mixed": ([1, "a"], [1, 2]),
    "mixed on the other side": (["a", "b"], ["a", 1]),
    "wide integers and floats": ([2**53 + 1], [float(2**53)]),
    "fractions of two widths": ([0.1], np.array([0.1], dtype=np.float32)),
    "true and one": ([True], [1]),
    "codes of a category": (pd.Series([1], dtype="category"), ["1"]),
    "a day and its date": (pd.to_datetime(["2024-01-01"]), [dt.date(2024, 1, 1)]),
    "a day and its text": (pd.to_datetime(["2024-01-01"]), ["2024-01-01"]),
    "two clocks": (pd.to_datetime(["2024-01-01"]), pd.to_datetime(["2024-01-01"]).tz_localize("UTC")),
    "a duration and a number": (pd.to_timedelta(["1s"]), [1]),
}


@pytest.mark.parametrize("name", UNEQUAL)
def test_keys_that_only_look_alike_are_refused(name: str) -> None:
    left, right = UNEQUAL[name]
    with pytest.raises(UnusablePartition, match="stock cannot be joined on code, which is"):
        join(left, right)


def test_wide_integers_meet_their_equal_and_no_other() -> None:
    assert join([2**53, 2**53 + 1], [2**53 + 1, 2**53])[0] == [1, 0]
    wide = np.array([2**64 - 1, 2], dtype=np.uint64)
    assert join(wide, wide)[0] == [0, 1]
    assert join(wide, [2, 3])[0] == [-1, 0]


def test_one_instant_in_two_zones_is_one_key() -> None:
    berlin = pd.Series(TIMES.tz_localize("Europe/Berlin"))
    assert join(berlin, berlin.dt.tz_convert("America/New_York"))[0] == [0, 1, 2]


def test_case_and_blanks_count_as_another_key() -> None:
    taken, counts = join(["A", "b ", "c"], ["a", "b", "c"])
    assert (taken, counts.unmatched) == ([-1, -1, 2], 2)


def test_rows_keep_their_place_whatever_the_side_tables_order() -> None:
    codes = np.random.default_rng(0).integers(0, 50, 300)
    side = np.random.default_rng(1).permutation(40)
    taken, counts = join(codes, side)
    expected = [float(np.flatnonzero(side == code)[0]) if code < 40 else -1 for code in codes]
    assert (taken, counts.unmatched) == (expected, int((codes >= 40).sum()))


def test_a_key_of_several_columns_is_null_where_one_of_them_is() -> None:
    use_case = stock(on=("code", "hour"))
    rows = pd.DataFrame({"code": ["a", None, "a", "b"], "hour": [1.0, 1.0, np.nan, 2.0]})
    side = pd.DataFrame({"code": ["a", "a", None, "b"], "hour": [1, None, 1, 3], "left": [1.0, 2.0, 3.0, 4.0]})
    found = complete(use_case, rows, {"stock": side})
    assert found.rows["left"].fillna(-1).tolist() == [1, -1, -1, -1]
    assert found.joins["stock"] == JoinCounts(rows=4, null_keys=2, unmatched=1, side_null_keys=2)


@pytest.mark.parametrize("kind", [kind for kind in KEYS if kind != "boolean"])
def test_a_key_that_stands_twice_is_refused_with_its_rows_and_not_its_value(kind: str) -> None:
    side = pd.concat([KEYS[kind], KEYS[kind].iloc[[1]]], ignore_index=True)
    with pytest.raises(UnusablePartition, match="stock cannot be joined on code, which 2 of its rows share") as caught:
        join(KEYS[kind], side)
    assert "rows 2 and 4; leave one of each" in str(caught.value)
    assert join(KEYS[kind], side, [1.0, 2.0, 3.0, 2.0])[0] == [1, 2, 3]  # equal rows contradict nothing


def test_two_rows_without_a_key_do_not_contradict_each_other() -> None:
    taken, counts = join(["a", None], ["a", None, None, ""], [1.0, 2.0, 3.0, 4.0])
    assert (taken, counts.side_null_keys) == ([1, -1], 3)


def test_a_column_that_the_rows_have_already_is_refused_by_name() -> None:
    rows = sold().assign(code="a", left=0.0)
    with pytest.raises(UnusablePartition, match=r"stock gives left, which the rows have already \(rename one\)"):
        complete(stock(), rows, {"stock": pd.DataFrame({"code": ["a"], "left": [1.0]})})
    derived = replace(stock(), derive=lambda rows: rows.assign(left=1.0))
    with pytest.raises(UnusablePartition, match="stock gives left, which the rows have already"):
        complete(derived, sold().assign(code="a"), {"stock": pd.DataFrame({"code": ["a"], "left": [1.0]})})


def test_values_that_cannot_be_compared_are_a_sentence() -> None:
    lists = pd.Series([["a"], ["b"]])
    with pytest.raises(UnusablePartition, match=r"stock cannot be joined on code"):
        join(lists, lists)


@pytest.mark.parametrize("kind", ["int64", "uint64", "Int64", "int64[pyarrow]"])
@pytest.mark.parametrize("codes", [["a", "b"], ["a", "no such"]], ids=["all met", "one met nothing"])
def test_a_wide_integer_that_is_taken_is_never_rounded(kind: str, codes: list[str]) -> None:
    side = pd.DataFrame({"code": ["a", "b"], "left": pd.Series([2**53 + 1, 1], dtype=kind)})
    taken = complete(stock(), pd.DataFrame({"code": codes}), {"stock": side}).rows["left"]
    assert int(taken[0]) == 2**53 + 1
    assert "over 2**53" in str(wrong_type(Column(name="left", type="integer", nullable=True), taken))


@pytest.mark.parametrize("values", [[1, 2, 3], [True, False, True], ["x", "y", "z"], [1.5, np.nan, 2.0]])
def test_what_is_taken_keeps_its_type_where_every_row_meets_one(values: list[Any]) -> None:
    side = pd.DataFrame({"code": ["a", "b", "c"], "left": values})
    rows = pd.DataFrame({"code": ["b", "a", "c"]})
    taken = complete(stock(), rows, {"stock": side}).rows["left"]
    assert taken.dtype == side["left"].dtype
    assert taken.equals(side["left"].iloc[[1, 0, 2]].reset_index(drop=True))


# Rows of any days


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Ten days of tills with an hour's rate, and customers in one file with one of no number."""
    place = site(tmp_path_factory.mktemp("rows"))
    write_sales(place.data / "tills", 10)
    for folder in ("rates", "customers"):
        (place.data / folder).mkdir()
    for number in range(10):
        day = FIRST_DAY + dt.timedelta(days=number)
        rates = pd.DataFrame({"shop": ["north", "south", None], "rate": [number + 0.25, number + 0.5, 99.0]})
        to_parquet(rates, place.data / "rates" / str(day))
    customers = pd.DataFrame({"items": [1.0, 2.0, None], "credit": [10.0, 20.0, 99.0]})
    to_parquet(customers, place.data / "customers" / "all")
    return place


def both_tables(derive: Derive | None) -> UseCase:
    return tills(
        columns=(
            *tills().columns, Column(name="rate", nullable=True), Column(name="credit", nullable=True),
            *([Column(name="tenth")] if derive else []),
        ),
        side_tables=(
            SideTable(name="rates", source=Source(folder="rates"), on=("shop",), take=("rate",)),
            SideTable(name="customers", source=Source(folder="customers"), on=("items",), take=("credit",)),
        ),
        derive=derive,
    )  # fmt: skip


def mixed_days(lacking_times: bool) -> pd.DataFrame:
    rows = pd.concat([sales(FIRST_DAY + dt.timedelta(days=n)) for n in (2, 5, 6)], ignore_index=True)
    rows.loc[::11, "shop"] = None
    if lacking_times:
        rows.loc[::9, "at"] = pd.NaT
    return rows


def undated_parcels(derive: Derive | None) -> UseCase:
    columns = (*parcels().columns, *([Column(name="tenth")] if derive else []))
    return parcels(columns=columns, derive=derive, key=("parcel",))


ROW_WISE = ["as it came", "sorted", "group by group", "backwards", "filtered and put together", "row by row"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), derive=st.sampled_from([None, *ROW_WISE]), lacking=st.booleans(), dated=st.booleans())
def test_a_row_is_completed_alone_as_among_any_others_in_any_order(
    place: Settings, data: st.DataObject, derive: str | None, lacking: bool, dated: bool
) -> None:
    function = None if derive is None else FAITHFUL[derive]
    if dated:
        use_case, rows = both_tables(function), mixed_days(lacking).assign(shop=lambda r: r["shop"].fillna("none"))
    else:
        use_case = undated_parcels(function)
        rows = parcel_rows(40).assign(amount=lambda r: r["weight"], shop="a", items=1.0, sale=range(40))
    whole = complete_by_day(place, use_case, rows).rows
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=12, unique=True))
    some = complete_by_day(place, use_case, rows.iloc[chosen]).rows
    assert some.index.equals(rows.index[chosen])
    pd.testing.assert_frame_equal(
        some[sorted(some)], whole.iloc[chosen][sorted(some)], check_dtype=False, check_exact=True
    )


def test_rows_of_several_days_are_counted_together(place: Settings) -> None:
    rows = mixed_days(lacking_times=True)
    found = complete_by_day(place, both_tables(FAITHFUL["sorted"]), rows)
    dated = rows["at"].notna()
    assert found.joins["rates"] == JoinCounts(
        rows=int(dated.sum()),
        null_keys=int((dated & rows["shop"].isna()).sum()),
        unmatched=int((dated & (rows["shop"] == "007")).sum()),
        side_null_keys=1,
    )
    assert found.joins["customers"].rows == len(rows)
    assert found.joins["customers"].null_keys == int(rows["items"].isna().sum())
    assert found.rows["rate"].max() < 99 and found.rows["credit"].max() < 99


def test_days_for_which_derive_returns_other_columns_are_not_put_together(place: Settings) -> None:
    def sometimes(rows: pd.DataFrame) -> pd.DataFrame:
        return tenths(rows) if (rows["at"].dt.day == 6).all() else rows

    with pytest.raises(UnusablePartition, match=r"returns no tenth for 2024-01-03 \(return it for every row\)"):
        complete_by_day(place, both_tables(sometimes), mixed_days(lacking_times=False))


def test_no_rows_have_every_column(place: Settings) -> None:
    whole = complete_by_day(place, both_tables(tenths), mixed_days(lacking_times=False).iloc[:0]).rows
    assert set(whole) >= {column.name for column in both_tables(tenths).columns} and len(whole) == 0


def test_a_csv_row_with_an_empty_key_meets_no_row_with_an_empty_key(place: Settings, tmp_path: Path) -> None:
    """A customers file as people send it: the last row has a credit and no customer."""
    home = site(tmp_path)
    (home.data / "stock").mkdir(parents=True)
    (home.data / "stock" / "all.csv").write_text("code,left\na,1\n,999\n,1000\n")
    rows = sold().assign(code=pd.Series(["a", None, ""] * 10, dtype="str").to_numpy())
    found = complete_by_day(home, stock(), rows)
    assert set(found.rows["left"].dropna()) == {1.0}
    assert found.joins["stock"] == JoinCounts(rows=30, null_keys=20, unmatched=0, side_null_keys=2)
