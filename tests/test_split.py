"""The three parts: by day boundaries, or by a hash of the key that no other row can move."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from ml.artifacts import PARTS
from ml.cleaning import ROW_NUMBER, from_block, to_block
from ml.config import UseCase
from ml.errors import DataRejected
from ml.features import Statistics
from ml.split import days_of_part, describe, fit_until, parts_of_rows, rows_of, split_digest
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
    stored = from_block(to_block(rows.assign(**{ROW_NUMBER: range(400)})))
    assert stored["parcel"].dtype == np.float32 and stored["carrier"].dtype == "category"
    for part in PARTS:
        expected = rows["parcel"][parts_of_rows(use_case, rows[list(key)]) == part]
        assert rows_of(use_case, AS_OF, part, "all", stored)["parcel"].tolist() == expected.tolist()


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
