"""What no retained run needs: versions that never served, results of stages and partitions long done, old quarantine.
Finds; deletes only if asked, and never what is in use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ml.storage import paths
from ml.storage.kept import words_of
from ml.storage.ledger import Ledger, NightEntry, open_questions
from ml.storage.records import Identity
from ml.storage.registry import Registry, Version
from ml.storage.store import Store
from ml.use_case.definition import UseCase

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One thing that may go: what it is, its bytes, and the deletion."""

    what: str
    size: int
    delete: Callable[[], None]


def garbage(store: Store, registry: Registry, use_case: UseCase) -> Iterator[Garbage]:
    """Everything of a use case that its retention lets go, in the order in which it is safe to delete."""
    yield from _versions(store, registry, use_case)
    yield from _stages(store, use_case)
    yield from _partitions(store, use_case)


def _versions(store: Store, registry: Registry, use_case: UseCase) -> Iterator[Garbage]:
    """Recorded versions that are neither among the newest, nor named by an alias, nor ever served, nor asked about. The
    ledger keeps what they scored."""
    recorded, served = _recorded_and_served(store, use_case)
    known = [version for version in registry.versions() if version.ours]
    kept = served | {version.identity for version in known[-use_case.retention.versions :]}
    aliased = registry.aliased()
    for version in known:
        if version.identity in recorded - kept and version.number not in aliased:
            yield Garbage(
                what=f"version {version.number}, which never served",
                size=sum(store.sizes(paths.run_artifacts(version.run_id)).values()),
                delete=partial(_delete_unless_served, store, registry, use_case, version),
            )


def _recorded_and_served(store: Store, use_case: UseCase) -> tuple[set[Identity], set[Identity]]:
    entries = Ledger(store, use_case.name).entries()
    recorded = {entry.candidate for entry in entries if isinstance(entry, NightEntry)}
    served = {model for entry in entries for model in (entry.champion, entry.reference)}
    served |= {night.candidate for night in open_questions(entries)}
    return {model.identity for model in recorded if model}, {model.identity for model in served if model}


def _delete_unless_served(store: Store, registry: Registry, use_case: UseCase, version: Version) -> None:
    """An operator may have promoted it since it was listed."""
    _, served = _recorded_and_served(store, use_case)
    if version.identity not in served:
        delete_version(store, registry, version)


def delete_version(store: Store, registry: Registry, version: Version) -> None:
    """The version's files, unless another version has them too, perhaps of somebody else's model, and then the version:
    killed between, it is found again."""
    if registry.needs_files(version.run_id) == 1:
        delete_all(store, paths.run_artifacts(version.run_id))
        if version.mlflow_run != version.run_id:
            store.delete(paths.run_folder(version.mlflow_run))  # a link to the other
    registry.delete_version(version.number)


def delete_all(store: Store, folder: str) -> None:
    """Every object below the folder."""
    _delete(store, store.keys(folder))


def _delete(store: Store, keys: list[str]) -> None:
    for key in keys:
        store.delete(key)


def _stages(store: Store, use_case: UseCase) -> Iterator[Garbage]:
    """Handles and files that a night could be resumed from."""
    old = store.sizes(paths.stages(use_case.name), use_case.retention.state_days * DAY_SECONDS)
    if old:
        yield Garbage(
            what=f"{len(old)} files of stages older than {use_case.retention.state_days} days",
            size=sum(old.values()),
            delete=partial(_delete, store, sorted(old)),
        )


def _partitions(store: Store, use_case: UseCase) -> Iterator[Garbage]:
    """Results of partitions that no month names: other bytes, other rules, or days that left the window.

    Rows that were set aside are kept longer; those of a day in the window are in use, for they say what to leave out.
    """
    folder, kept = paths.partitions(use_case.name), use_case.retention
    keys = store.keys(folder)
    months = [key for key in keys if key.count("/") == folder.count("/") + 1]
    said = [words_of(data) for data in store.get_many(months)]
    if None in said:  # nobody can say what the damaged one names; the next night writes it anew
        return
    named = "".join(filter(None, said))
    for what, days, ours in (
        ("results of partitions", kept.state_days, lambda key: not key.endswith("/quarantine.parquet")),
        ("quarantines", kept.quarantine_days, lambda key: key.endswith("/quarantine.parquet")),
    ):
        old = store.sizes(folder, days * DAY_SECONDS)
        unused = {k: size for k, size in old.items() if k not in months and ours(k) and k.split("/")[2] not in named}
        if months and unused:
            yield Garbage(
                what=f"{len(unused)} files of {what} that no window used for {days} days",
                size=sum(unused.values()),
                delete=partial(_delete, store, sorted(unused)),
            )
