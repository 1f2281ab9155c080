"""A kind of source in one file of a company's project: the JSON lines that docs/use-case.md shows, and odd ones."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ml import Column, DatabaseSource, DaySource, FileSource, SideTable, Source, UseCase
from ml.data.partitions import read_partition
from ml.data.snapshots import survey, take_manifest
from ml.data.source_kinds import RowSource
from ml.data.sources.folder import source_folder
from ml.errors import ConfigError, DataRejected, RetrainError, SourceUnavailable
from ml.settings import Settings
from ml.use_case.loading import load_use_case
from tests.damage import flip
from tests.story import SHOP, Shop
from tests.test_docs import block
from tests.tiny import FIRST_DAY, sales, site, tills

AS_OF = FIRST_DAY + timedelta(days=10)
DAYS = [str(FIRST_DAY + timedelta(days=n)) for n in range(10)]
PAGE = block("docs/use-case.md", "Sources", "python")
asked: list[str] = []


@dataclass(frozen=True, kw_only=True)
class JsonLines(DaySource):
    """Like that of the page; it notes which days are asked for."""

    folder: str

    def days(self, data: Path) -> Mapping[str, str]:
        files = [file for file in (data / self.folder).iterdir() if file.suffix == ".jsonl"]
        return {file.stem: f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in files}

    def rows(self, data: Path, day: str) -> pd.DataFrame:
        asked.append(day)
        return read_lines(data / self.folder / f"{day}.jsonl")


def read_lines(file: Path) -> pd.DataFrame:
    return pd.DataFrame([json.loads(line) for line in file.read_text().splitlines()])


def write_lines(rows: pd.DataFrame, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = rows.assign(**{name: rows[name].astype("str") for name in rows if rows[name].dtype.kind == "M"})
    records = texts.astype("object").where(texts.notna(), None).to_dict("records")
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    """Ten days of tills as JSON lines, and the same rows as Parquet."""
    for day in DAYS:
        rows = sales(date.fromisoformat(day))
        write_lines(rows, tmp_path / "data" / "lines" / f"{day}.jsonl")
        (tmp_path / "data" / "tills").mkdir(exist_ok=True)
        read_lines(tmp_path / "data" / "lines" / f"{day}.jsonl").to_parquet(
            tmp_path / "data" / "tills" / f"{day}.parquet", index=False
        )
    asked.clear()
    return site(tmp_path)


def rows_of(place: Settings, use_case: UseCase) -> pd.DataFrame:
    manifest, missing = take_manifest(place, use_case, AS_OF, {})
    assert missing == ()
    return pd.concat([read_partition(place, use_case, manifest, part.day).rows for part in manifest.partitions])


def test_it_gives_the_rows_that_a_folder_gives_and_each_day_once(place: Settings) -> None:
    own = tills(source=JsonLines(folder="lines"))
    pd.testing.assert_frame_equal(rows_of(place, own), rows_of(place, tills()))
    assert asked == DAYS
    rows_of(place, own)
    assert asked == DAYS


def test_a_changed_a_new_and_a_damaged_day_are_asked_for_again_and_a_day_that_is_gone_goes(place: Settings) -> None:
    own, lines = tills(source=JsonLines(folder="lines"), max_missing_days=9), place.data / "lines"
    before = rows_of(place, own)
    asked.clear()
    write_lines(sales(FIRST_DAY, 29), lines / f"{DAYS[0]}.jsonl")
    copy = source_folder(place, own.source) / f"{DAYS[3]}.parquet"
    copy.write_bytes(flip(copy.read_bytes()))
    assert len(rows_of(place, own)) == len(before) - 1
    assert asked == [DAYS[0], DAYS[3]]
    (lines / f"{DAYS[5]}.jsonl").unlink()
    assert survey(place, own, AS_OF, {}).missing == (DAYS[5],)
    assert not (copy.parent / f"{DAYS[5]}.parquet").exists()


def test_it_can_be_a_side_table_and_a_source_without_days(place: Settings) -> None:
    stock = pd.DataFrame({"shop": ["north", "south", "007"], "size": [1.0, 2.5, 3.0]})
    write_lines(stock, place.data / "stock" / "all.jsonl")
    side = SideTable(name="stock", source=JsonLines(folder="stock"), on=("shop",), take=("size",))
    columns = (*tills().columns, Column(name="size"))
    joined = rows_of(place, tills(side_tables=(side,), columns=columns))
    assert set(joined["size"]) == {1.0, 2.5, 3.0}


@dataclass(frozen=True, kw_only=True)
class Odd(DaySource):
    """What a company's code may do."""

    what: str

    def days(self, data: Path) -> Any:
        return DOES[self.what][0](data)

    def rows(self, data: Path, day: str) -> Any:
        return DOES[self.what][1](data, day)


def raised(error: Exception) -> Any:
    raise error


def all_days(_: Path) -> dict[str, str]:
    return dict.fromkeys(DAYS, "1")


def good(_: Path, day: str) -> pd.DataFrame:
    return sales(FIRST_DAY if day not in DAYS else date.fromisoformat(day))


Does = tuple[Callable[[Path], Any], Callable[[Path, str], Any], type[RetrainError] | None, str]
DOES: dict[str, Does] = {
    "days raises": (lambda _: raised(KeyError("Ada")), good, ConfigError, "Odd.days must .* it ends in KeyError at t"),
    "no mapping": (lambda _: DAYS, good, ConfigError, "Odd.days must give a mark .* it gives a list"),
    "an odd day": (lambda _: {"../x": "1"}, good, ConfigError, "it gives '../x'"),
    "a day that cannot be": (lambda _: {"2024-13-01": "1"}, good, DataRejected, "2024-13-01.parquet names none"),
    "days and all": (lambda _: {"2024-01-01": "1", "all": "1"}, good, DataRejected, "one for all"),
    "no day at all": (lambda _: {}, good, DataRejected, "the Odd has none"),
    "not there": (lambda data: [*(data / "x").iterdir()], good, DataRejected, "the Odd must be there.*'No such"),
    "no answer": (lambda _: raised(ConnectionError("Ada")), good, SourceUnavailable, "the Odd must answer"),
    "no answer for a day": (all_days, lambda *_: raised(TimeoutError("Ada")), SourceUnavailable, "TimeoutError at "),
    "each day raises": (all_days, lambda *_: raised(ValueError("Ada")), DataRejected, "ends in ValueError at t"),
    "no rows": (all_days, lambda *_: None, DataRejected, "ends in a NoneType, where rows gives a DataFrame"),
    "what no file holds": (
        all_days, lambda *_: pd.DataFrame({"sale": [1, "Ada"]}), DataRejected, "ends in Arrow.*, for no Parquet",
    ),
    "one day raises": (all_days, lambda _, day: good(_, day) if day != DAYS[4] else raised(KeyError("Ada")), None, ""),
}  # fmt: skip


@pytest.mark.parametrize("what", DOES)
def test_what_a_company_s_code_does_costs_no_more_than_it_must(tmp_path: Path, what: str) -> None:
    """No word of its errors is told: it may quote a row."""
    *_, kind, words = DOES[what]
    place, use_case = site(tmp_path), tills(source=Odd(what=what))
    if kind is None:
        assert list(survey(place, use_case, AS_OF, {}).unusable) == [DAYS[4]]
        return
    with pytest.raises(kind, match=words) as told:
        survey(place, use_case, AS_OF, {})
    assert type(told.value) is kind
    assert "Ada" not in str(told.value)


def test_a_survey_that_an_error_ended_is_made_up_by_the_next(place: Settings) -> None:
    own, last = tills(source=JsonLines(folder="lines")), place.data / "lines" / f"{DAYS[9]}.jsonl"
    whole = last.read_bytes()
    last.unlink()
    last.mkdir()
    with pytest.raises(SourceUnavailable, match="IsADirectoryError"):
        survey(place, own, AS_OF, {})
    last.rmdir()
    last.write_bytes(whole)
    pd.testing.assert_frame_equal(rows_of(place, own), rows_of(place, tills()))


# In a company's project


@pytest.fixture
def shop_of_lines(shop: Shop) -> Shop:
    """The tests' shop with the source of the page: both from the project, and its days as JSON lines."""
    assert shop.settings.project is not None
    (shop.settings.project / "json_lines.py").write_text(PAGE)
    imports, field = block("docs/use-case.md", "Sources", "py").split("\n\n", 1)
    file = shop.settings.project / "use_cases" / "shop.py"
    file.write_text(imports + "\n" + SHOP.replace('    source=Source(folder="shop"),\n', field))
    for path in sorted(shop.settings.data.glob("shop/*.parquet")):
        write_lines(pd.read_parquet(path), shop.settings.data / "orders" / f"{path.stem}.jsonl")
        path.unlink()
    return shop


@pytest.mark.slow
def test_the_source_of_the_page_feeds_a_whole_night_and_a_changed_class_brings_all_days_again(
    shop_of_lines: Shop,
) -> None:
    shop = shop_of_lines
    first = shop.document("2024-03-15")
    assert (first["decision"], first["snapshot"]["partitions"]) == ("FIRST", 74)
    use_case = load_use_case("shop", shop.settings.project)
    assert type(use_case.source).__name__ == "JsonLines"
    copy = source_folder(shop.settings, use_case.source)
    assert len([*copy.glob("2024-*.parquet")]) == 80
    assert shop.settings.project is not None
    module = shop.settings.project / "json_lines.py"
    module.write_text(module.read_text() + "# the same rows\n")
    again = shop.document("2024-03-15")
    assert not again["replayed"], "the module is part of the run key"
    assert again["snapshot"]["digest"] == first["snapshot"]["digest"], "equal rows are equal bytes"
    assert source_folder(shop.settings, load_use_case("shop", shop.settings.project).source) != copy


STORED: list[tuple[Source | FileSource | DatabaseSource, str, str]] = [
    (FileSource(file="a.csv", time_column="at"), "FileSource-dae2dea51d982080", "d319d7673f10"),
    (FileSource(file="a.csv", time_column="at", separator=";"), "FileSource-a0767885f7c48bf1", "382d2a7f6068"),
    (
        DatabaseSource(database="D", query="select 1", time_column="at"),
        "DatabaseSource-3078e96279694cec",
        "adb63783627a",
    ),
    (Source(folder="s3://b/p"), "Source-eb1739fda0c82c0a", "e8a3b47a4c97"),
]


@pytest.mark.parametrize(("source", "folder", "digest"), STORED, ids=[folder for _, folder, _ in STORED])
def test_the_other_kinds_keep_the_digests_and_folders_of_2026_11_27(
    tmp_path: Path, source: Source | FileSource | DatabaseSource, folder: str, digest: str
) -> None:
    use_case = tills(source=source)
    assert (source_folder(site(tmp_path), source).name, use_case.digest[: len(digest)]) == (folder, digest)


@dataclass
class Thawed(DaySource):
    """No frozen dataclass."""


@dataclass(frozen=True)
class Half(DaySource):
    """A kind that gives no rows."""

    def days(self, _data: Path) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True)
class OfNoKind(RowSource):
    """A kind of which nobody says how it is read."""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Thawed(), "Thawed is no frozen dataclass"),
        (Half(), "Half lacks rows: see"),
        (OfNoKind(), "OfNoKind inherits from none that can be read"),
    ],
)
def test_a_kind_that_cannot_be_used_is_refused_when_the_use_case_is_read(source: RowSource, words: str) -> None:
    with pytest.raises(ConfigError, match=f"kind of the source of tills must be .* but {words}"):
        tills(source=source)
