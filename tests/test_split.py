"""The three parts: by day boundaries, or by a hash of the key that no other row can move."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml import training
from ml.artifacts import PARTS, Block, Blocks, Part
from ml.cleaning import DAY, LABEL, to_parquet
from ml.config import UseCase
from ml.errors import DataRejected
from ml.features import DayState, fit_encoder
from ml.split import describe, fit_until, part_of_day, parts_of_rows, rows_of, split_digest
from ml.store import open_store, put_file
from ml.training import part_frames
from tests.tiny import FIRST_DAY, cleaned, night, parcel_rows, parcels, sales, tills

AS_OF = FIRST_DAY + timedelta(days=20)  # the last due day is FIRST_DAY + 19


def day(number: int) -> str:
    return str(FIRST_DAY + timedelta(days=number))


@pytest.mark.parametrize(
    ("number", "part"),
    [(0, "train"), (11, "train"), (12, "validation"), (14, "validation"), (15, "test"), (19, "test")],
)
def test_test_is_the_last_days_and_validation_the_days_before(number: int, part: Part) -> None:
    assert part_of_day(tills(), AS_OF, day(number)) == part


def test_a_label_delay_moves_every_boundary() -> None:
    late = tills(label_delay_days=2)
    assert [part_of_day(late, AS_OF, day(n)) for n in (9, 10, 12, 13, 17)] == ["train"] + ["validation"] * 2 + [
        "test"
    ] * 2
    assert (fit_until(tills(), AS_OF), fit_until(late, AS_OF)) == (day(14), day(12))
    assert fit_until(parcels(), AS_OF) is None


def test_a_day_is_in_one_part_whole() -> None:
    block = cleaned(tills(), sales(FIRST_DAY))
    sizes = {part: len(rows_of(tills(), AS_OF, part, day(13), block)) for part in PARTS}
    assert sizes == {"train": 0, "validation": len(block), "test": 0}
    assert set(rows_of(tills(), AS_OF, "validation", day(13), block)[DAY]) == {day(13)}


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


def frame(labels: list[int], of: str = "all") -> pd.DataFrame:
    return pd.DataFrame({LABEL: np.array(labels, float), DAY: of})


def test_a_part_is_described() -> None:
    frames = [frame([1, 0, 0], day(3)), frame([], day(1)), frame([1], day(2))]
    seen = describe(tills(), "train", frames)
    assert (seen.rows, seen.positive_share, seen.first_day, seen.last_day) == (4, 0.5, day(2), day(3))
    undated = describe(parcels("regression"), "test", [frame([3])])
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
        describe(use_case, "validation", [frame(labels)])
    assert all(word in str(caught.value) for word in words)


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    """Twenty cleaned days in a store at tmp_path."""
    store = open_store(str(tmp_path))
    frames = {day(n): cleaned(tills(), sales(FIRST_DAY + timedelta(days=n))) for n in range(20)}
    made = [
        Block(day=name, file=put_file(store, f"{name}.parquet", to_parquet(rows)), rows=len(rows))
        for name, rows in frames.items()
    ]
    return Blocks(digest="d", blocks=tuple(made), rows=sum(block.rows for block in made))


def days_of(folder: Path, blocks: Blocks, part: Part, as_of: date = AS_OF) -> list[str]:
    frames = part_frames(open_store(str(folder)), tills(), night(as_of=as_of), blocks, part)
    return [frame[DAY].iloc[0] for frame in frames]


def test_a_night_reads_each_day_in_one_part_in_date_order(blocks: Blocks, tmp_path: Path) -> None:
    assert days_of(tmp_path, blocks, "train") == [day(n) for n in range(12)]
    assert days_of(tmp_path, blocks, "validation") == [day(n) for n in range(12, 15)]
    assert days_of(tmp_path, blocks, "test") == [day(n) for n in range(15, 20)]
    assert [name for name, _ in training.test_inputs(tills(), night(as_of=AS_OF), blocks)] == [
        day(n) for n in range(15, 20)
    ]


def test_constants_are_learnt_from_train_rows_only(blocks: Blocks, tmp_path: Path) -> None:
    """The encoder is that of train days alone, whatever the later days hold."""
    use_case = tills()
    seen = list(part_frames(open_store(str(tmp_path)), use_case, night(as_of=AS_OF), blocks, "train"))
    encoder = fit_encoder(use_case, [DayState.of(use_case, rows) for rows in seen])
    train = pd.concat([cleaned(use_case, sales(FIRST_DAY + timedelta(days=n))) for n in range(12)])
    assert encoder.numbers[0].mean == pytest.approx(train["amount"].mean(), rel=1e-12)
    assert encoder.numbers[0].std == pytest.approx(train["amount"].std(ddof=0), rel=1e-12)
