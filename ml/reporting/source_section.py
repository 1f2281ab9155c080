"""What a report says about the source: what changed in it, and what other code made of the same bytes."""

from collections.abc import Sequence

from ml.reporting.document import Document
from ml.reporting.words import MOST_DAYS
from ml.storage.ledger import OperatorEntry


def source_lines(document: Document) -> list[str]:
    """The lines of the section; none if nothing has changed."""
    changes = [f"- {change['words']}." for change in document.get("source_changes", [])]
    return [*changes, *(f"- {sentence}" for sentence in document.get("rewritten", []))]


def after_no(answer: OperatorEntry, days: Sequence[str]) -> str:
    """What is to be done about the days of a changed source after the answer no, after a space; "" if there are
    none."""
    learnt = [day for day in days if day not in answer.excluded]
    if not days:
        return ""
    if not learnt:
        return (
            f" No later night uses {', '.join(days[:MOST_DAYS])}{' and later days' if len(days) > MOST_DAYS else ''}."
        )
    commands = "; ".join(f"retrain data exclude {answer.use_case} {day} --reason WHY" for day in learnt[:MOST_DAYS])
    more = f"; and so on up to {learnt[-1]}" if len(learnt) > MOST_DAYS else ""
    return f" Until its days are left out, nothing that learns from them is promoted: {commands}{more}."
