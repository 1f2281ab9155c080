"""The figure of the columns that the model's answers rest on."""

from ml.evaluation.explanation import Explanation, Importance
from ml.metrics.scores import LOWER_IS_BETTER
from ml.reporting.figures import new_figure, png
from ml.reporting.importance_section import subject
from ml.use_case.definition import UseCase

MOST_BARS, LONGEST_NAME = 20, 40


def importance_figure(use_case: UseCase, explanation: Explanation | None) -> dict[str, bytes]:
    """A bar for each column with its interval, the most important one on top; none if nothing was measured."""
    if explanation is None or not explanation.singles:
        return {}
    metric = explanation.metrics[0]
    shown = [
        one for one in (*explanation.singles[:MOST_BARS], *explanation.groups) if one.costs[metric].value is not None
    ]
    figure, axes = new_figure(width=8.0, height=1.9 + 0.26 * len(shown))
    scale = 100.0 if metric in LOWER_IS_BETTER else 1.0
    for place, one in enumerate(shown):
        cost, color = one.costs[metric], "C0" if len(one.columns) == 1 else "C1"
        axes.barh(place, scale * (cost.value or 0.0), color=color, height=0.7)
        if cost.low is not None and cost.high is not None:
            axes.plot([scale * cost.low, scale * cost.high], [place, place], color="0.25", lw=1.2)
    axes.set_yticks(range(len(shown)), [_name(one) for one in shown])
    axes.invert_yaxis()
    axes.axvline(0, color="0.6", lw=0.8)
    percent = " (per cent)" if metric in LOWER_IS_BETTER else ""
    axes.set(xlabel=f"by how much {subject(metric)}{percent} where the column's values are shuffled among test rows")
    axes.set_title(f"{use_case.name}: which columns the answers rest on")
    words = "A longer bar: the model needs the column more. The thin line is the 90 % interval."
    if explanation.groups:
        words += "\nOrange: columns that stand for each other, shuffled together."
    figure.supxlabel(words, fontsize="small", color="0.35")
    return {"importance.png": png(figure)}


def _name(one: Importance) -> str:
    name = " + ".join(one.columns)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
