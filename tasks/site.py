"""Where a use case's stages work, and how they resume. It knows no Prefect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from expectations.suite import load_rules, suite_file
from ml.data.blocks import BlockReader
from ml.data.handles import Blocks
from ml.data.validation import PARTITION_FACTS, SNAPSHOT_FACTS, partition_rules, snapshot_rules
from ml.digests import digest_value
from ml.errors import ConfigError
from ml.pipeline.run_key import code_digest
from ml.serving.rules import Rule, rule_to_dict
from ml.settings import Settings
from ml.storage import paths
from ml.storage.ledger import Ledger
from ml.storage.records import Handle, Night, Work, with_work
from ml.storage.registry import Registry
from ml.storage.stages import resume_or_make
from ml.storage.store import Store, open_store
from ml.use_case.definition import UseCase
from ml.use_case.loading import load

H = TypeVar("H", bound=Handle)


@dataclass(frozen=True)
class Site:
    """Where a use case's stages work: its settings, store, definition and rules; and the digest of the sources that
    the definition was made of."""

    settings: Settings
    store: Store
    use_case: UseCase
    rules: tuple[Rule, ...]
    sources: str

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store, self.use_case.name)

    @property
    def registry(self) -> Registry:
        return Registry(self.settings, self.use_case.name)

    def reader(self, blocks: Blocks) -> BlockReader:
        return BlockReader(self.settings, self.store, self.use_case, self.rules, blocks)

    @property
    def digest(self) -> str:
        """Digest of the resolved use case: its object and every rule, a suite file's too."""
        return digest_value([self.use_case.digest, [rule_to_dict(rule) for rule in self.rules]])

    @property
    def code(self) -> str:
        """Digest of all sources that a run executes."""
        return code_digest(self.sources)


def open_site(use_case_name: str) -> Site:
    """Raises UsageError for an unknown use case, ConfigError for an unreadable one or its suite."""
    settings = Settings.from_environment()
    loaded = load(use_case_name, settings.project)
    use_case = loaded.use_case
    suite = suite_file(use_case_name, settings.project)
    own = load_rules(suite) if suite else ()
    rules = (*use_case.column_rules, *partition_rules(use_case), *snapshot_rules(use_case), *own)
    _check_columns(use_case, rules)
    return Site(settings, open_store(settings.store), use_case, rules, loaded.sources)


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


def site_of(night: Night) -> Site:
    """The night's site. Raises ConfigError if the use case, its suite or our sources changed since the night began."""
    site = open_site(night.use_case)
    if (site.digest, site.code) != (night.use_case_digest, night.code_digest):
        raise ConfigError(
            "a use case stays as it is during a night",
            f"the file, a module or the suite of {night.use_case} changed",
            "run it again",
        )
    return site


def resume(site: Site, kind: type[H], name: str, key: str, make: Callable[[], H]) -> H:
    """The stage's kept handle, or a new one; its work says which."""
    handle, kept = resume_or_make(site.store, kind, paths.stage(site.use_case.name, name, key), make)
    return with_work(handle, Work(stage=name, reused=int(kept), computed=int(not kept)))
