"""Small frozen values that storage keeps: files, versions, and what a stage cost."""

import dataclasses
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from ml.digests import digest_value

DecisionName = Literal["FIRST", "PROMOTE", "KEEP", "REJECT", "NOTHING_NEW"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one stage cost (`peak_mb`: the process, until its end), and how much of it had been done before."""

    stage: str
    seconds: float = 0.0
    reused: int = 0
    computed: int = 0
    peak_mb: int = 0


@dataclass(frozen=True, kw_only=True)
class Handle:
    work: Work = Work(stage="")


@dataclass(frozen=True, kw_only=True)
class Night:
    """One run to be made: which use case, as of which date, with which seed, and why again if again."""

    use_case: str
    as_of: date
    seed: int
    again: str | None = None
    use_case_digest: str
    code_digest: str
    lock_digest: str
    device: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """One stored file: its key in the store, size in bytes and SHA-256."""

    key: str
    size: int
    digest: str


def digest_of_files(files: tuple[FileRef, ...]) -> str:
    """Of a whole model: MLflow shows it as the version's tag `model_digest`."""
    return digest_value([[file.key, file.digest] for file in files])


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A registered version that the ledger names, with what decides whether it can be compared."""

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
        """Its run and its model's digest. MLflow's number is none: it begins again in a registry that was emptied."""
        return self.run_id, digest_of_files(self.files)

    @property
    def dated(self) -> bool:
        return self.fit_until is not None

    def dated_before(self, as_of: date) -> bool:
        """Whether a night of that date knows more days than this version's night did."""
        return self.dated and as_of > self.as_of


Identity = tuple[str, str]


def with_work(handle: Any, work: Work) -> Any:
    return dataclasses.replace(handle, work=work)
