"""What the judging stages hand to later stages."""

from dataclasses import dataclass
from typing import Literal

from ml.evaluation.promise import Promise
from ml.evaluation.source_evidence import SourceEvidence
from ml.metrics.calibration_curve import CalibrationCurve
from ml.storage.records import DecisionName, FileRef, Handle, SourceChange

VerdictName = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT_JUDGED", "NOT_APPLICABLE"]


def short(value: float) -> str:
    """Three decimals, or none from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A point estimate with its 90 % interval. What is undefined is None, and `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def in_words(self) -> str:
        """Like `0.738 [0.721, 0.755]`, or why there is no value."""
        if self.value is None:
            return f"undefined ({self.reason})"
        if self.low is None or self.high is None:
            return short(self.value)
        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """One predictor's scores on the test rows. `who` is candidate, champion, reference, constant, rule or trees.

    `confusion` counts rows by label (outer) and prediction (inner); it is None for a regression. `calibration` is None
    without probabilities.
    """

    who: str
    description: str
    scores: dict[str, Interval]
    confusion: tuple[tuple[int, ...], ...] | None
    calibration: CalibrationCurve | None = None


@dataclass(frozen=True, kw_only=True)
class LearntConstant:
    """The best constant of the train rows: its answer and, for classes, their shares, which are its probabilities."""

    answer: float
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DefaultTrees(Handle):
    """What boosted trees with default settings answer to the test rows: the stored `answers`, or the `reason` why there
    are none."""

    description: str
    answers: FileRef | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluations(Handle):
    """The scores of all predictors on one set of test rows, and the stored evidence that gates weigh.

    There are `rows` test rows and `units` resampling units, each of which is a `unit` (day, row, or the group's name).
    `not_comparable` says why a registered version was not scored. `is_champion` says that the candidate is the champion
    itself: what it must prove has changed, and it is judged again. `promise` is what the candidate's scores on single
    days promise of the days that it will serve; None without days.
    """

    test_digest: str
    rows: int
    units: int
    unit: str
    models: dict[str, ModelScores]
    not_comparable: dict[str, str]
    evidence: FileRef
    answers: FileRef
    is_champion: bool = False
    constant: LearntConstant | None = None
    promise: Promise | None = None


@dataclass(frozen=True, kw_only=True)
class SourceWatch(Handle):
    """What is new in the source: `evidence` for the gate, None if the use case has no gate that looks at it.

    `sentences` say what other code made of days whose bytes are the same, for the report.
    """

    evidence: SourceEvidence | None = None
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one gate says, with its reason as a sentence and the figures that it weighed."""

    gate: str
    verdict: VerdictName
    reason: str
    figures: dict[str, float | int | str | None]


@dataclass(frozen=True, kw_only=True)
class Judgement(Handle):
    """All verdicts and the decision that follows from them.

    `blocked` is the reason why nothing may be promoted, `asks` whether an operator is to decide. `proved_better` makes
    a promoted candidate the new reference. `source_changes` are the changes of the source that nobody has answered.
    `against_rule` and `against_trees` compare the candidate with these baselines, for the report only.
    """

    verdicts: tuple[Verdict, ...]
    decision: DecisionName
    reason: str
    proved_better: bool
    blocked: str | None = None
    asks: bool = False
    source_changes: tuple[SourceChange, ...] = ()
    against_rule: Verdict | None
    against_trees: Verdict | None = None
