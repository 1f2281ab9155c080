"""What is said of a change in the source: which column, on which days, and how far it moved."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ml.data.rewritten import Rewritten
from ml.evaluation.source_changes import Change, LossChange
from ml.evaluation.source_evidence import DELIVERED, LOSS, REWRITTEN
from ml.storage.records import SourceChange

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


def told_delivered(change: Change, *, sensitive: bool) -> SourceChange:
    """A column that is others on days that were delivered again, as the ledger keeps it."""
    days, share = span_of(change.days), f"{change.share:.0%}"
    words = f"{change.column or change.kind} of {days} was delivered again with other values in {share} of the rows"
    return replace(told(change, sensitive=sensitive), words=f"{words}{_middles(change, sensitive=sensitive)}")


def told_loss(change: LossChange) -> SourceChange:
    """What only the champion's answers show, as the ledger keeps it."""
    return SourceChange(
        column="", kind=LOSS, first_day=change.days[0], days=change.days, share=1.0, usual=0.0,
        words=f"on {span_of(change.days)} the champion's loss was {change.relative:.2f} of the best constant's, where "
        f"on the days of the weeks before it was {change.low:.2f} to {change.high:.2f}",
    )  # fmt: skip


def told_rewritten(name: str, days: Sequence[str], column: Rewritten, *, sensitive: bool, anew: bool) -> SourceChange:
    """A column that other code made of the same bytes, or that came `anew`, as the ledger keeps it."""
    return SourceChange(
        column=name,
        kind=DELIVERED if anew else REWRITTEN,
        first_day=days[0],
        days=tuple(days),
        share=round(column.share, 4),
        usual=0.0,
        words=words_of_rewritten(name, days, column, sensitive=sensitive, anew=anew),
    )


def words_of_rewritten(
    name: str, days: Sequence[str], column: Rewritten, *, sensitive: bool, anew: bool = False
) -> str:
    """In how many rows, and how far, a column moved on days that were known before, without a full stop."""
    by = f", by {np.median(column.by):+.4g} in the median" if column.by and not sensitive else ""
    words = f"{name} differs in {column.rows:,} of {column.of:,} rows of {span_of(days)}"
    if anew:
        return f"{words}, which were delivered again{by}"
    return f"{words}, whose bytes are the same{by}: derive, a join or the code that reads has changed"


def _words(change: Change, *, sensitive: bool) -> str:
    days = span_of(change.days)
    if change.kind in OF_SHARES:
        what = OF_SHARES[change.kind].format(change.column)
        return f"{what} in {change.after or 0:.0%} of the rows of {days} ({change.before or 0:.0%} in the weeks before)"
    spread = (
        f"on {days} {change.column} is spread as on no day of the weeks before: {change.share:.0%} of the rows are "
        f"where no such day had them, and until then {change.usual:.0%} was the most"
    )
    return f"{spread}{_middles(change, sensitive=sensitive)}"


def _middles(change: Change, *, sensitive: bool) -> str:
    if change.before is None or change.after is None or sensitive:
        return ""
    return f"; its median was {change.before:.4g} and is {change.after:.4g}"


def span_of(days: Sequence[str]) -> str:
    """`2013-11-04`, or `2013-11-04 to 2013-11-07 (4 days)`."""
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]} ({len(days)} days)"
