"""Small frozen dataclasses that are stored as JSON: files, versions, and what a stage cost.

Their fields are part of stored objects: a field that is renamed makes older stores unreadable.
"""

import dataclasses
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

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


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A registered version that the ledger names: its files, and what decides whether it can be compared with another.

    `fit_until` is the last day that it may have learned from; None for a use case without dates.
    """

    version: int
    run_id: str
    as_of: date
    fit_until: str | None
    target_digest: str
    split_digest: str
    folder: str
    files: tuple[FileRef, ...]

    @property
    def identity(self) -> "Identity":
        """The run and the model's digest. MLflow's version number does not identify a version: MLflow counts from 1
        again in a registry that was emptied."""
        return self.run_id, digest_of_files(self.files)

    @property
    def dated(self) -> bool:
        """Whether the version is of a use case with dates."""
        return self.fit_until is not None

    def dated_before(self, as_of: date) -> bool:
        """Whether this version has a date, and one before `as_of`."""
        return self.dated and as_of > self.as_of


Identity = tuple[str, str]


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
