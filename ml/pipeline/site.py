"""The site of a use case: its settings, store, definition and rules, which every stage takes; and how stages resume.

Great Expectations is not imported here: the functions that use it are passed in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import ml
from ml.code import Code, imported_code
from ml.data.cleaned import CleanedReader
from ml.data.handles import Cleaned
from ml.data.validation import PARTITION_FACTS, SNAPSHOT_FACTS, Fact, partition_rules, snapshot_rules
from ml.digests import digest_value
from ml.errors import ConfigError
from ml.evaluation.code import DEFAULT_TREES, JUDGING, REFITTING
from ml.models.code import learner_code
from ml.pipeline.run_key import training_code
from ml.serving.rules import Rule, rule_to_dict
from ml.settings import Settings
from ml.storage import paths
from ml.storage.kept import Kept
from ml.storage.ledger import Ledger
from ml.storage.records import Handle, Night, Work, with_work
from ml.storage.registry import Registry
from ml.storage.store import Store, open_store
from ml.use_case.definition import UseCase
from ml.use_case.loading import Loaded, load
from ml.use_case.travelling import Travelling

H = TypeVar("H", bound=Handle)
LoadSuite = Callable[[str, Path | None], tuple[Rule, ...]]  # takes the use case's name and RETRAIN_PROJECT's folder
Confirm = Callable[[Sequence[Fact]], None]  # raises ConfigError if Great Expectations counts otherwise


@dataclass(frozen=True)
class Site:
    """Everything that the stages of one use case need.

    `loaded` has the use case's own code. `confirm` lets Great Expectations check counts of broken rules.
    """

    settings: Settings
    store: Store
    use_case: UseCase
    rules: tuple[Rule, ...]
    loaded: Loaded
    confirm: Confirm

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store, self.use_case.name)

    @property
    def registry(self) -> Registry:
        return Registry(self.settings, self.use_case.name)

    def reader(self, cleaned: Cleaned) -> CleanedReader:
        """Reads the cleaned rows, without those in quarantine."""
        return CleanedReader(self.settings, self.store, self.use_case, self.rules, cleaned)

    @property
    def training(self) -> str:
        """A digest of what the use case says about its data and its model, and of all its rules."""
        return digest_value([self.use_case.training_digest, [rule_to_dict(rule) for rule in self.rules]])

    @property
    def code(self) -> str:
        """A digest of all code that decides a version: ours, the libraries', and the use case's own.

        It holds for the whole run. The use case's code runs from the very bytes that were hashed. Our own modules stay
        in memory as they were imported; a stage that imports more of them calls `ml.code.require_unchanged` first.
        """
        ours = training_code(self.use_case.model).digest
        served = [own_code_digest(self.loaded.serving)] if self.loaded.serving.digest else []
        return digest_value([ours, own_code_digest(self.loaded.training), self.loaded.at_import, *served])

    @property
    def judging(self) -> str:
        """A digest of the gates, of whether a winner is refitted, and of all code that decides about a version."""
        refitting = [] if self.use_case.refit == "never" else [REFITTING.digest]
        with_trees = any(gate.opponent == "trees" for gate in self.use_case.gates)
        trees = [_default_trees_code().digest] if with_trees else []
        own = own_code_digest(self.loaded.judging)
        return digest_value([self.use_case.gates_digest, JUDGING.digest, own, *refitting, *trees])


def _default_trees_code() -> Code:
    from ml.models.trees import Trees  # which few use cases need

    return DEFAULT_TREES + learner_code(Trees())


def own_code_digest(own: Travelling) -> str:
    """A digest of a use case's own code, and of what it imports of ours and of libraries; "" if there is none."""
    imported = imported_code(own.ours, ml.FACE) + Code(libraries=tuple(sorted(own.libraries)))
    return digest_value([own.digest, imported.digest]) if own.digest else ""


def open_site(use_case_name: str, load_suite: LoadSuite, confirm: Confirm) -> Site:
    """The site of a use case. Raises UsageError for an unknown use case, ConfigError if it or its suite is wrong."""
    settings = Settings.from_environment()
    loaded = load(use_case_name, settings.project)
    use_case = loaded.use_case
    suite = load_suite(use_case_name, settings.project)
    rules = (*use_case.column_rules, *partition_rules(use_case), *snapshot_rules(use_case), *suite)
    _check_columns(use_case, rules)
    return Site(settings, open_store(settings.store), use_case, rules, loaded, confirm)


def _check_columns(use_case: UseCase, rules: tuple[Rule, ...]) -> None:
    """Raises ConfigError if a rule reads a column or fact that its scope does not have."""
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
    """Returns the site. Raises ConfigError if the use case, its suite or our code changed since the night began."""
    if (site.training, site.code, site.judging) != (night.use_case_digest, night.code_digest, night.judging_digest):
        raise ConfigError(
            "a use case stays as it is during a night",
            f"the file, a module or the suite of {night.use_case} changed",
            "run it again",
        )
    return site


def kept_results(site: Site, kind: type[H], name: str) -> Kept[H]:
    """The kept results of the stage `name`."""
    return Kept(site.store, kind, partial(paths.stage, site.use_case.name, name))


def resume(site: Site, kind: type[H], name: str, key: str, make: Callable[[], H]) -> H:
    """The kept result of the stage `name` under this key, or a new one. Its `work` says which it is."""
    handle, kept = kept_results(site, kind, name).resume_or_make(key, make)
    return with_work(handle, Work(stage=name, reused=int(kept), computed=int(not kept)))
