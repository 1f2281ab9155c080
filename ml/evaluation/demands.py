"""What a use case may say about its gates. Each row of the table is one demand."""

from ml.data.dataset import NUMBERS
from ml.declarations import Broken, Demands
from ml.evaluation.gates import Comparison, Gate, MinMetric
from ml.evaluation.source_unchanged import SourceUnchanged
from ml.metrics.scores import RANGES
from ml.models.demands import unmeasured
from ml.models.recipe import Recipe

BASELINES = ("constant", "rule")
OPPONENTS = (*BASELINES, "trees", "champion", "reference")


def has_no_rule(recipe: Recipe) -> bool:
    """Whether no one-column rule exists for a candidate to beat: there are several classes, or no numeric feature."""
    numbers = [column for column in recipe.features if column.type in NUMBERS and not column.is_category]
    return recipe.target.kind == "multiclass" or not numbers


def _is_out_of_range(gate: MinMetric, recipe: Recipe) -> bool:
    """Whether the metric never has the gate's floor. The Brier score of two classes counts only the second one."""
    lowest, highest = RANGES[gate.metric]
    halved = gate.metric == "brier" and recipe.target.kind == "binary"
    return not lowest <= gate.floor <= (highest / 2 if halved else highest)


def _why_no_rule(kind: type[Gate]) -> Broken:
    """Why a kind of gate has no rule of its own, in words; False if it has one."""
    if hasattr(kind, "_weigh") or hasattr(kind, "_decide"):
        return "it defines _weigh or _decide, as these methods were called before"
    decides = issubclass(kind, Comparison) and kind.decide is not Comparison.decide
    has_rule = decides or kind.weigh not in {Gate.weigh, Comparison.weigh} or issubclass(kind, SourceUnchanged)
    return not has_rule and f"{kind.__name__} defines neither"


GATE: Demands[Gate, Recipe] = (
    (
        "metric",
        "be one that its target has",
        lambda g, u: not isinstance(g, SourceUnchanged) and unmeasured(g.metric, u),
        "choose one of them",
    ),
    ("why", "give the reason of its figure", lambda g, _: not g.why.strip(), "write a sentence"),
    (
        "metric",
        "be the use case's, by which the best constant and rule are chosen",
        lambda g, u: isinstance(g, Comparison) and g.opponent in BASELINES and g.metric != u.metric,
        "change one of the two",
    ),
    (
        "floor",
        "be a value that its metric can take",
        lambda g, u: isinstance(g, MinMetric) and _is_out_of_range(g, u),
        "mend it",
    ),
    (
        "opponent",
        f"be one of {', '.join(OPPONENTS)}",
        lambda g, _: g.opponent not in OPPONENTS,
        "mend the gate",
    ),
    (
        "opponent",
        "be there",
        lambda g, u: g.opponent == "rule" and has_no_rule(u) and "of several classes, or without a number, no rule is",
        "remove the gate",
    ),
    (
        "weigh",
        "be defined, or decide for a Comparison",
        lambda g, _: _why_no_rule(type(g)),
        'see "A gate of your own" in docs/gates.md',
    ),
)
