"""SIGKILL anywhere: whatever dies, whenever, the next run finishes the job and ends where an undisturbed one does."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.doctor import found_in
from ml.ledger import Ledger
from ml.registry import CHAMPION, REFERENCE, Registry
from ml.settings import Settings
from ml.store import open_store
from tests.story import Shop
from tests.tally import tally

pytestmark = pytest.mark.slow
RANDOM_KILLS = int(os.environ.get("RANDOM_KILLS", "200"))
KILLS_A_HOME = 5
RESUMED = "the same command again finishes it: same scores, same bytes, one version"
REQUEST = {"use_case": "shop", "as_of": "2024-03-15"}
VARYING = {"mlflow_run", "seconds", "reused", "computed"}  # of a night's document: what a resumed one may say otherwise


@dataclass
class Zygote:
    process: "subprocess.Popen[str]"
    points: list[str]

    def night(self, home: Path, *, point: str | None = None, after: float | None = None) -> dict[str, Any]:
        environment = {
            "RETRAIN_HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "RETRAIN_PROJECT": os.environ["RETRAIN_PROJECT"],
        }
        order = {
            "environment": environment,
            "request": REQUEST,
            "point": point,
            "after": after,
            "log": str(home / "log"),
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**order, "log": str(home / "log")}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def zygote(prefect: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    folder = tmp_path_factory.mktemp("zygote")
    own = {"PREFECT_API_URL": prefect, "RETRAIN_HOME": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    with (folder / "log").open("w") as errors, subprocess.Popen(
        [sys.executable, "-m", "tests.zygote"], env={**os.environ, **own}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield Zygote(process, json.loads(process.stdout.readline()))
        process.kill()


@dataclass
class Homes:
    """Fresh homes with the same shop."""

    template: Path
    folder: Path
    made: int = 0

    def fresh(self) -> Path:
        self.made += 1
        home = self.folder / f"home-{self.made}"
        shutil.copytree(self.template, home)
        (home / "tmp").mkdir(exist_ok=True)
        return home


@pytest.fixture
def homes(shop: Shop, tmp_path: Path) -> Homes:
    return Homes(shop.settings.home, tmp_path)


def end_state(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything that a run leaves for others: the ledger, the versions, the aliases, every byte of the model."""
    monkeypatch.setenv("RETRAIN_HOME", str(home))
    settings = Settings.from_environment()
    ledger, registry = Ledger(open_store(settings.store), "shop"), Registry(settings, "shop")
    (entry,) = ledger.nights()
    assert entry.candidate is not None
    return {
        "result": {name: value for name, value in entry.result.items() if name not in VARYING},
        "run_key": entry.run_key,
        "versions": [version.number for version in registry.versions()],
        "aliases": (registry.alias(CHAMPION), registry.alias(REFERENCE)),
        "model": [(Path(file.key).name, file.digest) for file in entry.candidate.files],
        "published": ledger.is_published(entry),
    }


def count(fault: str, happens: str, home: Path, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """One home in the table of faults: one decision and one version are wanted of it."""
    monkeypatch.setenv("RETRAIN_HOME", str(home))
    settings = Settings.from_environment()
    entries = len(Ledger(open_store(settings.store), "shop").nights())
    tally(fault, happens, wanted=1, entries=entries, versions=len(Registry(settings, "shop").versions()), times=times)


def left_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the doctor still finds after mending."""
    monkeypatch.setenv("RETRAIN_HOME", str(home))
    for path in home.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)  # a killed writer's remains are looked at after an hour
    settings = Settings.from_environment()
    found_in(settings, ["shop"], mend=True)
    return [row["seen"] for row in found_in(settings, ["shop"], mend=False) if row["state"] in {"wrong", "unknown"}]


def finished(zygote: Zygote, home: Path) -> float:
    done = zygote.night(home)
    assert done["code"] == 0, (home / "log").read_text()[-3000:]
    return float(done["seconds"])


@pytest.fixture
def undisturbed(zygote: Zygote, homes: Homes, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], float]:
    """The end of a run that nobody disturbs, and its seconds."""
    home = homes.fresh()
    seconds = finished(zygote, home)
    return end_state(home, monkeypatch), seconds


def test_a_kill_at_each_named_point_changes_nothing(
    zygote: Zygote, homes: Homes, undisturbed: tuple[dict[str, Any], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(zygote.points) >= 25
    survived, different = [], []
    for point in zygote.points:
        home = homes.fresh()
        if zygote.night(home, point=point)["signal"] != 9:
            survived.append(point)
        finished(zygote, home)
        count("SIGKILL at a named point", RESUMED, home, monkeypatch)
        if end_state(home, monkeypatch) != undisturbed[0] or left_over(home, monkeypatch):
            different.append(point)
        shutil.rmtree(home)
    assert different == []
    assert survived == [], "points that were never reached"


def test_kills_at_random_moments_change_nothing(
    zygote: Zygote, homes: Homes, undisturbed: tuple[dict[str, Any], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several in one home, one after the other, before a run is left in peace."""
    state, seconds = undisturbed
    generator = random.Random(0)
    kills = 0
    while kills < RANDOM_KILLS:
        home = homes.fresh()
        landed = sum(
            zygote.night(home, after=generator.uniform(0.05, seconds))["signal"] == 9 for _ in range(KILLS_A_HOME)
        )
        finished(zygote, home)
        count("SIGKILL at a random moment", RESUMED, home, monkeypatch, times=landed)
        kills += landed
        assert end_state(home, monkeypatch) == state, home
        assert left_over(home, monkeypatch) == [], home
        shutil.rmtree(home)
