"""Small frozen dataclasses that are stored as JSON: files, versions, and what a stage cost.

Their fields are part of stored objects: a field that is renamed makes older stores unreadable.
"""

import dataclasses
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field

from ml.digests import digest_value

DecisionName = Literal["FIRST", "PROMOTE", "KEEP", "REJECT", "NOTHING_NEW"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one stage cost, and how much of it had been done before.

    `reused` and `computed` count partitions, or are 0 and 1 for a stage with one result. `peak_mb` is the most memory
    that the process had used by the end of the stage, in MiB.
    """

    stage: str
    seconds: float = 0.0
    reused: int = 0
    computed: int = 0
    peak_mb: int = 0


@dataclass(frozen=True, kw_only=True)
class Handle:
    """What a stage returns. Subclasses add its results."""

    work: Work = Work(stage="")


@dataclass(frozen=True, kw_only=True)
class Night:
    """One run to be made: which use case, as of which date, with which seed, code and machine.

    `again` is the operator's reason to repeat a run that was finished before; None for any other run.
    `use_case_digest` and `code_digest` are of what decides a model, `judging_digest` is of what decides about it.
    `dated` says whether as_of decides what is learnt.
    """

    use_case: str
    as_of: date
    seed: int
    again: str | None = None
    use_case_digest: str
    code_digest: str
    judging_digest: str
    instructions: str
    device: str
    threads: int
    dated: bool = True


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """One stored file: its key in the store, size in bytes and SHA-256."""

    key: str
    size: int
    digest: str


def digest_of_files(files: tuple[FileRef, ...]) -> str:
    """The digest of a whole model, from the keys and digests of its files: the tag `model_digest` in MLflow."""
    return digest_value([[file.key, file.digest] for file in files])


Identity = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version that was registered in MLflow, with its files in the store.

    `fit_until` is the last day that it may have learned from; None for a use case without dates.
    """

    version: int
    run_id: str
    fit_until: str | None
    folder: str
    files: tuple[FileRef, ...]

    @property
    def identity(self) -> Identity:
        """The run and the model's digest. MLflow's version number does not identify a version: MLflow counts from 1
        again in a registry that was emptied."""
        return self.run_id, digest_of_files(self.files)


@dataclass(frozen=True, kw_only=True)
class Refit(Registered):
    """A judged version's recipe, fitted once more on all due rows. `key` is the training key that it is registered
    under."""

    key: str


def _is_none(value: object) -> bool:
    return value is None


@dataclass(frozen=True, kw_only=True)
class Champion(Registered):
    """A judged version that the ledger names, what decides whether it can be compared with another, and its refit.

    Its own fields are those of the judged version, which gates compare and by which it is known. If it was refitted,
    the `refit` serves. The field is left out of the JSON where it is None, as older entries do not have it.
    """

    as_of: date
    target_digest: str
    split_digest: str
    refit: Annotated[Refit | None, Field(exclude_if=_is_none)] = None

    @property
    def served(self) -> Registered:
        """The version that serves where this is champion: the refit, or the judged one if it has none."""
        return self.refit or self

    @property
    def versions(self) -> tuple[Registered, ...]:
        """The judged version and, if there is one, its refit."""
        return (self,) if self.refit is None else (self, self.refit)

    @property
    def dated(self) -> bool:
        """Whether the version is of a use case with dates."""
        return self.fit_until is not None

    def dated_before(self, as_of: date) -> bool:
        """Whether this version has a date, and one before `as_of`."""
        return self.dated and as_of > self.as_of


@dataclass(frozen=True, kw_only=True)
class SourceChange:
    """What changed in a source, as a night found it: a column of one kind of counts, on `days`.

    `share`: the largest share of a day's rows that are where none were on the days before; `usual`: the largest such
    share that any day before had. `words` say what moved, as a sentence without its full stop.
    """

    column: str
    kind: str
    first_day: str
    days: tuple[str, ...]
    share: float
    usual: float
    words: str


@dataclass(frozen=True, kw_only=True)
class SourceAnswer:
    """What an operator said of a change: that it is right (`accepted`), or that the source is broken.

    It holds for the change of this column and kind that began on `first_day`. `entry`: the ledger's entry that says it.
    """

    column: str
    kind: str
    first_day: str
    accepted: bool
    entry: int


def with_work(handle: Any, work: Work) -> Any:
    """The handle with this work in place of its own."""
    return dataclasses.replace(handle, work=work)
