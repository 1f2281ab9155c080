"""Kinds of sources: each gives the rows that a folder with a file a day gives, and fetches what is new."""

import os
import re
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
from ml.snapshots import changed_days, newest_day, read_partition, survey, take_manifest
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
    days = [read_partition(place, use_case, manifest, partition.day)[0] for partition in manifest.partitions]
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
    room = 20 * 100  # 20 rows of about 100 bytes
    if name.endswith(".csv"):
        sizes = [len(rows) for rows in file_source._csv_parts(place.data / name, room)]
    else:
        with pq.ParquetFile(place.data / name) as file:
            sizes = [rows.num_rows for rows in file_source._parquet_parts(file, room)]
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
        ("sales.parquet", all_sales().assign(at="soon"), "must be a timestamp"),
        ("sales.csv", all_sales().assign(at="soon"), "ISO 8601"),
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
        with pytest.raises(DataRejected, match="must be readable"):
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
    written = database_source._Query._parquet
    noted = lambda query, day, seen: days.append(str(day)) or written(query, day, seen)  # noqa: E731
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
        assert len(read_partition(place, replace(use_case, columns=declared), manifest, str(DAYS[0]))[0])


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


def schema_of(place: Settings, use_case: UseCase, day: date = DAYS[4]) -> Any:
    """Types in which a day of the source is kept."""
    folder = source_folder(place, use_case.source, use_case.time_zone)
    return {field.name: field.type for field in pq.read_schema(folder / f"{day}.parquet")}


def left_out(place: Settings, use_case: UseCase, as_of: date = AS_OF) -> list[str]:
    return [each.sentence for each in survey(place, use_case, as_of, {}).left_out]


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


STRAYS = ["0201-03-04", "1970-01-01", "2262-04-11 23:47:16", "9999-12-31 23:59:59"]


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


def said_of(stray: str) -> str:
    """What the report says of a stray row, by where its time lies."""
    if stray.startswith("1970"):
        return "1 day of .* lies far before the others, which begin on 2024-01-01: 1970-01-01"
    if stray.startswith("2262"):
        return "1 day of .* is in the future and not used yet: 2262-04-11"
    return "1 row of .* has a at outside of 1000-01-01 to 8000-01-01 and is not read"


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
