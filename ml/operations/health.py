"""What may be wrong with one use case's models, ledger and files, and how each is mended. Finds; mends only if asked.

What a killed run leaves is no damage while it can be resumed: it is named, and mended only where no run is active.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial

from ml.errors import Corrupt
from ml.operations.alias import alias_words, ledger_words, register_lost, roll_alias_forward
from ml.operations.retention import delete_all, delete_version
from ml.operations.usable import is_lost, usable_versions, way_back, way_out, why_unusable
from ml.operations.versions import all_lost_words, lost_versions, recorded_as, renumbered, renumbered_words
from ml.storage import paths
from ml.storage.ledger import AnyEntry, Ledger, NightEntry, is_same
from ml.storage.paths import SERVING_PREFIX
from ml.storage.records import Champion
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import Store

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


def findings(store: Store, registry: Registry, name: str, *, active: bool, today: date) -> Iterator[Finding]:
    """Everything found about a use case; `active` says that a run of it is going on."""
    ledger = Ledger(store, name)
    try:
        entries = ledger.entries()
    except Corrupt as error:
        yield Finding(seen=str(error), mend="retrain restore FILE brings it back from a backup")
        return
    taken = registry.taken_by()
    if taken is not None:
        yield Finding(seen=_taken_words(name, taken), mend="rename that model in MLflow, or the use case")
        return
    deleted = registry.deleted_experiment()
    if deleted is not None:
        yield Finding(
            seen=f"MLflow's experiment of {name} was deleted, and no night can write its run",
            mend="it is restored with all of its runs",
            repair=partial(registry.restore_experiment, deleted),
        )
    yield from _lost_versions(ledger, registry, entries)
    yield from _alias(ledger, registry)
    yield from _served_models(ledger, registry, entries)
    if not active:
        yield from _unrecorded_versions(store, registry, entries)
        yield from _stuck_runs(registry)
    yield from _future_champion(name, entries, today)


def differences(ledger: Ledger, registry: Registry) -> list[str]:
    """Where MLflow says otherwise than the ledger, and what to do, a sentence each."""
    taken = registry.taken_by()
    if taken is not None:
        return [f"{_taken_words(ledger.use_case, taken)}: rename that model in MLflow, or the use case"]
    found = (*_lost_versions(ledger, registry, ledger.entries()), *_alias(ledger, registry))
    mend = f"retrain doctor {ledger.use_case} --mend"
    steps = [mend if each.repair else "" if each.note else each.mend for each in found]
    return [f"{each.seen}: {step}" if step else f"{each.seen}." for each, step in zip(found, steps, strict=True)]


def _taken_words(name: str, taken: str) -> str:
    return f"the registered model {name} in MLflow is not ours: {taken} made it"


def _lost_versions(ledger: Ledger, registry: Registry, entries: list[AnyEntry]) -> Iterator[Finding]:
    """Versions that MLflow lost, and those that it has under another number. One that never served may have been
    deleted on purpose."""
    lost = lost_versions(ledger, registry)
    if lost:
        served = {model.identity for each in entries for model in (each.champion, each.reference) if model}
        yield Finding(
            seen=all_lost_words(registry, lost),
            mend="registered again from the store, and the alias follows the ledger",
            repair=partial(register_lost, ledger, registry),
            note=not any(night.candidate and night.candidate.identity in served for night in lost),
        )
    numbers = renumbered(ledger, registry)
    if numbers:
        yield Finding(note=True, seen=renumbered_words(numbers), mend="nothing is to be done")


def _alias(ledger: Ledger, registry: Registry) -> Iterator[Finding]:
    move, seen = ledger.last_move(), registry.alias(CHAMPION)
    champion = move.champion if move else None
    expected = registry.number_of(champion) if champion else None
    if seen == expected or (champion and expected is None):  # a lost champion is said with the versions
        return
    seen_words = alias_words(ledger, registry)
    told = f"the ledger says champion {ledger_words(champion)}, MLflow's alias says {seen_words}"
    if move and not ledger.alias_confirmed(move):
        yield Finding(
            seen=f"{told}: a run died between the two, or is just there",
            mend="the alias follows the ledger",
            repair=partial(roll_alias_forward, ledger, registry),
        )
        return
    other = recorded_as(ledger, registry, seen)
    usable = usable_versions(ledger, registry)
    holds = [model.version for model in (champion, other) if model and model in usable.values()]
    commands = " or ".join(f"retrain promote {ledger.use_case} --version {version} --reason WHY" for version in holds)
    mend = f"say which holds: {commands}" if holds else way_out(ledger, registry)
    yield Finding(seen=f"{told}: it was moved by hand", mend=mend)


def _served_models(ledger: Ledger, registry: Registry, entries: list[AnyEntry]) -> Iterator[Finding]:
    """Champion and reference must be in MLflow, and lie in the store as they were registered."""
    for who, model in _serving(entries).items():
        broken = why_unusable(ledger.store, registry, model)
        if broken and not is_lost(ledger.store, registry, model):  # which is said with the versions
            yield Finding(seen=f"{who} {broken}", mend=way_back(ledger, registry, model))


def _serving(entries: list[AnyEntry]) -> dict[str, Champion]:
    """Who serves, each version once."""
    head = entries[-1] if entries else None
    if head is None or head.champion is None or head.reference is None:
        return {}
    if is_same(head.champion, head.reference):
        return {"champion and reference": head.champion}
    return {"champion": head.champion, "reference": head.reference}


def _unrecorded_versions(store: Store, registry: Registry, entries: list[AnyEntry]) -> Iterator[Finding]:
    """Versions that no night recorded: a run died between registering and recording, and was never run again.

    Young ones may be of a run on another machine; those that somebody else registered are their own affair. Known by
    its run alone: a tag that somebody changed in MLflow must not cost a champion its files.
    """
    nights = [entry for entry in entries if isinstance(entry, NightEntry)]
    recorded = {night.candidate.run_id for night in nights if night.candidate}
    for version in registry.versions():
        if version.ours and version.run_id not in recorded and version.age_seconds >= OLD_SECONDS:
            yield Finding(
                seen=f"version {version.number} is in MLflow, and no night recorded it",
                mend="run its night again, which finishes it; mending deletes it and its files",
                repair=partial(delete_version, store, registry, version),
            )


def _stuck_runs(registry: Registry) -> Iterator[Finding]:
    for run_id in registry.running():
        yield Finding(
            seen=f"MLflow's run {run_id} is running, and nobody runs it",
            mend="it is marked as killed; running its night again resumes it",
            repair=partial(registry.end_run, run_id),
        )


def _future_champion(name: str, entries: list[AnyEntry], today: date) -> Iterator[Finding]:
    """A champion of a date that has not come: a clock was wrong once, and no night may follow it until then."""
    champion = entries[-1].champion if entries else None
    if champion and champion.dated and champion.as_of > today:
        yield Finding(
            seen=f"champion version {champion.version} is as of {champion.as_of}, which is to come: until then no night"
            " promotes",
            mend=f"retrain rollback {name} --reason WHY, or retrain promote {name} --version N --reason WHY",
        )


def stray_runs(store: Store, registry: Registry) -> Iterator[Finding]:
    """Old files of runs that neither MLflow nor any ledger of this store knows: their runs were deleted.

    Only of runs that hold a model of ours: others may keep the files of their experiments in the same place. Listed
    before it is asked who knows them, so that a run that begins meanwhile is no stray.
    """
    found = {key.split("/")[1] for key in store.sizes(paths.mlflow_root(), OLD_SECONDS)}
    if not found:
        return
    use_cases = {key.split("/")[1] for key in store.keys(paths.ledgers())}
    nights = [night for name in use_cases for night in Ledger(store, name).nights()]
    known = registry.every_run_id() | {night.candidate.run_id for night in nights if night.candidate}
    for run_id in sorted(found - known):
        if _has_our_model(store, run_id):
            yield Finding(
                seen=f"the store has files of run {run_id}, which MLflow does not know",
                mend="they are deleted",
                repair=partial(delete_all, store, paths.run_artifacts(run_id)),
            )


def _has_our_model(store: Store, run_id: str) -> bool:
    """Whether the folder holds our serving code, or the model's description that names it and was written first."""
    described = store.get(f"{paths.model_folder(run_id)}/MLmodel") or b""
    code = f"{paths.model_folder(run_id)}/code"
    return SERVING_PREFIX.encode() in described or any(f"/{SERVING_PREFIX}" in key for key in store.keys(code))
