"""Which partitions a night may see, and what is read from them: tables of good and bad folders."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml import Column, SideTable, Source, UseCase, digests
from ml.data.handles import Manifest
from ml.data.joins import complete_by_day
from ml.data.partitions import inputs_by_day, read_partition
from ml.data.reading import Declared, UnusablePartition, read_table, refuse_other_columns
from ml.data.snapshots import changed_days, survey, take_manifest
from ml.data.window import newest_day, stray_days
from ml.days import month_of
from ml.digests import digest_bytes
from ml.errors import DataRejected, RetrainError, SourceUnavailable, UsageError
from ml.settings import Settings
from ml.storage.json_form import to_json
from tests.tiny import (
    FIRST_DAY,
    parcel_rows,
    parcels,
    sales,
    site,
    tills,
    to_csv,
    to_csv_gz,
    to_parquet,
    write_sales,
)

LAST = FIRST_DAY + timedelta(days=9)
MONTH = month_of(str(FIRST_DAY))


def day(number: int) -> str:
    return str(FIRST_DAY + timedelta(days=number))


def as_of(number: int) -> date:
    return FIRST_DAY + timedelta(days=number)


@pytest.fixture
def ten_days(tmp_path: Path) -> Settings:
    """Ten days of tills, FIRST_DAY to LAST."""
    write_sales(tmp_path / "data" / "tills", 10)
    return site(tmp_path)


def file(ten_days: Settings, number: int) -> Path:
    return ten_days.data / "tills" / f"{day(number)}.parquet"


def seen_days(ten_days: Settings, use_case: UseCase, night: date) -> list[str]:
    return [partition.day for partition in take_manifest(ten_days, use_case, night, {})[0].partitions]


def test_a_use_case_without_time_refuses_a_side_table_by_day(tmp_path: Path) -> None:
    """Only the disk says which kind a table is."""
    for folder, name in (("parcels", "all"), ("rates", "2024-01-01")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        to_parquet(parcel_rows(10), tmp_path / "data" / folder / name)
    rates = SideTable(name="rates", source=Source(folder="rates"), on=("zone",), take=("price",))
    with pytest.raises(
        DataRejected, match=r"side table rates of parcels must .*rates has 2024-01-01\.parquet: write one file"
    ):
        take_manifest(site(tmp_path), parcels(side_tables=(rates,)), as_of(9), {})
    (tmp_path / "data" / "rates" / "2024-01-01.parquet").rename(tmp_path / "data" / "rates" / "all.parquet")
    manifest, _ = take_manifest(site(tmp_path), parcels(side_tables=(rates,)), as_of(9), {})
    assert len(inputs_by_day(parcels(side_tables=(rates,)), manifest.month("all"))["all"]) == 2


@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize("night", [5, 10])
def test_a_day_is_used_if_and_only_if_it_lies_before_as_of_less_the_label_delay(
    ten_days: Settings, delay: int, night: int
) -> None:
    seen = seen_days(ten_days, tills(label_delay_days=delay), as_of(night))
    assert seen == [day(n) for n in range(10) if as_of(n) < as_of(night) - timedelta(days=delay)]


def test_the_window_has_so_many_days(ten_days: Settings) -> None:
    assert seen_days(ten_days, tills(window_days=3, test_days=1, validation_days=1), as_of(9)) == [
        day(6),
        day(7),
        day(8),
    ]


def test_days_that_are_missing_are_named(ten_days: Settings) -> None:
    file(ten_days, 4).unlink()
    manifest, missing = take_manifest(ten_days, tills(), as_of(10), {})
    assert missing == (day(4),)
    assert day(4) not in [partition.day for partition in manifest.partitions]


def test_files_with_other_names_are_no_partitions(ten_days: Settings) -> None:
    for name in ("README.md", ".2024-01-05.parquet", f"{day(3)}.parquet.tmp", "2024-1-3.csv"):
        (ten_days.data / "tills" / name).write_text("x")
    assert len(seen_days(ten_days, tills(), as_of(10))) == 10


def digest(manifest: Manifest) -> str:
    return digest_bytes(to_json(manifest))


def test_unchanged_bytes_give_the_same_digest_and_changed_ones_are_named(ten_days: Settings) -> None:
    before, _ = take_manifest(ten_days, tills(), as_of(10), {})
    file(ten_days, 2).write_bytes(file(ten_days, 2).read_bytes())
    same, _ = take_manifest(ten_days, tills(), as_of(10), {})
    assert digest(same) == digest(before)
    assert changed_days(before, same) == ()
    sales(as_of(2), rows=29).to_parquet(file(ten_days, 2))
    after, _ = take_manifest(ten_days, tills(), as_of(10), {})
    assert digest(after) != digest(before)
    assert changed_days(before, after) == (day(2),)
    assert changed_days(None, after) == ()


def test_a_later_night_changes_no_earlier_day(ten_days: Settings) -> None:
    first, second = (take_manifest(ten_days, tills(), as_of(n), {})[0] for n in (9, 10))
    assert changed_days(first, second) == ()
    assert digest(first) != digest(second)


def nothing(ten_days: Settings) -> None:
    del ten_days


def without(*numbers: int) -> Callable[[Settings], None]:
    def remove(ten_days: Settings) -> None:
        for number in numbers:
            file(ten_days, number).unlink()

    return remove


def only_one_file(ten_days: Settings) -> None:
    without(*range(10))(ten_days)
    sales(FIRST_DAY).to_parquet(ten_days.data / "tills" / "all.parquet")


def twice(ten_days: Settings) -> None:
    to_csv(sales(as_of(4)), ten_days.data / "tills" / day(4))


def no_such_day(ten_days: Settings) -> None:
    sales(FIRST_DAY).to_parquet(ten_days.data / "tills" / "2023-02-30.parquet")


WINDOWS: list[tuple[str, Callable[[Settings], None], date, type[RetrainError], list[str]]] = [
    ("a missing newest day", without(8, 9), as_of(10), DataRejected, [f"expected {day(9)}", f"is {day(7)}"]),
    ("a date before the data", nothing, as_of(0), DataRejected, [str(FIRST_DAY), f"use {as_of(9)} or later"]),
    ("a date after the data", nothing, as_of(12), DataRejected, [f"expected {day(11)}", f"have is {day(9)}"]),
    ("the future", nothing, date(2999, 1, 1), UsageError, ["2999-01-01", "earlier"]),
    ("an empty folder", without(*range(10)), as_of(10), DataRejected, ["tills has none", "2013-09-30.parquet"]),
    ("one file for a dated source", only_one_file, as_of(10), DataRejected, ["all"]),
    ("a day twice", twice, as_of(10), DataRejected, [day(4), f"{day(4)}.csv", f"{day(4)}.parquet"]),
    ("a day that no calendar has", no_such_day, as_of(10), DataRejected, ["2023-02-30"]),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "night", "kind", "words"), [c[1:] for c in WINDOWS], ids=[c[0] for c in WINDOWS])
def test_an_unusable_window_is_refused_with_the_rule_the_value_and_the_next_step(
    ten_days: Settings, spoil: Callable[[Settings], None], night: date, kind: type[RetrainError], words: list[str]
) -> None:
    spoil(ten_days)
    with pytest.raises(kind) as caught:
        take_manifest(ten_days, tills(), night, {})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert all((caught.value.rule, caught.value.value, caught.value.next_step))


STRAY_DAYS: list[tuple[str, list[int], int, int]] = [
    ("none", [*range(10)], 3, 0),
    ("a day that is missing", [0, *range(2, 10)], 3, 0),
    ("a second day after a short gap", [0, *range(11, 40)], 3, 0),
    ("one a month before", [0, *range(31, 40)], 3, 1),
    ("one a day less than a month before", [0, *range(30, 40)], 3, 0),
    ("one that is allowed to be missing", [0, *range(31, 40)], 30, 0),
    ("one 291 days before", [0, *range(292, 330)], 3, 1),
    ("several, scattered", [0, 400, 800, *range(2000, 2035)], 3, 3),
    ("a week of tests, a year before", [*range(7), *range(400, 435)], 3, 7),
    ("a month of rows before a summer's break", [*range(30), *range(90, 120)], 3, 0),
    ("weekly data", [*range(0, 350, 7)], 330, 0),
    ("only one day", [5], 3, 0),
    ("nothing", [], 3, 0),
]


@pytest.mark.parametrize(("days", "allowed", "strays"), [c[1:] for c in STRAY_DAYS], ids=[c[0] for c in STRAY_DAYS])
def test_days_far_before_all_others_are_strays(days: list[int], allowed: int, strays: int) -> None:
    names = [day(number) for number in days]
    assert stray_days(names, allowed) == names[:strays]


@pytest.mark.parametrize("before", [40, 291, 19_000])
def test_a_stray_day_demands_no_days_and_is_said_where_it_decides_the_window(ten_days: Settings, before: int) -> None:
    sales(as_of(-before)).to_parquet(file(ten_days, -before))
    wide, narrow = (survey(ten_days, tills(window_days=days), as_of(10), {}) for days in (365, 9))
    assert [(len(found.manifest.partitions), found.missing) for found in (wide, narrow)] == [(10, ()), (9, ())]
    folder = ten_days.data / "tills"
    words = f"1 day of {folder} lies far before the others, which begin on {FIRST_DAY}: {day(-before)}."
    assert [[each.sentence for each in found.left_out] for found in (wide, narrow)] == [[words], []]


def test_a_gap_that_is_short_or_lies_between_many_days_is_missing(ten_days: Settings) -> None:
    for number in (3, 4, 5, 6):
        file(ten_days, number).unlink()
    assert take_manifest(ten_days, tills(), as_of(10), {})[1] == (day(3), day(4), day(5), day(6))


def test_a_day_in_the_future_is_said_and_does_not_lead_a_replay_astray(ten_days: Settings) -> None:
    sales(FIRST_DAY).to_parquet(ten_days.data / "tills" / "2999-01-01.parquet")
    (said,) = survey(ten_days, tills(), as_of(10), {}).left_out
    assert said.sentence == f"1 day of {ten_days.data}/tills is in the future and not used yet: 2999-01-01."
    assert newest_day(ten_days, tills()) == LAST


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"there is no .*tills: make it"):
        take_manifest(site(tmp_path), tills(), as_of(10), {})


def test_an_absolute_source_stays_where_it_is(tmp_path: Path) -> None:
    write_sales(tmp_path / "elsewhere", 3)
    use_case = tills(source=Source(folder=str(tmp_path / "elsewhere")))
    assert len(seen_days(site(tmp_path / "home"), use_case, as_of(3))) == 3


# What is read


def read(ten_days: Settings, use_case: UseCase, number: int = 9) -> tuple[pd.DataFrame, tuple[str, ...]]:
    manifest, _ = take_manifest(ten_days, use_case, as_of(number + 1), {})
    found = read_partition(ten_days, use_case, manifest, day(number))
    return found.rows, found.unknown_columns


def test_rows_have_the_declared_columns_in_their_order_with_one_type_each(ten_days: Settings) -> None:
    rows, unknown = read(ten_days, tills())
    assert [str(dtype) for dtype in rows.dtypes] == [
        "float64",
        "datetime64[us]",
        "float64",
        "float64",
        "str",
        "float64",
    ]
    assert list(rows.columns) == [column.name for column in tills().columns]
    assert unknown == ()


@pytest.mark.parametrize("write", [to_csv, to_csv_gz], ids=["csv", "csv.gz"])
def test_every_format_of_the_same_rows_gives_equal_frames(
    ten_days: Settings, tmp_path: Path, write: Callable[[pd.DataFrame, Path], None]
) -> None:
    write_sales(tmp_path / "other" / "data" / "tills", 10, write)
    for number in (0, 9):
        other, _ = read(site(tmp_path / "other"), tills(), number)
        pd.testing.assert_frame_equal(other, read(ten_days, tills(), number)[0], check_exact=True)


def test_unknown_columns_are_named_and_left_out(ten_days: Settings) -> None:
    sales(as_of(9)).assign(zebra=1, ape=2).to_parquet(file(ten_days, 9))
    rows, unknown = read(ten_days, tills())
    assert unknown == ("ape", "zebra")
    assert "ape" not in rows


def spoilt(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda path: change(pd.read_parquet(path)).to_parquet(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


PARTITIONS: list[tuple[str, Callable[[Path], None], str]] = [
    ("a file that is cut", cut, "cannot be read"),
    ("an empty file", lambda path: path.write_bytes(b"") and None, "cannot be read"),
    ("a missing column", spoilt(lambda rows: rows.drop(columns="amount")), "column amount is missing"),
    ("a renamed column", spoilt(lambda rows: rows.rename(columns={"shop": "store"})), "column shop is missing"),
    ("two missing columns", spoilt(lambda rows: rows.drop(columns=["shop", "at"])), "column at, shop is missing"),
    ("text for a number", spoilt(lambda rows: rows.assign(amount="12,50")), "amount must be number, but it is str"),
    ("bytes for a number", spoilt(lambda rows: rows.assign(amount=b"12")), "must be number, but it is binary"),
    ("a number for text", spoilt(lambda rows: rows.assign(shop=1)), "column shop must be text, but it is int64"),
    ("fractions for an integer", spoilt(lambda rows: rows.assign(items=1.5)), "must be integer, but it is float64"),
    ("text for a time", spoilt(lambda rows: rows.assign(at="soon")), "column at must be timestamp, but it is str"),
    (
        "a number for a time",
        spoilt(lambda rows: rows.assign(at=1_704_276_000)),
        "at must be timestamp, but it is int64 (numbers are times where the column declares their unit",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), [c[1:] for c in PARTITIONS], ids=[c[0] for c in PARTITIONS])
def test_a_partition_that_is_not_as_declared_is_unusable_and_says_why(
    ten_days: Settings, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(file(ten_days, 9))
    with pytest.raises(UnusablePartition) as caught:
        read(ten_days, tills())
    assert words in str(caught.value)


CELLS = [
    ("amount", "12,50", "column amount must be number, but it is str (the first, '12,50', in row 3)"),
    ("amount", [7], "column amount must be number, but it is object (the first, '[7]', in row 3)"),
    ("amount", "12: 50", "column amount must be number, but it is str (the first, '12:50', in row 3)"),
    ("items", 1.5, "column items must be integer, but it is float64 (the first, '1.5', in row 3)"),
    (
        "at",
        "03/04/2024",
        "column at must be timestamp, but it is str, not all in ISO 8601 like 2024-01-31T12:00:00, or not all with an "
        "offset (the first, '03/04/2024', in row 3)",
    ),
]


@pytest.mark.parametrize(("column", "value", "words"), CELLS)
@pytest.mark.parametrize("sensitive", [False, True])
def test_one_bad_cell_is_told_by_its_row_and_by_its_value_where_no_column_is_sensitive(
    tmp_path: Path, column: str, value: Any, words: str, sensitive: bool
) -> None:
    rows = sales(FIRST_DAY).astype({column: object})
    rows.at[2, column] = value
    columns = tuple(replace(c, sensitive=sensitive and c.name == "returned_after") for c in tills().columns)
    if isinstance(value, list):
        seen = rows
    else:
        to_csv(rows, tmp_path / "rows")
        seen = read_table(tmp_path / "rows.csv", Declared.of(tills(columns=columns), tills().source))
    with pytest.raises(UnusablePartition) as caught:
        refuse_other_columns(tills(columns=columns), seen, columns)
    assert str(caught.value) == (re.sub(r" \(the first, .*, in", " (the first in", words) if sensitive else words)


@pytest.mark.parametrize(("sign", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_another_delimiter_is_named_as_the_likely_cause(ten_days: Settings, sign: str, name: str) -> None:
    file(ten_days, 9).unlink()
    sales(as_of(9)).to_csv(file(ten_days, 9).with_suffix(".csv"), index=False, sep=sign)
    with pytest.raises(
        UnusablePartition, match=rf"is missing \(the header reads as one column: .* {name}; declare separator="
    ):
        read(ten_days, tills())


def csv_bytes(tmp_path: Path, write: Callable[[pd.DataFrame, Path], None]) -> Path:
    write(sales(FIRST_DAY), tmp_path / "rows")
    return next(tmp_path.glob("rows*"))


def middle_spoilt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("write", "spoil"),
    [(to_csv_gz, cut), (to_csv_gz, middle_spoilt), (to_csv, lambda path: path.write_bytes(b"\xff\xfe\x00,\n\x81"))],
    ids=["a cut csv.gz", "a spoilt csv.gz", "bytes that are no text"],
)
def test_a_broken_csv_is_unusable(
    tmp_path: Path, write: Callable[[pd.DataFrame, Path], None], spoil: Callable[[Path], None]
) -> None:
    path = csv_bytes(tmp_path, write)
    spoil(path)
    with pytest.raises(UnusablePartition, match="cannot be read"):
        read_table(path, Declared.of(tills(), tills().source))


def test_a_disk_that_does_not_answer_is_no_verdict(ten_days: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept of it, and the task tries again."""
    manifest, _ = take_manifest(ten_days, tills(), as_of(10), {})

    def away(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", away)
        with pytest.raises(SourceUnavailable, match="must be readable, but Input/output error"):
            read_partition(ten_days, tills(), manifest, day(9))
    assert len(read_partition(ten_days, tills(), manifest, day(9)).rows) == 30


def test_in_a_declared_text_only_the_empty_field_is_missing(tmp_path: Path) -> None:
    """NA is a country, and None a name; elsewhere they are no number."""
    (tmp_path / "rows.csv").write_text("shop,amount,other\nNA,NA,NA\nnull,1,null\n,,\nNone,nan,x\n")
    rows = read_table(tmp_path / "rows.csv", Declared.of(tills(), tills().source))
    assert [None if pd.isna(shop) else shop for shop in rows["shop"]] == ["NA", "null", None, "None"]
    assert rows["amount"].isna().tolist() == [True, False, True, True]
    assert rows["other"].isna().tolist() == [True, True, True, False]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that were hashed."""
    names: list[str] = []
    hash_file = digests.digest_file
    monkeypatch.setattr(digests, "digest_file", lambda path: names.append(path.stem) or hash_file(path))
    return names


def test_a_file_that_was_not_touched_is_not_hashed_again(
    ten_days: Settings, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "RACY_NS", 0)
    first, _ = take_manifest(ten_days, tills(), as_of(9), {})
    assert hashed == [day(n) for n in range(9)]
    second, _ = take_manifest(ten_days, tills(), as_of(10), {})
    assert hashed[9:] == [day(9)]
    assert second.partitions[:9] == first.partitions


def test_a_file_written_in_the_moment_of_hashing_is_hashed_again(ten_days: Settings, hashed: list[str]) -> None:
    """A second edit of the same size in the same step of the clock would leave no trace."""
    take_manifest(ten_days, tills(), as_of(10), {})
    take_manifest(ten_days, tills(), as_of(10), {})
    assert len(hashed) == 20


def test_an_edit_of_the_same_size_whose_mtime_was_set_back_is_seen(
    ten_days: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "RACY_NS", 0)
    path = file(ten_days, 4)
    before, _ = take_manifest(ten_days, tills(), as_of(10), {})
    seen = path.stat()
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert path.stat().st_mtime_ns == seen.st_mtime_ns and path.stat().st_size == seen.st_size
    assert changed_days(before, take_manifest(ten_days, tills(), as_of(10), {})[0]) == (day(4),)


@pytest.mark.parametrize("damage", [b"", b"[]", b"\xff", b'{"x": 1}'])
def test_kept_digests_that_cannot_be_read_are_made_again(
    ten_days: Settings, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "RACY_NS", 0)
    before, _ = take_manifest(ten_days, tills(), as_of(10), {})
    (ten_days.home / "cache" / "digests-tills.json").write_bytes(damage)
    assert take_manifest(ten_days, tills(), as_of(10), {})[0] == before


def test_whole_numbers_that_became_floats_by_a_null_are_integers_still(ten_days: Settings) -> None:
    rows = sales(as_of(9)).astype({"sale": "float64"})
    rows.loc[0, "sale"] = np.nan
    rows.to_parquet(file(ten_days, 9))
    assert read(ten_days, tills())[0]["sale"].isna().sum() == 1


# Side tables, derived columns, undated sources


def rates_of(number: int) -> pd.DataFrame:
    return pd.DataFrame({"shop": ["north", "south", "007"], "hour": [9] * 3, "rate": np.arange(3.0) + number})


def add_hour(rows: pd.DataFrame) -> pd.DataFrame:
    """Every till opens at nine."""
    return rows.assign(hour=rows["at"].dt.hour * 0 + 9)


def with_rates(**changes: Any) -> UseCase:
    rates = SideTable(name="rates", source=Source(folder="rates"), on=("shop", "hour"), take=("rate",))
    columns = (*tills().columns, Column(name="rate", nullable=True))
    return tills(**{"side_tables": (rates,), "columns": columns, "derive": add_hour, **changes})


@pytest.fixture
def rates(ten_days: Settings) -> Path:
    """A rate a shop and day, beside the ten days of tills."""
    folder = ten_days.data / "rates"
    folder.mkdir()
    for number in range(10):
        to_parquet(rates_of(number), folder / day(number))
    return folder


def test_a_side_table_is_joined_day_by_day(ten_days: Settings, rates: Path) -> None:
    rows, unknown = read(ten_days, with_rates(), 4)
    assert rows.groupby("shop")["rate"].unique().map(list).to_dict() == {"north": [4.0], "south": [5.0], "007": [6.0]}
    assert len(rows) == len(sales(as_of(4)))
    assert unknown == ()


def test_a_side_table_without_a_row_leaves_nulls_and_a_repeated_one_makes_no_rows(
    ten_days: Settings, rates: Path
) -> None:
    to_parquet(pd.concat([rates_of(4).iloc[:2]] * 3), rates / day(4))
    rows, _ = read(ten_days, with_rates(), 4)
    assert len(rows) == len(sales(as_of(4)))
    assert rows.loc[rows["shop"] == "007", "rate"].isna().all()


def test_side_tables_stand_in_the_manifest_and_obey_the_same_rule(ten_days: Settings, rates: Path) -> None:
    manifest, _ = take_manifest(ten_days, with_rates(), as_of(6), {})
    assert [partition.day for partition in manifest.month(MONTH).side_tables["rates"]] == [day(n) for n in range(6)]
    to_parquet(rates_of(99), rates / day(2))
    changed, _ = take_manifest(ten_days, with_rates(), as_of(6), {})
    assert changed_days(manifest, changed) == (day(2),)
    before, after = (inputs_by_day(with_rates(), seen.month(MONTH)) for seen in (manifest, changed))
    assert [before[day(2)][n] == after[day(2)][n] for n in (0, 1)] == [True, False]
    assert before[day(3)] == after[day(3)]


def test_an_undated_side_table_is_joined_to_every_day(ten_days: Settings, rates: Path) -> None:
    for path in rates.glob("*"):
        path.unlink()
    to_parquet(rates_of(7), rates / "all")
    manifest, _ = take_manifest(ten_days, with_rates(), as_of(10), {})
    assert [partition.day for partition in manifest.month(MONTH).side_tables["rates"]] == ["all"]
    first, last = (read(ten_days, with_rates(), number)[0] for number in (0, 9))
    assert set(first["rate"]) == set(last["rate"]) == {7.0, 8.0, 9.0}
    digest = manifest.month(MONTH).side_tables["rates"][0].digest
    assert inputs_by_day(with_rates(), manifest.month(MONTH))[day(3)][1] == f"{digest}.parquet"


@pytest.mark.parametrize("write", [to_csv, to_csv_gz], ids=["csv", "csv.gz"])
def test_a_side_table_in_csv_joins_like_one_in_parquet(
    ten_days: Settings, rates: Path, write: Callable[[pd.DataFrame, Path], None]
) -> None:
    """Its texts too: 007 stays a text."""
    expected, _ = read(ten_days, with_rates(), 4)
    (rates / f"{day(4)}.parquet").unlink()
    write(rates_of(4).query("shop == '007'"), rates / day(4))
    rows, _ = read(ten_days, with_rates(), 4)
    shop = rows["shop"] == "007"
    assert rows.loc[shop, "rate"].tolist() == expected.loc[shop, "rate"].tolist()


def test_a_day_without_its_side_table_is_missing(ten_days: Settings, rates: Path) -> None:
    (rates / f"{day(4)}.parquet").unlink()
    assert take_manifest(ten_days, with_rates(), as_of(10), {})[1] == (day(4),)
    (rates / f"{day(9)}.parquet").unlink()
    with pytest.raises(
        DataRejected,
        match=f"which side table rates lacks; .* have is {day(8)}: deliver {day(9)}, or run with --as-of {as_of(9)}",
    ):
        take_manifest(ten_days, with_rates(), as_of(10), {})


def test_an_excluded_day_is_neither_used_nor_missing(ten_days: Settings) -> None:
    """The newest due day too: an operator says that the night may go on without it."""
    (ten_days.data / "tills" / f"{day(9)}.parquet").unlink()
    excluded = {day(3): "doubled", day(9): "lost", "2023-01-01": "long ago"}
    manifest, missing = take_manifest(ten_days, tills(), as_of(10), excluded)
    assert missing == ()
    assert [partition.day for partition in manifest.partitions] == [day(n) for n in (0, 1, 2, 4, 5, 6, 7, 8)]
    assert manifest.excluded == {day(3): "doubled", day(9): "lost"}


def test_a_side_table_that_lacks_a_column_makes_the_day_unusable(ten_days: Settings, rates: Path) -> None:
    to_parquet(rates_of(9).rename(columns={"rate": "price"}), rates / day(9))
    with pytest.raises(UnusablePartition, match="rates lacks the columns rate"):
        read(ten_days, with_rates())


def test_a_side_table_with_keys_of_another_type_makes_the_day_unusable(ten_days: Settings, rates: Path) -> None:
    to_parquet(rates_of(9).assign(shop=[1, 2, 3]), rates / day(9))
    with pytest.raises(UnusablePartition, match="rates cannot be joined on shop, which is text"):
        read(ten_days, with_rates())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoilt(lambda rows: rows.rename(columns={"at": "time"})), "column at is missing"),
        (spoilt(lambda rows: rows.assign(at="soon")), "column at must be timestamp, but it is str"),
        (spoilt(lambda rows: rows.drop(columns="shop")), "column shop is missing"),
    ],
    ids=["derive's column is renamed", "derive's column has another type", "the join's column is missing"],
)
def test_a_column_that_derive_or_a_join_needs_is_refused_by_its_name(
    ten_days: Settings, rates: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(file(ten_days, 9))
    with pytest.raises(UnusablePartition, match=words):
        read(ten_days, with_rates())


def test_a_partition_on_which_derive_fails_is_unusable_and_no_value_is_quoted(ten_days: Settings) -> None:
    def mistaken(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(hour=rows["shop"].map({"south": 1})["secret of a row"])

    with pytest.raises(
        UnusablePartition, match=r"derive of tills fails with KeyError in line \d+ of test_snapshots\.py"
    ) as caught:
        read(ten_days, tills(derive=mistaken))
    assert "secret" not in str(caught.value)


def test_rows_of_another_day_make_the_day_unusable(ten_days: Settings) -> None:
    """The name of a file cannot let the future in."""
    rows = sales(as_of(9))
    rows.loc[[3, 4], "at"] = pd.Timestamp(as_of(10))
    rows.loc[5, "at"] = pd.NaT
    rows.to_parquet(file(ten_days, 9))
    with pytest.raises(UnusablePartition, match="2 of 30 rows are of another day by at"):
        read(ten_days, tills())


def test_whose_days_are_meant_is_said_where_a_zone_moves_rows_to_another(ten_days: Settings) -> None:
    rows = sales(as_of(9))
    rows["at"] = pd.Timestamp(f"{as_of(9)}T23:30:00Z")
    rows.to_parquet(file(ten_days, 9))
    with pytest.raises(
        UnusablePartition, match="30 of 30 rows are of another day by at as clocks in Europe/Berlin show"
    ):
        read(ten_days, tills(time_zone="Europe/Berlin"))


@pytest.mark.parametrize("name", ["tills", "rates"])
def test_bytes_that_change_during_a_night_reject_it(ten_days: Settings, rates: Path, name: str) -> None:
    manifest, _ = take_manifest(ten_days, with_rates(), as_of(10), {})
    path = ten_days.data / name / f"{day(9)}.parquet"
    pd.read_parquet(path).iloc[:-1].to_parquet(path)
    assert len(read_partition(ten_days, with_rates(), manifest, day(8)).rows) == 30
    with pytest.raises(DataRejected, match=rf"{day(9)}\.parquet changed since the snapshot"):
        read_partition(ten_days, with_rates(), manifest, day(9))
    path.unlink()
    with pytest.raises(DataRejected, match="changed since the snapshot"):
        read_partition(ten_days, with_rates(), manifest, day(9))


def test_a_side_table_that_contradicts_itself_makes_the_day_unusable(ten_days: Settings, rates: Path) -> None:
    to_parquet(pd.concat([rates_of(9), rates_of(5)]), rates / day(9))
    with pytest.raises(UnusablePartition, match="rates cannot be joined on shop, hour"):
        read(ten_days, with_rates())


def test_an_undated_source_is_one_partition(tmp_path: Path) -> None:
    place = site(tmp_path)
    (place.data / "parcels").mkdir(parents=True)
    to_parquet(parcel_rows(), place.data / "parcels" / "all")
    manifest, missing = take_manifest(place, parcels(), date(2024, 1, 1), {})
    assert ([partition.day for partition in manifest.partitions], missing) == (["all"], ())
    rows = read_partition(place, parcels(), manifest, "all").rows
    assert len(rows) == 400
    (place.data / "parcels" / "all.parquet").rename(place.data / "parcels" / "2024-01-01.parquet")
    with pytest.raises(DataRejected, match=r"all\.parquet is not there"):
        take_manifest(place, parcels(), date(2024, 1, 1), {})


# Rows to score


def source_rows(*numbers: int) -> pd.DataFrame:
    """Rows of the source of several days, mixed, without labels."""
    rows = pd.concat([sales(as_of(number)) for number in numbers], ignore_index=True)
    return rows.drop(columns="returned_after").sample(frac=1, random_state=0)


def test_source_rows_of_any_days_are_joined_as_a_night_joins_them(ten_days: Settings, rates: Path) -> None:
    rows = source_rows(3, 7, 4)
    whole = complete_by_day(ten_days, with_rates(), rows).rows
    assert whole.index.equals(rows.index)
    assert whole[rows.columns].equals(rows)
    nights = pd.concat([read(ten_days, with_rates(), number)[0] for number in (3, 4, 7)]).set_index("sale")
    assert np.array_equal(whole["rate"], nights.loc[whole["sale"], "rate"])


def test_an_index_with_repeats_makes_no_rows(ten_days: Settings, rates: Path) -> None:
    rows = source_rows(3, 4)
    repeated = complete_by_day(ten_days, with_rates(), rows.set_axis([0, 1] * 30)).rows
    assert list(repeated.index) == [0, 1] * 30
    assert np.array_equal(repeated["rate"], complete_by_day(ten_days, with_rates(), rows).rows["rate"])


def test_a_row_without_its_time_keeps_its_place_and_has_nothing_joined(ten_days: Settings, rates: Path) -> None:
    rows = source_rows(3)
    rows.loc[5, "at"] = pd.NaT
    whole = complete_by_day(ten_days, with_rates(), rows).rows
    assert whole.index.equals(rows.index)
    assert whole.index[whole["rate"].isna()].tolist() == [5]


def test_no_rows_to_score_stay_none(ten_days: Settings, rates: Path) -> None:
    assert len(complete_by_day(ten_days, with_rates(), source_rows(3).iloc[:0]).rows) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.assign(at=pd.Timestamp("2024-06-01")), "rates has no 2024-06-01"),
        (lambda rows: rows.assign(at="soon"), "column at must be timestamp, but it is str"),
        (lambda rows: rows.drop(columns="at"), "column at is missing"),
        (lambda rows: rows.drop(columns="shop"), "column shop is missing"),
    ],
    ids=["a day without a side table", "a time that is text", "no time", "no key of a side table"],
)
def test_rows_that_cannot_be_joined_are_refused_by_name(
    ten_days: Settings, rates: Path, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    with pytest.raises(UnusablePartition, match=words):
        complete_by_day(ten_days, with_rates(), change(source_rows(3)))


@pytest.fixture
def three_months(ten_days: Settings) -> Settings:
    """A hundred days of tills, FIRST_DAY on."""
    for number in range(10, 100):
        shutil.copy(ten_days.data / "tills" / f"{day(9)}.parquet", ten_days.data / "tills" / f"{day(number)}.parquet")
    return ten_days


@pytest.mark.parametrize(
    ("change", "days"),
    [
        (lambda tills: (tills / f"{day(40)}.parquet").write_bytes(b"other bytes"), {day(40)}),
        (lambda tills: (tills / f"{day(40)}.parquet").unlink(), set()),
        (lambda tills: None, set()),
    ],
    ids=["a changed file", "a lost file", "nothing"],
)
def test_months_that_were_kept_give_the_manifest_of_a_look_at_every_file(
    three_months: Settings, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Any], days: set[str]
) -> None:
    """Of a month in the middle, with another window and other exclusions too."""
    monkeypatch.setattr(digests, "RACY_NS", 0)
    wide, narrow = tills(window_days=365), tills(window_days=80)
    before, _ = take_manifest(three_months, wide, as_of(100), {})
    change(three_months.data / "tills")
    for use_case, excluded in ((wide, {}), (narrow, {day(45): "why"}), (wide, {})):
        kept = take_manifest(three_months, use_case, as_of(100), excluded)
        assert set(changed_days(before, kept[0])) == days
        shutil.rmtree(three_months.home / "cache")
        assert take_manifest(three_months, use_case, as_of(100), excluded) == kept
        due = min(use_case.window_days, 100)
        assert len(kept[0].partitions) == kept[0].size == due - len(kept[1]) - len(excluded)
