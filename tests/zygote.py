"""A process that has everything imported and forks one child a night, so that a killed night costs no new imports.

`python -m tests.zygote` reads a JSON line a night from stdin ({"environment", "request", "point", "after", "log"}) and
answers with a JSON line ({"signal", "code", "seconds"}). The child kills itself at the named point, or is killed so
many seconds after its start.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = (
    "flows.retrain", "mlflow", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store", "torch", "great_expectations", "matplotlib.pyplot", "boto3",
    "deployments.prefect.night", "sklearn.linear_model",
)  # fmt: skip


OF_OTHER_NIGHTS = {"await turn", "look up what became of it"}  # of backfills, and of nights that were finished before


def points() -> dict[str, Callable[[], None]]:
    """Every named fault point: its name, and what makes this process die there."""
    from prefect import Task

    import flows.retrain
    import tasks.refit
    from ml.models.training import StoredDiary
    from ml.storage.registry import Registry

    found: dict[str, Callable[[], None]] = {}
    for stage in (*vars(flows.retrain).values(), *vars(tasks.refit).values()):
        if isinstance(stage, Task) and stage.name not in OF_OTHER_NIGHTS:
            found[f"{stage.name}: start"] = lambda stage=stage: _patch(stage, "fn", before=True)
            found[f"{stage.name}: end"] = lambda stage=stage: _patch(stage, "fn", before=False)
    for number in (1, 2, 3, 4):
        found[f"epoch {number}"] = lambda number=number: _patch(StoredDiary, "step", call=number)
        found[f"epoch {number} of the refit"] = lambda number=number: _patch(StoredDiary, "step", call=4 + number)
    found["refit: fitted, and not compared"] = lambda: _patch("ml.pipeline.refit", "_why_refused", before=True)
    found["upload of the refit: packaged"] = lambda: _patch("ml.models.packaging", "write_model", call=2)
    found["upload of the refit: all but its proof"] = lambda: _patch(
        "ml.models.packaging", "make_proof", before=True, call=2
    )
    for number in (1, 5, 15):
        found[f"upload: file {number}"] = lambda number=number: _patch("ml.models.packaging", "put_file", call=number)
    found["register: model made"] = lambda: _patch_client("create_registered_model")
    found["register: version made"] = lambda: _patch_client("create_model_version")
    found["register: version of the refit made"] = lambda: _patch_client("create_model_version", call=2)
    for when, before in (("before", True), ("after", False)):
        found[f"ledger: {when} the link"] = lambda before=before: _patch_link(before=before)
        found[f"alias: {when} the first"] = lambda before=before: _patch(Registry, "set_alias", before=before)
        found[f"alias: {when} the second"] = lambda before=before: _patch(Registry, "set_alias", before=before, call=2)
    return found


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _patch(owner: Any, name: str, *, before: bool = False, call: int = 1) -> None:
    """Dies just before or after the so many-th call."""
    owner = importlib.import_module(owner) if isinstance(owner, str) else owner
    whole, calls = getattr(owner, name), [0]

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if before and calls[0] == call:
            _die()
        result = whole(*args, **kwargs)
        if not before and calls[0] == call:
            _die()
        return result

    setattr(owner, name, dying)


def _patch_client(name: str, call: int = 1) -> None:
    from mlflow import MlflowClient

    _patch(MlflowClient, name, call=call)


def _patch_link(*, before: bool) -> None:
    """Inside the write of a ledger entry: its bytes are on disk, its name is not there, or just is."""
    whole = Path.hardlink_to

    def dying(path: Path, target: Any) -> None:
        ours = "/ledger/" in str(path)
        if before and ours:
            _die()
        whole(path, target)
        if ours:
            _die()

    Path.hardlink_to = dying  # type: ignore[method-assign]


def _night(order: dict[str, Any]) -> None:
    """In the child: the night, and nothing after it."""
    os.environ.update(order["environment"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        if order.get("point"):
            points()[order["point"]]()
        from deployments.prefect.night import run_here

        run_here(order["request"])
        code = 0
    except BaseException:  # noqa: BLE001 - a child must not return into the parent's loop
        traceback.print_exc()
        code = 1
    os._exit(code)


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)


def _run(order: dict[str, Any]) -> dict[str, Any]:
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _night(order)
    timer = threading.Timer(order["after"], _kill, [child]) if order.get("after") is not None else None
    if timer:
        timer.start()
    _, status = os.waitpid(child, 0)
    if timer:
        timer.cancel()
        timer.join()
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {"signal": killed, "code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - start}


def main() -> None:
    from deployments.environment import prepare_environment
    from ml.settings import Settings

    prepare_environment(Settings.from_environment())
    for name in PRELOADED:
        importlib.import_module(name)
    print(json.dumps(sorted(points())), flush=True)  # noqa: T201
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
