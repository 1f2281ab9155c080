"""Night, score and served model agree on rows of the source, which a version derives and joins by itself."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deployments.cli import main
from ml.models.description import model_columns
from ml.storage import registry
from tests.flows.test_own_kind import OURS, answers_elsewhere, write
from tests.story import DAYS, FIRST_DAY, SHOP, Shop

DERIVE = '''
from money import dollars


def add_amount(rows):
    """In dollars; the label is only known where the rows are."""
    return dollars(rows).assign(days_to_pay=rows["paid_after"])[::-1]


'''
MONEY = "CENTS = 100\n\n\ndef dollars(rows):\n    return rows.assign(amount=rows['cents'] / CENTS)\n"
FIELDS = """    derive=add_amount,
    side_tables=(
        SideTable(name="countries", source=Source(folder="countries"), on=("country",), take=("risk",)),
        SideTable(name="weather", source=Source(folder="weather"), on=("country",), take=("rain",)),
    ),
    columns=(
        Column(name="risk", nullable=True),
        Column(name="rain", nullable=True),
"""
RAIN = {"DE": 1.0, "FR": 2.0, "US": 3.0}


@pytest.fixture
def far(shop: Shop) -> Shop:
    """The shop with amounts in cents, a table of countries, and one of the weather of each day."""
    text = SHOP.replace("    Source,\n", "    SideTable,\n    Source,\n").replace("    columns=(\n", FIELDS)
    write(
        shop.settings.project, **{"use_cases/shop": text.replace("USE_CASE = ", f"{DERIVE}USE_CASE = "), "money": MONEY}
    )
    for name in ("countries", "weather"):
        (shop.settings.data / name).mkdir()
    for number in range(DAYS):
        day = str((pd.Timestamp(FIRST_DAY) + pd.Timedelta(days=number)).date())
        rows = pd.read_parquet(shop.file(day))
        shop.rewrite(day, amount=None, days_to_pay=None, cents=rows["amount"] * 100, paid_after=rows["days_to_pay"])
        weather = pd.DataFrame({"country": [*RAIN], "rain": [rain + number for rain in RAIN.values()]})
        weather.to_parquet(shop.settings.data / "weather" / f"{day}.parquet")
    write_countries(shop, 1.0)
    return shop


def write_countries(shop: Shop, factor: float) -> None:
    countries = pd.DataFrame({"country": ["DE", "FR"], "risk": [0.1 * factor, 0.7 * factor]})
    countries.to_parquet(shop.settings.data / "countries" / "all.parquet")


def scored(shop: Shop, rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    rows.to_parquet(folder / "rows.parquet")
    assert main(["score", "shop", str(folder / "rows.parquet"), "-o", str(folder / "out.parquet")]) == 0
    return pd.read_parquet(folder / "out.parquet").drop(columns="basket", errors="ignore")


@pytest.mark.slow
def test_night_score_and_served_model_give_rows_of_the_source_the_same_answers(far: Shop, tmp_path: Path) -> None:
    document = far.document("2024-03-15")
    assert document["decision"] == "FIRST"
    (entry,) = far.entries()
    assert entry.candidate is not None
    folder = Path(far.settings.store) / entry.candidate.folder
    model = registry.load_model(folder)
    rows = pd.read_parquet(far.file("2024-03-10")).drop(columns="paid_after")  # as before it is known
    joined = rows.assign(rain=rows["country"].map(RAIN) + 69)
    both = joined.assign(risk=rows["country"].map({"DE": 0.1, "FR": 0.7}))
    raw = both.assign(amount=rows["cents"] / 100)[[column.name for column in model_columns(folder)]]
    expected = model.predict(raw)
    assert expected["probability"].notna().all() and expected["probability"].nunique() > 30
    for form in (joined, both):
        elsewhere = answers_elsewhere(far, form, tmp_path / "elsewhere", 1, refused={*OURS, "money"})[1]
        pd.testing.assert_frame_equal(elsewhere, expected, check_exact=True, check_dtype=False)
    for form in (rows, joined, both, raw):
        pd.testing.assert_frame_equal(scored(far, form, tmp_path), expected, check_exact=True, check_dtype=False)
    tags = registry.Registry(far.settings, "shop").client.get_model_version("shop", "1").tags
    assert tags["takes"] == (
        "Raw rows need risk, rain, bought_at, amount, reminders, country. Rows of the source may be given instead: "
        "they need bought_at, reminders, country, cents, and rain joined to them. paid_after may be left out. "
        "countries is joined here."
    )
    write(far.settings.project, money=MONEY.replace("/ CENTS", "** 0.5"))
    write_countries(far, 5.0)
    pd.testing.assert_frame_equal(scored(far, rows, tmp_path), expected, check_exact=True, check_dtype=False)
    assert far.document("2024-03-15")["replayed"] is False
    other = registry.load_model(Path(far.settings.store) / far.entries()[1].candidate.folder)  # type: ignore[union-attr]
    assert not np.allclose(other.predict(joined)["probability"], expected["probability"])
    pd.testing.assert_frame_equal(model.predict(joined), expected, check_exact=True, check_dtype=False)
