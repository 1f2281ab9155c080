"""Two tiny use cases with generated rows: `tills` by day and `parcels` in one file; and models fitted to the second."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml import BetterThanTrivial, Source, Target, UseCase
from ml.data.cleaning import LABEL, ROW_NUMBER, clean
from ml.data.statistics import Statistics
from ml.models.handles import Step
from ml.models.networks.estimators import NetworkClassifier, NetworkEstimator, NetworkRegressor
from ml.models.protocol import Fitted, Job, Rows
from ml.models.training import package
from ml.pipeline.site import Site
from ml.serving.columns import Column, conform
from ml.serving.model import PackagedModel
from ml.serving.output import TaskKind
from ml.settings import Settings
from ml.storage.records import Night

FIRST_DAY = date(2024, 1, 1)
FOLDER = Path(tempfile.mkdtemp(prefix="tiny"))  # of fitted models, until the process ends
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
KINDS: tuple[TaskKind, ...] = ("binary", "multiclass", "regression")
TARGETS: dict[TaskKind, Target] = {
    "binary": Target(column="outcome", positive="late", classes=("in time", "late")),
    "multiclass": Target(column="pace", kind="multiclass", classes=("slow", "usual", "quick")),
    "regression": Target(column="price", kind="regression", log=True, unit="dollars"),
}


def night(**changes: Any) -> Night:
    digests = ("use_case_digest", "code_digest", "judging_digest", "instructions")
    fields: dict[str, Any] = dict.fromkeys(digests, "0" * 64)
    fields |= {"use_case": "parcels", "as_of": date(2024, 3, 1), "seed": 1, "device": "cpu", "threads": 1}
    return Night(**{**fields, **changes})


def night_of(site: Site, as_of: date) -> Night:
    """The night of this site's use case as it is now."""
    digests = {"use_case_digest": site.training, "code_digest": site.code, "judging_digest": site.judging}
    return night(use_case=site.use_case.name, as_of=as_of, **digests)


def site(folder: Path) -> Settings:
    """A home below `folder`, of which nothing is there yet."""
    return Settings(home=folder, store=str(folder / "store"), tracking_uri="sqlite://", project=None, threads=1)


def tills(**changes: Any) -> UseCase:
    """Is a sale returned? A file a day."""
    fields: dict[str, Any] = {
        "name": "tills",
        "question": "Will the sale be returned?",
        "source": Source(folder="tills"),
        "time_column": "at",
        "key": ("sale",),
        "columns": (
            Column(name="sale", type="integer", feature=False),
            Column(name="at", type="timestamp", parts=("hour",)),
            Column(name="amount", minimum=0, maximum=1000),
            Column(name="items", type="integer", nullable=True),
            Column(name="shop", type="text"),
            Column(name="returned_after", nullable=True, feature=False),
        ),
        "target": Target(column="returned_after", above=0, classes=("kept", "returned")),
        "model": NetworkClassifier(hidden=(), batch_size=64, epochs=2),
        "metric": "f1",
        "gates": (BetterThanTrivial(metric="f1", why="a test"),),
        "window_days": 30,
        "test_days": 5,
        "validation_days": 3,
        "rare_below": 1,
    }
    return UseCase(**{**fields, **changes})


def sales(day: date, rows: int = 30) -> pd.DataFrame:
    """A day's rows; every fifteenth has no label."""
    generator = np.random.default_rng(day.toordinal())
    items = generator.integers(1, 5, rows).astype("float64")
    items[::7] = np.nan
    returned = (generator.random(rows) < 0.4).astype("float64")
    returned[::15] = np.nan
    return pd.DataFrame(
        {
            "sale": np.arange(rows) + day.toordinal() * 1000,
            "at": pd.Timestamp(day) + pd.to_timedelta(generator.integers(0, 86_400, rows), unit="s"),
            "amount": generator.gamma(2.0, 10.0, rows),
            "items": items,
            "shop": pd.Series(generator.choice(["north", "south", "007"], rows), dtype="str"),
            "returned_after": returned,
        }
    )


def write_sales(folder: Path, days: int, write: Callable[[pd.DataFrame, Path], None] | None = None) -> None:
    """`days` files from FIRST_DAY on, Parquet if `write` does not say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    for day in (FIRST_DAY + timedelta(days=n) for n in range(days)):
        (write or to_parquet)(sales(day), folder / str(day))


def to_parquet(rows: pd.DataFrame, path: Path) -> None:
    rows.to_parquet(path.with_name(f"{path.name}.parquet"), index=False)


def to_csv(rows: pd.DataFrame, path: Path) -> None:
    rows.to_csv(path.with_name(f"{path.name}.csv"), index=False)


def to_csv_gz(rows: pd.DataFrame, path: Path) -> None:
    rows.to_csv(path.with_name(f"{path.name}.csv.gz"), index=False)


def parcels(kind: TaskKind = "binary", **changes: Any) -> UseCase:
    """When does a parcel arrive, and what does it cost? One file; `kind` says which of its targets is learnt."""
    estimator: NetworkEstimator = NetworkRegressor() if kind == "regression" else NetworkClassifier()
    fields: dict[str, Any] = {
        "name": "parcels",
        "question": "When will it arrive?",
        "source": Source(folder="parcels"),
        "key": ("parcel",),
        "columns": (
            Column(name="parcel", type="integer", feature=False),
            Column(name="weight", minimum=0, maximum=30, unit="kg"),
            Column(name="distance", nullable=True, minimum=0, unit="km"),
            Column(name="carrier", type="text", nullable=True),
            Column(name="zone", type="integer", category=True),
            Column(name="outcome", type="text", values=("in time", "late"), feature=False),
            Column(name="pace", type="text", feature=False),
            Column(name="price", minimum=0.01, feature=False, unit="dollars"),
        ),
        "target": TARGETS[kind],
        "model": estimator.set_params(hidden=(8,), epochs=3, batch_size=64, learning_rate=0.02),
        "metric": "rmse" if kind == "regression" else "f1",
    }
    fields["gates"] = (BetterThanTrivial(metric=changes.get("metric", fields["metric"]), why="a test"),)
    return UseCase(**{**fields, **changes})


def parcel_rows(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    weight, distance = generator.uniform(0.1, 20, rows), generator.uniform(1, 1000, rows)
    carrier = generator.choice(np.array(["ant", "bee", "cat", None], object), rows)
    delay = weight / 20 + distance / 1000 + 0.5 * (carrier == "cat") + generator.normal(0, 0.2, rows)
    return pd.DataFrame(
        {
            "parcel": np.arange(rows),
            "weight": weight,
            "distance": np.where(generator.random(rows) < 0.1, np.nan, distance),
            "carrier": pd.Series(carrier, dtype="str"),
            "zone": generator.integers(1, 4, rows),
            "outcome": pd.Series(np.where(delay > 1.2, "late", "in time"), dtype="str"),
            "pace": pd.Series(np.select([delay > 1.3, delay > 0.9], ["slow", "usual"], "quick"), dtype="str"),
            "price": np.exp(1 + weight / 10 + generator.normal(0, 0.1, rows)),
        }
    )


def cleaned(use_case: UseCase, rows: pd.DataFrame) -> pd.DataFrame:
    """Cleaned rows as a night has them: typed and labelled."""
    return clean(use_case, conform(rows, use_case.columns)).drop(columns=ROW_NUMBER)


class Memory:
    """A diary: the steps that were told, and the last checkpoint."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.checkpoint: bytes | None = None

    def step(self, step: Step, total: int) -> None:
        self.steps.append(step)

    def load(self) -> bytes | None:
        return self.checkpoint

    def save(self, checkpoint: bytes) -> None:
        self.checkpoint = checkpoint


def rows_of(*frames: pd.DataFrame) -> Rows:
    return Rows(lambda: iter(frames))


def job(use_case: UseCase, folder: Path, train: pd.DataFrame, validation: pd.DataFrame | None, **changes: Any) -> Job:
    """One fit on cleaned rows, which writes into the new folder."""
    folder.mkdir(parents=True)
    fields: dict[str, Any] = {
        "folder": folder,
        "table": use_case,
        "statistics": Statistics.of(use_case, train),
        "train": rows_of(train),
        "validation": None if validation is None else rows_of(validation),
        "seed": 1,
        "device": "cpu",
        "threads": 1,
        "diary": Memory(),
        "weight": use_case.weight,
    }
    return Job(**{**fields, **changes})


def fit(
    use_case: UseCase, folder: Path, train: pd.DataFrame, validation: pd.DataFrame, seed: int = 1
) -> tuple[Fitted, PackagedModel]:
    """What a night's stages make of cleaned rows; the files of the fitted model lie in the new folder."""
    fitted = use_case.model.fit_rows(job(use_case, folder, train, validation, seed=seed))
    return fitted, package(use_case, use_case.column_rules, folder, 1, validation)


def learnt(kind: TaskKind = "binary", folder: Path | None = None, **changes: Any) -> tuple[Fitted, PackagedModel]:
    """A fit of parcels on 400 rows, with 200 for validation, and the model of it."""
    use_case = parcels(kind, **changes)
    train, validation = (cleaned(use_case, parcel_rows(rows, seed)) for rows, seed in ((400, 0), (200, 1)))
    place = Path(tempfile.mkdtemp(dir=FOLDER)) / "fitted" if folder is None else folder
    return fit(use_case, place, train, validation)


@cache
def packaged(kind: TaskKind = "binary") -> PackagedModel:
    return learnt(kind)[1]


def raw_parcels(rows: int = 400, seed: int = 2) -> pd.DataFrame:
    """Raw rows as a caller of the model sends them."""
    return parcel_rows(rows, seed)[["weight", "distance", "carrier", "zone"]]


def labels_of(frame: pd.DataFrame) -> np.ndarray:
    return frame[LABEL].to_numpy(np.float64)
