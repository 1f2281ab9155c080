"""What orchestration and tracking cost: `python benchmarks/tax.py [ROW ...]` prints a table of all rows or some.

Medians of five, both sides of a row in turns in one run, equal answers asserted. Rows: flow (a night of breast_cancer
whose stages are all kept, with a running server, against the same functions called plainly), process (a night with
nothing new while `retrain up` runs, and --help), tracking (all that is said of a run, against a call each).
"""

import json
import logging
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from deployments.environment import prepare_environment
from deployments.prefect.announcement import running_servers
from deployments.prefect.servers import free_port, prefect_server
from ml.settings import Settings
from ml.storage import paths
from ml.storage.ledger import Ledger
from ml.storage.registry import Registry
from ml.storage.store import Store, open_store, put_file

RUNS, EPOCHS, METRICS, PARAMS, PLOTS = 5, 100, 10, 50, 4
COMMAND = [sys.executable, "-m", "deployments.cli"]
REQUEST = {"use_case": "breast_cancer", "as_of": "2024-01-01"}
T = TypeVar("T")


def seconds(what: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = what()
    return time.perf_counter() - start, result


def medians(measured: list[tuple[float, float]]) -> tuple[float, float]:
    """Of wall seconds and of processor seconds, which other work beside does not stretch as much."""
    walls, owns = zip(*measured, strict=True)
    return statistics.median(walls), statistics.median(owns)


def row(what: str, *cells: str) -> None:
    print(f"| {what} | {' | '.join(cells)} |", flush=True)


@contextmanager
def home() -> Iterator[Settings]:
    """A fresh home with the first night of breast_cancer, of this process and its children."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RETRAIN_HOME"] = folder
        settings = Settings.from_environment()
        prepare_environment(settings)
        yield settings


def nothing(*_: Any, **__: Any) -> Any:
    """Stands for what only speaks to Prefect."""
    return []


def first_night() -> None:
    command = [*COMMAND, "run", *REQUEST.values(), "--json", "--quiet"]
    command.insert(-3, "--as-of")
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["decision"] == "FIRST"


def flow_row(settings: Settings) -> None:
    first_night()
    from prefect import Task

    import flows.retrain
    from deployments.prefect.night import _api, run_here

    ledger = Ledger(open_store(settings.store), "breast_cancer")
    stages = {name: stage.fn for name, stage in vars(flows.retrain).items() if isinstance(stage, Task)}
    quiet = dict.fromkeys(("name_flow_run", "publish_work", "begin_flow_run", "show_ending"), nothing)
    plainly: Any = {**stages, **quiet}

    def unpublished() -> None:
        """So that every stage is asked, finds what it kept, and the report is published again."""
        assert ledger.store.get(paths.published("breast_cancer", 1)) is not None
        ledger.store.delete(paths.published("breast_cancer", 1))

    def plain() -> dict[str, Any]:
        with patch.multiple(flows.retrain, **plainly):
            state = flows.retrain.retrain.fn(flows.retrain.RetrainRequest.model_validate(REQUEST))
        data: Any = state.data
        return data

    with prefect_server(settings) as api, _api(api):
        ours: list[tuple[float, float]] = []
        theirs: list[tuple[float, float]] = []
        for turn in range(RUNS + 1):  # the first one imports
            for measured, run in ((theirs, plain), (ours, lambda: run_here(REQUEST))):
                unpublished()
                own = time.process_time()
                taken, answer = seconds(run)
                assert (answer["entry"], answer["replayed"]) == (1, True)
                measured += [(taken, time.process_time() - own)] if turn else []
    (ours_median, ours_own), (plain_median, plain_own) = medians(ours), medians(theirs)
    row("the flow against the same functions called plainly", f"{plain_median:.2f} s", f"{ours_median:.2f} s",
        f"{ours_median - plain_median:+.2f} s, {ours_own - plain_own:+.2f} s of it on this process's processor",
        "at most +0.2 s")  # fmt: skip


def process_row(settings: Settings) -> None:
    first_night()
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    with ExitStack() as stack:
        up = subprocess.Popen([*COMMAND, "up", *ports], stdout=subprocess.DEVNULL)
        stack.callback(up.wait, 30)
        stack.callback(up.terminate)
        while running_servers(settings) is None:
            assert up.poll() is None
            time.sleep(0.2)
        idle = [process(["run", "breast_cancer", "--as-of", f"2024-02-0{n}", "--json"]) for n in range(1, RUNS + 1)]
        decisions = [json.loads(text)["decision"] for _, _, text in idle]
        assert decisions == ["NOTHING_NEW"] * RUNS
    helped = [process(["--help"]) for _ in range(RUNS)]
    for what, measured, limit in (("nothing new, `up` running", idle, 2.5), ("`--help`", helped, 0.3)):
        wall, own = medians([each[:2] for each in measured])
        row(f"whole process, {what}", "-", f"{wall:.2f} s", f"{own:.2f} s of it on the processor", f"{limit} s")


def process(words: list[str]) -> tuple[float, float, str]:
    """Wall seconds, processor seconds and the output of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken, done = seconds(
        lambda: subprocess.run([*COMMAND, *words], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return taken, own, done.stdout.decode()


@dataclass(frozen=True)
class Run:
    """All that is said of a run: a metric's values by step, parameters, tags, and pictures by their key."""

    history: dict[str, dict[int, float]]
    params: dict[str, str]
    tags: dict[str, str]
    plots: dict[str, bytes]


def made_up() -> Run:
    generator = random.Random(0)
    curves = {f"metric_{m}": {e: generator.random() for e in range(1, EPOCHS + 1)} for m in range(METRICS)}
    tags = {"decision": "PROMOTE", "mlflow.note.content": "# A night\n" + "word " * 400}
    plots = {f"figures/{n}.png": bytes(40_000) for n in range(PLOTS)}
    return Run(curves, {f"param_{n}": str(n) for n in range(PARAMS)}, tags, plots)


def at_once(registry: Registry, store: Store, run_id: str, run: Run) -> None:
    """As a night does."""
    for name, image in run.plots.items():
        put_file(store, f"{paths.run_artifacts(run_id)}/{name}", image)
    registry.finish_run(run_id, run.history, run.params, run.tags)


def one_by_one(registry: Registry, store: Store, run_id: str, run: Run) -> None:
    """A call for each, as is usual."""
    del store
    client = registry.client
    with tempfile.TemporaryDirectory() as folder:
        for name, image in run.plots.items():
            path = Path(folder) / Path(name).name
            path.write_bytes(image)
            client.log_artifact(run_id, str(path), "figures")
    for name, steps in run.history.items():
        for step, value in steps.items():
            client.log_metric(run_id, name, value, timestamp=0, step=step)
    for name, text in run.params.items():
        client.log_param(run_id, name, text)
    for name, text in run.tags.items():
        client.set_tag(run_id, name, text)
    client.set_terminated(run_id)


def told(registry: Registry, store: Store, run_id: str, run: Run) -> Run:
    """What MLflow and the store say of an ended run."""
    found = registry.client.get_run(run_id)
    assert found.info.status == "FINISHED"
    curves = {n: {m.step: m.value for m in registry.client.get_metric_history(run_id, n)} for n in run.history}
    plots = {name: store.get(f"{paths.run_artifacts(run_id)}/{name}") or b"" for name in run.plots}
    return Run(curves, dict(found.data.params), {name: found.data.tags[name] for name in run.tags}, plots)


def tracking_row(settings: Settings) -> None:
    store, registry, run = open_store(settings.store), Registry(settings, "tracking"), made_up()
    taken: dict[str, list[float]] = {"at_once": [], "one_by_one": []}
    for turn in range(RUNS + 1):  # the first one imports and migrates
        for way in (at_once, one_by_one):
            run_id = registry.run_id(f"{way.__name__} {turn}", way.__name__, {})
            spent, _ = seconds(partial(way, registry, store, run_id, run))
            taken[way.__name__] += [spent] if turn else []
            assert told(registry, store, run_id, run) == run
    ours, theirs = (statistics.median(of) for of in taken.values())
    row(f"tracking {EPOCHS} epochs x {METRICS} metrics, {PARAMS} parameters, {PLOTS} plots and the decision, sqlite",
        f"{theirs:.2f} s", f"{ours:.3f} s", f"{theirs / ours:.0f} x", "0.5 s, 20 x")  # fmt: skip


ROWS = {"flow": flow_row, "process": process_row, "tracking": tracking_row}


def main() -> None:
    warnings.filterwarnings("ignore", "Artifact creation outside")  # of the functions called plainly
    logging.getLogger("retrain").setLevel(logging.ERROR)
    row("what", "other side", "ours", "difference", "to reach")
    row("---", "---:", "---:", "---:", "---:")
    for name in sys.argv[1:] or ROWS:
        with home() as settings, suppress(BrokenPipeError):
            ROWS[name](settings)


if __name__ == "__main__":
    main()
