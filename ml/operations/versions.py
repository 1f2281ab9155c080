"""Which of MLflow's versions is which of the ledger's: the same run and the same model's digest, whatever the number.

A version keeps, in the ledger, the number that it had when its night registered it, and commands take that one. MLflow
counts from 1 again in a registry that was emptied, and goes on from an older number in one that was restored from an
older copy. A version that is registered again gets its old number where that is free, else the next; both are said.
"""

from collections.abc import Iterable, Mapping
from datetime import date

from ml.reporting.mlflow_pages import describe_version, tell_run_again
from ml.storage import paths
from ml.storage.ledger import AnyEntry, Ledger, NightEntry
from ml.storage.records import Champion, digest_of_files
from ml.storage.registry import LEDGER_RUN, MODEL_DIGEST, USE_CASE, Registry
from ml.storage.store import Store, is_whole

NAMED = 5  # versions in one sentence


def recorded(entries: Iterable[AnyEntry]) -> list[NightEntry]:
    """The nights that made a version, each version once, in the order of the ledger's numbers."""
    nights = [entry for entry in entries if isinstance(entry, NightEntry) and entry.candidate]
    by_identity = {night.candidate.identity: night for night in reversed(nights) if night.candidate}
    return sorted(by_identity.values(), key=_number)


def _number(night: NightEntry) -> int:
    assert night.candidate is not None
    return night.candidate.version


def highest_number(ledger: Ledger) -> int:
    """The largest number that the ledger has given to a version; 0 if it has none."""
    return max(map(_number, recorded(ledger.entries())), default=0)


def recorded_as(ledger: Ledger, registry: Registry, number: int | None) -> Champion | None:
    """The ledger's version that has this number in MLflow; None for one that no night recorded."""
    there = {version.identity for version in registry.versions() if version.number == number and version.ours}
    models = (night.candidate for night in recorded(ledger.entries()))
    return next((model for model in models if model and model.identity in there), None)


def lost_versions(ledger: Ledger, registry: Registry) -> list[NightEntry]:
    """The nights whose versions MLflow does not have, although all of their files are in the store.

    What `retrain gc` deleted is none of them: it deletes the files.
    """
    known = {version.identity for version in registry.versions() if version.ours}
    sizes = ledger.store.sizes(paths.mlflow_root())
    return [
        night
        for night in recorded(ledger.entries())
        if night.candidate
        and night.candidate.identity not in known
        and _has_files(ledger.store, sizes, night.candidate)
    ]


def _has_files(store: Store, sizes: dict[str, int], model: Champion) -> bool:
    """Their sizes are compared first: of versions that were deleted nothing is read."""
    sized = all(sizes.get(file.key) == file.size for file in model.files)
    return sized and all(is_whole(store, file) for file in model.files)


def register_again(registry: Registry, night: NightEntry) -> int:
    """Registers the night's version from the files that lie in the store, with its run if MLflow lost that too;
    MLflow's number for it.

    Its tags are written also where MLflow has it: somebody may have removed the one by which it is known.
    """
    model = night.candidate
    assert model is not None
    digests = {
        "snapshot": str(night.result.get("snapshot", {}).get("digest")),
        "test": str(night.result.get("test_digest")),
        "target": model.target_digest,
    }
    tags = version_tags(night.use_case, night.as_of, model.fit_until, digest_of_files(model.files), digests)
    run_name, of_run = f"{night.use_case} {night.as_of}", {"as_of": str(night.as_of)}
    registry.run_id(night.run_key, run_name, of_run, known=model.run_id)
    number = registry.register(model.run_id, night.run_key, tags, above=model.version - 1)
    run = registry.mlflow_run(model.run_id)
    if any(version.number == number and version.mlflow_run == run for version in registry.versions()):
        again = {} if run == model.run_id else {LEDGER_RUN: model.run_id}
        registry.tag_version(number, {**tags, **again})
        describe_version(registry, night, number)
        tell_run_again(registry, night)
    return number


def version_tags(
    use_case: str, as_of: date, fit_until: str | None, model_digest: str, digests: Mapping[str, str]
) -> dict[str, str]:
    """What a version says of itself. Its other digests are one tag, of 12 letters each, as `retrain ledger` shows them:
    a version's page has little room."""
    return {
        USE_CASE: use_case,
        "as_of": str(as_of),
        "fit_until": fit_until or "undated",
        MODEL_DIGEST: model_digest,
        "digests": ", ".join(f"{name} {digest[:12]}" for name, digest in digests.items()),
    }


def lost_words(registry: Registry, model: Champion) -> str:
    """That MLflow does not have the version, and whether it has another one of its number."""
    known_by = f"(run {model.run_id[:8]}, model {digest_of_files(model.files)[:8]})"
    return (
        f"the ledger's version {model.version} is no longer in MLflow {known_by}{_another(registry, [model.version])}"
    )


def all_lost_words(registry: Registry, lost: list[NightEntry]) -> str:
    """The same of several versions."""
    models = [night.candidate for night in lost if night.candidate]
    if len(models) == 1:
        return lost_words(registry, models[0])
    more = f" and {len(models) - NAMED} more" if len(models) > NAMED else ""
    numbers = [model.version for model in models]
    named = ", ".join(map(_named, models[:NAMED]))
    return f"the ledger's versions {named}{more} are no longer in MLflow{_another(registry, numbers)}"


def _named(model: Champion) -> str:
    return f"{model.version} (run {model.run_id[:8]}, model {digest_of_files(model.files)[:8]})"


def _another(registry: Registry, numbers: list[int]) -> str:
    taken = sorted({version.number for version in registry.versions()} & set(numbers))
    if not taken:
        return ""
    shown = ", ".join(map(str, taken[:NAMED]))
    return f"; MLflow's version {shown} is another model" if len(taken) == 1 else f"; MLflow's {shown} are other models"


def renumbered(ledger: Ledger, registry: Registry) -> dict[int, int]:
    """The ledger's versions that have another number in MLflow, and which."""
    numbers = {version.identity: version.number for version in reversed(registry.versions()) if version.ours}
    models = [night.candidate for night in recorded(ledger.entries()) if night.candidate]
    pairs = ((model.version, numbers.get(model.identity, model.version)) for model in models)
    return {ours: theirs for ours, theirs in pairs if ours != theirs}


def renumbered_words(numbers: dict[int, int]) -> str:
    shown = ", ".join(f"{ours} is MLflow's {theirs}" for ours, theirs in list(numbers.items())[:NAMED])
    more = f", and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"the ledger's version {shown}{more}: commands take the ledger's number"
