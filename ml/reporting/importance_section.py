"""What a report says of the columns that the model's answers rest on: permutation importance in words and a table."""

from collections.abc import Sequence

from ml.evaluation.explanation import Explanation
from ml.evaluation.handles import Interval, short
from ml.metrics.scores import LOWER_IS_BETTER
from ml.reporting.document import Document
from ml.reporting.score_section import LABELS
from ml.reporting.words import counted

MOST_TOLD = 3  # columns that the sentence names


def importance_lines(document: Document) -> list[str]:
    """The section's lines; none where the night measured nothing, as nights of before did not."""
    importance = document.get("importance")
    if importance is None:
        return []
    if importance["reason"] is not None:
        return [f"Which columns matter could not be measured: {importance['reason']}."]
    metrics = importance["metrics"]
    head = ["| column | " + " | ".join(title(name) for name in metrics) + " |", "| --- |" + " ---: |" * len(metrics)]
    rows = [
        f"| {_names(one['columns'])} | {' | '.join(_cell(name, one['costs'][name]) for name in metrics)} |"
        for one in importance["columns"]
    ]
    return [_meaning(metrics), "", *head, *rows, "", *_notes(importance)]


def title(metric: str) -> str:
    """What a column of the table says."""
    return f"{subject(metric)} by"


def subject(metric: str) -> str:
    """Like `F1 falls` or `log loss rises`."""
    return f"{LABELS[metric]} {'rises' if metric in LOWER_IS_BETTER else 'falls'}"


def _meaning(metrics: Sequence[str]) -> str:
    losses = [LABELS[name] for name in metrics if name in LOWER_IS_BETTER]
    share = f" The {losses[0]} rises by a share of the model's own." if losses else ""
    return (
        "How much worse the model answers where a column's values are shuffled among the test rows: the more, the more "
        f"its answers rest on the column. Near 0 they hardly do; surely under 0, the column harms.{share}"
    )


def _notes(importance: Document) -> list[str]:
    part = counted(importance["rows"], "test row")
    if importance["rows"] < importance["test_rows"]:
        part = f"{importance['rows']:,} of {counted(importance['test_rows'], 'test row')}, drawn at random"
    units = counted(importance["units"], importance["unit"])
    lines = [
        f"- Measured on {part}, shuffled {importance['shuffles']} times. Intervals are 90 % intervals from what each "
        f"of {units} changes.",
        "- Columns are those that the model is given: joined and derived ones count by themselves, beside the columns "
        "that they come from.",
    ]
    if any(len(one["columns"]) > 1 for one in importance["columns"]):
        lines.append(
            "- Columns in one row of the table stand for each other and were shuffled together: alone each seems to "
            "matter less, because the model still has the other."
        )
    if importance["more_columns"]:
        lines.append(f"- {counted(importance['more_columns'], 'more column')} mattered less and are not shown.")
    if importance["unmeasured"]:
        lines.append(
            f"- {counted(importance['unmeasured'], 'column')} went least with the model's answers: not measured."
        )
    return lines


def _names(columns: Sequence[str]) -> str:
    return " + ".join(columns)


def _cell(metric: str, cost: Document) -> str:
    """Like `0.412 [0.391, 0.433]`, and for a loss `+82 % [+75 %, +89 %]`."""
    if cost["value"] is None:
        return "undefined"
    form = _percent if metric in LOWER_IS_BETTER else _number
    interval = "" if cost["low"] is None else f" [{form(cost['low'])}, {form(cost['high'])}]"
    return f"{form(cost['value'])}{interval}"


def _number(value: float) -> str:
    text = short(value)
    return text.lstrip("-") if not text.strip("-0.") else text  # -0.000 would look like harm


def _percent(value: float) -> str:
    text = f"{100 * value:+,.1f} %"
    return "0.0 %" if text in {"-0.0 %", "+0.0 %"} else text


def sentence(explanation: Explanation) -> str:
    """Like `The answers rest most on dep_delay (F1 falls by 0.412), temp (0.020) and origin (0.011).`"""
    metric = explanation.metrics[0]
    sure = [one for one in explanation.singles if _is_sure(one.costs[metric])][:MOST_TOLD]
    costs = [_cell(metric, {"value": one.costs[metric].value, "low": None}) for one in sure]
    told = [f"{one.columns[0]} ({cost})" for one, cost in zip(sure, costs, strict=True)]
    if not told:
        return "By shuffling, no column matters surely."
    return f"The answers rest most on {', '.join(told)}: {title(metric)} that much where one is shuffled."


def _is_sure(cost: Interval) -> bool:
    return cost.value is not None and cost.value > 0 and (cost.low is None or cost.low > 0)
