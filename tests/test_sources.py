"""Kinds of sources: each gives the rows that a folder with a file a day gives, and fetches what is new."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, text

from ml import brought, database_source, file_source, object_source
from ml.bringing import partition_files
from ml.config import DatabaseSource, FileSource, Source, UseCase
from ml.errors import ConfigError, DataRejected, SourceUnavailable
from ml.serving.columns import Column
from ml.settings import Settings
from ml.snapshots import changed_days, newest_day, read_partition, take_manifest
from ml.sources import AnySource, source_folder
from tests.damage import flip
from tests.postgres_server import PostgresServer
from tests.s3_server import BUCKET, S3Server
from tests.tiny import FIRST_DAY, sales, site, tills, write_sales

AS_OF = FIRST_DAY + timedelta(days=10)
DAYS = [FIRST_DAY + timedelta(days=n) for n in range(10)]


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    """Ten days of tills in a flat folder."""
    write_sales(tmp_path / "data" / "tills", 10)
    return site(tmp_path)


def from_source(source: AnySource, **changes: Any) -> UseCase:
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


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("day=2024-01-03/shop=north", "a day's folder has files only, but .*shop=north is a folder"),
        ("2024-01-03.parquet", "a day's file is a file, but .*2024-01-03.parquet is a folder"),
    ],
)
def test_a_folder_whose_rows_would_not_be_read_is_refused(place: Settings, folder: str, words: str) -> None:
    (place.data / "hive" / folder).mkdir(parents=True)
    sales(DAYS[2]).to_parquet(place.data / "hive" / folder / "part-0.parquet")
    with pytest.raises(DataRejected, match=words):
        take_manifest(place, from_source(Source(folder="hive")), AS_OF, {})


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
    written = database_source._day_bytes
    noted = lambda rows, day, *rest: days.append(day) or written(rows, day, *rest)  # noqa: E731
    monkeypatch.setattr(database_source, "_day_bytes", noted)
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
        ("sqlite:////no/such/folder/x.db", {}, SourceUnavailable, "must answer"),
    ],
)
def test_a_database_that_cannot_be_asked_is_an_error_and_its_address_is_not_shown(
    place: Settings, database: Any, monkeypatch: pytest.MonkeyPatch,
    address: str | None, changes: dict[str, Any], kind: type[Exception], words: str,
) -> None:  # fmt: skip
    if address:
        monkeypatch.setenv("TILLS_DATABASE", address)
    with pytest.raises(kind, match=words) as caught:
        take_manifest(place, of_database(**changes), AS_OF, {})
    assert address is None or address not in str(caught.value)


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
    assert "rows of TILLS_DATABASE have no at and belong to no day" in caplog.text


@pytest.mark.parametrize(
    ("query", "kind", "words"),
    [
        (f"selec {QUERY}", ConfigError, "must be one that it can answer"),
        (QUERY.replace("at,", "'1/31/2024' as at,"), DataRejected, "at of the query must be timestamps"),
        (QUERY.replace("at,", "17 as at,"), DataRejected, "at of the query must be timestamps"),
        (QUERY.replace("at,", "date(at) as at,"), DataRejected, "at of .* must be timestamps"),
        (
            QUERY.replace("shop,", "case items when 1 then 'a' else 1 end as shop,"),
            DataRejected,
            "but shop of .* do not",
        ),
    ],
)
def test_a_query_that_gives_no_plain_days_is_refused_in_a_sentence(
    place: Settings, database: Any, query: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        take_manifest(place, of_database(query=query), AS_OF, {})


def test_a_colon_in_a_query_is_itself(place: Settings, database: Any) -> None:
    assert_same(place, of_database(query=f"{QUERY} where shop <> ' :x'"))


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


@pytest.fixture
def in_postgres(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sales in a database of a real PostgreSQL server, its address in TILLS_DATABASE."""
    name = f"tills_{uuid4().hex}"
    postgres.create(name)
    monkeypatch.setenv("TILLS_DATABASE", postgres.address(name))
    engine = create_engine(os.environ["TILLS_DATABASE"])
    all_sales().assign(edited=1).to_sql("sales", engine, index=False)
    engine.dispose()


@pytest.mark.slow
def test_a_query_on_a_real_postgres_gives_the_same_rows(
    place: Settings, in_postgres: None, read_days: list[str]
) -> None:
    assert_same(place, of_database())
    assert_same(place, of_database())
    assert len(read_days) == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("cast(at as date) as at", None),
        ("at at time zone 'UTC' as at", "at of the query must be timestamps without a time zone"),
        ("at, array[items] as tags", "but tags of .* do not"),
        ("at, '{}'::jsonb as tags", "but tags of .* do not"),
    ],
)
def test_columns_of_postgres_are_read_or_refused_in_a_sentence(
    place: Settings, in_postgres: None, column: str, words: str | None
) -> None:
    use_case = of_database(query=QUERY.replace("at,", f"{column},"))
    if words is None:
        assert len(rows_of(place, use_case)) == 300
        return
    with pytest.raises(DataRejected, match=words):
        take_manifest(place, use_case, AS_OF, {})


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
    get = object_source.S3Store.get
    monkeypatch.setattr(object_source.S3Store, "get", lambda own, key: got.append(key) or get(own, key))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(sales(DAYS[2], 29), preserve_index=False), sink)
    store.put(f"{DAYS[2]}.parquet", sink.getvalue().to_pybytes())
    after, _ = take_manifest(place, use_case, AS_OF, {})
    assert (got, changed_days(before, after)) == ([f"{DAYS[2]}.parquet"], (str(DAYS[2]),))


@pytest.mark.slow
def test_marks_beside_objects_are_no_days_and_a_day_that_went_is_missing(place: Settings, s3: S3Server) -> None:
    source = Source(folder=f"s3://{BUCKET}/sources/hive")
    store = object_source.open_store(source.folder)
    assert isinstance(store, object_source.S3Store)
    for path in sorted((place.data / "tills").iterdir()):
        store.put(f"day={path.stem}/part-0.parquet", path.read_bytes())
    for mark in ("", f"day={DAYS[1]}/", f"day={DAYS[1]}/_SUCCESS", "notes/über.txt"):
        store.client.put_object(Bucket=BUCKET, Key=f"{store.prefix}{mark}", Body=b"")
    assert_same(place, from_source(source))
    store.delete(f"day={DAYS[4]}/part-0.parquet")
    assert take_manifest(place, from_source(source), AS_OF, {})[1] == (str(DAYS[4]),)
