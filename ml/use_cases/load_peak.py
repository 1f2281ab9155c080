"""Will the home's load in the next hour be a peak, one of the highest fifth?

Data: 17 homes with solar panels by the hour from August 2016 to July 2017 (citylearn_challenge_2022_phase_all in the
package citylearn, MIT). The moment of prediction is the end of the row's hour, when its load and weather have been
measured. Caveat: the set holds each season once, so nothing here shows that a model lasts into another year.
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
    Source,
    SourceUnchanged,
    Target,
    UseCase,
)

HOMES = tuple(f"home_{number}" for number in range(1, 18))
# The 80 % quantile of all homes' loads from August 2016 to January 2017. It is a constant: a limit computed from each
# window would call the same hour a peak for one model and none for the next.
PEAK_KWH = 1.872
# The set's weather forecasts are left out: they are what was measured 6, 12 and 24 hours later, which nobody can know.
WEATHER = {
    "Outdoor Drybulb Temperature [C]": "temperature",
    "Relative Humidity [%]": "humidity",
    "Diffuse Solar Radiation [W/m2]": "diffuse_radiation",
    "Direct Solar Radiation [W/m2]": "direct_radiation",
}
# How many hours earlier each load was measured; 23 hours before the row is the predicted hour on the day before. These
# loads are columns of the raw row, because a row is read alone: the hours before midnight are in another partition, and
# a caller who asks the model sends a single hour.
LAGS = {"load_1h_ago": 1, "load_2h_ago": 2, "load_23h_ago": 23}


def _folder() -> Path:
    from importlib.util import find_spec

    spec = find_spec("citylearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'citylearn'", name="citylearn")
    return Path(spec.origin).parent / "data" / "citylearn_challenge_2022_phase_all"


def _home(folder: Path, number: int, hours: pd.DataFrame) -> pd.DataFrame:
    measured = pd.read_csv(folder / f"Building_{number}.csv")
    load = measured["Equipment Electric Power [kWh]"]
    return hours.assign(
        home=HOMES[number - 1],
        load=load,
        **{name: load.shift(lag) for name, lag in LAGS.items()},
        solar=measured["Solar Generation [W/kW]"],
        next_load=load.shift(-1),
    )


def write_demo_data(folder: Path) -> None:
    """A file for each whole day; the set has no dates, but its months, weekdays and hours fit this start."""
    source = _folder()
    weather = pd.read_csv(source / "weather.csv")[[*WEATHER]].rename(columns=WEATHER)
    hours = weather.assign(time=pd.date_range("2016-07-31 23:00", periods=len(weather), freq="h"))
    homes = pd.concat([_home(source, number, hours) for number in range(1, 18)], ignore_index=True)
    whole = homes[homes.time.between("2016-08-02", "2017-07-31", inclusive="left")].astype({"home": "str"})
    folder.mkdir(parents=True, exist_ok=True)
    for day, rows in whole.groupby(whole.time.dt.date):
        rows.to_parquet(folder / f"{day}.parquet", index=False)


USE_CASE = UseCase(
    name="load_peak",
    question=f"At the end of an hour: will the home use more than {PEAK_KWH} kWh in the next one?",
    source=Source(folder="load_peak"),
    time_column="time",
    time_zone="UTC",  # the set's clock has no summer time
    key=("home", "time"),
    columns=(
        Column(name="time", type="timestamp", parts=("hour", "weekday")),
        Column(name="home", type="text", values=HOMES),
        Column(name="load", minimum=0, maximum=30, unit="kWh"),
        *(Column(name=name, minimum=0, maximum=30, unit="kWh") for name in LAGS),
        Column(name="solar", minimum=0, maximum=1200, unit="W for each kW of panels"),
        Column(name="temperature", minimum=-40, maximum=60, unit="degrees Celsius"),
        Column(name="humidity", minimum=0, maximum=100, unit="per cent"),
        Column(name="diffuse_radiation", minimum=0, maximum=1400, unit="W/m2"),
        Column(name="direct_radiation", minimum=0, maximum=1400, unit="W/m2"),
        Column(name="next_load", nullable=True, minimum=0, maximum=30, feature=False, unit="kWh"),
    ),
    target=Target(column="next_load", above=PEAK_KWH, classes=("usual", "peak")),
    model=NetworkClassifier(hidden=(64, 32), batch_size=512, epochs=10, learning_rate=2e-3),
    metric="f1",
    gates=(
        MinMetric(
            metric="f1",
            floor=0.53,
            first_only=True,
            why="two points under a logistic regression's worst of four earlier stretches of 28 days (0.55)",
        ),
        BetterThanTrivial(metric="f1", why="calling every hour a peak needs no model"),
        NotWorseThanChampion(metric="f1", max_drop=0.02, why="28 days show a difference of 0.02 and little less"),
        NotWorseThanChampion(
            metric="log_loss", max_drop=0.02, why="as for flights: most of what learnt a fault is kept out by this"
        ),
        NotWorseThanReference(metric="f1", max_drop=0.04, why="small losses may not add up to more than this"),
        SourceUnchanged(why="what a column gains or loses overnight is no merit of a candidate"),
    ),
    # The label of the last hour of day D - 1 is measured at 01:00 on day D. A run as of D uses what was known when D
    # began, so it must leave D - 1 out.
    label_delay_days=1,
    window_days=365,
    test_days=28,
    validation_days=14,
    min_rows=300,
    schedule="30 3 * * *",
    replay_from=date(2017, 6, 1),
    demo=write_demo_data,
)
