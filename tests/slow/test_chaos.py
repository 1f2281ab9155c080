"""SIGKILL anywhere: whatever dies, whenever, the next run finishes the job and ends where an undisturbed one does."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ml.settings import Settings
from ml.use_case.demo import write_demo_data
from ml.use_case.loading import load_use_case
from tests.chaos import count, end_state, left_over, settings_of
from tests.data.test_data import edit_use_case
from tests.story import Shop

pytestmark = pytest.mark.slow
RANDOM_KILLS = int(os.environ.get("RANDOM_KILLS", "200"))
POINTS = os.environ.get("KILL_POINTS", "")  # only points with these words; "" for all
KILLS_A_HOME = 5
NAMED, RANDOM = "SIGKILL at a named point", "SIGKILL at a random moment"
RESUMED = "the same command again finishes it: same scores, same bytes, one version"
# In the order of a night: each run is killed at the next one, resuming what the one before has left.
POINTS_OF_FLIGHTS = (
    "clean partitions: end", "split rows: end", "epoch 1", "epoch 4", "train candidate: end", "upload: file 5",
    "verify candidate: end", "register: model made", "register: version made", "evaluate models: end",
    "ledger: before the link", "ledger: after the link", "alias: after the first", "alias: after the second",
    "publish report: end",
)  # fmt: skip
# The same from the gates on: what came before is kept, so the second epoch is the refit's, and so is the fifth file.
POINTS_OF_REFIT = (
    "judge gates: end", "refit candidate: start", "epoch 2", "refit: fitted, and not compared", "refit candidate: end",
    "upload refit: start", "upload: file 5", "upload refit: end", "verify refit: start", "verify refit: end",
    "register refit: start", "register: version made", "register refit: end", "ledger: before the link",
    "ledger: after the link", "alias: after the first", "publish report: end",
)  # fmt: skip


@dataclass
class Zygote:
    process: "subprocess.Popen[str]"
    points: list[str]

    def night(self, case: "Case", home: Path, **when: Any) -> dict[str, Any]:
        environment = {
            "RETRAIN_HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "RETRAIN_PROJECT": str(case.project or ""),
        }
        order = {
            "environment": environment,
            "request": {"use_case": case.use_case, "as_of": case.as_of},
            "log": str(home / "log"),
            **when,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
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
class Case:
    """A night of a use case, in fresh homes that hold the same data."""

    zygote: Zygote
    use_case: str
    as_of: str
    project: Path | None
    template: Path
    folder: Path
    made: int = 0

    def fresh(self) -> Path:
        self.made += 1
        home = self.folder / f"home-{self.made}"
        shutil.copytree(self.template, home)
        (home / "tmp").mkdir(exist_ok=True)
        return home

    def killed(self, home: Path, **when: Any) -> bool:
        """Whether the kill met the night; a night that was over before it must have ended well."""
        done = self.zygote.night(self, home, **when)
        assert done["signal"] == 9 or done["code"] == 0, (home / "log").read_text()[-3000:]
        return bool(done["signal"] == 9)

    def finish(self, home: Path) -> float:
        """The night in peace; its seconds."""
        done = self.zygote.night(self, home)
        assert done["code"] == 0, (home / "log").read_text()[-3000:]
        return float(done["seconds"])

    def undisturbed(self) -> tuple[dict[str, Any], float]:
        """The end of a night that nobody disturbs, and its seconds."""
        home = self.fresh()
        seconds = self.finish(home)
        return self.end(home), seconds

    def end(self, home: Path) -> dict[str, Any]:
        return end_state(settings_of(home, self.project), self.use_case)

    def left_over(self, home: Path) -> list[str]:
        return left_over(settings_of(home, self.project), self.use_case)

    def count(self, fault: str, home: Path, times: int) -> None:
        count(fault, RESUMED, settings_of(home, self.project), self.use_case, times)


@pytest.fixture
def shop_nights(zygote: Zygote, shop: Shop, tmp_path: Path) -> Case:
    edit_use_case(shop, '    refit="never",\n', "")
    return Case(zygote, "shop", "2024-03-15", shop.settings.project, shop.settings.home, tmp_path)


@pytest.fixture
def flights_nights(zygote: Zygote, empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    home = tmp_path / "template"
    home.mkdir()
    monkeypatch.setenv("RETRAIN_HOME", str(home))
    write_demo_data(Settings.from_environment(), load_use_case("flights", None))
    shutil.copy(empty_mlflow, home / "mlflow.db")
    return Case(zygote, "flights", "2013-10-01", None, home, tmp_path)


def test_a_kill_at_each_named_point_changes_nothing(shop_nights: Case) -> None:
    assert len(shop_nights.zygote.points) >= 25
    undisturbed, _ = shop_nights.undisturbed()
    survived, different = [], []
    for point in (point for point in shop_nights.zygote.points if POINTS in point):
        home = shop_nights.fresh()
        if not shop_nights.killed(home, point=point):
            survived.append(point)
        shop_nights.finish(home)
        shop_nights.count(NAMED, home, 1)
        if shop_nights.end(home) != undisturbed or shop_nights.left_over(home):
            different.append(point)
        shutil.rmtree(home)
    assert different == []
    assert survived == [], "points that were never reached"


def test_kills_at_random_moments_change_nothing(shop_nights: Case) -> None:
    random_kills(shop_nights, RANDOM_KILLS)


def test_a_refit_killed_again_and_again_ends_as_in_peace(shop_nights: Case) -> None:
    """One night, killed before, in and after each stage of its refit."""
    killed_point_by_point(shop_nights, POINTS_OF_REFIT, ", a refit")


def test_flights_killed_again_and_again_end_as_in_peace(flights_nights: Case) -> None:
    """One night, killed at one point after the other; then another at random moments."""
    killed_point_by_point(flights_nights, POINTS_OF_FLIGHTS, ", flights")


def killed_point_by_point(nights: Case, points: Sequence[str], what: str) -> None:
    """Kills one night at one point after the other, and compares its end with that of an undisturbed one."""
    undisturbed, _ = nights.undisturbed()
    home = nights.fresh()
    survived = [point for point in points if not nights.killed(home, point=point)]
    nights.finish(home)
    nights.count(f"{NAMED}{what}", home, len(points) - len(survived))
    assert nights.end(home) == undisturbed
    assert nights.left_over(home) == []
    assert survived == [], "points that were never reached"


def test_flights_killed_at_random_moments_end_as_in_peace(flights_nights: Case) -> None:
    random_kills(flights_nights, KILLS_A_HOME, ", flights")


def random_kills(case: Case, wanted: int, which: str = "") -> None:
    """Several in one home, one after the other, before a run is left in peace."""
    undisturbed, seconds = case.undisturbed()
    generator = random.Random(0)
    kills = 0
    while kills < wanted:
        home = case.fresh()
        landed, left = 0, seconds
        for _ in range(KILLS_A_HOME):  # within what is left of the night, so that most of them land
            after = generator.uniform(0.05, max(left, 0.5))
            landed += case.killed(home, after=after)
            left -= after
        case.finish(home)
        case.count(f"{RANDOM}{which}", home, landed)
        kills += landed
        assert case.end(home) == undisturbed, home
        assert case.left_over(home) == [], home
        shutil.rmtree(home)
