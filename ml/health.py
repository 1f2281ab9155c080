"""What may be wrong with one use case's models, ledger and files, and how each is mended. Finds; mends only if asked.

What a killed run leaves is no damage while it can be resumed: it is named, and mended only where no run is active.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ml import paths
from ml.alias import roll_alias_forward
from ml.artifacts import Champion
from ml.errors import Corrupt
from ml.ledger import AnyEntry, Ledger, version_of
from ml.registry import CHAMPION, Registry
from ml.retention import delete_all, delete_version
from ml.store import Store, is_whole

OLD_SECONDS = 2 * 86_400.0  # no run takes so long, on this machine or another


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be: what was seen, how to mend it, and the mending itself where it is safe.

    A note is no fault: it may be as somebody wants it.
    """

    seen: str
    mend: str
    repair: Callable[[], object] | None = None
    note: bool = False


def findings(store: Store, registry: Registry, name: str, *, active: bool) -> Iterator[Finding]:
    """Everything found about a use case; `active` says that a run of it is going on."""
    ledger = Ledger(store, name)
    try:
        entries = ledger.entries()
    except Corrupt as error:
        yield Finding(seen=str(error), mend="restore the ledger's object from a copy")
        return
    yield from _alias(ledger, registry)
    yield from _served_models(store, name, entries)
    if not active:
        yield from _unrecorded_versions(store, registry, entries)
        yield from _stuck_runs(registry)
    yield from _lost_versions(registry, name, entries)
    yield from _failed_models(registry)


def _alias(ledger: Ledger, registry: Registry) -> Iterator[Finding]:
    move, seen = ledger.last_move(), registry.alias(CHAMPION)
    expected = version_of(move.champion) if move else None
    if seen == expected:
        return
    told = f"the ledger says champion {_words(expected)}, MLflow's alias says {_words(seen)}"
    if move and not ledger.alias_confirmed(move):
        yield Finding(
            seen=f"{told}: a run died between the two, or is just there",
            mend="the alias follows the ledger",
            repair=partial(roll_alias_forward, ledger, registry),
        )
        return
    yield Finding(
        seen=f"{told}: it was moved by hand",
        mend=f"say which holds: retrain promote {ledger.use_case} --version {_words(expected)} (or {_words(seen)})",
    )


def _words(version: int | None) -> str:
    return "none" if version is None else str(version)


def _served_models(store: Store, name: str, entries: list[AnyEntry]) -> Iterator[Finding]:
    """Champion and reference must lie there as they were registered."""
    for who, model in _serving(entries).items():
        broken = [file.key for file in model.files if not is_whole(store, file)]
        if broken:
            yield Finding(
                seen=f"{who} version {model.version}: {broken[0]} is gone or changed ({len(broken)} of its files)",
                mend=f"retrain run {name} --as-of {model.as_of} makes the same bytes again; or retrain rollback {name}",
            )


def _serving(entries: list[AnyEntry]) -> dict[str, Champion]:
    """Who serves, each version once."""
    head = entries[-1] if entries else None
    if head is None or head.champion is None or head.reference is None:
        return {}
    if head.champion.version == head.reference.version:
        return {"champion and reference": head.champion}
    return {"champion": head.champion, "reference": head.reference}


def _unrecorded_versions(store: Store, registry: Registry, entries: list[AnyEntry]) -> Iterator[Finding]:
    """Versions that no night recorded: a run died between registering and recording, and was never run again.

    Young ones may be of a run on another machine; those that somebody else registered are their own affair.
    """
    recorded = {version_of(getattr(entry, "candidate", None)) for entry in entries}
    for version in registry.versions():
        if version.ours and version.number not in recorded and version.age_seconds >= OLD_SECONDS:
            yield Finding(
                seen=f"version {version.number} is in MLflow, and no night recorded it",
                mend="run its night again, which finishes it; mending deletes it and its files",
                repair=partial(delete_version, store, registry, version),
            )


def _stuck_runs(registry: Registry) -> Iterator[Finding]:
    for run_id in registry.run_ids("RUNNING"):
        yield Finding(
            seen=f"MLflow's run {run_id} is running, and nobody runs it",
            mend="it is marked as killed; running its night again resumes it",
            repair=partial(registry.end_run, run_id),
        )


def _lost_versions(registry: Registry, name: str, entries: list[AnyEntry]) -> Iterator[Finding]:
    """Versions that serve, and that somebody deleted in MLflow."""
    known = {version.number for version in registry.versions()}
    for who, model in _serving(entries).items():
        if model.version not in known:
            yield Finding(
                seen=f"{who} version {model.version} is no longer in MLflow",
                mend=f"retrain rollback {name}, or promote a version that is",
            )


def _failed_models(registry: Registry) -> Iterator[Finding]:
    for model_id in registry.failed_models():
        yield Finding(
            seen=f"MLflow's logged model {model_id} failed or was never finished",
            mend="it is deleted",
            repair=partial(registry.delete_model, model_id),
        )


def stray_runs(store: Store, registry: Registry) -> Iterator[Finding]:
    """Old files of runs that neither MLflow nor any ledger of this store knows: their runs were deleted.

    Listed before it is asked who knows them, so that a run that begins meanwhile is no stray.
    """
    found = {key.split("/")[1] for key in store.sizes(paths.mlflow_root(), OLD_SECONDS)}
    if not found:
        return
    use_cases = {key.split("/")[1] for key in store.keys(paths.ledgers())}
    nights = [night for name in use_cases for night in Ledger(store, name).nights()]
    known = registry.every_run_id() | {night.candidate.run_id for night in nights if night.candidate}
    for run_id in sorted(found - known):
        yield Finding(
            seen=f"the store has files of run {run_id}, which MLflow does not know",
            mend="they are deleted",
            repair=partial(delete_all, store, f"{paths.mlflow_root()}/{run_id}"),
        )
