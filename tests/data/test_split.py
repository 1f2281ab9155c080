"""The three parts: by day boundaries, or by a hash of the key that no other row can move."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml import UseCase
from ml.data.cleaning import ROW_NUMBER, from_arrow, to_arrow
from ml.data.handles import PARTS
from ml.data.split import (
    days_of_part,
    describe,
    fit_until,
    parts_of_rows,
    rows_of,
    share_of_known_groups,
    split_digest,
    undated_parts,
)
from ml.data.statistics import Statistics
from ml.data.validation import drop_duplicates
from ml.errors import DataRejected
from ml.evaluation.decision import comparability
from ml.serving.columns import conform
from ml.serving.rules import UniqueKey
from ml.storage.records import Champion
from tests.tiny import FIRST_DAY, cleaned, parcel_rows, parcels, sales, tills

AS_OF = FIRST_DAY + timedelta(days=20)  # the last due day is FIRST_DAY + 19


def day(number: int) -> str:
    return str(FIRST_DAY + timedelta(days=number))


def ends(use_case: UseCase) -> list[tuple[str, str]]:
    return [days_of_part(use_case, AS_OF, part) for part in PARTS]


def test_test_is_the_last_days_and_validation_the_days_before() -> None:
    assert ends(tills()) == [("0001-01-01", day(11)), (day(12), day(14)), (day(15), day(19))]


def test_a_label_delay_moves_every_boundary() -> None:
    late = tills(label_delay_days=2)
    assert ends(late) == [("0001-01-01", day(9)), (day(10), day(12)), (day(13), day(17))]
    assert (fit_until(tills(), AS_OF), fit_until(late, AS_OF)) == (day(14), day(12))
    assert fit_until(parcels(), AS_OF) is None


def test_a_day_is_in_one_part_whole() -> None:
    block = cleaned(tills(), sales(FIRST_DAY))
    assert rows_of(tills(), AS_OF, "validation", day(13), block).equals(block)


def test_rows_that_were_not_known_yet_are_in_no_part() -> None:
    use_case = tills(known_at_column="at")
    block = cleaned(use_case, sales(FIRST_DAY))
    known = block["at"].sort_values().iloc[9]
    block["at"] = block["at"].where(block["at"] <= known, pd.Timestamp(AS_OF))
    assert len(rows_of(use_case, AS_OF, "validation", day(13), block)) == 10


def keys(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"parcel": np.arange(rows, dtype=np.float64)})


def test_added_rows_move_no_other() -> None:
    few, many = parts_of_rows(parcels(), keys(500)), parts_of_rows(parcels(), keys(5000))
    assert np.array_equal(few, many[:500])
    backwards = parts_of_rows(parcels(), keys(500)[::-1])
    assert np.array_equal(few, backwards[::-1])


@pytest.mark.parametrize("texts", [False, True])
def test_a_fifth_is_test_and_a_tenth_of_the_rest_validation(texts: bool) -> None:
    rows = keys(20_000).astype("str" if texts else "float64")
    shares = pd.Series(parts_of_rows(parcels(), rows)).value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.72, "test": 0.2, "validation": 0.08}, abs=0.01)


@pytest.mark.parametrize("texts", [False, True])
def test_another_seed_is_another_split(texts: bool) -> None:
    rows = keys(20_000).astype("str" if texts else "float64")
    first, second = (parts_of_rows(parcels(seed=seed), rows) == "test" for seed in (1, 2))
    assert (first & second).mean() == pytest.approx(0.04, abs=0.01)
    assert split_digest(parcels(seed=1)) != split_digest(parcels(seed=2))


GOLDEN = {
    "numbers": (pd.DataFrame({"parcel": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]}), "Tv..v...T."),
    "texts": (pd.DataFrame({"parcel": pd.Series(list("abcdefghij"), dtype="str")}), ".vT..T.T.."),
    "both": (pd.DataFrame({"a": pd.Series(list("ab") * 5, dtype="str"), "b": np.arange(10.0)}), "...v...T.."),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_split_of_known_keys_stays_as_it_is(name: str) -> None:
    """Test, validation or (.) train: another letter moves a row under a champion that is in use."""
    rows, expected = GOLDEN[name]
    letters = {"test": "T", "validation": "v", "train": "."}
    assert "".join(letters[part] for part in parts_of_rows(parcels(), rows)) == expected


def test_the_type_in_which_texts_are_held_does_not_matter() -> None:
    rows = pd.DataFrame({"parcel": [f"parcel {n}" for n in range(300)]})
    as_objects = rows.astype("object")
    assert rows["parcel"].dtype != as_objects["parcel"].dtype
    assert np.array_equal(parts_of_rows(parcels(), rows), parts_of_rows(parcels(), as_objects))


def test_the_parts_of_a_file_are_all_its_rows_once() -> None:
    block = cleaned(parcels(), parcel_rows())
    seen = pd.concat([rows_of(parcels(), AS_OF, part, "all", block) for part in PARTS])
    assert sorted(seen["parcel"]) == sorted(block["parcel"])


@pytest.mark.parametrize("number", [1.0, 0.1])
def test_the_parts_of_stored_rows_are_those_of_raw_ones(number: float) -> None:
    """A fraction makes the block keep float64 keys, and whole numbers float32: no row moves."""
    key = ("parcel", "carrier", "weight")
    use_case = parcels(key=key)
    rows = cleaned(use_case, parcel_rows().assign(weight=np.arange(400.0)))
    rows.loc[399, "weight"] = number
    stored = from_arrow(to_arrow(rows.assign(**{ROW_NUMBER: range(400)})))
    assert stored["parcel"].dtype == np.float32 and stored["carrier"].dtype == "category"
    for part in PARTS:
        expected = rows["parcel"][parts_of_rows(use_case, rows[list(key)]) == part]
        assert rows_of(use_case, AS_OF, part, "all", stored)["parcel"].tolist() == expected.tolist()


# Groups

GROUPS: dict[str, pd.Series] = {
    "text": pd.Series([f"patient {n // 5}" for n in range(1000)], dtype="str"),
    "integer": pd.Series(np.arange(1000.0) // 5),
    "with gaps": pd.Series([None if n % 3 == 0 else f"patient {n // 5}" for n in range(1000)], dtype="str"),
    "with blanks": pd.Series(["" if n % 3 == 0 else f"patient {n // 5}" for n in range(1000)], dtype="str"),
    "sizes of 1 to 100": pd.Series([f"patient {int(n**0.5)}" for n in range(1000)], dtype="str"),
}
KEYS: dict[str, tuple[str, ...]] = {"a key": ("parcel",), "a key with the group": ("parcel", "carrier"), "no key": ()}


def grouped(name: str, key: str) -> tuple[UseCase, pd.DataFrame]:
    group = GROUPS[name]
    column = "carrier" if group.dtype == "str" else "zone"
    use_case = parcels(key=KEYS[key], group=column)
    return use_case, cleaned(use_case, parcel_rows(1000).assign(**{column: group}))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("stored", [False, True])
def test_no_group_lies_in_two_parts_and_rows_without_one_stand_alone(name: str, key: str, stored: bool) -> None:
    use_case, rows = grouped(name, key)
    block = from_arrow(to_arrow(rows.assign(**{ROW_NUMBER: range(1000)}))) if stored else rows
    parts = pd.Series(undated_parts(use_case, block))
    groups = rows[use_case.group].replace("", None)
    assert parts.groupby(groups.to_numpy()).nunique().max() == 1
    assert set(parts) == set(PARTS)
    alone = undated_parts(parcels(key=KEYS[key]), block)
    lacking = groups.isna().to_numpy()
    assert (parts[lacking] == alone[lacking]).all()
    taken = [rows_of(use_case, AS_OF, part, "all", block) for part in PARTS]
    assert sum(map(len, taken)) == 1000


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", GROUPS)
def test_added_rows_and_another_order_move_no_row_of_a_group(name: str, key: str) -> None:
    use_case, rows = grouped(name, key)
    parts = undated_parts(use_case, rows)
    assert np.array_equal(undated_parts(use_case, rows.iloc[:300]), parts[:300])
    order = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(undated_parts(use_case, rows.iloc[order]), parts[order])


def test_a_champion_from_before_groups_were_kept_together_cannot_be_compared() -> None:
    """It may have learnt from rows of tonight's test groups."""
    use_case = parcels(group="carrier")
    champion = Champion(
        version=3, run_id="r", as_of=AS_OF, fit_until=None, target_digest=use_case.target.digest,
        split_digest=split_digest(parcels()), folder="f", files=(),
    )  # fmt: skip
    ask = (None, use_case.target.digest, split_digest(use_case), "champion")
    assert comparability(champion, *ask) == "the champion (version 3) was trained under another split of the rows"
    assert comparability(replace(champion, split_digest=split_digest(use_case)), *ask) is None


def test_the_share_of_groups_is_that_of_rows_where_groups_are_many() -> None:
    use_case, rows = parcels(group="zone"), parcel_rows(20_000).assign(zone=np.arange(20_000) // 4)
    shares = pd.Series(undated_parts(use_case, cleaned(use_case, rows))).value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.72, "test": 0.2, "validation": 0.08}, abs=0.015)


def test_a_part_without_rows_says_that_groups_stay_together() -> None:
    with pytest.raises(DataRejected, match="add rows to the source, of other values of zone: rows of one stay in one"):
        describe(parcels(group="zone"), "test", total(), [])
    with pytest.raises(DataRejected, match="of other values of zone"):
        describe(parcels(group="zone"), "test", total(1, 1), [])


def by_shop(*frames: list[str | None]) -> list[pd.DataFrame]:
    return [pd.DataFrame({"shop": pd.Series(frame, dtype="str").astype("category")}) for frame in frames]


@pytest.mark.parametrize(
    ("train", "test", "share"),
    [
        (by_shop(["a", "b"], ["b", "c"]), by_shop(["a", "d"], ["c", "c"]), 0.75),
        (by_shop(["a"]), by_shop(["b"]), 0.0),
        (by_shop(["a", None]), by_shop([None, "a"]), 0.5),
        (by_shop(["a"]), by_shop(["a"], ["a"]), 1.0),
        (by_shop(["a"]), [], None),
    ],
    ids=["some", "none", "a row without a group is known by nobody", "all", "no test rows"],
)
def test_by_day_the_share_of_test_rows_of_known_groups_is_counted(
    train: list[pd.DataFrame], test: list[pd.DataFrame], share: float | None
) -> None:
    assert share_of_known_groups(tills(group="shop"), train, test) == share
    assert share_of_known_groups(tills(), train, test) is None
    assert share_of_known_groups(parcels(group="carrier"), [], []) is None


def test_numbers_are_one_group_whatever_a_block_holds_them_as() -> None:
    narrow, wide = (pd.DataFrame({"items": np.array([1, 2], dtype)}) for dtype in ("float32", "float64"))
    assert share_of_known_groups(tills(group="items"), [narrow], [wide]) == 1.0


# Rows without a key


def keyless(rows: pd.DataFrame, **changes: Any) -> pd.Series:
    """The part of each row of parcels, which have no key."""
    use_case = parcels(key=(), **changes)
    return pd.Series(undated_parts(use_case, cleaned(use_case, rows)))


def alike(rows: int = 3000) -> pd.DataFrame:
    """Rows of few kinds: most are equal to many others in all but, here and there, the label."""
    some = parcel_rows(12, seed=1).assign(parcel=1, price=1.0, pace="usual").sample(rows, replace=True, random_state=0)
    return some.assign(outcome=np.random.default_rng(0).choice(["in time", "late"], rows))


def test_equal_rows_without_a_key_are_different_rows() -> None:
    rows = alike()
    assert len(drop_duplicates(conform(rows, parcels().columns), ())) == 3000
    assert len(drop_duplicates(conform(rows, parcels().columns), ("parcel",))) == 24
    assert not [rule for rule in parcels(key=()).column_rules if isinstance(rule, UniqueKey)]
    shares = keyless(rows).value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.72, "test": 0.2, "validation": 0.08}, abs=0.03)


@pytest.mark.parametrize("make", [alike, lambda: parcel_rows(1000)], ids=["equal rows", "rows of their own"])
def test_without_a_key_added_rows_move_no_other_and_the_order_does_not_matter(make: Callable[[], pd.DataFrame]) -> None:
    rows = make()
    parts = keyless(rows)
    assert keyless(pd.concat([rows, parcel_rows(500, seed=9), rows.head(200)]))[: len(rows)].equals(parts)
    numbered = rows.assign(part=parts.to_numpy())
    shuffled = rows.sample(frac=1, random_state=5)
    again = shuffled.assign(part=keyless(shuffled).to_numpy())
    every = [*rows.columns, "part"]
    assert (
        numbered.value_counts(every, dropna=False)
        .sort_index()
        .equals(again.value_counts(every, dropna=False).sort_index())
    )


@pytest.mark.parametrize(
    "change", [{"weight": 1.5}, {"carrier": None}, {"zone": 9}, {"outcome": "late"}, {"distance": np.nan}], ids=str
)
def test_a_row_of_another_content_is_another_row_and_moves_no_other(change: dict[str, Any]) -> None:
    rows = parcel_rows(2000).assign(outcome="in time")
    changed = rows.copy()
    for name, value in change.items():
        changed.loc[::2, name] = value
    before, after = keyless(rows), keyless(changed)
    old, new = (conform(table, parcels().columns).astype("object").fillna("none") for table in (rows, changed))
    same = (old == new).all(axis=1)
    assert (before == after)[same].all()
    assert not (before == after)[~same].all()


def test_zero_has_one_sign_and_a_stored_row_the_part_of_a_raw_one() -> None:
    rows = parcel_rows(500).assign(weight=0.0)
    assert keyless(rows).equals(keyless(rows.assign(weight=-0.0)))
    use_case = parcels(key=())
    block = cleaned(use_case, rows)
    stored = from_arrow(to_arrow(block.assign(**{ROW_NUMBER: range(500)})))
    assert np.array_equal(undated_parts(use_case, stored), undated_parts(use_case, block))


def test_rows_that_lack_their_key_are_not_all_in_one_part() -> None:
    columns = tuple(replace(c, nullable=True) if c.name == "parcel" else c for c in parcels().columns)
    use_case = parcels(columns=columns)
    rows = cleaned(use_case, parcel_rows(1000).assign(parcel=lambda r: r["parcel"].where(r["parcel"] % 2 == 0)))
    parts = undated_parts(use_case, rows)
    lacking = rows["parcel"].isna().to_numpy()
    assert set(parts[lacking]) == set(PARTS)
    assert np.array_equal(parts[~lacking], undated_parts(parcels(), rows[~lacking]))


def test_the_digest_of_a_split_follows_from_all_that_decides_it() -> None:
    """Another digest makes no champion comparable: that of a split which is what it was stays."""
    assert split_digest(parcels()).startswith("74999fbafd13cd91")
    assert split_digest(tills()).startswith("18b3c30e791532d2")
    nullable = tuple(replace(c, nullable=True) if c.name == "parcel" else c for c in parcels().columns)
    others = [
        parcels(), parcels(group="carrier"), parcels(group="zone"), parcels(key=()), parcels(key=(), group="carrier"),
        parcels(key=(), columns=nullable[:-1]), parcels(columns=nullable), parcels(key=("parcel", "carrier")),
        parcels("multiclass", key=()), parcels(seed=1),
    ]  # fmt: skip
    assert len({split_digest(use_case) for use_case in others}) == len(others)
    assert split_digest(tills(group="shop")) == split_digest(tills())  # days divide them


def total(*labels: int) -> Statistics:
    counts = {str(label): labels.count(label) for label in labels}
    return Statistics(rows=len(labels), labels=counts, moments={}, texts={})


def test_a_part_is_described() -> None:
    seen = describe(tills(), "train", total(1, 0, 0, 1), [day(3), day(2)])
    assert (seen.rows, seen.positive_share, seen.first_day, seen.last_day) == (4, 0.5, day(2), day(3))
    undated = describe(parcels("regression"), "test", total(3), ["all"])
    assert (undated.positive_share, undated.first_day, undated.last_day) == (None, None, None)


@pytest.mark.parametrize(
    ("use_case", "labels", "words"),
    [
        (tills(), [1, 1], ["validation has none of kept", "each class of returned_after"]),
        (tills(), [0, 0], ["validation has none of returned"]),
        (parcels("multiclass"), [0], ["validation has none of usual, quick", "each class of pace"]),
        (tills(), [], ["validation needs rows"]),
        (parcels("regression"), [], ["validation needs rows"]),
    ],
)
def test_a_part_without_rows_or_without_a_class_is_rejected(
    use_case: UseCase, labels: list[int], words: list[str]
) -> None:
    with pytest.raises(DataRejected) as caught:
        describe(use_case, "validation", total(*labels), [])
    assert all(word in str(caught.value) for word in words)
