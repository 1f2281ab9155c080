"""What may be deleted: versions that never served, and old results of stages and partitions, old quarantines included.

Nothing is deleted until somebody calls what is found here, and nothing that is in use is found.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from ml.evaluation.source_evidence import WATCHED, watched_key
from ml.models.handles import Upload
from ml.storage import paths
from ml.storage.kept import unseal, words_of
from ml.storage.ledger import Ledger, is_same, open_questions
from ml.storage.records import Champion, Identity
from ml.storage.registry import Registry, Version
from ml.storage.store import Store
from ml.use_case.definition import UseCase

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One thing that may be deleted: what it is in words, its size in bytes, and the deletion. `run_id` is that of a
    version."""

    what: str
    size: int
    delete: Callable[[], None]
    run_id: str = ""


def garbage(store: Store, registry: Registry | None, use_case: UseCase) -> Iterator[Garbage]:
    """Everything of a use case that its retention allows to delete, in an order in which deleting is safe.

    Without a registry, no version is among it.
    """
    versions = [] if registry is None else list(_versions(store, registry, use_case))
    yield from versions
    yield from _stages(store, use_case, {version.run_id for version in versions})
    yield from _partitions(store, use_case)


def _versions(store: Store, registry: Registry, use_case: UseCase) -> Iterator[Garbage]:
    """Recorded versions that are not among the newest, have no alias, never served, and are in no open question.

    A judged version and its refit are kept or deleted together. Their scores stay in the ledger.
    """
    pairs = _recorded(store, use_case)
    ours = [version for version in registry.versions() if version.ours]
    refits = {pair.refit.identity for pair in pairs if pair.refit}
    judged = [version.identity for version in ours if version.identity not in refits]
    aliased = registry.aliased()
    kept = {*judged[-use_case.retention.versions :], *(one.identity for one in ours if one.number in aliased)}
    garbage = _unserved(pairs, kept, store, use_case)
    for version in ours:
        if version.identity in garbage:
            yield Garbage(
                what=f"version {version.number}, which never served",
                size=sum(store.sizes(paths.run_artifacts(version.run_id)).values()),
                delete=partial(_delete_unless_served, store, registry, use_case, version),
                run_id=version.run_id,
            )


def _recorded(store: Store, use_case: UseCase) -> list[Champion]:
    """The judged versions that nights recorded, each with its refit if it has one."""
    return [night.candidate for night in Ledger(store, use_case.name).nights() if night.candidate]


def _unserved(pairs: Iterable[Champion], kept: set[Identity], store: Store, use_case: UseCase) -> set[Identity]:
    """The versions of pairs of which no version is `kept`, was champion or reference, or is in an open question."""
    entries = Ledger(store, use_case.name).entries()
    needed = [model for entry in entries for model in (entry.champion, entry.reference) if model]
    needed += [night.candidate for night in open_questions(entries) if night.candidate]
    of_pairs = [_identities([pair]) for pair in pairs]  # each is a digest of all files of a version, so it is made once
    needed_ones = _identities(needed).union(*(pair for pair in of_pairs if pair & kept))
    staying = [pair for pair in of_pairs if pair & needed_ones]
    return set[Identity]().union(*of_pairs).difference(*staying)


def _identities(pairs: Iterable[Champion]) -> set[Identity]:
    return {one.identity for pair in pairs for one in pair.versions}


def _delete_unless_served(store: Store, registry: Registry, use_case: UseCase, version: Version) -> None:
    """Deletes the version, unless an operator has promoted it or its twin since it was listed."""
    if version.identity in _unserved(_recorded(store, use_case), set(), store, use_case):
        delete_version(store, registry, version)


def delete_version(store: Store, registry: Registry, version: Version) -> None:
    """Deletes the version's files and then the version, so that it is found again if this is cut off between the two.

    The files stay if another version uses them too, which may be of somebody else's model.
    """
    if registry.needs_files(version.run_id) == 1:
        delete_all(store, paths.run_artifacts(version.run_id))
        if version.mlflow_run != version.run_id:
            store.delete(paths.run_folder(version.mlflow_run))  # a link to the folder of `run_id`
    registry.delete_version(version.number)


def delete_all(store: Store, folder: str) -> None:
    """Deletes every object below the folder."""
    _delete(store, store.keys(folder))


def _delete(store: Store, keys: list[str]) -> None:
    for key in keys:
        store.delete(key)


def _stages(store: Store, use_case: UseCase, gone: set[str]) -> Iterator[Garbage]:
    """Old results and files of stages, from which a night that was cut off could be resumed. `gone` are the runs of
    versions that are deleted too.

    What made a version that stays is left: other gates can then judge it without training it again. So is what the
    champion's night kept of its days, because later nights compare theirs with it.
    """
    old = store.sizes(paths.stages(use_case.name), use_case.retention.state_days * DAY_SECONDS)
    needed = _made_a_version(store, use_case, gone) | _watched_by_champion(store, use_case)
    old = {key: size for key, size in old.items() if not any(part in key for part in needed)}
    if old:
        yield Garbage(
            what=f"{len(old)} files of stages older than {use_case.retention.state_days} days",
            size=sum(old.values()),
            delete=partial(_delete, store, sorted(old)),
        )


def _watched_by_champion(store: Store, use_case: UseCase) -> set[str]:
    """The keys of what nights kept of their days that judged the champion."""
    ledger = Ledger(store, use_case.name)
    head = ledger.head()
    nights = ledger.nights() if head and head.champion else []
    keys = {night.model_key for night in nights if head and is_same(night.candidate, head.champion)}
    return {paths.stage(use_case.name, WATCHED, watched_key(key)) for key in keys}


def _made_a_version(store: Store, use_case: UseCase, gone: set[str]) -> set[str]:
    """Parts of the keys of what training and upload kept of versions whose files are there: some ten kilobytes each,
    and the fitted model once more."""
    keys = [key for key in store.keys(f"{paths.stages(use_case.name)}/upload") if key.endswith(".json")]
    kept = zip(keys, store.get_many(keys), strict=True)
    uploads = {key: upload for key, data in kept if (upload := unseal(Upload, key, data)) is not None}
    there = {key: each for key, each in uploads.items() if each.run_id not in gone and store.keys(each.folder)}
    return {*there, *(each.proof.key.split("/")[-2] for each in there.values())}


def _partitions(store: Store, use_case: UseCase) -> Iterator[Garbage]:
    """Old results of partitions that no month's object names, because their bytes, the rules or the window changed.

    Quarantined rows are kept longer than other results. Those of a day in the window are named, and so stay: they say
    which rows a reader leaves out.
    """
    folder, retention = paths.partitions(use_case.name), use_case.retention
    keys = store.keys(folder)
    months = [key for key in keys if key.count("/") == folder.count("/") + 1]
    texts = [words_of(data) for data in store.get_many(months)]
    if None in texts:  # one is damaged, so it is not known what it names; the next night writes it anew
        return
    named = "".join(filter(None, texts))
    for what, days, is_one in (
        ("results of partitions", retention.state_days, lambda key: not key.endswith("/quarantine.parquet")),
        ("quarantines", retention.quarantine_days, lambda key: key.endswith("/quarantine.parquet")),
    ):
        old = {key: size for key, size in store.sizes(folder, days * DAY_SECONDS).items() if is_one(key)}
        unused = {key: size for key, size in old.items() if key not in months and key.split("/")[2] not in named}
        if months and unused:
            yield Garbage(
                what=f"{len(unused)} files of {what} that no window used for {days} days",
                size=sum(unused.values()),
                delete=partial(_delete, store, sorted(unused)),
            )
