"""Gates: each weighs the evidence and says, with a sentence, whether a candidate may become champion.

A gate is a pure function of the evidence, and one that cannot judge blocks the candidate. Every interval is a 90 %
interval of ml/metrics/intervals.py. docs/gates.md says how often it errs and shows how a company writes its own gates;
the methods without a leading _ are what it may use and define.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ml.evaluation.handles import Interval, Verdict, VerdictName
from ml.evaluation.source_evidence import SourceEvidence
from ml.metrics.intervals import MIN_CARRIERS, Estimate, Pair, Side
from ml.metrics.scores import AREAS, LOWER_IS_BETTER, METRICS, RANGES

MIN_UNITS = 20
DETECTABLE = 2.49  # in standard errors: z(0.95) + z(0.80), for a one-sided 5 % test with power 0.8
ALLOWING: frozenset[VerdictName] = frozenset({"PASS", "NOT_APPLICABLE"})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What gates may look at: the candidate paired with each other predictor on the same test rows.

    A predictor without a pair has its reason in one of two places: in `not_applicable` if the registry has no such
    version, in `not_comparable` if it exists and cannot be compared. `unit` is what a unit is called. `source` is added
    when the gates are asked; it is None where no gate looks at the source.
    """

    unit: str
    pairs: dict[str, Pair]
    not_applicable: dict[str, str] = field(default_factory=dict)
    not_comparable: dict[str, str] = field(default_factory=dict)
    source: Annotated[SourceEvidence | None, Field(exclude_if=lambda source: source is None)] = None

    @property
    def has_champion(self) -> bool:
        """Whether there is a champion, be it comparable or not."""
        return "champion" in self.pairs or "champion" in self.not_comparable


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A rule on the candidate's `metric`; `why` gives the reason for its figure.

    A new gate defines `weigh`, or inherits from Comparison and defines `decide`. `opponent` names the predictor that
    the candidate is paired with: constant, rule, trees, champion or reference. `always_asks` says that an operator is
    asked if the gate says INCONCLUSIVE, whatever the use case's `on_inconclusive` is.
    """

    metric: str
    why: str
    opponent: ClassVar[str] = "constant"
    always_asks: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What reports call the gate, like `MinMetric f1`."""
        return f"{type(self).__name__} {self.metric}"

    def judge(self, evidence: Evidence) -> Verdict:
        """PASS, FAIL, INCONCLUSIVE, NOT_JUDGED or NOT_APPLICABLE, with a reason."""
        if self.opponent in evidence.not_applicable:
            return self.verdict("NOT_APPLICABLE", evidence.not_applicable[self.opponent])
        if self.opponent in evidence.not_comparable:
            return self.verdict("NOT_JUDGED", evidence.not_comparable[self.opponent])
        pair = evidence.pairs.get(self.opponent)
        if pair is None:
            return self.verdict("FAIL", f"there is no evidence about the {self.opponent}")
        if self.metric not in METRICS[pair.kind]:
            return self.verdict("FAIL", f"{self.metric} is not measured for {pair.kind} models")
        if not pair.measures(self.metric):
            return self.verdict("FAIL", f"the evidence has no {self.metric}: a model's answers had no probabilities")
        if pair.units < MIN_UNITS:
            more = "; raise test_days, which counts days that are left out too" if evidence.unit == "day" else ""
            return self.verdict(
                "INCONCLUSIVE", f"{pair.units} {evidence.unit}s are too few to judge; {MIN_UNITS} are needed{more}"
            )
        return self.weigh(pair, evidence)

    def weigh(self, pair: Pair, evidence: Evidence) -> Verdict:
        """The verdict on candidate and opponent, which have this metric and enough units."""
        raise NotImplementedError

    def verdict(self, verdict: VerdictName, reason: str, /, **figures: float | int | str | None) -> Verdict:
        """This gate's verdict, with its reason as a sentence and the figures that the ledger keeps.

        A figure that is not finite is kept as None.
        """
        kept = {name: _plain_figure(figure) for name, figure in figures.items()}
        return Verdict(gate=self.name, verdict=verdict, reason=reason, figures=kept)


@dataclass(frozen=True, kw_only=True)
class MinMetric(Gate):
    """The candidate's point estimate must reach a floor, which was written before any candidate was scored on test.

    For a loss, such as RMSE or log loss, `floor` is the highest value that is allowed. With `first_only` it binds the
    first champion only; once there is one, it informs, whatever the figure is.
    """

    floor: float
    first_only: bool = False

    def judge(self, evidence: Evidence) -> Verdict:
        judged = super().judge(evidence)
        if not self.first_only or not evidence.has_champion:
            return judged
        return replace(
            judged, verdict="PASS", reason=f"{judged.reason}; there is a champion, so that this only informs"
        )

    def weigh(self, pair: Pair, evidence: Evidence) -> Verdict:
        del evidence  # what stands beside the pair does not matter to a floor
        interval = metric_interval(pair, self.metric, "candidate")
        if interval.value is None:
            return self.verdict("FAIL", f"{self.metric} is undefined on these rows: {interval.reason}")
        above = interval.value <= self.floor if self.metric in LOWER_IS_BETTER else interval.value >= self.floor
        word = "ceiling" if self.metric in LOWER_IS_BETTER else "floor"
        return self.verdict(
            "PASS" if above else "FAIL",
            f"{self.metric} is {interval.in_words()}; the {word} is {self.floor:g} ({self.why})",
            value=interval.value,
            low=interval.low,
            high=interval.high,
            floor=self.floor,
        )


@dataclass(frozen=True, kw_only=True)
class Comparison(Gate):
    """A gate on the difference between candidate and opponent. The interval of the difference decides."""

    def weigh(self, pair: Pair, evidence: Evidence) -> Verdict:
        difference = Difference.of(pair, self.metric, evidence.unit)
        if not np.isfinite(difference.value):
            why = why_no_difference(pair, self.metric, self.opponent)
            return self.verdict("FAIL", f"the difference in {self.metric} is undefined on these rows: {why}")
        if not np.isfinite(difference.low):
            return self.verdict("INCONCLUSIVE", why_no_interval(pair, self.metric, evidence.unit))
        verdict, reason = self.decide(difference)
        measured = {
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "smallest_detectable_drop": difference.detectable,
            "independent_units": difference.independent,
        }
        return self.verdict(verdict, f"{reason} ({self.why})", **measured, **self._own_figures(measured))

    def decide(self, difference: "Difference") -> tuple[VerdictName, str]:
        """The verdict on a difference with an interval, and its reason, to which `why` is added."""
        raise NotImplementedError

    def _own_figures(self, measured: Iterable[str]) -> dict[str, float]:
        """The gate's own figures, such as the loss that it allows, without those that are named like a measured one."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in measured}
        return {name: figure for name, figure in own.items() if isinstance(figure, int | float)}


@dataclass(frozen=True, kw_only=True)
class NotWorse(Comparison):
    """The whole interval must lie above -`max_drop`, in points of a score or as a fraction of the opponent's loss."""

    max_drop: Annotated[float, Field(gt=0, lt=1)]

    def decide(self, difference: "Difference") -> tuple[VerdictName, str]:
        differs = f"{self.metric} differs from {whose(self.opponent)} by {difference.in_words(self.metric)}"
        words = f"{differs}; a loss of {_allowed(self.metric, self.max_drop)} is allowed"
        if difference.low > -self.max_drop:
            return "PASS", words
        if difference.high < -self.max_drop:
            return "FAIL", words
        if difference.detectable > self.max_drop:
            return "INCONCLUSIVE", f"{words}, but {difference.what_it_can_show(self.metric, self.max_drop)}"
        return "INCONCLUSIVE", f"{words}, and the interval leaves it open"


@dataclass(frozen=True, kw_only=True)
class NotWorseThanChampion(NotWorse):
    """Not worse than the champion."""

    opponent: ClassVar[str] = "champion"


@dataclass(frozen=True, kw_only=True)
class NotWorseThanReference(NotWorse):
    """Not worse than the reference: the last version that was the first one or was proved better.

    So small losses, each too small to be noticed, cannot add up night after night.
    """

    opponent: ClassVar[str] = "reference"


@dataclass(frozen=True, kw_only=True)
class NotSurelyWorse(Comparison):
    """Fails only if the whole interval says that the candidate is worse than the champion.

    It is for metrics beside the one that decides: what the test rows cannot tell is allowed.
    """

    opponent: ClassVar[str] = "champion"

    def decide(self, difference: "Difference") -> tuple[VerdictName, str]:
        differs = f"{self.metric} differs from the champion's by {difference.in_words(self.metric)}"
        if difference.high < 0:
            return "FAIL", f"{differs}: surely worse"
        return "PASS", f"{differs}: not surely worse"


@dataclass(frozen=True, kw_only=True)
class BetterThan(Comparison):
    """The whole interval must lie above zero."""

    def decide(self, difference: "Difference") -> tuple[VerdictName, str]:
        differs = f"{self.metric} differs from {whose(self.opponent)} by {difference.in_words(self.metric)}"
        if difference.low > 0:
            return "PASS", f"{differs}: better"
        if difference.high <= 0:
            return "FAIL", f"{differs}: not better"
        return "INCONCLUSIVE", f"{differs}: it is not sure that it is better"


@dataclass(frozen=True, kw_only=True)
class BetterThanTrivial(BetterThan):
    """Better than the best constant prediction."""

    opponent: ClassVar[str] = "constant"


@dataclass(frozen=True, kw_only=True)
class BetterThanRule(BetterThan):
    """Better than the best threshold on one column."""

    opponent: ClassVar[str] = "rule"


@dataclass(frozen=True, kw_only=True)
class BetterThanTrees(BetterThan):
    """Better than boosted trees with default settings."""

    opponent: ClassVar[str] = "trees"


@dataclass(frozen=True, kw_only=True)
class NotWorseThanTrees(NotWorse):
    """Not worse than boosted trees with default settings, which learnt the same train rows tonight."""

    opponent: ClassVar[str] = "trees"


OPPONENT_WORDS = {"constant": "best constant", "rule": "best one-column rule", "trees": "default trees"}


def whose(opponent: str) -> str:
    """Like `the champion's`."""
    words = OPPONENT_WORDS.get(opponent, opponent)
    return f"the {words}'{'' if words.endswith('s') else 's'}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Candidate minus opponent, where larger is better, with its interval.

    `detectable` is the smallest loss that these `units` (each a `unit`: day, row, or the group's name) can show, and
    `independent` says how many independent ones they equal. Without an interval these figures are NaN.
    """

    value: float
    low: float
    high: float
    detectable: float
    independent: float
    units: int
    unit: str

    @classmethod
    def of(cls, pair: Pair, metric: str, unit: str = "unit") -> "Difference":
        """The difference of a pair in this metric; NaN where it is undefined."""
        found = Estimate.of(pair, metric, "candidate", "other")
        return cls(
            value=found.value,
            low=found.low,
            high=found.high,
            detectable=DETECTABLE * found.error,
            independent=found.independent,
            units=pair.units,
            unit=unit,
        )

    def what_it_can_show(self, metric: str, loss: float) -> str:
        """The smallest loss that these units can show, and how many such units could show this one."""
        enough = math.ceil(self.units * (self.detectable / loss) ** 2)
        smallest = amount(metric, self.detectable)
        return (
            f"{self.units} {self.unit}s cannot show a loss under {smallest}; about {enough:,} such {self.unit}s could"
        )

    def in_words(self, metric: str) -> str:
        """Like `+0.0093 [+0.0028, +0.0164]`; for a loss in per cent of the opponent's."""
        value, low, high = (amount(metric, x, signed=True) for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def metric_interval(pair: Pair, metric: str, side: Side) -> Interval:
    """The metric of one side with its interval; no interval if there are too few units."""
    found = Estimate.of(pair, metric, side)
    if not np.isfinite(found.value):
        return Interval(value=None, reason=why_undefined(pair, metric, side))
    if pair.units < MIN_UNITS or not np.isfinite(found.error):
        return Interval(value=found.value, reason="too few units for an interval")
    low, high = np.clip([found.low, found.high], *RANGES[metric])
    return Interval(value=found.value, low=float(low), high=float(high))


def why_undefined(pair: Pair, metric: str, side: Side) -> str:
    """Why one side's metric has no value."""
    if metric in AREAS:
        return "a class has no rows"
    totals = pair.totals()
    if pair.kind == "regression":
        return "all labels are equal" if metric == "r2" else "an error is too large to be squared and summed"
    cells = totals[0, : pair.classes**3].reshape((pair.classes,) * 3).sum(axis=2 if side == "other" else 1)
    judged_classes = [1] if pair.kind == "binary" else range(pair.classes)
    rows = cells.sum(axis=1)[judged_classes]  # by label
    which = "the second class" if pair.kind == "binary" else "a class"
    return f"{which} has no rows" if not rows.all() and metric != "precision" else f"{which} is never the answer"


def why_no_interval(pair: Pair, metric: str, unit: str) -> str:
    """Why a difference has a value but no interval."""
    carriers = pair.carriers(metric, "candidate", "other")
    return f"{metric} rests on {carriers} of {pair.units} {unit}s alone, too few to judge; {MIN_CARRIERS} are needed"


def why_no_difference(pair: Pair, metric: str, opponent: str) -> str:
    """Why the difference of two sides has no value."""
    sides: dict[str, Side] = {"the candidate": "candidate", OPPONENT_WORDS.get(opponent, f"the {opponent}"): "other"}
    for who, side in sides.items():
        if not np.isfinite(pair.metric(metric, side, pair.totals())).all():
            return f"of {who}, {why_undefined(pair, metric, side)}"
    return f"the {OPPONENT_WORDS.get(opponent, opponent)} makes no error, of which there are no fractions"


def _plain_figure(figure: Any) -> Any:
    """A figure as JSON can hold it, which has neither numpy's types nor NaN."""
    plain = figure.item() if isinstance(figure, np.generic) else figure
    return None if isinstance(plain, float) and not np.isfinite(plain) else plain


def _allowed(metric: str, drop: float) -> str:
    """The declared loss in words, with as many digits as it was declared with."""
    usual = amount(metric, drop)
    if metric in LOWER_IS_BETTER:
        return usual if math.isclose(float(usual[:-1]), 100 * drop) else f"{100 * drop:g}%"
    return usual if math.isclose(float(usual), drop) else f"{drop:g}"


def amount(metric: str, value: float, *, signed: bool = False) -> str:
    """A difference in words: points of a score, or per cent of a loss."""
    sign = "+" if signed else ""
    return format(value, f"{sign}.1%") if metric in LOWER_IS_BETTER else format(value, f"{sign}.4f")
