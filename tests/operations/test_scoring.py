"""A file to score: every row gets its own answer, alone or among others, or the file is refused in a sentence."""

import csv
import re
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.commands.score import _writer
from ml import Column, SideTable, Source, Trees, UseCase
from ml.data.handles import JoinCounts
from ml.errors import ConfigError, DataRejected, UsageError
from ml.models.packaging import write_model
from ml.operations import scoring
from ml.operations.scoring import _as_the_version_knows_it, score_file
from ml.serving.derived import rewritten
from ml.serving.model import ADDS_UP
from ml.serving.output import TaskKind, answer_names, contribution_names, probabilities
from ml.settings import Settings
from ml.storage import registry
from tests import tiny
from tests.tiny import KINDS, learnt, packaged, parcels, raw_parcels, site, to_parquet

DEPOTS = SideTable(name="depots", source=Source(folder="depots"), on=("depot",), take=("zone",))


def sorting(rows: pd.DataFrame) -> pd.DataFrame:
    sorted_rows = rows.sort_values("weight", ignore_index=True)
    return sorted_rows.assign(distance=sorted_rows["metres"] / 1000)


def grouping(rows: pd.DataFrame) -> pd.DataFrame:
    parts = [part.assign(distance=part["metres"] / 1000) for _, part in rows.groupby("carrier", dropna=False)]
    return pd.concat([part[::-1] for part in parts])


def merging(rows: pd.DataFrame) -> pd.DataFrame:
    lengths = rows[["metres"]].drop_duplicates().assign(distance=lambda table: table["metres"] / 1000)
    return lengths.merge(rows, on="metres").set_index("weight", drop=False)


DERIVES = {"sorting": sorting, "grouping": grouping, "merging": merging}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with a packaged model of parcels, and a table of depots with one of no name."""
    place = site(tmp_path_factory.mktemp("scoring"))
    packaged().save(place.home / "data" / "model")
    (place.data / "depots").mkdir()
    depots = pd.DataFrame({"depot": ["x", "y", None, ""], "zone": [1, 2, 3, 3]})
    to_parquet(depots, place.data / "depots" / "all")
    return place


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_model", lambda folder: packaged())
    monkeypatch.setattr(scoring, "predict_raw", predict_raw)


def predict_raw(model: Any, rows: pd.DataFrame, **params: str) -> Any:
    """As `ml.models.description.predict_raw`, of a model that MLflow has not loaded."""
    return model.predict(rows, {"rows": "raw", **params})


def source_rows() -> pd.DataFrame:
    """Rows without what derive and the depots give; some break a rule, some have no depot or an unknown one."""
    rows = raw_parcels(60).drop(columns=["distance", "zone"])
    metres = np.random.default_rng(0).integers(1, 9, 60) * 1000
    rows = rows.assign(metres=metres, depot=(["x", "y", None, "?", "x"] * 12))
    rows.loc[[3, 7], "weight"] = 99.0
    return rows


def use_case(derive: Callable[[pd.DataFrame], pd.DataFrame] | None) -> UseCase:
    return parcels(derive=derive, side_tables=(DEPOTS,))


def answers(place: Settings, rows: pd.DataFrame, derive: str, ending: str) -> pd.DataFrame:
    file = place.home / f"rows.{ending}"
    rows.to_parquet(file, index=False) if ending == "parquet" else rows.to_csv(file, index=False)
    return score_file(place, use_case(DERIVES[derive]), place.home, file).answers


@settings(max_examples=25, deadline=None)
@given(data=st.data(), derive=st.sampled_from(list(DERIVES)), ending=st.sampled_from(["parquet", "csv"]))
def test_a_row_has_one_answer_in_any_file(place: Settings, data: st.DataObject, derive: str, ending: str) -> None:
    rows = source_rows()
    whole = answers(place, rows, derive, "parquet")
    zones = rows["depot"].map({"x": 1.0, "y": 2.0})
    expected = packaged().predict(rows.assign(distance=rows["metres"] / 1000, zone=zones))
    pd.testing.assert_frame_equal(whole, expected, check_exact=True)
    chosen = data.draw(st.lists(st.integers(0, 59), min_size=1, max_size=10, unique=True))
    some = answers(place, rows.iloc[chosen], derive, ending)
    pd.testing.assert_frame_equal(some, whole.iloc[chosen].reset_index(drop=True), check_exact=True, check_dtype=False)


def test_what_met_no_row_of_a_side_table_is_counted(place: Settings, tmp_path: Path) -> None:
    source_rows().to_parquet(tmp_path / "rows.parquet")
    scored = score_file(place, use_case(sorting), place.home, tmp_path / "rows.parquet")
    assert scored.joins == {"depots": JoinCounts(rows=60, null_keys=12, unmatched=12, side_null_keys=2)}
    assert (len(scored.answers), scored.ignored_columns) == (60, ["metres", "depot"])


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, {}),
        ({"carrier": "CAT"}, {"carrier": 40}),
        ({"carrier": "cat "}, {"carrier": 40}),
        ({"zone": 9}, {"zone": 40}),
        ({"zone": 9, "carrier": "dog"}, {"zone": 40, "carrier": 40}),
        ({"carrier": None}, {}),
    ],
)
def test_rows_with_a_category_that_the_model_has_not_learnt_are_counted(
    place: Settings, tmp_path: Path, changes: dict[str, object], counts: dict[str, int]
) -> None:
    rows = raw_parcels(40).assign(**changes)
    to_parquet(rows.astype({"carrier": "str"}), tmp_path / "rows")
    assert score_file(place, parcels(), place.home, tmp_path / "rows.parquet").not_learnt == counts


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_no_rows_have_no_answers(place: Settings, ending: str) -> None:
    none = answers(place, source_rows().iloc[:0], "sorting", ending)
    assert (list(none), len(none)) == (["prediction", "probability", "broken_rule"], 0)


@pytest.mark.parametrize(
    "derive",
    [
        lambda rows: rows.assign(weight=rows["weight"] / 2),
        lambda rows: rows.assign(carrier=rows["carrier"].str.upper()),
        lambda rows: rows.assign(distance=rows["distance"].fillna(0))[::-1],
    ],
    ids=["a number", "a text", "a null"],
)
def test_rows_that_could_be_those_before_derive_or_after_are_refused(
    place: Settings, tmp_path: Path, derive: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    raw_parcels().to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataRejected, match="must be read in one way, but derive of parcels reads and changes "):
        score_file(place, parcels(derive=derive), place.home, tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    "derive",
    [
        None,
        lambda rows: rows.sort_values("weight").assign(more=1),
        lambda rows: rows.assign(weight=rows["weight"].clip(0, 1000)),
        lambda rows: rows.assign(distance=5.0),
        sorting,
    ],
    ids=["none", "another column", "the same values", "made of nothing in the rows", "of columns that are not there"],
)
def test_raw_rows_are_scored_as_they_are(
    place: Settings, tmp_path: Path, derive: Callable[[pd.DataFrame], pd.DataFrame] | None
) -> None:
    raw_parcels().to_parquet(tmp_path / "rows.parquet")
    scored = score_file(place, parcels(derive=derive), place.home, tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(scored.answers, packaged().predict(raw_parcels()), check_exact=True)
    assert scored.joins == {}


def in_utc(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(at=pd.to_datetime(rows["at"], utc=True))


@pytest.mark.parametrize(("zone", "changes"), [("UTC", False), ("Europe/Berlin", True)])
def test_a_derive_that_gives_times_a_zone_is_compared_in_the_use_cases_zone(zone: str, changes: bool) -> None:
    use_case = tiny.tills(derive=in_utc, time_zone=zone)
    (at,) = (column for column in use_case.columns if column.name == "at")
    changed = rewritten(use_case.derive, tiny.sales(tiny.FIRST_DAY), (at,), zone)
    assert changed == ("at" if changes else None)


def test_a_derive_that_loses_rows_gives_no_answers_at_all(place: Settings, tmp_path: Path) -> None:
    source_rows().to_parquet(tmp_path / "rows.parquet")
    losing = replace(use_case(None), derive=lambda rows: sorting(rows).dropna(subset="depot"))
    with pytest.raises(DataRejected, match="derive of parcels leaves out 12 of 60 rows"):
        score_file(place, losing, place.home, tmp_path / "rows.parquet")


# The version's own columns


@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("carrier", {"type": "integer"}),
        ("zone", {"type": "text"}),
        ("distance", {"type": "integer", "minimum": 50}),
        ("weight", {"type": "timestamp", "minimum": None, "maximum": None, "parts": ("hour",), "unit": "s"}),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_version_gives_its_own_answers_whatever_type_a_column_has_today(
    place: Settings, tmp_path: Path, name: str, today: dict[str, Any], ending: str
) -> None:
    file = tmp_path / f"rows.{ending}"
    raw_parcels(30).to_parquet(file) if ending == "parquet" else raw_parcels(30).to_csv(file, index=False)
    before = score_file(place, parcels(), place.home, file)
    columns = tuple(replace(c, **today) if c.name == name else c for c in parcels().columns)
    after = score_file(place, parcels(columns=columns), place.home, file)
    pd.testing.assert_frame_equal(after.answers, before.answers, check_exact=True)


def test_times_are_those_of_the_versions_own_time_zone_whatever_zone_is_declared_today(tmp_path: Path) -> None:
    """The derive of today, which these rows need not, is asked in it too."""
    columns = (Column(name="at", type="timestamp", parts=("hour",)), *packaged().columns)
    model = copy(packaged())
    model.columns, model.time_zone = columns, "Asia/Tokyo"
    model.save(tmp_path / "data" / "model")
    known = _as_the_version_knows_it(tiny.tills(time_zone="Europe/Berlin"), tmp_path)
    assert known.time_zone == "Asia/Tokyo"
    assert {"at": "timestamp", "weight": "number", "shop": "text"}.items() <= {
        c.name: c.type for c in known.columns
    }.items()


def test_what_is_declared_sensitive_today_stays_so(place: Settings, tmp_path: Path) -> None:
    secret = Column(name="carrier", type="text", nullable=True, sensitive=True, values=("ant", "bee"))
    columns = tuple(secret if column.name == "carrier" else column for column in parcels().columns)
    raw_parcels(3).assign(weight="SECRET").to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(DataRejected, match="column weight must be number") as caught:
        score_file(place, parcels(columns=columns), place.home, tmp_path / "rows.csv")
    assert "SECRET" not in str(caught.value)


# What each column adds


@pytest.fixture(scope="module")
def of_trees(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskKind, Path]:
    """A version of trees for each kind of target."""
    folder = tmp_path_factory.mktemp("trees")
    for kind in KINDS:
        learner = Trees(rounds=12, patience=None, num_leaves=8)
        write_model(learnt(kind, model=learner)[1], learner, folder / kind)
    return {kind: folder / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_add_up_to_the_output_that_the_answers_come_from(
    of_trees: dict[TaskKind, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: TaskKind
) -> None:
    monkeypatch.undo()
    rows = raw_parcels(40)
    rows.loc[3, "weight"] = 99.0
    rows.to_csv(tmp_path / "rows.csv", index=False)
    scored = score_file(site(tmp_path), parcels(kind), of_trees[kind], tmp_path / "rows.csv", explain=True, reasons=2)
    told, reasons = scored.contributions, scored.reasons
    assert reasons is not None and list(reasons) == ["reason_1", "reason_2"] and reasons.iloc[3].isna().all()
    assert (
        reasons["reason_1"]
        .drop(index=3)
        .str.contains(r"\([+-][\d.]+, \d+ % of all that moved it\)$| by .*\(\d+ % of all that moved it\)$")
        .all()
    )
    assert told is not None and told.iloc[3].isna().all() and told.drop(index=3).notna().all(axis=None)
    model = registry.load_model(of_trees[kind]).get_raw_model()
    assert [*scored.answers] == answer_names(kind, model.output.classes)
    assert [*told] == contribution_names(kind, model.output.classes, ["weight", "distance", "carrier", "zone"])
    width = max(1, len(model.output.classes)) if kind == "multiclass" else 1
    sums = np.stack(np.split(told.drop(index=3).to_numpy(np.float64), width, axis=1)).sum(axis=2).T
    answers = scored.answers.drop(index=3)
    if kind == "regression":
        assert np.allclose(np.exp(sums[:, 0]), answers["prediction"].astype(float), rtol=ADDS_UP)
    else:
        expected = probabilities(model.output, sums)
        given = answers.filter(like="probability").to_numpy(np.float64)
        assert np.allclose(expected[:, 1:] if kind == "binary" else expected, given, atol=ADDS_UP)


SECRET = {"weight", "distance"}


def test_reasons_quote_no_value_of_a_column_that_is_sensitive_today(
    of_trees: dict[TaskKind, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    raw_parcels(40).to_csv(tmp_path / "rows.csv", index=False)
    columns = tuple(replace(column, sensitive=column.name in SECRET) for column in parcels().columns)
    scored = score_file(site(tmp_path), parcels(columns=columns), of_trees["binary"], tmp_path / "rows.csv", reasons=4)
    assert scored.reasons is not None and scored.contributions is None
    told = [text for name in scored.reasons for text in scored.reasons[name].dropna()]
    assert any(text.startswith("weight (value not shown) ") for text in told)
    assert all((text.split()[0] in SECRET) == (" (value not shown) " in text) for text in told)


UNEXPLAINED = r"--{option} needs a kind of model that tells .*, but the kind network does not: leave --{option} out"


def test_a_kind_without_contributions_is_named_when_they_are_asked_for(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unexplained = copy(packaged())
    unexplained.served = object()  # type: ignore[assignment]
    monkeypatch.setattr(registry, "load_model", lambda folder: SimpleNamespace(get_raw_model=lambda: unexplained))
    raw_parcels(3).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match=UNEXPLAINED.format(option="explain")):
        score_file(place, parcels(), place.home, tmp_path / "rows.parquet", explain=True)
    with pytest.raises(UsageError, match=UNEXPLAINED.format(option="reasons")):
        score_file(place, parcels(), place.home, tmp_path / "rows.parquet", reasons=3)


# The key


def test_a_key_with_the_name_of_an_answer_of_an_older_version_is_refused(place: Settings, tmp_path: Path) -> None:
    """Its classes may be others than today's, which are looked at when the use case is read."""
    columns = (*parcels().columns, Column(name="probability", type="text", feature=False))
    now_a_regression = parcels("regression", columns=columns, key=("probability",))
    raw_parcels(3).assign(probability="7").to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ConfigError, match=r"key of parcels must not name an answer .*, but probability is one"):
        score_file(place, now_a_regression, place.home, tmp_path / "rows.parquet")


AS_WRITTEN = {
    "with noughts": ["007", "0", "00012"],
    "wide": ["9223372036854775807", "-9007199254740993", "12345678901234567890123"],
    "words that could stand for nothing": ["NA", "null", "nan"],
    "in need of quotes": ["a,b", 'he said "no"', "two\nlines"],
    "with blanks": [" a", "b ", ""],
    "like fractions": ["1.0", "1e3", "0.10"],
    "like times": ["2024-01-05T00:00:00Z", "05.02.2024", "24:00"],
}


def written_beside(place: Settings, use_case: UseCase, file: Path, out: Path) -> list[dict[str, str]]:
    scored = score_file(place, use_case, place.home, file)
    _writer(out)(scored.keys.join(scored.answers))
    with out.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("type", ["text", "integer", "number"])
@pytest.mark.parametrize("keys", AS_WRITTEN.values(), ids=AS_WRITTEN.keys())
def test_a_key_of_a_csv_comes_out_as_it_is_written(place: Settings, tmp_path: Path, keys: list[str], type: Any) -> None:
    columns = (Column(name="parcel", type=type, feature=False), *parcels().columns[1:])
    raw_parcels(3).assign(parcel=keys).to_csv(tmp_path / "rows.csv", index=False)
    rows = written_beside(place, parcels(columns=columns), tmp_path / "rows.csv", tmp_path / "out.csv")
    assert [row["parcel"] for row in rows] == keys
    assert list(rows[0]) == ["parcel", "prediction", "probability", "broken_rule"]
    assert [float(row["probability"]) for row in rows] == packaged().predict(raw_parcels(3))["probability"].tolist()


OF_PARQUET: dict[str, tuple[pa.Array, list[str]]] = {
    "wide integers": (pa.array([2**63 - 1, -(2**53) - 1, 1]), ["9223372036854775807", "-9007199254740993", "1"]),
    "integers and a null": (pa.array([2**60 + 1, None, 3]), ["1152921504606846977", "", "3"]),
    "texts": (pa.array(["007", None, "b"]), ["007", "", "b"]),
    "decimals": (pa.array([Decimal("1.10"), Decimal("2.00"), None]), ["1.10", "2.00", ""]),
    "days": (pa.array([date(2024, 1, 5), date(9999, 12, 31), None]), ["2024-01-05", "9999-12-31", ""]),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "written"), OF_PARQUET.values(), ids=OF_PARQUET.keys())
def test_a_key_of_a_parquet_file_keeps_its_type_and_every_digit(
    place: Settings, tmp_path: Path, keys: pa.Array, written: list[str]
) -> None:
    table = pa.Table.from_pandas(raw_parcels(3)).append_column("parcel", keys)
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = written_beside(place, parcels(), tmp_path / "rows.parquet", tmp_path / "out.csv")
    assert [row["parcel"] for row in rows] == written
    scored = score_file(place, parcels(), place.home, tmp_path / "rows.parquet")
    _writer(tmp_path / "out.parquet")(scored.keys.join(scored.answers))
    assert pq.read_table(tmp_path / "out.parquet")["parcel"].combine_chunks().equals(keys)


def test_the_columns_of_a_key_stand_in_its_order_and_a_column_that_is_not_there_is_left_out(
    place: Settings, tmp_path: Path
) -> None:
    columns = (*parcels().columns, *(Column(name=name, type="text", feature=False) for name in ("day", "lane")))
    of_three = parcels(key=("lane", "day", "parcel"), columns=columns)
    raw_parcels(4).assign(parcel=range(4), lane=list("dcba")).to_parquet(tmp_path / "rows.parquet")
    scored = score_file(place, of_three, place.home, tmp_path / "rows.parquet")
    assert scored.keys.astype(str).to_numpy().tolist() == [["d", "0"], ["c", "1"], ["b", "2"], ["a", "3"]]
    assert (list(scored.keys), scored.ignored_columns) == (["lane", "parcel"], [])
    raw_parcels(4).to_parquet(tmp_path / "rows.parquet")
    assert list(score_file(place, of_three, place.home, tmp_path / "rows.parquet").keys) == []


@pytest.mark.parametrize("derive", list(DERIVES))
def test_a_key_stays_with_its_row_whatever_derive_does_to_it(place: Settings, tmp_path: Path, derive: str) -> None:
    rows = source_rows().assign(parcel=[f"{number:03}" for number in range(60)][::-1])

    def other_keys(rows: pd.DataFrame) -> pd.DataFrame:
        return DERIVES[derive](rows).assign(parcel="?")

    columns = (Column(name="parcel", type="text", feature=False), *parcels().columns[1:])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    scored = score_file(place, replace(use_case(other_keys), columns=columns), place.home, tmp_path / "rows.csv")
    assert scored.keys["parcel"].tolist() == rows["parcel"].tolist()
    expected = answers(place, source_rows(), derive, "parquet")
    pd.testing.assert_frame_equal(scored.answers, expected, check_exact=True)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("wieght", "weight"), ("weigth", "weight"), ("weights", "weight"), ("Weight", "weight"), ("carier", "carrier")],
)
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_mistyped_name_is_told_with_the_right_one(
    place: Settings, tmp_path: Path, written: str, meant: str, ending: str
) -> None:
    rows, file = raw_parcels(5).rename(columns={meant: written}), tmp_path / f"rows.{ending}"
    rows.to_parquet(file) if ending == "parquet" else rows.to_csv(file, index=False)
    advice = f"to '{meant}'" if written.lower() == meant else "if it is mistyped"
    words = re.escape(f"column {meant} is missing (there is '{written}'; rename it {advice})")
    with pytest.raises(DataRejected, match=words):
        score_file(place, parcels(), place.home, file)


@pytest.mark.parametrize("other", ["mass", "w", "distance2", "zones of all"])
def test_another_name_is_not_taken_for_a_mistyped_one(place: Settings, tmp_path: Path, other: str) -> None:
    raw_parcels(5).rename(columns={"weight": other}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataRejected, match="column weight is missing: mend"):
        score_file(place, parcels(), place.home, tmp_path / "rows.parquet")
