"""What a report says about the score of what served, beside what was promised."""

import dataclasses
from typing import Any

from ml.evaluation.handles import short
from ml.evaluation.promise import Band
from ml.evaluation.served import ServedScore
from ml.reporting.score_section import LABELS
from ml.reporting.words import counted

MOST_ROWS = 7  # days in the table of a report


def sentence(score: ServedScore | None) -> str:
    """How the models that served did on the newest days, what was promised, and since when it is otherwise; "" if no
    day is scored."""
    if score is None:
        return ""
    days = f"{counted(score.days, 'day')}, {score.first_day} to {score.last_day}" if score.days > 1 else score.last_day
    who = f"version {score.version}" if score.versions == 1 else f"{score.versions} versions, the last {score.version}"
    told = f"What served ({who}) reached {LABELS[score.metric]} {_number(score.score)} on {days}"
    if score.promised is None:
        return f"{told}; what was promised is not known."
    return f"{told}; promised was {in_words(score.promised)}.{_left(score)}"


def _left(score: ServedScore) -> str:
    """Since when the score is outside of what was promised."""
    return f" Since {score.left} it has been {score.left_side} than promised." if score.left else ""


def in_words(band: Band) -> str:
    """Like `0.801 to 0.959`."""
    return f"{short(band.low)} to {short(band.high)}"


def served_lines(document: dict[str, Any]) -> list[str]:
    """The section of a report: the sentence, how many single days were worse than promised, and the newest days."""
    served = document.get("served")
    if not served:
        return []
    score = score_in(served)
    lines = [line for line in (sentence(score), _single_days(score)) if line]
    unscored = [f"- {day}: {why}" for day, why in served["unscored"].items()]
    more = served["unscored_days"] - len(unscored)
    unscored += [f"- and {counted(more, 'earlier day')}"] if more else []
    twin = [served["twin"]] if served["twin"] else []
    return _paragraphs([" ".join(lines)] if lines else [], twin, _table(served), unscored)


def _paragraphs(*parts: list[str]) -> list[str]:
    """The lines of all parts, with an empty line between two of them."""
    return [line for part in parts if part for line in ("", *part)][1:]


def _single_days(score: ServedScore | None) -> str:
    """How many single days were worse than promised, and how many of them are to be expected."""
    if score is None or score.one_day is None:
        return ""
    worse = {0: "none was", 1: "1 was"}.get(score.outside, f"{score.outside} were")
    band = in_words(score.one_day)
    return f"Nine in ten single days were promised to lie within {band}, and one in twenty to be worse: {worse}."


def score_in(served: dict[str, Any]) -> ServedScore | None:
    """The score in the document of a night; None if it has none."""
    if served["version"] is None:
        return None
    fields = {field.name: served[field.name] for field in dataclasses.fields(ServedScore)}
    bands = {name: Band(**fields[name]) for name in ("one_day", "promised") if fields[name]}
    return ServedScore(**fields | bands)


def _table(served: dict[str, Any]) -> list[str]:
    """The newest days, one a row."""
    if not served["newest_days"]:
        return []
    rows = [
        f"| {day['day']} | {day['version']} | {day['rows']:,} | {_number(day['score'])} | {_number(day['relative'])} |"
        for day in served["newest_days"][-MOST_ROWS:]
    ]
    name = LABELS[served["metric"]]
    return [f"| day | version | rows | {name} | loss / constant's |", "| --- | ---: | ---: | ---: | ---: |", *rows]


def _number(value: float | None) -> str:
    return "undefined" if value is None else short(value)
