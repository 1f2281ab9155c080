"""Which of the ledger's versions could serve, and which command to type if one cannot.

All messages about a version that cannot serve take their command from here, so that they name the same one.
"""

from ml.operations.versions import lost_words
from ml.storage.ledger import Ledger, is_same
from ml.storage.records import Champion, Registered
from ml.storage.registry import Registry
from ml.storage.store import Store, is_whole


def why_unusable(store: Store, registry: Registry, model: Registered) -> str | None:
    """Why a recorded version cannot serve: MLflow does not have it, or its files are damaged. None if it can serve."""
    if registry.number_of(model) is None:
        return lost_words(registry, model)
    damaged = [file.key for file in model.files if not is_whole(store, file)]
    if damaged:
        return f"version {model.version} is damaged: {damaged[0]} is gone or changed ({len(damaged)} of its files)"
    return None


def is_lost(store: Store, registry: Registry, model: Registered) -> bool:
    """Whether MLflow has lost the version but its files are undamaged, so that it can be registered again."""
    return registry.number_of(model) is None and all(is_whole(store, file) for file in model.files)


def way_out(ledger: Ledger, registry: Registry) -> str:
    """The command that helps if a champion cannot serve.

    It registers the champion again, promotes it, goes back to an earlier champion, promotes any other usable version,
    or makes a new one: the first of these that is possible.
    """
    name, head, usable = ledger.use_case, ledger.head(), usable_versions(ledger, registry)
    champion = head.champion if head else None
    if champion and is_lost(ledger.store, registry, champion.served):
        return f"retrain doctor {name} --mend restores version {champion.served.version}"
    if champion and is_same(usable.get(champion.version), champion):  # the reference or another version cannot serve
        return f"retrain promote {name} --version {champion.version} --reason WHY"
    earlier = [
        version
        for version, model in champions_before(ledger, champion).items()
        if is_same(usable.get(version), model) and why_unusable(ledger.store, registry, model.served) is None
    ]
    if earlier:
        return f"retrain rollback {name} --to {earlier[0]} --reason WHY"
    if usable:
        return f"retrain promote {name} --version {max(usable)} --reason WHY"
    return f"retrain run {name} --again WHY makes a new version, then retrain promote {name} --version N --reason WHY"


def usable_versions(ledger: Ledger, registry: Registry) -> dict[int, Champion]:
    """The judged versions, by number, that could serve, or whose refit could."""
    recorded = {night.candidate.version: night.candidate for night in ledger.nights() if night.candidate}
    return {
        number: model
        for number, model in recorded.items()
        if why_unusable(ledger.store, registry, model.served) is None
    }


def way_back(ledger: Ledger, registry: Registry, model: Registered) -> str:
    """The command to type if this very version cannot serve. A version that MLflow lost is registered again from the
    store; damaged files come back only from a backup."""
    if is_lost(ledger.store, registry, model):
        return f"retrain doctor {ledger.use_case} --mend restores it"
    return f"{way_out(ledger, registry)}; or, from a backup, retrain restore FILE"


def champions_before(ledger: Ledger, present: Champion | None) -> dict[int, Champion]:
    """Every version, by number, that was champion and is not the present one, the latest first."""
    earlier: dict[int, Champion] = {}
    for entry in reversed(ledger.entries()):
        if entry.moves_champion and entry.champion and not is_same(entry.champion, present):
            earlier.setdefault(entry.champion.version, entry.champion)
    return earlier
