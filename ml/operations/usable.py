"""Which of the ledger's versions could serve, and what to type where one cannot: every message names the same step."""

from ml.operations.versions import lost_words
from ml.storage.ledger import Ledger, is_same
from ml.storage.records import Champion
from ml.storage.registry import Registry
from ml.storage.store import Store, is_whole


def why_unusable(store: Store, registry: Registry, model: Champion) -> str | None:
    """Why a recorded version cannot serve, None if it can: MLflow must have it, and its files be as they were."""
    if registry.number_of(model) is None:
        return lost_words(registry, model)
    broken = [file.key for file in model.files if not is_whole(store, file)]
    if broken:
        return f"version {model.version} is damaged: {broken[0]} is gone or changed ({len(broken)} of its files)"
    return None


def is_lost(store: Store, registry: Registry, model: Champion) -> bool:
    """Whether MLflow lost the version and its files are whole, so that it can be registered again."""
    return registry.number_of(model) is None and all(is_whole(store, file) for file in model.files)


def way_out(ledger: Ledger, registry: Registry) -> str:
    """The command that works where a champion cannot serve: go back, or to any whole version, or make a new one."""
    name, head, whole = ledger.use_case, ledger.head(), usable_versions(ledger, registry)
    champion = head.champion if head else None
    if champion and is_lost(ledger.store, registry, champion):
        return f"retrain doctor {name} --mend restores version {champion.version}"
    if champion and whole.get(champion.version) == champion:  # the reference alone is lost, or another was asked for
        return f"retrain promote {name} --version {champion.version} --reason WHY"
    earlier = [version for version, model in champions_before(ledger, champion).items() if whole.get(version) == model]
    if earlier:
        return f"retrain rollback {name} --to {earlier[0]} --reason WHY"
    if whole:
        return f"retrain promote {name} --version {max(whole)} --reason WHY"
    return f"retrain run {name} --again WHY makes a new version, then retrain promote {name} --version N --reason WHY"


def usable_versions(ledger: Ledger, registry: Registry) -> dict[int, Champion]:
    """The recorded versions that could serve, by number."""
    recorded = {night.candidate.version: night.candidate for night in ledger.nights() if night.candidate}
    return {number: model for number, model in recorded.items() if why_unusable(ledger.store, registry, model) is None}


def way_back(ledger: Ledger, registry: Registry, model: Champion) -> str:
    """What to type where this very version cannot serve. MLflow's loss is mended from the store; damaged files are not,
    and come back from a backup alone."""
    if is_lost(ledger.store, registry, model):
        return f"retrain doctor {ledger.use_case} --mend restores it"
    return f"{way_out(ledger, registry)}; or, from a backup, retrain restore FILE"


def champions_before(ledger: Ledger, present: Champion | None) -> dict[int, Champion]:
    """Every version that served before the present one, the latest first."""
    found: dict[int, Champion] = {}
    for entry in reversed(ledger.entries()):
        if entry.moves_champion and entry.champion and not is_same(entry.champion, present):
            found.setdefault(entry.champion.version, entry.champion)
    return found
