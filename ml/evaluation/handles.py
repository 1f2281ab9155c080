"""What the judging stages hand on."""

from dataclasses import dataclass
from typing import Literal

from ml.storage.records import DecisionName, FileRef, Handle

VerdictName = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT_JUDGED", "NOT_APPLICABLE"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A point estimate with its 90 % percentile interval; None, with a reason, where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """One predictor's scores on the test digest: candidate, champion, reference, best constant or one-column rule."""

    who: str
    description: str
    scores: dict[str, Interval]
    confusion: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True, kw_only=True)
class Evaluations(Handle):
    test_digest: str
    rows: int
    units: int
    unit: str
    models: dict[str, ModelScores]
    not_comparable: dict[str, str]
    evidence: FileRef
    answers: FileRef


@dataclass(frozen=True, kw_only=True)
class Verdict:
    gate: str
    verdict: VerdictName
    reason: str
    figures: dict[str, float | int | str | None]


@dataclass(frozen=True, kw_only=True)
class Judgement(Handle):
    verdicts: tuple[Verdict, ...]
    decision: DecisionName
    reason: str
    proved_better: bool
    blocked: str | None = None
    asks: bool = False
    against_rule: Verdict | None
