"""`retrain gc`: lists what no retained run needs, and deletes it with --yes."""

import argparse

from deployments.terminal import chosen_names, home_settings, home_to_read, say, show
from ml.errors import Busy
from ml.operations.backfill import driver_lock
from ml.operations.retention import Garbage, garbage
from ml.reporting.words import counted
from ml.settings import Settings
from ml.storage.databases import lost_mlflow
from ml.storage.locks import held_lock, is_active, one_move_at_a_time, run_lock
from ml.storage.registry import Registry
from ml.storage.store import Store, open_store
from ml.use_case.loading import load_use_case


def gc(options: argparse.Namespace) -> int:
    """Lists the garbage, and deletes it only if --yes is given. A use case with an active run is left alone."""
    settings = home_settings("gc") if options.yes else home_to_read("gc")
    names = chosen_names(options, settings)
    store = open_store(settings.store)
    rows = [row for name in names for row in _collected(settings, store, name, delete=options.yes)]
    size = sum(int(row["bytes"]) for row in rows)
    done = "deleted" if options.yes else "would be deleted; nothing was: add --yes"
    show(options, {"garbage": rows, "bytes": size, "deleted": options.yes}, "")
    if not options.json:
        say(*(f"{row['use_case']}: {row['what']}, {int(row['bytes']) / 1e6:.1f} MB" for row in rows))
        say(f"{counted(len(rows), 'thing')}, {size / 1e6:.1f} MB {done}.")
    return 0


def _collected(settings: Settings, store: Store, name: str, *, delete: bool) -> list[dict[str, str | int]]:
    """The garbage of one use case, deleted if `delete` is set.

    To delete, it holds the locks of nights, backfills and moves, so that none of them begins in between. To list, it
    makes nothing: no locks, and no database for an MLflow that has none.
    """
    if not delete:
        return _listed(settings, store, name)
    busy = Busy(f"{name} is at rest", "a run is active", "wait for it to end")
    use_case = load_use_case(name, settings.project)
    try:
        with (
            held_lock(run_lock(settings.home, name), 0, busy),
            held_lock(driver_lock(settings, name), 0, busy),
            one_move_at_a_time(settings.home, name),
        ):
            unneeded = list(garbage(store, Registry(settings, name), use_case))
            for thing in unneeded:
                thing.delete()
    except Busy:
        return [_left_alone(name)]
    return [_row(name, thing) for thing in unneeded]


def _listed(settings: Settings, store: Store, name: str) -> list[dict[str, str | int]]:
    if is_active(settings.home, name):
        return [_left_alone(name)]
    registry = Registry(settings, name) if lost_mlflow(settings) is None else None
    return [_row(name, thing) for thing in garbage(store, registry, load_use_case(name, settings.project))]


def _row(name: str, thing: Garbage) -> dict[str, str | int]:
    return {"use_case": name, "what": thing.what, "bytes": thing.size}


def _left_alone(name: str) -> dict[str, str | int]:
    return {"use_case": name, "what": "left alone, for a run is active", "bytes": 0}
