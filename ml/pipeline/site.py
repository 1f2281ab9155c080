"""Where a use case's stages work, and how they resume. What knows Great Expectations is passed in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ml.data.cleaned import CleanedReader
from ml.data.handles import Cleaned
from ml.data.validation import PARTITION_FACTS, SNAPSHOT_FACTS, Fact, partition_rules, snapshot_rules
from ml.digests import digest_value
from ml.errors import ConfigError
from ml.pipeline.run_key import code_digest
from ml.serving.rules import Rule, rule_to_dict
from ml.settings import Settings
from ml.storage import paths
from ml.storage.kept import Kept
from ml.storage.ledger import Ledger
from ml.storage.records import Handle, Night, Work, with_work
from ml.storage.registry import Registry
from ml.storage.store import Store, open_store
from ml.use_case.definition import UseCase
from ml.use_case.loading import load

H = TypeVar("H", bound=Handle)
LoadSuite = Callable[[str, Path | None], tuple[Rule, ...]]  # of a use case's name and the company's folder
Confirm = Callable[[Sequence[Fact]], None]  # raises ConfigError where Great Expectations counts otherwise


@dataclass(frozen=True)
class Site:
    """Where a use case's stages work: its settings, store, definition and rules; the digest of the sources that the
    definition was made of; and what confirms the counts of broken rules."""

    settings: Settings
    store: Store
    use_case: UseCase
    rules: tuple[Rule, ...]
    sources: str
    confirm: Confirm

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store, self.use_case.name)

    @property
    def registry(self) -> Registry:
        return Registry(self.settings, self.use_case.name)

    def reader(self, cleaned: Cleaned) -> CleanedReader:
        return CleanedReader(self.settings, self.store, self.use_case, self.rules, cleaned)

    @property
    def digest(self) -> str:
        """Digest of the resolved use case: its object and every rule, a suite file's too."""
        return digest_value([self.use_case.digest, [rule_to_dict(rule) for rule in self.rules]])

    @property
    def code(self) -> str:
        """Digest of all sources that a run executes."""
        return code_digest(self.sources)


def open_site(use_case_name: str, load_suite: LoadSuite, confirm: Confirm) -> Site:
    """Raises UsageError for an unknown use case, ConfigError for an unreadable one or its suite."""
    settings = Settings.from_environment()
    loaded = load(use_case_name, settings.project)
    use_case = loaded.use_case
    own = load_suite(use_case_name, settings.project)
    rules = (*use_case.column_rules, *partition_rules(use_case), *snapshot_rules(use_case), *own)
    _check_columns(use_case, rules)
    return Site(settings, open_store(settings.store), use_case, rules, loaded.sources, confirm)


def _check_columns(use_case: UseCase, rules: tuple[Rule, ...]) -> None:
    known = {
        "row": {column.name for column in use_case.columns},
        "partition": PARTITION_FACTS,
        "snapshot": SNAPSHOT_FACTS,
    }
    for rule in rules:
        absent = set(rule.columns) - known[rule.scope]
        if absent:
            raise ConfigError(
                f"a {rule.scope} rule of {use_case.name} reads what there is ({', '.join(sorted(known[rule.scope]))})",
                f"'{rule.sentence}' reads {', '.join(sorted(absent))}",
                "mend expectations",
            )


def require_unchanged(site: Site, night: Night) -> Site:
    """The site itself. Raises ConfigError if the use case, its suite or our sources changed since the night began."""
    if (site.digest, site.code) != (night.use_case_digest, night.code_digest):
        raise ConfigError(
            "a use case stays as it is during a night",
            f"the file, a module or the suite of {night.use_case} changed",
            "run it again",
        )
    return site


def kept_results(site: Site, kind: type[H], name: str) -> Kept[H]:
    """What a stage kept, by content key."""
    return Kept(site.store, kind, partial(paths.stage, site.use_case.name, name))


def resume(site: Site, kind: type[H], name: str, key: str, make: Callable[[], H]) -> H:
    """The stage's kept handle, or a new one; its work says which."""
    handle, kept = kept_results(site, kind, name).resume_or_make(key, make)
    return with_work(handle, Work(stage=name, reused=int(kept), computed=int(not kept)))
