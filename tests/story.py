"""What story tests share: a home with a small dated use case of its own, and nights run in it on the real servers."""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml.settings import Settings
from ml.storage.ledger import Ledger, NightEntry
from ml.storage.store import open_store

FIRST_DAY = date(2024, 1, 1)
DAYS = 80
ROWS_A_DAY = 60

SHOP = '''
"""Will the basket be paid late? Generated rows of a shop, for the tests."""

from datetime import date

from ml import (
    BetterThanTrivial,
    Column,
    MinMetric,
    NotWorseThanChampion,
    NotWorseThanReference,
    Source,
    Target,
    UseCase,
    logistic_regression,
)

USE_CASE = UseCase(
    name="shop",
    question="Will the basket be paid late?",
    source=Source(folder="shop"),
    time_column="bought_at",
    key=("basket",),
    columns=(
        Column(name="basket", type="integer", minimum=0, feature=False),
        Column(name="bought_at", type="timestamp", parts=("hour",)),
        Column(name="amount", minimum=0, unit="dollars"),
        Column(name="reminders", type="integer", nullable=True, minimum=0, maximum=50),
        Column(name="country", type="text", values=("DE", "FR", "US")),
        Column(name="days_to_pay", nullable=True, minimum=0, feature=False),
    ),
    target=Target(column="days_to_pay", above=30, classes=("in time", "late")),
    model=logistic_regression(batch_size=256, learning_rate=0.05, epochs=4),
    metric="f1",
    gates=(
        MinMetric(metric="f1", floor=0.5, why="half of it is noise"),
        BetterThanTrivial(metric="f1", why="calling all late needs no model"),
        NotWorseThanChampion(metric="f1", max_drop=0.05, why="the noise of a retraining"),
        NotWorseThanReference(metric="f1", max_drop=0.1, why="twice that"),
    ),
    refit="never",
    max_quarantined_fraction=0.2,
    min_rows=10,
    schedule="0 3 * * *",
    replay_from=date(2024, 3, 1),
)
'''


def shop_day(day: date) -> pd.DataFrame:
    """One day's rows: late payment follows reminders and amount, with noise."""
    generator = np.random.default_rng(day.toordinal())
    n = ROWS_A_DAY
    amount = generator.gamma(2.0, 50.0, n)
    reminders = generator.poisson(1.0, n).astype("float64")
    late = reminders + amount / 150 + generator.normal(0, 0.7, n) > 2.2
    reminders[generator.random(n) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "basket": np.arange(n) + day.toordinal() * 1000,
            "bought_at": pd.Timestamp(day) + pd.to_timedelta(generator.integers(0, 86_400, n), unit="s"),
            "amount": amount,
            "reminders": reminders,
            "country": pd.Series(generator.choice(["DE", "FR", "US"], n), dtype="str"),
            "days_to_pay": np.where(late, 45.0, 12.0),
        }
    )


@cache
def days_of_the_shop() -> Path:
    """A folder with all days' files: to write them takes 0.3 s, to copy them nearly nothing."""
    folder = Path(tempfile.mkdtemp(prefix="shop"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for day in (FIRST_DAY + timedelta(days=number) for number in range(DAYS)):
        shop_day(day).to_parquet(folder / f"{day}.parquet")
    return folder


@dataclass
class Shop:
    """A project folder with the use case `shop`, its data, and the ledger of its nights."""

    settings: Settings

    def file(self, day: str) -> Path:
        return self.settings.data / "shop" / f"{day}.parquet"

    def rewrite(self, day: str, **columns: Any) -> None:
        """The day's file with some columns changed; None drops one."""
        rows = pd.read_parquet(self.file(day))
        for name, value in columns.items():
            rows = rows.drop(columns=name) if value is None else rows.assign(**{name: value})
        rows.to_parquet(self.file(day))

    def night(self, as_of: str | None = "2024-03-15", **request: Any) -> dict[str, Any]:
        """Runs a night in this process; the flow's result."""
        from deployments.prefect.night import run_here

        return run_here({"use_case": "shop", "as_of": as_of, **request})

    def document(self, as_of: str | None = "2024-03-15", **request: Any) -> dict[str, Any]:
        """Runs a night; what `--json` prints."""
        done = self.night(as_of, **request)
        entry = self.ledger.entry(done["entry"])
        assert isinstance(entry, NightEntry)
        return {**entry.result, "replayed": done["replayed"]}

    @property
    def ledger(self) -> Ledger:
        return Ledger(open_store(self.settings.store), "shop")

    def entries(self) -> list[NightEntry]:
        return self.ledger.nights()


def undated(shop: Shop) -> None:
    """Makes the shop's use case one without time: all rows are in one file, and no night brings new ones."""
    assert shop.settings.project is not None
    file = shop.settings.project / "use_cases" / "shop.py"
    dated = file.read_text()
    file.write_text(dated.replace('    time_column="bought_at",\n', "").replace("replay_from=date(2024, 3, 1),", ""))
    days = sorted(shop.settings.data.glob("shop/*.parquet"))
    rows = pd.concat([pd.read_parquet(path) for path in days])
    for path in days:
        path.unlink()
    rows.to_parquet(shop.settings.data / "shop" / "all.parquet")


def open_shop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A fresh home and project below `folder`, named by the environment for the time of the test."""
    home, project = folder / "home", folder / "project"
    (project / "use_cases").mkdir(parents=True)
    (project / "use_cases" / "shop.py").write_text(SHOP, encoding="utf-8")
    shutil.copytree(days_of_the_shop(), home / "data" / "shop")
    monkeypatch.setenv("RETRAIN_HOME", str(home))
    monkeypatch.setenv("RETRAIN_PROJECT", str(project))
    return Shop(Settings.from_environment())
