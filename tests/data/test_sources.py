"""Kinds of sources: each gives the rows that a folder with a file a day gives, and fetches what is new."""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, text

from ml import SideTable, UseCase, digests
from ml.data.partitions import read_partition
from ml.data.reading import Declared, of_values
from ml.data.snapshots import changed_days, survey, take_manifest
from ml.data.source_kinds import CsvForm, DatabaseSource, FileSource, RowSource, Source
from ml.data.sources import brought
from ml.data.sources import database as database_source
from ml.data.sources import file as file_source
from ml.data.sources import objects as object_source
from ml.data.sources.bringing import partition_files
from ml.data.sources.database_values import array_of, as_times, days_of_values
from ml.data.sources.folder import source_folder
from ml.data.window import newest_day
from ml.errors import ConfigError, DataRejected, SourceUnavailable
from ml.serving.columns import Column, days_of, typed
from ml.settings import Settings
from tests.damage import flip
from tests.postgres_server import PostgresServer
from tests.s3_server import BUCKET, S3Server
from tests.tiny import FIRST_DAY, parcel_rows, parcels, sales, site, tills, write_sales

AS_OF = FIRST_DAY + timedelta(days=10)
DAYS = [FIRST_DAY + timedelta(days=n) for n in range(10)]


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    """Ten days of tills in a flat folder."""
    write_sales(tmp_path / "data" / "tills", 10)
    return site(tmp_path)


def from_source(source: RowSource, **changes: Any) -> UseCase:
    return tills(source=source, **changes)


def rows_of(place: Settings, use_case: UseCase, as_of: date = AS_OF) -> pd.DataFrame:
    """Every row of the window, by sale."""
    manifest, missing = take_manifest(place, use_case, as_of, {})
    assert missing == ()
    days = [read_partition(place, use_case, manifest, partition.day).rows for partition in manifest.partitions]
    return pd.concat(days).sort_values("sale", ignore_index=True)


def all_sales(days: list[date] = DAYS) -> pd.DataFrame:
    """Not in the order of their days."""
    return pd.concat([sales(day) for day in days]).sample(frac=1, random_state=0, ignore_index=True)


def assert_same(place: Settings, use_case: UseCase) -> None:
    expected = rows_of(place, tills())
    pd.testing.assert_frame_equal(rows_of(place, use_case), expected, check_exact=True)


def test_a_hive_folder_a_day_is_a_partition_of_all_its_files(place: Settings) -> None:
    for day in DAYS:
        folder = place.data / "hive" / f"day={day}"
        folder.mkdir(parents=True)
        sales(day).iloc[:10].to_parquet(folder / "part-0.parquet", index=False)
        sales(day).iloc[10:].to_csv(folder / "part-1.csv.gz", index=False)
    use_case = from_source(Source(folder="hive"))
    assert_same(place, use_case)
    before, _ = take_manifest(place, use_case, AS_OF, {})
    (place.data / "hive" / f"day={DAYS[3]}" / "part-1.csv.gz").rename(
        place.data / "hive" / f"day={DAYS[3]}" / "x.csv.gz"
    )
    assert changed_days(before, take_manifest(place, use_case, AS_OF, {})[0]) == (str(DAYS[3]),)
    with pytest.raises(DataRejected, match="changed since the snapshot"):
        read_partition(place, use_case, before, str(DAYS[3]))


def test_what_writers_of_tables_keep_beside_a_days_files_is_not_read(place: Settings) -> None:
    for day in DAYS:
        folder = place.data / "hive" / f"day={day}"
        (folder / "_temporary").mkdir(parents=True)
        sales(day).to_parquet(folder / "part-0.parquet", index=False)
        for name in ("_SUCCESS", "_metadata.parquet", "._part-0.parquet", ".part-1.parquet.tmp"):
            (folder / name).write_bytes(b"no table")
    (place.data / "hive" / "day=2024-02-01").mkdir()
    assert_same(place, from_source(Source(folder="hive")))
    assert list(partition_files(place, tills(), Source(folder="hive"))) == [str(day) for day in DAYS]


def by_spark(folder: Path, rows: pd.DataFrame, ending: str) -> None:
    """Two parts and the marks that Spark writes."""
    folder.mkdir(parents=True)
    for number, part in enumerate((rows.iloc[:10], rows.iloc[10:])):
        write(folder / f"part-{number:05d}-0a1b{ending}", part)
        (folder / f".part-{number:05d}-0a1b{ending}.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").write_bytes(b"")


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz"])
def test_a_folder_that_spark_wrote_is_the_parts_of_a_day(place: Settings, ending: str) -> None:
    for day in DAYS:
        by_spark(place.data / "spark" / f"{day}{ending}", sales(day), ending)
    assert_same(place, from_source(Source(folder="spark")))
    assert left_out(place, from_source(Source(folder="spark"))) == []


@pytest.mark.parametrize(
    "name", ["all.csv", "loans.csv", "export-final.parquet", "Loans 2024 (2).csv.gz", "größe.csv", "spark.parquet"]
)
def test_one_file_of_any_name_is_an_undated_source(tmp_path: Path, name: str) -> None:
    place, folder = site(tmp_path), tmp_path / "data" / "parcels"
    if name == "spark.parquet":
        by_spark(folder / name, parcel_rows(), ".parquet")
    else:
        folder.mkdir(parents=True)
        write(folder / name, parcel_rows())
    manifest, _ = take_manifest(place, parcels(), date(2024, 1, 1), {})
    assert [partition.file for partition in manifest.partitions] == [name]
    assert len(read_partition(place, parcels(), manifest, "all").rows) == 400


def test_several_files_without_days_are_refused_by_name_and_all_wins(tmp_path: Path) -> None:
    place, folder = site(tmp_path), tmp_path / "data" / "parcels"
    folder.mkdir(parents=True)
    for name in ("old.csv", "new.csv"):
        write(folder / name, parcel_rows())
    with pytest.raises(DataRejected, match=r"is one file, but .*parcels has 2 \(new.csv, old.csv\): keep one of them"):
        take_manifest(place, parcels(), date(2024, 1, 1), {})
    write(folder / "all.csv", parcel_rows())
    found = survey(place, parcels(), date(2024, 1, 1), {})
    assert [partition.file for partition in found.manifest.partitions] == ["all.csv"]
    (said,) = found.left_out
    assert said.sentence == f"2 items of {folder} are no days and are not read: new.csv, old.csv."


def test_a_use_case_with_days_is_told_how_one_file_is_named(place: Settings) -> None:
    (place.data / "one").mkdir()
    write(place.data / "one" / "sales.csv", all_sales())
    with pytest.raises(DataRejected, match=r"only sales.csv in .*one: write a file a day, or .* FileSource\(file"):
        take_manifest(place, from_source(Source(folder="one")), AS_OF, {})


def test_what_is_no_day_is_told_once_with_its_count(place: Settings) -> None:
    use_case = tills()
    for name in ("README.md", "2024-1-3.csv", "day=__HIVE_DEFAULT_PARTITION__", "20240103.parquet", "x\n1", "y", "z"):
        (place.data / "tills" / name).write_bytes(b"x")
    (sentence,) = left_out(place, use_case)
    assert sentence == (
        f"7 items of {place.data}/tills are no days and are not read: 2024-1-3.csv, 20240103.parquet, README.md, "
        "day=__HIVE_DEFAULT_PARTITION__, x\\n1 and 2 more."
    )


def pipe(path: Path) -> None:
    os.mkfifo(path)


def itself(path: Path) -> None:
    path.symlink_to(path)


def a_loop(path: Path) -> None:
    path.with_name("other").symlink_to(path)
    path.symlink_to(path.with_name("other"))


def nowhere(path: Path) -> None:
    path.symlink_to("/no/such/file")


def its_folder(path: Path) -> None:
    path.symlink_to(path.parent)


def empty_folder(path: Path) -> None:
    path.mkdir()


def other_files(path: Path) -> None:
    path.mkdir()
    (path / "part-0.orc").write_bytes(b"x")


def nested(path: Path) -> None:
    (path / "shop=north").mkdir(parents=True)


def unfinished(path: Path) -> None:
    (path / "_temporary").mkdir(parents=True)
    sales(DAYS[4]).to_parquet(path / "part-0.parquet")


def pipe_part(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "part-0.parquet")


def loop_part(path: Path) -> None:
    path.mkdir()
    itself(path / "part-0.parquet")


def no_text(path: Path) -> None:
    path.mkdir()
    sales(DAYS[4]).to_parquet(path / "part.parquet")
    (path / "part.parquet").rename(os.fsdecode(os.fsencode(path) + b"/part-\xff.parquet"))


ODD = [
    (pipe, "neither a file nor a folder"),
    (itself, "a link that leads to itself"),
    (a_loop, "a link that leads to itself"),
    (nowhere, "a link that leads nowhere"),
    (its_folder, "a day's folder has files only"),
    (empty_folder, "holds no file that ends in .parquet"),
    (other_files, "holds no file that ends in .parquet"),
    (nested, "shop=north is a folder"),
    (unfinished, "not written to its end"),
    (pipe_part, "neither a file nor a folder"),
    (loop_part, "a link that leads to itself"),
    (no_text, "whose name cannot be printed"),
]


@pytest.mark.parametrize("name", ["{}.parquet", "{}.csv", "day={}"])
@pytest.mark.parametrize(("make", "words"), ODD, ids=[make.__name__ for make, _ in ODD])
def test_one_odd_entry_costs_its_day(place: Settings, make: Callable[[Path], None], words: str, name: str) -> None:
    day = DAYS[4]
    (place.data / "tills" / f"{day}.parquet").unlink()
    make(place.data / "tills" / name.format(day))
    if name == "day={}" and make in (pipe, nowhere):
        words = "must be a folder and is none"
    found = survey(place, tills(), AS_OF, {})
    assert (found.missing, list(found.unusable)) == ((str(day),), [str(day)])
    assert words in found.unusable[str(day)]
    with pytest.raises(DataRejected, match=rf"newest partition \({day}\) must be usable, but .*{re.escape(words)}"):
        take_manifest(place, tills(), day + timedelta(days=1), {})
    assert take_manifest(place, tills(), day + timedelta(days=1), {str(day): "odd"})[1] == ()


@pytest.mark.parametrize("side", [False, True])
def test_a_file_that_may_not_be_read_costs_its_day_until_it_may(
    place: Settings, monkeypatch: pytest.MonkeyPatch, side: bool
) -> None:
    write_sales(place.data / "rates", 10)
    rates = SideTable(name="rates", source=Source(folder="rates"), on=("sale",), take=("rate",))
    columns = (*tills().columns, Column(name="rate", nullable=True))
    use_case = tills(side_tables=(rates,), columns=columns)
    closed = place.data / ("rates" if side else "tills") / f"{DAYS[4]}.parquet"
    digest = digests.digest_file

    def denied(path: Path) -> str:
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return digest(path)

    monkeypatch.setattr(digests, "RACY_NS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(digests, "digest_file", denied)
        for _ in range(2):
            found = survey(place, use_case, AS_OF, {})
            words = f"{'side table rates: ' if side else ''}{DAYS[4]}.parquet cannot be read (Permission denied)"
            assert found.unusable == {str(DAYS[4]): words}
            assert (len(found.manifest.partitions), found.missing) == (9, (str(DAYS[4]),))
    assert survey(place, use_case, AS_OF, {}).missing == ()


def test_a_disk_that_fails_while_it_is_hashed_is_no_verdict(place: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(digests, "digest_file", away)
    with pytest.raises(SourceUnavailable, match="Input/output error"):
        take_manifest(place, tills(), AS_OF, {})


@pytest.mark.parametrize("name", ["{}.parquet", "day={}"])
@pytest.mark.parametrize("stray", ["0201-03-04", "1970-01-01", "2262-04-11", "9999-12-31"])
def test_a_stray_day_in_a_folder_costs_itself(place: Settings, stray: str, name: str) -> None:
    path = place.data / "tills" / name.format(stray)
    if name == "day={}":
        path.mkdir()
        path = path / "part-0.parquet"
    sales(DAYS[0]).to_parquet(path)
    found = survey(place, tills(window_days=365), AS_OF, {})
    assert (len(found.manifest.partitions), found.missing) == (10, ())
    assert stray in " ".join(each.sentence for each in found.left_out)
    assert newest_day(place, tills()) == DAYS[-1]


@pytest.mark.parametrize("name", ["sales.parquet", "sales.csv"])
@pytest.mark.parametrize("stray", ["0201-03-04", "1970-01-01", "2262-04-11", "9999-12-31"])
def test_a_stray_time_in_a_file_of_all_days_costs_its_row(place: Settings, name: str, stray: str) -> None:
    rows = all_sales().astype({"at": "datetime64[us]"})
    rows.loc[17, "at"] = pd.Timestamp(stray).as_unit("us")
    write(place.data / name, rows)
    found = survey(place, from_source(FileSource(file=name, time_column="at"), window_days=365), AS_OF, {})
    assert (len(found.manifest.partitions), found.missing) == (10, ())
    said = " ".join(each.sentence for each in found.left_out)
    assert name in said
    assert "rename" not in said
    assert "cache" not in said


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that were split into days; seven rows are read at once."""
    names: list[str] = []
    monkeypatch.setattr(file_source, "SAMPLE_ROWS", 7)
    monkeypatch.setattr(file_source, "_rows_that_fit", lambda *_: 7)
    for kind in ("_split_csv", "_split_parquet"):
        function = getattr(file_source, kind)
        monkeypatch.setattr(
            file_source, kind, lambda path, *rest, f=function: names.append(path.name) or f(path, *rest)
        )
    return names


@pytest.mark.parametrize("name", ["sales.parquet", "sales.csv", "sales.csv.gz"])
def test_one_file_of_all_days_is_split_by_its_time_column(place: Settings, split: list[str], name: str) -> None:
    write(place.data / name, all_sales())
    use_case = from_source(FileSource(file=name, time_column="at"))
    assert_same(place, use_case)
    assert_same(place, use_case)
    assert split == [name]


def write(path: Path, rows: pd.DataFrame) -> None:
    if path.suffix == ".parquet":
        rows.to_parquet(path, index=False, row_group_size=11)
    else:
        rows.to_csv(path, index=False)


@pytest.mark.parametrize("name", ["sales.parquet", "sales.csv"])
def test_rows_that_are_added_to_a_file_change_their_days_only(place: Settings, split: list[str], name: str) -> None:
    use_case = from_source(FileSource(file=name, time_column="at"))
    write(place.data / name, all_sales(DAYS[:9]))
    before, _ = take_manifest(place, use_case, DAYS[9], {})
    late = sales(DAYS[4]).iloc[:2].assign(sale=[1, 2])
    write(place.data / name, pd.concat([all_sales(DAYS[:9]), sales(DAYS[9]), late], ignore_index=True))
    after, _ = take_manifest(place, use_case, AS_OF, {})
    assert changed_days(before, after) == (str(DAYS[4]),)
    assert len(after.partitions) == 10
    write(place.data / name, all_sales(DAYS[1:]))
    assert list(partition_files(place, use_case, use_case.source)) == [str(day) for day in DAYS[1:]]


@pytest.mark.parametrize("name", ["sales.parquet", "sales.csv"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(flip(path.read_bytes())), Path.unlink])
def test_a_brought_day_that_is_damaged_or_gone_is_brought_again(
    place: Settings, name: str, damage: Callable[[Path], Any]
) -> None:
    source = FileSource(file=name, time_column="at")
    write(place.data / name, all_sales())
    before, _ = take_manifest(place, from_source(source), AS_OF, {})
    (day,) = source_folder(place, source).glob(f"{DAYS[4]}.*")
    damage(day)
    assert take_manifest(place, from_source(source), AS_OF, {})[0] == before
    assert_same(place, from_source(source))


@pytest.mark.parametrize("name", ["sales.parquet", "sales.csv"])
def test_a_split_that_was_killed_leaves_nothing(place: Settings, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileSource(file=name, time_column="at")
    use_case, folder = from_source(source), source_folder(place, source)
    write(place.data / name, all_sales())
    first, _ = take_manifest(place, use_case, AS_OF, {})
    write(place.data / name, all_sales().assign(amount=1.0))
    with monkeypatch.context() as killed:
        killed.setattr(file_source.shutil, "rmtree", lambda *_, **__: None)
        killed.setattr(file_source, "_replace_changed", replaced_in_part)
        with pytest.raises(KeyboardInterrupt):
            take_manifest(place, use_case, AS_OF, {})
    write(place.data / name, all_sales())
    assert take_manifest(place, use_case, AS_OF, {})[0] == first
    assert {path.name for path in folder.parent.iterdir()} == {
        folder.name,
        f"{folder.name}.json",
        f"{folder.name}.lock",
    }


def replaced_in_part(days: Path, fresh: Path) -> list[str]:
    for path in sorted(fresh.iterdir())[:3]:
        path.replace(days / path.name)
    raise KeyboardInterrupt


def test_a_damaged_note_of_what_was_brought_brings_everything_again(place: Settings, split: list[str]) -> None:
    source = FileSource(file="sales.parquet", time_column="at")
    write(place.data / "sales.parquet", all_sales())
    assert_same(place, from_source(source))
    note = source_folder(place, source) / brought.BROUGHT
    note.write_bytes(flip(note.read_bytes()))
    (note.parent / "2024-01-20.parquet").write_bytes(b"of nobody")
    assert_same(place, from_source(source))
    assert split == ["sales.parquet"] * 2
    assert not (note.parent / "2024-01-20.parquet").exists()


@pytest.mark.parametrize("name", ["sales.parquet", "sales.csv"])
def test_as_many_rows_are_read_at_once_as_the_room_takes(
    place: Settings, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place.data / name, all_sales())
    monkeypatch.setattr(file_source, "SAMPLE_ROWS", 10)
    monkeypatch.setattr(file_source, "SMALLEST_BLOCK", 0)
    sizes: list[int] = []
    add = file_source.DayParts.add
    monkeypatch.setattr(
        file_source.DayParts, "add", lambda own, batch, days: sizes.append(len(days)) or add(own, batch, days)
    )
    use_case = from_source(FileSource(file=name, time_column="at"))
    room = 20 * 100 * (4 if name.endswith(".csv") else 1)  # 20 rows of about 100 bytes
    monkeypatch.setattr(Settings, "batch_bytes", room)
    assert_same(place, use_case)
    assert sum(sizes) == 300
    assert max(sizes) < 60


@pytest.mark.parametrize("name", ["sales.parquet", "sales.csv"])
def test_a_file_without_rows_has_no_day(place: Settings, name: str) -> None:
    write(place.data / name, all_sales().iloc[:0])
    with pytest.raises(DataRejected, match="has none"):
        take_manifest(place, from_source(FileSource(file=name, time_column="at")), AS_OF, {})


@pytest.mark.parametrize("name", ["sales.parquet", "sales.csv"])
def test_a_row_without_a_time_belongs_to_no_day_and_is_said(
    place: Settings, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = all_sales()
    rows.loc[[3, 40], "at"] = pd.NaT
    write(place.data / name, rows)
    assert len(rows_of(place, from_source(FileSource(file=name, time_column="at")))) == 298
    assert f"2 rows of {name} have no at" in caplog.text


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("gone.parquet", None, "there is no"),
        ("sales.parquet", all_sales().drop(columns="at"), "must have at"),
        ("sales.csv", all_sales().drop(columns="at"), "must have at"),
        ("sales.parquet", all_sales().assign(at="soon"), "must be a timestamp in every row"),
        ("sales.csv", all_sales().assign(at="soon"), "must be a timestamp in every row"),
    ],
)
def test_a_file_that_cannot_be_split_is_rejected(
    place: Settings, name: str, rows: pd.DataFrame | None, words: str
) -> None:
    if rows is not None:
        write(place.data / name, rows)
    with pytest.raises(DataRejected, match=words):
        take_manifest(place, from_source(FileSource(file=name, time_column="at")), AS_OF, {})


def test_a_file_that_is_cut_is_rejected(place: Settings) -> None:
    for name in ("sales.parquet", "sales.csv.gz"):
        write(place.data / name, all_sales())
        (place.data / name).write_bytes((place.data / name).read_bytes()[:-200])
        with pytest.raises(DataRejected, match="must be whole and readable"):
            take_manifest(place, from_source(FileSource(file=name, time_column="at")), AS_OF, {})


def of_file(place: Settings) -> UseCase:
    write(place.data / "sales.parquet", all_sales())
    return from_source(FileSource(file="sales.parquet", time_column="at"))


def test_bytes_that_rot_under_the_same_times_are_found_and_brought_again(place: Settings) -> None:
    """Nothing of a file's size and times shows it; the night that reads them ends, and the next one goes well."""
    use_case = of_file(place)
    manifest, _ = take_manifest(place, use_case, AS_OF, {})
    path = source_folder(place, use_case.source) / f"{DAYS[4]}.parquet"
    kept = [path.parent.with_name(f"{path.parent.name}.json"), place.home / "cache" / "digests-tills.json"]
    path.write_bytes(flip(path.read_bytes()))
    with pytest.raises(DataRejected, match=rf"the copy of {DAYS[4]} of .*sales.parquet changed since the snapshot"):
        read_partition(place, use_case, manifest, str(DAYS[4]))
    assert not any(file.exists() for file in kept)
    assert take_manifest(place, use_case, AS_OF, {})[0] == manifest
    assert len(read_partition(place, use_case, manifest, str(DAYS[4])).rows) == 30


def test_a_disk_that_gives_other_bytes_back_than_were_written_brings_nothing(
    place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = brought.BroughtFolder(place.home / "cache" / "sources" / "x")
    with monkeypatch.context() as patch:
        patch.setattr(brought, "write_whole", lambda path, data: path.write_bytes(data[:-1]))
        folder.write("2024-01-01.parquet", b"rows")
        with pytest.raises(SourceUnavailable, match="the disk must give back what was written to it"):
            folder.keep("source", ["2024-01-01.parquet"])
    again = brought.BroughtFolder(folder.path)
    assert (again.source, again.intact) == (None, set())


@pytest.mark.parametrize(("before", "after"), [("d.parquet", "d.parquet/part-0"), ("d.parquet/part-0", "d.parquet")])
def test_a_day_may_become_a_folder_or_a_file(place: Settings, before: str, after: str) -> None:
    path = place.home / "cache" / "sources" / "x"
    for name in (before, after):
        folder = brought.BroughtFolder(path)
        folder.write(name, b"rows")
        folder.keep("source", [name])
    assert [file.relative_to(path).as_posix() for file in path.rglob("d*/*")] == ([after] if "/" in after else [])
    assert (path / after).read_bytes() == b"rows"


def test_two_processes_bring_one_source_one_after_the_other(place: Settings) -> None:
    use_case = of_file(place)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: take_manifest(place, use_case, AS_OF, {})[0], range(4)))
    assert all(manifest == found[0] for manifest in found)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An sqlite database with the sales, its address in TILLS_DATABASE."""
    monkeypatch.setenv("TILLS_DATABASE", f"sqlite:///{tmp_path / 'tills.db'}")
    engine = create_engine(os.environ["TILLS_DATABASE"])
    all_sales().assign(edited=1).to_sql("sales", engine, index=False)
    yield engine
    engine.dispose()


QUERY = "select sale, at, amount, items, shop, returned_after, edited from sales"


def of_database(**changes: Any) -> UseCase:
    fields = {"database": "TILLS_DATABASE", "query": QUERY, "time_column": "at", "changed_column": "edited", **changes}
    return from_source(DatabaseSource(**fields))


@pytest.fixture
def read_days(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Days whose rows were read."""
    days: list[str] = []
    written = database_source._Query._parquet
    noted = lambda query, day, seen: days.append(day) or written(query, day, seen)  # noqa: E731
    monkeypatch.setattr(database_source._Query, "_parquet", noted)
    return days


def test_a_query_is_read_a_day_at_a_time_and_again_where_it_changed(
    place: Settings, database: Any, read_days: list[str]
) -> None:
    assert_same(place, of_database())
    assert read_days == [str(day) for day in DAYS]
    before, _ = take_manifest(place, of_database(), AS_OF, {})
    with database.begin() as connection:
        connection.execute(text(f"update sales set amount = 7, edited = 2 where date(at) = '{DAYS[4]}'"))
        connection.execute(text(f"delete from sales where date(at) = '{DAYS[6]}' and items is null"))
    after, _ = take_manifest(place, of_database(), AS_OF, {})
    assert read_days[10:] == [str(DAYS[4]), str(DAYS[6])]
    assert changed_days(before, after) == (str(DAYS[4]), str(DAYS[6]))


def test_without_a_changed_column_every_day_is_read_and_an_equal_one_stays_the_same(
    place: Settings, database: Any, read_days: list[str]
) -> None:
    use_case = of_database(changed_column=None)
    before, _ = take_manifest(place, use_case, AS_OF, {})
    assert take_manifest(place, use_case, AS_OF, {})[0] == before
    assert len(read_days) == 20


@pytest.mark.parametrize(
    ("address", "changes", "kind", "words"),
    [
        (None, {"database": "NO_SUCH_VARIABLE"}, ConfigError, "NO_SUCH_VARIABLE holds the address"),
        ("nonsense", {}, ConfigError, "an address that SQLAlchemy knows"),
        ("sqlite:////no/such/folder/x.db", {}, ConfigError, "there is no file /no/such/folder/x.db: mend it"),
        ("sqlite:////no/such/folder", {}, ConfigError, "there is no file /no/such/folder: mend it"),
        ("sqlite:///file:/no/x.db?uri=true", {}, ConfigError, "there is no file /no/x.db: mend it"),
        ("sqlite+pysqlite:///tils.db", {}, ConfigError, "there is no file .*/tils.db: mend it"),
        ("postgres://u:secret@h/x", {}, ConfigError, r"postgres://: write postgresql[+]psycopg:// in its place"),
        ("postgres+asyncpg://u:secret@h/x", {}, ConfigError, r"write postgresql[+]psycopg:// in its place"),
        ("oracl://u:secret@h/x", {}, ConfigError, "begins with oracl://: write one like postgresql"),
        ("mssql+pymssql://u:secret@h/x", {}, ConfigError, "whose driver is installed, but there is no pymssql"),
        ("postgresql+psycopg://u:sec:ret@h:secret/x", {}, ConfigError, "for a port is no number: .* as %3A"),
    ],
)
def test_a_database_that_cannot_be_asked_is_an_error_and_its_address_is_not_shown(
    place: Settings, database: Any, monkeypatch: pytest.MonkeyPatch,
    address: str | None, changes: dict[str, Any], kind: type[Exception], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(place.home)
    if address:
        monkeypatch.setenv("TILLS_DATABASE", address)
    with pytest.raises(kind, match=words) as caught:
        take_manifest(place, of_database(**changes), AS_OF, {})
    assert address is None or address not in str(caught.value)
    assert not (place.home / "tils.db").exists(), "SQLite makes an empty database of a mistyped path"


def test_a_folder_is_no_file_of_all_days(place: Settings) -> None:
    """As Spark writes it."""
    write_sales(place.data / "all.parquet", 2)
    with pytest.raises(DataRejected, match=r"all\.parquet is a folder: write one file"):
        take_manifest(place, from_source(FileSource(file="all.parquet", time_column="at")), AS_OF, {})


@pytest.mark.parametrize("wrong", [0, 1, 137, 299])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_mistaken_time_of_a_file_is_found_by_its_row(place: Settings, ending: str, wrong: int) -> None:
    rows = all_sales()
    rows["at"] = rows["at"].astype("str")
    rows.loc[wrong, "at"] = "2024-13-03"
    path = place.data / f"all.{ending}"
    rows.to_csv(path, index=False) if ending == "csv" else rows.to_parquet(path)
    with pytest.raises(DataRejected, match=rf"the first in row {wrong + 1}: write it"):
        take_manifest(place, from_source(FileSource(file=path.name, time_column="at")), AS_OF, {})


def test_a_damaged_day_of_a_database_is_read_again_and_one_that_went_goes(
    place: Settings, database: Any, read_days: list[str]
) -> None:
    before, _ = take_manifest(place, of_database(), AS_OF, {})
    folder = source_folder(place, of_database().source)
    day = folder / f"{DAYS[4]}.parquet"
    day.write_bytes(flip(day.read_bytes()))
    (folder / f"{DAYS[5]}.parquet").unlink()
    assert take_manifest(place, of_database(), AS_OF, {})[0] == before
    assert read_days[10:] == [str(DAYS[4]), str(DAYS[5])]
    with database.begin() as connection:
        connection.execute(text(f"delete from sales where date(at) = '{DAYS[7]}'"))
    assert take_manifest(place, of_database(), AS_OF, {})[1] == (str(DAYS[7]),)


def test_rows_of_a_query_without_a_time_are_said(
    place: Settings, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with database.begin() as connection:
        connection.execute(text(f"update sales set at = null where date(at) = '{DAYS[4]}' and items is null"))
    take_manifest(place, of_database(), AS_OF, {})
    assert "5 rows of the query on TILLS_DATABASE have no at and belong to no day" in caplog.text


@pytest.mark.parametrize(
    ("query", "kind", "words"),
    [
        (f"selec {QUERY}", ConfigError, 'must be one that it can answer.*near "select"'),
        (QUERY.replace("at,", "'1/31/2024' as at,"), DataRejected, "at of the query on TILLS_DATABASE must be"),
        (QUERY.replace("at,", "17 as at,"), DataRejected, 'some are numbers: cast them .* unit="s" or "ms"'),
        (QUERY.replace("at,", "strftime('%s', at) as at,"), DataRejected, "but some are neither: cast them"),
        (QUERY.replace("at,", "at as moment,"), DataRejected, "must have at, but it has sale, moment"),
        (QUERY.replace("edited", "items as edit"), DataRejected, "must have edited, but it has .*: did you mean edit"),
        (QUERY.replace("amount,", "amount, amount * 2 as amount,"), DataRejected, "amount is there twice: name one"),
        (QUERY.replace("at,", "at, at,"), DataRejected, "at is there twice: name one"),
        (
            QUERY.replace("shop,", "case items when 1 then 'a' else 1 end as shop,"),
            DataRejected,
            "10 days and none that can; 2024-01-10, as column shop of the query on TILLS_DATABASE is int and str",
        ),
    ],
)
def test_a_query_that_gives_no_plain_days_is_refused_in_a_sentence(
    place: Settings, database: Any, query: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        take_manifest(place, of_database(query=query), AS_OF, {})
    assert "cache" not in str(caught.value)


@pytest.mark.parametrize(
    "end",
    [" where shop <> ' :x'", " where shop <> ':none'", " where shop not like '%:%s'", ";", " -- all of them", ";\n "],
)
def test_what_a_query_may_hold_is_itself(place: Settings, database: Any, end: str) -> None:
    assert_same(place, of_database(query=QUERY + end))


def test_a_column_that_is_declared_anew_is_read_anew(place: Settings, database: Any) -> None:
    columns = tills().columns
    other = Column(name="edited_at", type="timestamp")
    use_case = of_database(query=QUERY.replace("edited", "edited, '2024-01-01' as edited_at"))
    for declared in (columns, (*columns, replace(other, type="text")), (*columns, other)):
        manifest, _ = take_manifest(place, replace(use_case, columns=declared), AS_OF, {})
        assert len(read_partition(place, replace(use_case, columns=declared), manifest, str(DAYS[0])).rows)


def test_the_newest_day_of_a_source_is_named_and_of_one_file_for_all_there_is_none(place: Settings) -> None:
    assert newest_day(place, tills()) == DAYS[-1]
    for path in (place.data / "tills").iterdir():
        path.unlink()
    sales(FIRST_DAY).to_parquet(place.data / "tills" / "all.parquet")
    with pytest.raises(DataRejected, match="a file a day"):
        newest_day(place, tills())


@pytest.fixture(scope="module")
def sales_in_postgres(postgres: PostgresServer) -> str:
    """The address of a database of a real PostgreSQL server with the sales, which no test changes."""
    name = f"tills_{uuid4().hex}"
    postgres.create(name)
    engine = create_engine(postgres.address(name))
    all_sales().assign(edited=1).to_sql("sales", engine, index=False)
    engine.dispose()
    return postgres.address(name)


@pytest.fixture
def in_postgres(sales_in_postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILLS_DATABASE", sales_in_postgres)


@pytest.mark.slow
def test_a_query_on_a_real_postgres_gives_the_same_rows(
    place: Settings, in_postgres: None, read_days: list[str]
) -> None:
    assert_same(place, of_database())
    assert_same(place, of_database())
    assert len(read_days) == 10


def left_out(place: Settings, use_case: UseCase, as_of: date = AS_OF) -> list[str]:
    return [each.sentence for each in survey(place, use_case, as_of, {}).left_out]


def said_of(stray: str) -> str:
    """What the report says of a stray row, by where its time lies."""
    if stray.startswith("1970"):
        return "1 day of .* lies far before the others, which begin on 2024-01-01: 1970-01-01"
    if stray.startswith("2262"):
        return "1 day of .* is in the future and not used yet: 2262-04-11"
    return "1 row of .* has a at outside of 1000-01-01 to 8000-01-01 and is not read"


MIDNIGHT = "strftime('%Y-%m-%d 00:00:00', at)"
STRAYS = ["0201-03-04", "1970-01-01", "2262-04-11 23:47:16", "9999-12-31 23:59:59"]
FORMS = [
    MIDNIGHT,
    "strftime('%Y-%m-%dT%H:%M:%S', at)",
    "strftime('%Y-%m-%d %H:%M', at)",
    "strftime('%Y-%m-%d %H:%M:%f', at)",
    "date(at)",
    "case sale % 3 when 0 then strftime('%Y-%m-%dT%H:%M:%S', at) when 1 then date(at) else datetime(at) end",
    "strftime('%Y-%m-%dT%H:%M:%SZ', at)",
    "strftime('%Y-%m-%d %H:%M:%S+00:00', at)",
    "strftime('%Y-%m-%d %H:%M:%S', at, '+3 hours') || '+03'",
]


@pytest.mark.parametrize("form", FORMS)
def test_texts_of_sqlite_are_of_the_day_that_they_say(place: Settings, database: Any, form: str) -> None:
    """Midnight too, of which a comparison of texts makes the day before."""
    use_case = of_database(query=QUERY.replace("at,", f"{form} as at,"))
    found = partition_files(place, use_case, use_case.source)
    rows = {day: pq.read_table(files.paths[0]).column("sale").to_pylist() for day, files in found.items()}
    assert {day: sorted(sales) for day, sales in rows.items()} == {
        str(day): sorted(sales(day)["sale"].tolist()) for day in DAYS
    }


@pytest.mark.parametrize(
    ("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000), ("s", 1.0)]
)
def test_numbers_are_times_where_the_column_declares_their_unit(
    place: Settings, database: Any, unit: str, factor: float
) -> None:
    query = QUERY.replace("at,", f"strftime('%s', at) * {factor} as at,")
    columns = tuple(replace(column, unit=unit) if column.name == "at" else column for column in tills().columns)
    use_case = replace(of_database(query=query), columns=columns)
    assert list(partition_files(place, use_case, use_case.source)) == [str(day) for day in DAYS]


@pytest.mark.parametrize("stray", [*STRAYS, "0000-00-00 00:00:00"])
def test_a_stray_time_in_sqlite_costs_its_row_and_no_query_a_calendar_day(
    place: Settings, database: Any, read_days: list[str], stray: str
) -> None:
    use_case = of_database(query=f"{QUERY} union all select 7, '{stray}', 1.0, 1, 'north', null, 1")
    found = survey(place, use_case, AS_OF, {})
    assert (len(found.manifest.partitions), found.missing) == (10, ())
    assert re.search(said_of(stray), "\n".join(each.sentence for each in found.left_out))
    assert len(read_days) <= 11
    assert newest_day(place, use_case) == DAYS[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("delete from sales", "the query on TILLS_DATABASE has none: check the source"),
        ("update sales set at = null", r"has none \(300 rows of .* have no at and belong to no day\)"),
        ("update sales set shop = cast(x'ff' as text)", "must give values that its driver can read"),
        ("update sales set at = datetime(at) || case sale % 2 when 0 then 'Z' else '' end", "with and without a zone"),
        ("update sales set edited = case sale % 2 when 0 then 'a' else 1 end", "must each have one type"),
    ],
)
def test_a_table_without_a_day_that_can_be_used_is_refused_by_its_query(
    place: Settings, database: Any, change: str, words: str
) -> None:
    with database.begin() as connection:
        connection.execute(text(change))
    with pytest.raises(DataRejected, match=words) as caught:
        take_manifest(place, of_database(), AS_OF, {})
    assert "cache" not in str(caught.value)


def test_what_a_query_leaves_out_is_told_every_night(place: Settings, database: Any, read_days: list[str]) -> None:
    with database.begin() as connection:
        connection.execute(text(f"update sales set at = null where date(at) = '{DAYS[4]}' and items is null"))
    first, second = (left_out(place, of_database()) for _ in range(2))
    assert first == second == ["5 rows of the query on TILLS_DATABASE have no at and belong to no day."]
    assert len(read_days) == 10


def test_equal_rows_in_another_order_give_the_same_days(place: Settings, database: Any) -> None:
    orders = (" order by amount", " order by amount desc", " order by shop, sale")
    sources = [of_database(query=f"select * from ({QUERY}{order})", changed_column=None) for order in orders]
    manifests = [take_manifest(place, use_case, AS_OF, {})[0] for use_case in sources]
    assert manifests[0].months == manifests[1].months == manifests[2].months


def schema_of(place: Settings, use_case: UseCase, day: date = DAYS[4]) -> Any:
    """Types in which a day of the source is kept."""
    folder = source_folder(place, use_case.source, use_case.time_zone)
    return {field.name: field.type for field in pq.read_schema(folder / f"{day}.parquet")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "kept"),
    [
        ("cast(at as date) as at", {"at": pa.timestamp("us")}),
        ("at at time zone 'UTC' as at", {"at": pa.timestamp("us", "UTC")}),
        ("to_char(at, 'YYYY-MM-DD HH24:MI:SS') as at", {"at": pa.timestamp("us")}),
        ('to_char(at, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') as at', {"at": pa.timestamp("us", "UTC")}),
        ("at, cast(amount as numeric(10, 2)) as price", {"price": pa.decimal128(4, 2)}),
        ("at, amount > 5 as dear", {"dear": pa.bool_()}),
        ("at, cast(at as date) as day", {"day": pa.date32()}),
        ("at, 'NaN'::numeric as none", {"none": pa.null()}),
        ("at, gen_random_uuid() as id", {"id": pa.string()}),
        ("at, '\\\\x00ff'::bytea as raw", {"raw": pa.binary()}),
        ("at, 'infinity'::timestamptz as never", {"never": pa.timestamp("us", "UTC")}),
    ],
)
def test_types_of_postgres_are_kept_exactly(
    place: Settings, in_postgres: None, column: str, kept: dict[str, pa.DataType]
) -> None:
    use_case = of_database(query=QUERY.replace("at,", f"{column},", 1))
    manifest, missing = take_manifest(place, use_case, AS_OF, {})
    assert (missing, len(manifest.partitions)) == ((), 10)
    assert schema_of(place, use_case).items() >= kept.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("array[items] as tags", r"float8\[\]"),
        ("'{}'::jsonb as tags", "jsonb"),
        ("'1 day'::interval as tags", "interval"),
        ("row(1, 2) as tags", "record"),
        ("'10.0.0.1'::inet as tags", "inet"),
        ("int4range(1, 2) as tags", "int4range"),
    ],
)
def test_odd_types_of_postgres_are_left_out_where_nobody_declared_them_and_refused_by_name_else(
    place: Settings, in_postgres: None, column: str, kind: str
) -> None:
    use_case = of_database(query=QUERY.replace("at,", f"at, {column},"))
    sentence = (
        rf"1 column of the query on TILLS_DATABASE is of a type that is not read, and undeclared: tags \({kind}\)."
    )
    for _ in range(2):  # of days that are not read again, too
        assert re.fullmatch(sentence, "\n".join(left_out(place, use_case)))
    assert len(rows_of(place, use_case)) == 300
    declared = replace(use_case, columns=(*use_case.columns, Column(name="tags", type="text")))
    with pytest.raises(DataRejected, match=rf"column tags of the query on TILLS_DATABASE is {kind} \(cast it"):
        take_manifest(place, declared, AS_OF, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "kind", "words"),
    [
        (QUERY.replace("amount,", "amount, amount * 2 as amount,"), DataRejected, "amount is there twice"),
        (QUERY.replace("amount,", "1 / (items - items) as amount,"), DataRejected, "values that its driver can read"),
        (QUERY.replace("amount,", "amont,"), ConfigError, 'column "amont" does not exist'),
        (QUERY.replace("at,", "extract(epoch from at) as at,"), DataRejected, "but some are numbers"),
    ],
)
def test_a_query_that_postgres_cannot_answer_is_refused_in_a_sentence(
    place: Settings, in_postgres: None, query: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        take_manifest(place, of_database(query=query), AS_OF, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "end", [" where shop <> ':none'", " where shop not like '%:%s'", " where at::date is not null -- all"]
)
def test_what_a_query_on_postgres_may_hold_is_itself(place: Settings, in_postgres: None, end: str) -> None:
    assert_same(place, of_database(query=QUERY + end))


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
def test_a_time_with_a_zone_is_of_its_day_in_the_use_cases_zone(place: Settings, in_postgres: None, zone: str) -> None:
    use_case = of_database(query=QUERY.replace("at,", "at at time zone 'UTC' as at,"), changed_column=None)
    days = all_sales()["at"].dt.tz_localize("UTC").dt.tz_convert(zone).dt.strftime("%Y-%m-%d").value_counts().to_dict()
    found = partition_files(place, replace(use_case, time_zone=zone), use_case.source)
    assert {day: pq.read_metadata(files.paths[0]).num_rows for day, files in found.items()} == days
    assert list(partition_files(place, use_case, use_case.source)) == [str(day) for day in DAYS]


@pytest.mark.slow
@pytest.mark.parametrize("stray", [*STRAYS, "infinity", "-infinity", "4713-01-01 BC", "294276-12-31"])
@pytest.mark.parametrize("kind", ["timestamp", "timestamptz", "date"])
def test_a_stray_time_in_postgres_costs_its_row(
    place: Settings, in_postgres: None, read_days: list[str], stray: str, kind: str
) -> None:
    more = f"select 7, '{stray}'::{kind}, 1.0, 1, 'north', null, 1"
    query = f"{QUERY.replace('at,', f'cast(at as {kind}) as at,')} union all {more}"
    found = survey(place, of_database(query=query), AS_OF, {})
    assert (len(found.manifest.partitions), found.missing) == (10, ())
    assert re.search(said_of(stray), "\n".join(each.sentence for each in found.left_out))
    assert len(read_days) <= 11


@pytest.mark.slow
def test_objects_in_s3_are_days_and_only_changed_ones_are_fetched(
    place: Settings, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(folder=f"s3://{BUCKET}/sources/tills")
    store = object_source.open_store(source.folder)
    for path in sorted((place.data / "tills").iterdir()):
        store.put(path.name, path.read_bytes())
    use_case = from_source(source)
    assert_same(place, use_case)
    before, _ = take_manifest(place, use_case, AS_OF, {})
    got: list[str] = []
    fetch = object_source.S3Store.fetch
    monkeypatch.setattr(object_source.S3Store, "fetch", lambda own, key: got.append(key) or fetch(own, key))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(sales(DAYS[2], 29), preserve_index=False), sink)
    store.put(f"{DAYS[2]}.parquet", sink.getvalue().to_pybytes())
    after, _ = take_manifest(place, use_case, AS_OF, {})
    assert (got, changed_days(before, after)) == ([f"{DAYS[2]}.parquet"], (str(DAYS[2]),))


@pytest.mark.slow
def test_marks_beside_objects_are_no_days_and_a_day_that_went_is_missing(place: Settings, s3: S3Server) -> None:
    source, store = in_s3(place, "day={}/part-0.parquet")
    for mark in ("", "/", f"day={DAYS[1]}/", f"day={DAYS[1]}/_SUCCESS", "notes/über.txt", "a//b.csv", "README.md"):
        store.client.put_object(Bucket=BUCKET, Key=f"{store.prefix}{mark}", Body=b"")
    assert_same(place, from_source(source))
    (sentence,) = left_out(place, from_source(source))
    assert sentence == f"3 items of {source.folder} are no days and are not read: README.md, a, notes."
    store.delete(f"day={DAYS[4]}/part-0.parquet")
    found = survey(place, from_source(source), AS_OF, {})
    assert (found.missing, found.unusable) == ((str(DAYS[4]),), {})


def in_s3(place: Settings, name: str) -> tuple[Source, object_source.S3Store]:
    """The tills in a fresh place of the bucket, each day under such a name."""
    source = Source(folder=f"s3://{BUCKET}/sources/{uuid4().hex}")
    store = object_source.open_store(source.folder)
    assert isinstance(store, object_source.S3Store)
    for path in sorted((place.data / "tills").iterdir()):
        store.put(name.format(path.stem), path.read_bytes())
    return source, store


@pytest.mark.slow
@pytest.mark.parametrize("name", ["{}.parquet/part-0.parquet", "{}.parquet", "day={}/a b+ü%41.parquet"])
def test_objects_are_named_as_the_files_of_a_folder_are(place: Settings, s3: S3Server, name: str) -> None:
    source, store = in_s3(place, "{}.parquet")
    for path in sorted((place.data / "tills").iterdir()):
        data = path.read_bytes()
        store.delete(path.name)
        store.client.put_object(Bucket=BUCKET, Key=store.prefix + name.format(path.stem), Body=data)
    assert_same(place, from_source(source))
    assert left_out(place, from_source(source)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("day={}/x\x07.parquet", "whose name cannot be printed"),
        ("day={}/" + "x" * 240 + ".parquet", "whose name no file can have"),
        ("day={}/shop=north/part-0.parquet", "shop=north is a folder"),
        ("day={}/_temporary/0/part-1.parquet", "not written to its end"),
    ],
)
def test_one_odd_key_costs_its_day(place: Settings, s3: S3Server, key: str, words: str) -> None:
    source, store = in_s3(place, "day={}/part-0.parquet")
    store.client.put_object(Bucket=BUCKET, Key=store.prefix + key.format(DAYS[4]), Body=b"x")
    for _ in range(2):
        found = survey(place, from_source(source), AS_OF, {})
        assert (found.missing, list(found.unusable)) == ((str(DAYS[4]),), [str(DAYS[4])])
        assert words in found.unusable[str(DAYS[4])]


@pytest.mark.slow
@pytest.mark.parametrize("keys", [("loans.csv",), ("spark.parquet/part-0.parquet", "spark.parquet/_SUCCESS")])
def test_one_object_of_any_name_is_an_undated_source(tmp_path: Path, s3: S3Server, keys: tuple[str, ...]) -> None:
    place = site(tmp_path)
    write(tmp_path / Path(keys[0]).name, parcel_rows())
    source = Source(folder=f"s3://{BUCKET}/sources/{uuid4().hex}")
    for key in keys:
        object_source.open_store(source.folder).put(key, (tmp_path / Path(keys[0]).name).read_bytes())
    manifest, _ = take_manifest(place, parcels(source=source), date(2024, 1, 1), {})
    assert len(read_partition(place, parcels(source=source), manifest, "all").rows) == 400
    object_source.open_store(source.folder).put("other.csv", b"x")
    with pytest.raises(DataRejected, match=rf"but {source.folder} has 2 \(.*other.csv"):
        take_manifest(place, parcels(source=source), date(2024, 1, 1), {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("s3://no-such-bucket/x", "the source s3://no-such-bucket/x must be open to us, but there is no such bucket"),
        ("s3://models/a b", "the source's folder is a folder or s3://bucket/prefix"),
    ],
)
def test_a_wrong_place_is_told_as_the_sources(place: Settings, s3: S3Server, folder: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        take_manifest(place, from_source(Source(folder=folder)), AS_OF, {})
    assert "RETRAIN_STORE" not in str(caught.value)


@pytest.mark.slow
def test_an_object_that_changes_or_goes_between_list_and_get_is_noted_as_it_was_fetched(
    place: Settings, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: what was away for a moment left its old bytes under the new ETag for good."""
    source, store = in_s3(place, "{}.parquet")
    use_case, changed, gone = from_source(source), f"{DAYS[2]}.parquet", f"{DAYS[4]}.parquet"
    data = {key: store.get(key) for key in (changed, gone)}
    take_manifest(place, use_case, AS_OF, {})
    store.put(changed, data[gone])
    store.put(gone, data[changed])
    etags = object_source.S3Store.etags

    def meanwhile(own: object_source.S3Store) -> dict[str, str]:
        found = etags(own)
        store.put(changed, data[changed])
        store.delete(gone)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(object_source.S3Store, "etags", meanwhile)
        manifest, missing = take_manifest(place, use_case, AS_OF, {})
    assert missing == (str(DAYS[4]),)
    assert len(read_partition(place, use_case, manifest, str(DAYS[2])).rows) == 30
    store.put(gone, data[gone])
    assert_same(place, use_case)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:-50]), lambda path: path.write_bytes(b""), Path.unlink]
)
def test_a_copy_of_an_object_that_is_damaged_is_fetched_again(
    place: Settings, s3: S3Server, damage: Callable[[Path], Any]
) -> None:
    source, _ = in_s3(place, "{}.parquet")
    before, _ = take_manifest(place, from_source(source), AS_OF, {})
    damage(source_folder(place, source) / f"{DAYS[4]}.parquet")
    assert take_manifest(place, from_source(source), AS_OF, {})[0] == before
    assert_same(place, from_source(source))


READ = [
    "cast(at as date) as at",
    "at at time zone 'UTC' as at",
    "to_char(at, 'YYYY-MM-DD HH24:MI:SS') as at",
    'to_char(at, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') as at',
]


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
@pytest.mark.parametrize("column", READ)
def test_a_night_reads_every_row_of_a_database_on_the_day_of_its_time(
    place: Settings, in_postgres: None, column: str, zone: str
) -> None:
    query = QUERY.replace("at,", f"{column},", 1)
    use_case = replace(of_database(query=query, changed_column=None), time_zone=zone)
    days = partition_files(place, use_case, use_case.source)
    as_of = date.fromisoformat(max(days)) + timedelta(days=1)
    assert len(rows_of(place, use_case, as_of)) == 300


@pytest.mark.parametrize("form", FORMS)
def test_a_night_reads_every_row_of_sqlite_on_the_day_of_its_text(place: Settings, database: Any, form: str) -> None:
    assert len(rows_of(place, of_database(query=QUERY.replace("at,", f"{form} as at,")))) == 300


ZONED = [datetime(7999, 12, 31, 23, 30, tzinfo=UTC), datetime(2024, 3, 31, 0, 30, tzinfo=timezone(timedelta(hours=5)))]
TIMES: list[tuple[Any, str]] = [
    *((value, "") for value in ZONED),
    *((datetime(8000, 1, 1) + timedelta(seconds=more), "") for more in (-1, 0, 1, 86_399, 86_400)),
    *((datetime(1000, 1, 1) + timedelta(seconds=more), "") for more in (-1, 0)),
    *((value, "") for value in (datetime.min, datetime.max, date(2024, 3, 31), "2024-03-31", "2024-03-30 23:30:00")),
    *(
        (value, "")
        for value in ("2024-03-30T23:30:00Z", "2024-03-31 00:30:00 +05:00", "2024-03-30T23:59:59.999999999Z")
    ),
    *((value, "s") for value in (1_711_841_400, 1_711_841_400.5, Decimal("1711841400.999999"), 10**18, -(10**12))),
    *((value, "ms") for value in (1_711_841_399_999, 1_711_841_399_999.9)),
    *((value, "ns") for value in (1_711_841_399_999_999_999, -1)),
]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia"])
@pytest.mark.parametrize(("value", "unit"), TIMES)
def test_a_databases_time_is_of_the_day_that_a_night_reads(value: Any, unit: str, zone: str) -> None:
    at = Column(name="at", type="timestamp", unit=unit)
    brought = pa.chunked_array([array_of(as_times([value], unit))])
    read = of_values(brought, at, Declared((at,), zone, CsvForm()))
    (day,) = days_of(typed(at, read, zone)).astype(object).where(lambda days: days.notna(), None)
    assert days_of_values([value], unit, zone) == [day]


def test_an_index_that_pandas_only_notes_is_a_column_of_one_file_of_all_days_too(tmp_path: Path) -> None:
    place = replace(site(tmp_path), batch_mb=0)
    days = [FIRST_DAY + timedelta(days=number) for number in range(3)]
    rows = pd.concat([sales(day) for day in days], ignore_index=True).drop(columns="sale")
    (tmp_path / "data").mkdir()
    rows.set_index(pd.RangeIndex(7, 7 + 2 * len(rows), 2, name="sale")).to_parquet(tmp_path / "data" / "tills.parquet")
    use_case = tills(source=FileSource(file="tills.parquet", time_column="at"))
    manifest, _ = take_manifest(place, use_case, days[-1] + timedelta(days=1), {})
    read = [read_partition(place, use_case, manifest, str(day)).rows["sale"] for day in days]
    assert pd.concat(read).tolist() == [float(number) for number in range(7, 7 + 2 * len(rows), 2)]


def with_unit(use_case: UseCase, unit: str, **changes: Any) -> UseCase:
    """The use case with this unit of its time column."""
    columns = tuple(replace(each, unit=unit) if each.name == "at" else each for each in use_case.columns)
    return replace(use_case, columns=columns, **changes)


def counted(unit: str) -> pd.DataFrame:
    """The sales with their time as a number."""
    rows = all_sales()
    return rows.assign(at=rows["at"].astype(f"datetime64[{unit}]").astype("int64"))


SOURCES: dict[str, RowSource] = {
    "csv": FileSource(file="sales.csv", time_column="at"),
    "parquet": FileSource(file="sales.parquet", time_column="at"),
    "database": DatabaseSource(database="TILLS_DATABASE", query=QUERY, time_column="at", changed_column="edited"),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(("one", "other"), [(("ms", "UTC"), ("us", "UTC")), (("ms", "UTC"), ("ms", "Asia/Kathmandu"))])
def test_use_cases_that_declare_a_time_otherwise_do_not_bring_each_others_days_again(
    place: Settings, database: Any, split: list[str], read_days: list[str],
    kind: str, one: tuple[str, str], other: tuple[str, str],
) -> None:  # fmt: skip
    """By the unit of one, milliseconds are days of 2024, by that of the other days of 1970."""
    rows = counted("ms")
    if kind == "database":
        rows.assign(edited=1).to_sql("sales", database, index=False, if_exists="replace")
    else:
        write(place.data / f"sales.{kind}", rows)
    cases = [with_unit(from_source(SOURCES[kind]), unit, time_zone=zone) for unit, zone in (one, other)]
    first = [partition_files(place, each, each.source) for each in cases]
    assert first[0].keys() != first[1].keys()
    brought_once = (list(split), list(read_days))
    for _ in range(2):
        assert [partition_files(place, each, each.source) for each in cases] == first
    assert (split, read_days) == brought_once


@pytest.mark.parametrize("kind", SOURCES)
def test_use_cases_that_differ_in_what_decides_no_day_share_a_copy(
    place: Settings, database: Any, split: list[str], read_days: list[str], kind: str
) -> None:
    write(place.data / "sales.csv", all_sales())
    write(place.data / "sales.parquet", all_sales())
    case = from_source(SOURCES[kind])
    shop = next(each for each in case.columns if each.name == "shop")
    others = [
        replace(case, name="other", window_days=9, seed=1),
        replace(case, columns=tuple(replace(each, nullable=each.name != "sale") for each in case.columns)),
        replace(case, columns=(*(each for each in case.columns if each != shop), replace(shop, values=("north",)))),
        replace(case, columns=(*case.columns, Column(name="edited"))),
    ]
    expected = partition_files(place, case, case.source)
    brought_once = (list(split), list(read_days))
    assert all(partition_files(place, each, each.source) == expected for each in others)
    assert (split, read_days) == brought_once


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The days that each query for rows was to find."""
    asked: list[list[str]] = []
    rows = database_source._Query._rows
    monkeypatch.setattr(database_source._Query, "_rows", lambda query, days: asked.append([*days]) or rows(query, days))
    return asked


@pytest.mark.parametrize("form", ["at", "datetime(at)", "date(at)"])
def test_neighbouring_days_with_few_rows_are_read_by_one_query(
    place: Settings, database: Any, queries: list[list[str]], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    use_case = of_database(query=QUERY.replace("at,", f"{form} as at,"))
    before = take_manifest(place, use_case, AS_OF, {})[0]
    assert queries == [[str(day) for day in DAYS]]
    assert [len(read_partition(place, use_case, before, str(day)).rows) for day in DAYS] == [30] * 10
    monkeypatch.setattr(database_source, "ROWS_AT_ONCE", 75)
    with database.begin() as connection:
        for day in (DAYS[0], DAYS[2], DAYS[3], DAYS[4], DAYS[9]):
            connection.execute(text(f"update sales set edited = 2 where date(at) = '{day}'"))
    assert take_manifest(place, use_case, AS_OF, {})[0].months != before.months
    changed = [[DAYS[0]], [DAYS[2], DAYS[3]], [DAYS[4]], [DAYS[9]]]
    assert queries[1:] == [[str(day) for day in days] for days in changed]


def test_a_day_whose_rows_one_query_for_many_does_not_find_is_asked_for_by_itself(
    place: Settings, database: Any, queries: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Databases put texts into an order of their own."""
    asked = database_source._Query._rows
    alone: list[str] = []

    def without_one(query: Any, days: Any) -> Any:
        names, kinds, rows = asked(query, days)
        alone.extend(days if len(days) == 1 else [])
        return names, kinds, {day: found[1:] if len(days) > 1 else found for day, found in rows.items()}

    monkeypatch.setattr(database_source._Query, "_rows", without_one)
    assert_same(place, of_database())
    assert alone == [str(day) for day in DAYS]


def test_a_column_that_one_use_case_declares_and_another_does_not_is_no_reason_to_read_the_days_again(
    place: Settings, database: Any, read_days: list[str]
) -> None:
    """A column of two types can be kept in no table: who declares it loses the day, who does not goes on without it."""
    query = QUERY.replace("edited", f"edited, case when date(at) = '{DAYS[4]}' and sale % 2 then 'x' else 1 end as tag")
    without = of_database(query=query)
    declaring = replace(without, columns=(*without.columns, Column(name="tag", feature=False)))
    for _ in range(2):
        assert str(DAYS[4]) not in partition_files(place, declaring, declaring.source)
        assert [*partition_files(place, without, without.source)] == [str(day) for day in DAYS]
        assert "and undeclared: tag (int and str)" in left_out(place, without)[0]
        with pytest.raises(DataRejected, match=r"column tag of the query on TILLS_DATABASE is int and str \(cast it"):
            take_manifest(place, declaring, DAYS[5], {})
    assert read_days == [str(day) for day in DAYS]


@pytest.mark.parametrize(
    "columns", [(), tills().columns, (Column(name="at", type="timestamp", unit="ms"), Column(name="tag"))]
)
def test_objects_and_folders_lie_where_no_declaration_moves_them(place: Settings, columns: tuple[Column, ...]) -> None:
    """Their bytes are those of their owner."""
    for source in (Source(folder="s3://bucket/a"), Source(folder="tills")):
        assert source_folder(place, source, "Asia/Kathmandu", columns) == source_folder(place, source)
