"""A derive that computes a row from other rows, from their order or from chance is named before anything is learnt."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml import Column, SideTable, Source, UseCase
from ml.data.derived import derived
from ml.data.row_alone import refuse_other_values
from ml.errors import ConfigError
from ml.use_case.loading import use_case_files
from tests.story import Shop
from tests.tiny import parcel_rows, parcels

Derive = Callable[[pd.DataFrame], pd.DataFrame]
DAY = "2024-01-05"
ZONES = ["inner", "outer", "far"]
DEPOTS = SideTable(name="depots", source=Source(folder="depots"), on=("depot",), take=("zone",))


def use_case(derive: Derive, made: Column = Column(name="made", nullable=True)) -> UseCase:  # noqa: B008 - it is frozen
    return parcels(derive=derive, columns=(*parcels().columns, made), side_tables=(DEPOTS,))


TEXT = Column(name="made", type="text", nullable=True)
INTEGER = Column(name="made", type="integer", nullable=True)
TIME = Column(name="made", type="timestamp", nullable=True, parts=("hour",))


def rows(count: int = 200) -> pd.DataFrame:
    """Parcels of 30 senders, with a time, a place and texts that are written in several ways."""
    generator = np.random.default_rng(3)
    return parcel_rows(count).assign(
        sender=generator.integers(0, 30, count),
        at=pd.Timestamp(DAY) + pd.to_timedelta(generator.integers(0, 86_400, count), unit="s"),
        sent=pd.Timestamp(DAY).timestamp() + np.arange(count) * 60.0,
        latitude=generator.choice([52.5200066, 52.5200066, 48.1], count),
        note=pd.Series(generator.choice(np.array([" Glass", "paper ", None], object), count), dtype="str"),
        depot=pd.Series(generator.choice(["x", "y"], count), dtype="str"),
    )


def makes(value: Callable[[pd.DataFrame], object]) -> Derive:
    return lambda rows: rows.assign(made=value(rows))


def late_only(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(made=1.0) if len(rows) > 50 else rows


def coded(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(made=pd.get_dummies(rows["carrier"])["cat"].astype(float))


def one_null_filled(rows: pd.DataFrame) -> pd.DataFrame:
    weights = rows["weight"].where(rows["parcel"] != 77)
    return rows.assign(made=weights.fillna(weights.median()))


def reading_the_row_before(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.sort_values("at")
    return rows.assign(made=rows.groupby("sender")["weight"].shift(1))


OTHERS: list[tuple[str, Derive, Column]] = [
    ("a mean", makes(lambda r: r["weight"] - r["weight"].mean()), Column(name="made")),
    ("a share of the sum", makes(lambda r: r["weight"] / r["weight"].sum()), Column(name="made")),
    ("a standard score", makes(lambda r: (r["weight"] - 10) / r["weight"].std()), Column(name="made")),
    ("a rank", makes(lambda r: r["weight"].rank(pct=True)), Column(name="made")),
    ("a running sum", makes(lambda r: r["weight"].cumsum()), Column(name="made")),
    ("a running maximum of a time", makes(lambda r: r["sent"].cummax()), Column(name="made")),
    ("the row before", makes(lambda r: r["weight"].shift(1)), Column(name="made")),
    ("the row before of a slow number", makes(lambda r: r["sent"].shift(1, fill_value=r["sent"].iloc[0])), INTEGER),
    ("a difference", makes(lambda r: r["sent"].diff()), Column(name="made")),
    ("a rolling mean", makes(lambda r: r["weight"].rolling(3, min_periods=1).mean()), Column(name="made")),
    ("the last value that is present", makes(lambda r: r["distance"].ffill()), Column(name="made")),
    ("a mean of the group", makes(lambda r: r.groupby("carrier")["weight"].transform("mean")), Column(name="made")),
    ("a count of the group", makes(lambda r: r.groupby("sender")["parcel"].transform("count")), INTEGER),
    ("a running count of the group", makes(lambda r: r.groupby("sender").cumcount()), INTEGER),
    ("the row before of the group", reading_the_row_before, Column(name="made")),
    ("how many there are", makes(lambda r: len(r)), INTEGER),
    ("how many different there are", makes(lambda r: r["sender"].nunique()), INTEGER),
    ("quantiles", makes(lambda r: pd.qcut(r["weight"].rank(method="first"), 4, labels=False)), INTEGER),
    ("bins between the extremes", makes(lambda r: pd.cut(r["weight"], 5, labels=False)), INTEGER),
    ("a median for nulls", makes(lambda r: r["distance"].fillna(r["distance"].median())), Column(name="made")),
    ("a median for one null", one_null_filled, Column(name="made")),
    ("columns of categories", coded, Column(name="made")),
    ("codes in order of appearance", makes(lambda r: pd.factorize(r["carrier"])[0]), INTEGER),
    ("the most frequent text", makes(lambda r: r["carrier"].mode()[0]), TEXT),
    ("a text of other rows", makes(lambda r: r["carrier"].shift(1)), TEXT),
    ("the first time", makes(lambda r: r["at"].min()), TIME),
    ("numbers from one generator", makes(lambda r: np.random.default_rng(0).normal(size=len(r))), Column(name="made")),
    ("the place of the row", makes(lambda r: np.arange(len(r))), INTEGER),
    ("the number of the row", makes(lambda r: r["row__"]), INTEGER),
    ("the index", makes(lambda r: r.index % 2), INTEGER),
    ("another column of few rows", late_only, Column(name="made")),
    ("a declared column", lambda r: r.assign(weight=r["weight"] - r["weight"].min()), Column(name="weight")),
    ("what a side table is joined on", lambda r: r.assign(made=1.0, depot=r["depot"].mode()[0]), Column(name="depot")),
    ("floats of 32 bits", makes(lambda r: r["weight"].astype("float32") - r["weight"].mean()), Column(name="made")),
]  # fmt: skip


@pytest.mark.parametrize(("derive", "made"), [case[1:] for case in OTHERS], ids=[case[0] for case in OTHERS])
def test_a_derive_that_looks_at_other_rows_is_refused_and_its_column_is_named(derive: Derive, made: Column) -> None:
    odd = use_case(derive) if made.name != "made" else use_case(derive, made)
    derived(odd, rows())  # of all rows it gives something
    with pytest.raises(ConfigError) as caught:
        refuse_other_values(odd, rows(), DAY)
    assert "derive of parcels must compute each row from that row alone" in str(caught.value)
    assert made.name in caught.value.value or "of 1 of them it fails with " in caught.value.value
    assert "side table" in str(caught.value)


def test_chance_is_called_chance() -> None:
    generator = np.random.default_rng()
    odd = use_case(makes(lambda r: generator.normal(size=len(r))))
    with pytest.raises(ConfigError, match="made is another one each time that derive runs on the same rows"):
        refuse_other_values(odd, rows(), DAY)


def failing_alone(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(made=pd.qcut(rows["weight"], 4, labels=False, duplicates="raise"))


def needing_a_carrier(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(made=rows.groupby("carrier").get_group("cat")["weight"].mean())


@pytest.mark.parametrize("derive", [failing_alone, needing_a_carrier])
def test_a_derive_that_fails_on_some_of_the_rows_is_refused_with_its_line(derive: Derive) -> None:
    with pytest.raises(ConfigError, match=r"takes 200 rows of 2024-01-05 together, but of 1 of them it fails with \w+"):
        refuse_other_values(use_case(derive), rows(), DAY)


def haversine(rows: pd.DataFrame) -> pd.Series:
    """The distance of places that are mostly the same: 1 - 1e-16 under an arc cosine."""
    here, there = np.radians(rows["latitude"]), np.radians(52.5200066)
    inner = np.sin(here) * np.sin(there) + np.cos(here) * np.cos(there) * np.cos(0.0)
    return np.arccos(np.clip(inner, -1, 1)) * 6371


def makes_a_label(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(made=1, outcome=np.where(rows["weight"] > rows["weight"].median(), "late", "in time"))


HONEST: list[tuple[str, Derive, Column]] = [
    ("a logarithm", makes(lambda r: np.log1p(r["weight"])), Column(name="made")),
    ("a logarithm of a strided array", makes(lambda r: np.log1p(r[["weight", "sent"]].to_numpy()[:, 0])), INTEGER),
    ("a small difference", makes(lambda r: np.log(r["sent"]) - np.log(r["sent"] + 1e-3)), Column(name="made")),
    ("a distance", makes(haversine), Column(name="made")),
    ("limits", makes(lambda r: r["weight"].clip(1, 5)), Column(name="made")),
    ("nothing in place of null", makes(lambda r: r["distance"].fillna(0)), Column(name="made")),
    ("nulls", makes(lambda r: r["distance"]), Column(name="made", nullable=True)),
    ("infinities", makes(lambda r: np.where(r["weight"] > 10, np.inf, -np.inf)), Column(name="made")),
    ("a text in other letters", makes(lambda r: r["note"].str.strip().str.upper()), TEXT),
    ("a part of a text", makes(lambda r: r["note"].str.extract("([A-Z])")[0]), TEXT),
    ("a category of fixed bins", makes(lambda r: pd.cut(r["weight"], [0, 5, 10, 99], labels=ZONES)), TEXT),
    ("a word for each", makes(lambda r: r["carrier"].map({"ant": "small", "cat": "large"})), TEXT),
    ("the hour", makes(lambda r: r["at"].dt.hour), INTEGER),
    ("a time", makes(lambda r: r["at"] + pd.Timedelta(hours=1)), TIME),
    ("a time in a zone", makes(lambda r: r["at"].dt.tz_localize("Europe/Berlin")), TIME),
    ("a time from text", makes(lambda r: pd.to_datetime(r["at"].dt.strftime("%Y-%m-%dT%H:%M:%S"))), TIME),
    ("a choice", makes(lambda r: np.where(r["weight"] > 5, "heavy", "light")), TEXT),
    ("a sum over columns", makes(lambda r: r[["weight", "distance", "sent"]].sum(axis=1)), Column(name="made")),
    ("a product of matrices", makes(lambda r: r[["weight", "sent"]].to_numpy() @ [1e-3, -1e-9]), Column(name="made")),
    ("a function of each row", makes(lambda r: r.apply(lambda one: one["weight"] * 2, axis=1)), Column(name="made")),
    ("floats of 32 bits", makes(lambda r: np.exp(r["weight"].astype("float32"))), Column(name="made")),
    ("a nullable integer", makes(lambda r: r["zone"].astype("Int64").where(r["weight"] > 3)), INTEGER),
    ("an Arrow column", makes(lambda r: r["weight"].convert_dtypes(dtype_backend="pyarrow")), Column(name="made")),
    ("rows in another order", lambda r: r.sort_values("weight").assign(made=lambda t: t["weight"] * 3), INTEGER),
    ("a merge", lambda r: r.merge(pd.DataFrame({"zone": [1, 2, 3], "made": ZONES}), on="zone"), TEXT),
    ("a label of the day's rows", makes_a_label, INTEGER),
    ("a column that nobody declared", lambda r: r.assign(made=1, rank=r["weight"].rank()), INTEGER),
]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 200])
@pytest.mark.parametrize(("derive", "made"), [case[1:] for case in HONEST], ids=[case[0] for case in HONEST])
def test_a_derive_that_looks_at_each_row_alone_passes(derive: Derive, made: Column, count: int) -> None:
    if made is INTEGER:
        made = Column(name="made", nullable=True)
    refuse_other_values(use_case(derive, made), rows(count), DAY)


def test_the_sentence_says_how_many_rows_differ_and_no_value() -> None:
    middle = makes(lambda r: r["weight"].where(r.groupby("sender")["parcel"].transform("count") > 1, -1.0))
    with pytest.raises(ConfigError) as caught:
        refuse_other_values(use_case(middle), rows(), DAY)
    assert caught.value.value == "1 of 200 rows of 2024-01-05 gets another made when derived alone"


@pytest.mark.parametrize("name", sorted(use_case_files(None)))
def test_our_own_use_cases_derive_each_row_alone(name: str, tmp_path: Path) -> None:
    from ml.use_case.loading import load_use_case

    ours = load_use_case(name, None)
    if ours.derive is None or ours.demo is None:
        return
    ours.demo(tmp_path / name)
    assert isinstance(ours.source, Source)
    file = sorted((tmp_path / ours.source.folder).glob("*.parquet"))[0]
    refuse_other_values(ours, pd.read_parquet(file), file.stem)


def test_of_no_rows_there_is_nothing_to_try() -> None:
    refuse_other_values(use_case(makes(lambda r: r["weight"].mean())), rows().iloc[:0], str(date(2024, 1, 1)))


# In a night

BEFORE, AFTER = '    time_column="bought_at",\n', '    time_column="bought_at",\n    derive=derive,\n'
DERIVE = """
def derive(rows):
    return rows.assign(amount=rows["amount"] - rows["amount"].mean() * BAD)


USE_CASE = UseCase("""


@pytest.mark.slow
def test_a_night_ends_before_it_keeps_anything_and_goes_on_once_derive_is_mended(shop: Shop) -> None:
    assert shop.settings.project is not None
    file = shop.settings.project / "use_cases" / "shop.py"
    text = file.read_text().replace(BEFORE, AFTER).replace("minimum=0, unit", "minimum=-999, unit")
    file.write_text(text.replace("USE_CASE = UseCase(", DERIVE.replace("BAD", "1.0")))
    for _ in range(2):  # the second night has nothing kept that would hide it
        with pytest.raises(ConfigError, match="1 of 60 rows of 2024-01-31 gets another amount when derived alone"):
            shop.night()
    assert not list((shop.settings.home / "store").rglob("*verdict*/*"))
    file.write_text(text.replace("USE_CASE = UseCase(", DERIVE.replace("BAD", "0.0")))
    assert shop.document()["decision"] == "FIRST"
