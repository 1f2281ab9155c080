"""Two runs at once, on machines that share files and registry: one version a run key, decisions in a row."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ml.storage.registry import CHAMPION, Registry
from tests.chaos import Run, start_night
from tests.story import Shop
from tests.tally import tally

pytestmark = pytest.mark.slow
Machine = Callable[..., "Run"]


@pytest.fixture
def machine(shop: Shop, prefect: str, tmp_path: Path) -> Machine:
    """Starts the night on a machine of its own: another home and another lock, the same store and MLflow."""

    def start(name: str, *words: str) -> Run:
        home = tmp_path / name
        shutil.copytree(shop.settings.data, home / "data")
        shared = {"RETRAIN_STORE": shop.settings.store, "MLFLOW_TRACKING_URI": shop.settings.tracking_uri}
        own = {"RETRAIN_HOME": str(home), "PREFECT_API_URL": prefect}
        return start_night("shop", "2024-03-15", {**shared, **own}, *words)

    return start


def versions(shop: Shop) -> list[int]:
    return [version.number for version in Registry(shop.settings, "shop").versions()]


def count(fault: str, happens: str, shop: Shop, wanted: int) -> None:
    tally(fault, happens, wanted=wanted, entries=len(shop.entries()), versions=len(versions(shop)))


def test_the_same_night_on_two_machines_is_one_version_and_one_decision(shop: Shop, machine: Machine) -> None:
    documents = [run.document() for run in (machine("left"), machine("right"))]
    count("the same night on two machines", "one version and one decision", shop, wanted=1)
    assert documents[0]["run_key"] == documents[1]["run_key"]
    assert {(each["decision"], each["version"]) for each in documents} == {("FIRST", documents[0]["version"])}
    assert len(versions(shop)) == len(shop.entries()) == 1
    assert Registry(shop.settings, "shop").alias(CHAMPION) == versions(shop)[0]


def test_two_candidates_are_judged_one_after_the_other(shop: Shop, machine: Machine) -> None:
    runs = [machine("left", "--seed", "1"), machine("right", "--seed", "2")]
    for run in runs:
        run.document()
    count("two candidates at once", "the second is judged against the first", shop, wanted=2)
    first, second = shop.entries()
    assert (first.decision, first.judged_against, second.judged_against) == ("FIRST", 0, 1)
    assert second.result["scores"]["champion"] is not None, "the loser was evaluated again, against the new head"
    assert len(versions(shop)) == 2


@pytest.mark.parametrize("words", ["Uploaded", "Evaluated", "Judged"])
def test_a_run_that_is_stopped_overtaken_and_resumed_looks_at_the_new_head(
    shop: Shop, machine: Machine, words: str
) -> None:
    stopped = machine("stopped", "--seed", "1")
    stopped.said(words)
    stopped.process.send_signal(signal.SIGSTOP)
    overtaking = machine("overtaking", "--seed", "2").document()
    stopped.process.send_signal(signal.SIGCONT)
    late = stopped.document()
    count("SIGSTOP, overtaken, SIGCONT", "it looks at the new head and evaluates again", shop, wanted=2)
    first, second = shop.entries()
    assert (first.decision, overtaking["version"]) == ("FIRST", first.champion and first.champion.version)
    assert (second.run_key, second.judged_against) == (late["run_key"], 1)
    assert late["decision"] in {"PROMOTE", "KEEP"}
    assert sorted(versions(shop)) == sorted([overtaking["version"], late["version"]])


def test_the_same_run_stopped_and_overtaken_by_its_twin_records_nothing_twice(shop: Shop, machine: Machine) -> None:
    stopped = machine("stopped")
    stopped.said("Judged")
    stopped.process.send_signal(signal.SIGSTOP)
    twin = machine("twin").document()
    stopped.process.send_signal(signal.SIGCONT)
    late = stopped.document()
    count("SIGSTOP, overtaken by its twin, SIGCONT", "it takes the twin's decision", shop, wanted=1)
    assert (late["version"], late["decision"]) == (twin["version"], "FIRST")
    assert len(versions(shop)) == len(shop.entries()) == 1
