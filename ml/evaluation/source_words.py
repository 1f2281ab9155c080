"""What is said of a change in the source: which column, on which days, and how far it moved."""

from collections.abc import Sequence

from ml.evaluation.source_changes import Change
from ml.storage.records import SourceChange

MOST_DAYS = 3
OF_SHARES = {
    "missing": "{} has no value",
    "unmatched": "side table {} does not match",
    "quarantined": "rules set aside",
    "unlabelled": "there is no label",
}


def told(change: Change, *, sensitive: bool) -> SourceChange:
    """The change as the ledger keeps it. Of a sensitive column no value is told."""
    return SourceChange(
        column=change.column, kind=change.kind, first_day=change.first_day, days=change.days,
        share=round(change.share, 4), usual=round(change.usual, 4), words=_words(change, sensitive=sensitive),
    )  # fmt: skip


def _words(change: Change, *, sensitive: bool) -> str:
    days = span_of(change.days)
    if change.kind in OF_SHARES:
        what = OF_SHARES[change.kind].format(change.column)
        return f"{what} in {change.after or 0:.0%} of the rows of {days} ({change.before or 0:.0%} in the weeks before)"
    spread = (
        f"on {days} {change.column} is spread as on no day of the weeks before: {change.share:.0%} of the rows are "
        f"where no such day had them, and until then {change.usual:.0%} was the most"
    )
    if change.before is None or change.after is None or sensitive:
        return spread
    return f"{spread}; its median was {change.before:.4g} and is {change.after:.4g}"


def span_of(days: Sequence[str]) -> str:
    """`2013-11-04`, or `2013-11-04 to 2013-11-07 (4 days)`."""
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]} ({len(days)} days)"
