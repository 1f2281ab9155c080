"""Which of MLflow's versions is which version of the ledger: the one with the same run and the same model's digest.

The numbers may differ. In the ledger a version keeps the number that it got when its night registered it, and commands
take that number. MLflow counts from 1 again in a registry that was emptied, and from an older number in a registry that
was restored from an older copy. A version that is registered again gets its old number if that is free, and else the
next one; then messages say both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from ml.reporting.mlflow_pages import describe_refit, describe_version, end_refit_run, tell_run_again
from ml.storage import paths
from ml.storage.ledger import AnyEntry, Ledger, NightEntry
from ml.storage.records import Champion, Refit, Registered, digest_of_files
from ml.storage.registry import LEDGER_RUN, MODEL_DIGEST, REFIT_OF, USE_CASE, Registry
from ml.storage.store import Store, is_whole

NAMED = 5  # how many versions one sentence names


@dataclass(frozen=True)
class Recorded:
    """A version, judged or a refit, and the night that made it."""

    night: NightEntry
    judged: Champion
    version: Registered

    @property
    def key(self) -> str:
        """The training key that it is registered under."""
        return self.version.key if isinstance(self.version, Refit) else self.night.model_key


def recorded(entries: Iterable[AnyEntry]) -> list[Recorded]:
    """Every version that nights made, judged ones and refits, in the order of their numbers in the ledger."""
    nights = [entry for entry in entries if isinstance(entry, NightEntry)]
    made = [(night, night.candidate) for night in reversed(nights) if night.candidate]
    by_identity = {one.identity: Recorded(night, judged, one) for night, judged in made for one in judged.versions}
    return sorted(by_identity.values(), key=lambda each: each.version.version)


def highest_number(ledger: Ledger) -> int:
    """The largest number that the ledger has given to a version; 0 if it has none."""
    return max((each.version.version for each in recorded(ledger.entries())), default=0)


def recorded_as(ledger: Ledger, registry: Registry, number: int | None) -> Registered | None:
    """The ledger's version that has this number in MLflow; None for one that no night recorded."""
    identities = {version.identity for version in registry.versions() if version.number == number and version.ours}
    versions = (each.version for each in recorded(ledger.entries()))
    return next((version for version in versions if version.identity in identities), None)


def lost_versions(ledger: Ledger, registry: Registry) -> list[Recorded]:
    """The versions that MLflow does not have, although all of their files are in the store.

    Versions that `retrain gc` deleted are not among them, because it deletes their files too.
    """
    known = {version.identity for version in registry.versions() if version.ours}
    sizes = ledger.store.sizes(paths.mlflow_root())
    return [
        each
        for each in recorded(ledger.entries())
        if each.version.identity not in known and _has_files(ledger.store, sizes, each.version)
    ]


def _has_files(store: Store, sizes: dict[str, int], model: Registered) -> bool:
    """Whether all files of the version are undamaged. Sizes are compared first, so that nothing is read of deleted
    ones."""
    sized = all(sizes.get(file.key) == file.size for file in model.files)
    return sized and all(is_whole(store, file) for file in model.files)


def register_again(registry: Registry, lost: Recorded) -> int:
    """Registers the version again from its files in the store. Returns MLflow's number for it.

    Its run is made again too if MLflow lost it. Tags and description are written even if MLflow has the version:
    somebody may have removed the tag by which it is recognized.
    """
    night, version = lost.night, lost.version
    tags = {**_tags(lost), **registry.takes(version.run_id)}
    run_name, run_tags = f"{night.use_case} {night.as_of}", {"as_of": str(night.as_of)}
    registry.run_id(lost.key, run_name, run_tags, known=version.run_id)
    number = registry.register(version.run_id, lost.key, tags, above=version.version - 1)
    run = registry.mlflow_run(version.run_id)
    if any(known.number == number and known.mlflow_run == run for known in registry.versions()):
        made_again = {} if run == version.run_id else {LEDGER_RUN: version.run_id}
        registry.tag_version(number, {**tags, **made_again})
        if isinstance(version, Refit):
            describe_refit(registry, night, number)
            end_refit_run(registry, night, version)
        else:
            describe_version(registry, night, number)
            tell_run_again(registry, night)
    return number


def _tags(lost: Recorded) -> dict[str, str]:
    night, judged, version = lost.night, lost.judged, lost.version
    snapshot = str(night.result.get("snapshot", {}).get("digest"))
    if isinstance(version, Refit):
        return refit_tags(night.use_case, judged, version, snapshot)
    digests = {"snapshot": snapshot, "test": str(night.result.get("test_digest")), "target": judged.target_digest}
    return version_tags(night.use_case, night.as_of, judged.fit_until, digest_of_files(judged.files), digests)


def refit_tags(use_case: str, judged: Champion, refit: Refit, snapshot_digest: str) -> dict[str, str]:
    """The tags of a refit in MLflow, with the number of the judged version that it is the refit of."""
    digests = {"snapshot": snapshot_digest, "target": judged.target_digest}
    tags = version_tags(use_case, judged.as_of, refit.fit_until, digest_of_files(refit.files), digests)
    return {**tags, REFIT_OF: str(judged.version)}


def version_tags(
    use_case: str, as_of: date, fit_until: str | None, model_digest: str, digests: Mapping[str, str]
) -> dict[str, str]:
    """The tags of a version in MLflow. The digests in `digests` share one tag, cut to 12 letters as `retrain ledger`
    shows them, because a version's page has little room."""
    return {
        USE_CASE: use_case,
        "as_of": str(as_of),
        "fit_until": fit_until or "undated",
        MODEL_DIGEST: model_digest,
        "digests": ", ".join(f"{name} {digest[:12]}" for name, digest in digests.items()),
    }


def lost_words(registry: Registry, model: Registered) -> str:
    """Says that MLflow does not have the version, and whether it has another one under the same number."""
    other = _other_models(registry, [model.version])
    return f"the ledger's version {model.version} is no longer in MLflow {_identity_words(model)}{other}"


def all_lost_words(registry: Registry, lost: list[Recorded]) -> str:
    """Says the same of one or several versions."""
    models = [each.version for each in lost]
    if len(models) == 1:
        return lost_words(registry, models[0])
    more = f" and {len(models) - NAMED} more" if len(models) > NAMED else ""
    numbers = [model.version for model in models]
    named = ", ".join(f"{model.version} {_identity_words(model)}" for model in models[:NAMED])
    return f"the ledger's versions {named}{more} are no longer in MLflow{_other_models(registry, numbers)}"


def _identity_words(model: Registered) -> str:
    """What identifies the version whatever its number, in short."""
    return f"(run {model.run_id[:8]}, model {digest_of_files(model.files)[:8]})"


def _other_models(registry: Registry, numbers: list[int]) -> str:
    """Says which of these numbers MLflow gives to other models; "" if none."""
    taken = sorted({version.number for version in registry.versions()} & set(numbers))
    if not taken:
        return ""
    shown = ", ".join(map(str, taken[:NAMED]))
    return f"; MLflow's version {shown} is another model" if len(taken) == 1 else f"; MLflow's {shown} are other models"


def renumbered(ledger: Ledger, registry: Registry) -> dict[int, int]:
    """The ledger's number to MLflow's number, of versions for which they differ."""
    numbers = {version.identity: version.number for version in reversed(registry.versions()) if version.ours}
    models = [each.version for each in recorded(ledger.entries())]
    pairs = ((model.version, numbers.get(model.identity, model.version)) for model in models)
    return {ours: theirs for ours, theirs in pairs if ours != theirs}


def renumbered_words(numbers: dict[int, int]) -> str:
    """Says which of the ledger's versions have which other numbers in MLflow."""
    shown = ", ".join(f"{ours} is MLflow's {theirs}" for ours, theirs in list(numbers.items())[:NAMED])
    more = f", and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"the ledger's version {shown}{more}: commands take the ledger's number"
