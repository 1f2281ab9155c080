"""What is wrong with one use case's models, ledger and files, and how to mend it. It mends only what it is asked to.

What a killed run leaves behind is no damage, because the run can be resumed. It is reported, and mended only if no run
of the use case is active.
"""

from collections.abc import Callable, Iterable, Iterator
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
from ml.storage.records import Registered
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import Store

OLD_SECONDS = 2 * 86_400.0  # no run takes so long, on this machine or another


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    `seen` says what, `mend` how to mend it; `repair` mends it, and is None if a person must decide. A `note` is no
    fault: somebody may want it so.
    """

    seen: str
    mend: str
    repair: Callable[[], object] | None = None
    note: bool = False


def findings(store: Store, registry: Registry, name: str, *, active: bool, today: date) -> Iterator[Finding]:
    """Everything that is wrong with a use case. `active` says that a run of it is going on, `today` is its date
    today."""
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
    """One sentence for each difference between MLflow and the ledger, with what to do."""
    taken = registry.taken_by()
    if taken is not None:
        return [f"{_taken_words(ledger.use_case, taken)}: rename that model in MLflow, or the use case"]
    differing = (*_lost_versions(ledger, registry, ledger.entries()), *_alias(ledger, registry))
    return [_difference(finding, f"retrain doctor {ledger.use_case} --mend") for finding in differing]


def _difference(finding: Finding, command: str) -> str:
    next_step = command if finding.repair else "" if finding.note else finding.mend
    return f"{finding.seen}: {next_step}" if next_step else f"{finding.seen}."


def _taken_words(name: str, taken: str) -> str:
    return f"the registered model {name} in MLflow is not ours: {taken} made it"


def _lost_versions(ledger: Ledger, registry: Registry, entries: list[AnyEntry]) -> Iterator[Finding]:
    """Versions that MLflow lost, and versions that it has under another number.

    Lost versions are only a note if none of them ever served: somebody may have deleted them on purpose.
    """
    lost = lost_versions(ledger, registry)
    if lost:
        models = [model for entry in entries for model in (entry.champion, entry.reference) if model]
        served = {version.identity for model in models for version in model.versions}
        yield Finding(
            seen=all_lost_words(registry, lost),
            mend="registered again from the store, and the alias follows the ledger",
            repair=partial(register_lost, ledger, registry),
            note=not any(each.version.identity in served for each in lost),
        )
    numbers = renumbered(ledger, registry)
    if numbers:
        yield Finding(note=True, seen=renumbered_words(numbers), mend="nothing is to be done")


def _alias(ledger: Ledger, registry: Registry) -> Iterator[Finding]:
    """An alias champion that does not follow the ledger, because a run was killed or somebody moved it."""
    move, number = ledger.last_move(), registry.alias(CHAMPION)
    champion = move.champion.served if move and move.champion else None
    expected = registry.number_of(champion) if champion else None
    if number == expected or (champion and expected is None):  # `_lost_versions` reports a lost champion
        return
    alias = alias_words(ledger, registry)
    difference = f"the ledger says champion {ledger_words(champion)}, MLflow's alias says {alias}"
    if move and not ledger.alias_confirmed(move):
        yield Finding(
            seen=f"{difference}: a run died between the two, or is just there",
            mend="the alias follows the ledger",
            repair=partial(roll_alias_forward, ledger, registry),
        )
        return
    other = recorded_as(ledger, registry, number)
    usable = {one.identity for model in usable_versions(ledger, registry).values() for one in model.versions}
    choices = [model.version for model in (champion, other) if model and model.identity in usable]
    commands = " or ".join(f"retrain promote {ledger.use_case} --version {version} --reason WHY" for version in choices)
    mend = f"say which holds: {commands}" if choices else way_out(ledger, registry)
    yield Finding(seen=f"{difference}: it was moved by hand", mend=mend)


def _served_models(ledger: Ledger, registry: Registry, entries: list[AnyEntry]) -> Iterator[Finding]:
    """A champion or reference, the judged version or its refit, whose files in the store are gone or changed."""
    for who, model in _serving(entries).items():
        reason = why_unusable(ledger.store, registry, model)
        if reason and not is_lost(ledger.store, registry, model):  # `_lost_versions` reports a lost one
            yield Finding(seen=f"{who} {reason}", mend=way_back(ledger, registry, model))


def _serving(entries: list[AnyEntry]) -> dict[str, Registered]:
    """Champion and reference, as one if they are the same judged version, and the refit that serves."""
    head = entries[-1] if entries else None
    if head is None or head.champion is None or head.reference is None:
        return {}
    same, champion = is_same(head.champion, head.reference), head.champion
    judged: dict[str, Registered] = (
        {"champion and reference": champion} if same else {"champion": champion, "reference": head.reference}
    )
    return judged if champion.refit is None else {**judged, "the champion's refit": champion.refit}


def _unrecorded_versions(store: Store, registry: Registry, entries: list[AnyEntry]) -> Iterator[Finding]:
    """Versions that no night recorded: the run was killed between registering and recording, and never run again.

    Young versions are left out, because a run on another machine may be about to record them; and so are versions that
    somebody else registered. A version is recognized by its run alone, and not by its tags, which somebody may have
    changed in MLflow: that must not cost a champion its files.
    """
    nights = [entry for entry in entries if isinstance(entry, NightEntry)]
    recorded = _runs(nights)
    for version in registry.versions():
        if version.ours and version.run_id not in recorded and version.age_seconds >= OLD_SECONDS:
            yield Finding(
                seen=f"version {version.number} is in MLflow, and no night recorded it",
                mend="a night that was cut off finishes it if it runs again; mending deletes it and its files",
                repair=partial(delete_version, store, registry, version),
            )


def _runs(nights: Iterable[NightEntry]) -> set[str]:
    """The runs of all versions that nights recorded."""
    return {version.run_id for night in nights if night.candidate for version in night.candidate.versions}


def _stuck_runs(registry: Registry) -> Iterator[Finding]:
    """Runs that MLflow takes for running although no run of the use case is active."""
    for run_id in registry.running():
        yield Finding(
            seen=f"MLflow's run {run_id} is running, and nobody runs it",
            mend="it is marked as killed; running its night again resumes it",
            repair=partial(registry.end_run, run_id),
        )


def _future_champion(name: str, entries: list[AnyEntry], today: date) -> Iterator[Finding]:
    """A champion whose date has not come yet, because a clock was wrong. Until that date no night can promote."""
    champion = entries[-1].champion if entries else None
    if champion and champion.dated and champion.as_of > today:
        yield Finding(
            seen=f"champion version {champion.version} is as of {champion.as_of}, which is to come: until then no night"
            " promotes",
            mend=f"retrain rollback {name} --reason WHY, or retrain promote {name} --version N --reason WHY",
        )


def stray_runs(store: Store, registry: Registry) -> Iterator[Finding]:
    """Old files of runs that neither MLflow nor any ledger of this store knows, because the runs were deleted.

    Only runs with a model of ours count: others may keep the files of their experiments in the same folder. The files
    are listed before MLflow and the ledgers are asked, so that a run that begins meanwhile does not count.
    """
    stored = {key.split("/")[1] for key in store.sizes(paths.mlflow_root(), OLD_SECONDS)}
    if not stored:
        return
    use_cases = {key.split("/")[1] for key in store.keys(paths.ledgers())}
    nights = [night for name in use_cases for night in Ledger(store, name).nights()]
    known = registry.every_run_id() | _runs(nights)
    for run_id in sorted(stored - known):
        if _has_our_model(store, run_id):
            yield Finding(
                seen=f"the store has files of run {run_id}, which MLflow does not know",
                mend="they are deleted",
                repair=partial(delete_all, store, paths.run_artifacts(run_id)),
            )


def _has_our_model(store: Store, run_id: str) -> bool:
    """Whether the run's folder has our serving code, or a model's description, written earlier, that names that
    code."""
    description = store.get(f"{paths.model_folder(run_id)}/MLmodel") or b""
    code = f"{paths.model_folder(run_id)}/code"
    return SERVING_PREFIX.encode() in description or any(f"/{SERVING_PREFIX}" in key for key in store.keys(code))
