"""Ratios of the data path: `python benchmarks/data.py [ROW ...]` prints a table, of all rows or of those named.

Both sides of a row run in one process, medians of five, and must give equal answers. Rows: verdicts, arrays, day,
days, dates, memory.
"""

import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

os.environ |= {"GX_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_LOGGING_LEVEL": "ERROR"}
HOME = Path(tempfile.mkdtemp(prefix="benchmark-"))
os.environ |= {
    "RETRAIN_HOME": str(HOME),
    "RETRAIN_PROJECT": str(HOME / "project"),
    "PREFECT_HOME": str(HOME / "prefect"),
}
(HOME / "project" / "use_cases").mkdir(parents=True)

# ruff: noqa: E402 - the environment is set before anything of ours is imported
import numpy as np
import pandas as pd

import tasks.data as stages
from expectations.suite import to_gx, verdicts
from ml.data.cleaning import LABEL
from ml.data.handles import Split
from ml.data.reading import Declared, read_table
from ml.data.statistics import Statistics
from ml.data.validation import Batch, Scan
from ml.models.encoding import fit_encoder
from ml.serving.features import FIRST_CODE, Encoder
from ml.serving.rules import Between, InSet, Matches, NotBelow, NotNull, Rule, UniqueKey
from ml.storage.json_form import from_json
from ml.storage.records import Night
from ml.storage.store import get_file
from tasks.site import open_site

RUNS, NUMBERS, TEXTS = 5, 14, 4
FIRST = date(2014, 1, 1)
T = TypeVar("T")

USE_CASE = f"""
from ml import BetterThanTrivial, Column, Source, Target, UseCase, logistic_regression

USE_CASE = UseCase(
    name="table",
    question="Does a table of 19 columns and a label pass quickly?",
    source=Source(folder="table"),
    time_column="at",
    window_days=4000,
    key=("id",),
    columns=(
        Column(name="id", type="integer", minimum=0, feature=False),
        *(Column(name=f"n{{i}}", nullable=True, minimum=-50, maximum=50) for i in range({NUMBERS - 1})),
        *(Column(name=f"c{{i}}", type="text") for i in range({TEXTS})),
        Column(name="at", type="timestamp", parts=("hour",)),
        Column(name="y", feature=False),
    ),
    target=Target(column="y", above=0.7, classes=("no", "yes")),
    model=logistic_regression(),
    metric="f1",
    gates=(BetterThanTrivial(metric="f1", why="a benchmark"),),
)
"""


def table(rows: int, seed: int, day: date = FIRST) -> pd.DataFrame:
    """`rows` of one day: an id, 13 numbers of which 2 % are missing in half, 4 texts of 100 values, a time, a label."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame({"id": np.arange(rows, dtype="float64") + seed * 1e9})
    for i in range(NUMBERS - 1):
        frame[f"n{i}"] = draw.normal(i, 2, rows).round(2)
        if i % 2:
            frame.loc[i::50, f"n{i}"] = np.nan
    values = np.array([f"value {k}" for k in range(100)], object)
    for i in range(TEXTS):
        frame[f"c{i}"] = pd.Series(draw.choice(values, rows), dtype="str")
    frame["at"] = pd.Timestamp(day) + pd.to_timedelta(draw.integers(0, 86_400_000_000, rows), unit="us")
    return frame.assign(y=draw.random(rows))


def median(call: Callable[[], T], runs: int = RUNS) -> tuple[float, T]:
    """Seconds, and the last answer."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), answer


def show(what: str, ours: float, theirs: float, to_reach: str) -> None:
    print(f"| {what} | {theirs:.2f} s | {ours:.3f} s | {theirs / ours:.1f} | {to_reach} |", flush=True)


# Great Expectations


def rules() -> list[Rule]:
    """70 expectations of every type; a tenth of a per cent of rows breaks some."""
    found: list[Rule] = [UniqueKey(key=("id",)), UniqueKey(key=("id", "c0")), NotNull(column="at")]
    for i in range(NUMBERS - 1):
        name = f"n{i}"
        found += [
            NotNull(column=name),
            Between(column=name, minimum=-50, maximum=50),
            Between(column=name, maximum=i + 6),
        ]
    for i in range(TEXTS):
        values = tuple(f"value {k}" for k in range(100))
        found += [
            NotNull(column=f"c{i}"),
            InSet(column=f"c{i}", values=values),
            InSet(column=f"c{i}", values=values[:99]),
        ]
        found += [Matches(column=f"c{i}", pattern="^value [0-9]+$"), Matches(column=f"c{i}", pattern="[0-8]$")]
    found += [NotBelow(column=f"n{i + 1}", other=f"n{i}") for i in range(8)]
    return found


def stock(frame: pd.DataFrame, judged: list[Rule], result_format: str) -> list[Any]:
    """GX by its own metrics, as its documentation shows."""
    from great_expectations import ExpectationSuite, get_context

    context = get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    numbered = [{**to_gx(rule), "meta": {"position": position}} for position, rule in enumerate(judged)]
    results = batch.validate(ExpectationSuite("rules", expectations=numbered), result_format=result_format).results
    return sorted(results, key=lambda result: result.expectation_config.meta["position"])


def verdicts_row() -> None:
    frame, judged = table(1_000_000, 1), rules()
    batch = Batch(frame, {"day": slice(0, len(frame))}, {"day": 0}, {"day": ()}, {"day": {}})

    def scan() -> list[Any]:
        looked = Scan(batch)
        return [looked.fact(rule, looked.unexpected(rule)) for rule in judged]

    verdicts(scan())  # imports GX
    theirs, said = median(lambda: stock(frame, judged, "BOOLEAN_ONLY"))
    counted = [result.result["unexpected_count"] for result in stock(frame, judged, "BASIC")]
    scanned, facts = median(scan)
    ours, own = median(lambda: verdicts(scan()))
    assert [verdict.success for verdict in own] == [result.success for result in said]
    assert [verdict.unexpected for verdict in own] == counted == [fact.unexpected for fact in facts]
    what = f"1,000,000 x 19, {len(judged)} expectations"
    show(f"GX's verdicts against stock GX BOOLEAN_ONLY, {what}", ours, theirs, "5")
    show("the scan alone", scanned, theirs, "20")


# Arrays


def arrays_row() -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    use_case = replace(open_site("table").use_case, outlier_std=1e9, rare_below=1)
    use_case = replace(use_case, columns=tuple(replace(c, parts=()) for c in use_case.columns))
    frame = table(1_000_000, 2).assign(**{LABEL: 0.0})
    frame = frame.assign(n13=np.random.default_rng(0).normal(size=len(frame)))
    path = HOME / "rows.parquet"
    frame.to_parquet(path, index=False)
    numbers = [f"n{i}" for i in range(NUMBERS - 1)]
    texts = [f"c{i}" for i in range(TEXTS)]
    inputs = frame[numbers + texts]

    def fitted() -> tuple[Encoder, Any]:
        rows = read_table(path, Declared.of(use_case, use_case.source))
        encoder = fit_encoder(use_case, Statistics.of(use_case, rows))
        return encoder, encoder.transform(rows)

    def transformer(*impute_and_scale: Any) -> Any:
        ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        return ColumnTransformer([("numbers", make_pipeline(*impute_and_scale), numbers), ("texts", ordinal, texts)])

    median_first = transformer(SimpleImputer(strategy="median"), StandardScaler())
    same = transformer(
        StandardScaler(), SimpleImputer(strategy="constant", fill_value=0.0)
    )  # a missing one is the mean
    theirs, _ = median(lambda: median_first.fit_transform(inputs))
    theirs_same, expected = median(lambda: same.fit_transform(inputs))
    ours, (encoder, x) = median(fitted)
    plain = [place for place, feature in _number_places(encoder)]
    assert np.abs(x[:, plain] - expected[:, : len(numbers)]).max() < 1e-6 * np.abs(expected[:, : len(numbers)]).max()
    assert np.array_equal(x[:, encoder.number_width :] - FIRST_CODE, expected[:, len(numbers) :])
    show(
        "Parquet to arrays against ColumnTransformer(median, scale, ordinal).fit_transform in memory",
        ours,
        theirs,
        "10",
    )
    show("the same against the pipeline with equal answers (scale, mean, ordinal)", ours, theirs_same, "10")
    transformed, _ = median(lambda: encoder.transform(inputs))
    theirs, _ = median(lambda: median_first.transform(inputs))
    show("transform only", transformed, theirs, "6")


def _number_places(encoder: Encoder) -> Iterator[tuple[int, str]]:
    place = 0
    for feature in encoder.numbers:
        yield place, feature.column
        place += feature.width


# Days


def write_days(rows: int, days: range) -> None:
    folder = HOME / "data" / "table"
    folder.mkdir(parents=True, exist_ok=True)
    for number in days:
        day = FIRST + timedelta(days=number)
        path = folder / f"{day}.parquet"
        table(rows, number, day).to_parquet(path, index=False)
        os.utime(path, (time.time() - 3600,) * 2)


def forget() -> None:
    shutil.rmtree(HOME / "store", ignore_errors=True)
    shutil.rmtree(HOME / "cache", ignore_errors=True)


@contextmanager
def window(rows: int, days: int) -> Iterator[None]:
    """So many days of data and nothing kept of them."""
    write_days(rows, range(days))
    forget()
    yield
    forget()
    shutil.rmtree(HOME / "data")


def data_stages(days: int) -> tuple[Split, Statistics]:
    """All data stages of the night after so many days, as plain functions."""
    site = open_site("table")
    night = Night(
        use_case="table", as_of=FIRST + timedelta(days=days), seed=1, use_case_digest=site.training,
        code_digest=site.code, judging_digest=site.judging, instructions="0", device="cpu", threads=1,
    )  # fmt: skip
    snapshot = stages.take_snapshot.fn(night)
    checks = stages.validate_partitions.fn(night, snapshot)
    split = stages.split_rows.fn(night, stages.clean_partitions.fn(night, snapshot, checks))
    return split, from_json(Statistics, get_file(site.store, split.statistics))


def new_days(rows: int, days: int) -> tuple[float, tuple[Split, Statistics]]:
    """Median seconds of five nights, each with one more day than the one before."""
    seconds = []
    for number in range(days, days + RUNS):
        write_days(rows, range(number, number + 1))
        start = time.perf_counter()
        found = data_stages(number + 1)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), found


def same(a: tuple[Split, Statistics], b: tuple[Split, Statistics]) -> bool:
    return replace(a[0], work=b[0].work) == b[0] and a[1] == b[1]


def day_row(rows: int = 10_000) -> None:
    with window(rows, 365):
        data_stages(365)
        night, slid = new_days(rows, 365)
        seconds = []
        for _ in range(int(os.environ.get("REBUILDS", RUNS))):
            forget()
            start = time.perf_counter()
            scratch = data_stages(370)
            seconds.append(time.perf_counter() - start)
        assert same(slid, scratch)
        show(
            f"one new day with 365 kept, {rows:,} rows a day, against a full rebuild",
            night,
            statistics.median(seconds),
            "100",
        )


def days_row(rows: int = 200, new: int = 10_000, windows: tuple[int, int] = (365, 3650)) -> None:
    """The kept days are small, so that the table is built in minutes; the new ones are not."""
    found = {}
    for days in windows:
        with window(rows, days):
            data_stages(days)
            found[days], slid = new_days(new, days)
            forget()
            assert same(slid, data_stages(days + RUNS))
    few, many = windows
    show(
        f"one new day with {few} days kept against {many:,} (the ratio is at most 1.2)", found[few], found[many], "1.2"
    )


def dates_row(rows: int = 2_000, dates: int = int(os.environ.get("DATES", "365"))) -> None:
    """The slow side would take hours: so many of its dates are run, evenly spaced, and their mean stands for all."""
    every, sampled = range(45, 45 + dates), int(os.environ.get("SAMPLE", "5"))
    with window(rows, every[-1]):
        start = time.perf_counter()
        kept = [data_stages(days) for days in every]
        ours = time.perf_counter() - start
        forget()
        start = time.perf_counter()
        data_stages(every[-1])
        once = time.perf_counter() - start
        seconds = []
        for number in range(dates // sampled // 2, dates, dates // sampled):
            forget()
            start = time.perf_counter()
            scratch = data_stages(every[number])
            seconds.append(time.perf_counter() - start)
            assert same(kept[number], scratch)
    theirs = statistics.mean(seconds) * dates
    show(f"{dates} dates against one run a date without kept states, {len(seconds)} of them run", ours, theirs, "50")
    show(f"{dates} dates against one pass of the last (our seconds in the pass's: at most 1.3)", once, ours, "1.3")


def memory_row() -> None:
    """Peak resident memory of a process that runs the data stages."""
    peaks = {}
    for days in (50, 500):
        with window(20_000, days):
            done = subprocess.run(
                [sys.executable, __file__, "peak", str(days), str(HOME)], check=True, capture_output=True, text=True
            )
            peaks[days] = json.loads(done.stdout.splitlines()[-1])
    print(f"| peak memory, 10,000,000 rows against 1,000,000 | {peaks[500]:,.0f} MB | {peaks[50]:,.0f} MB | "
          f"{peaks[500] / peaks[50]:.2f} | at most 2 |", flush=True)  # fmt: skip


def peak(days: int, home: Path) -> None:
    global HOME
    HOME = home
    os.environ |= {"RETRAIN_HOME": str(home), "RETRAIN_PROJECT": str(home / "project")}
    data_stages(days)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


ROWS = {
    "verdicts": verdicts_row,
    "arrays": arrays_row,
    "day": day_row,
    "days": days_row,
    "dates": dates_row,
    "memory": memory_row,
}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    own = HOME  # `peak` works in its parent's
    try:
        (HOME / "project" / "use_cases" / "table.py").write_text(USE_CASE)
        if sys.argv[1:2] == ["peak"]:
            peak(int(sys.argv[2]), Path(sys.argv[3]))
            return
        print("| what | other side | ours | ratio | to reach |\n| --- | ---: | ---: | ---: | ---: |", flush=True)
        for name in sys.argv[1:] or ROWS:
            ROWS[name]()
    finally:
        shutil.rmtree(own, ignore_errors=True)


if __name__ == "__main__":
    main()
