"""The gate SourceUnchanged: a candidate that learnt from a source that has changed is promoted by a person alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ml.evaluation.gates import Evidence, Gate
from ml.evaluation.handles import Verdict, VerdictName
from ml.evaluation.source_evidence import days_of
from ml.storage.records import SourceChange

MOST_NAMED = 3  # how many changes the sentence tells


@dataclass(frozen=True, kw_only=True)
class SourceUnchanged(Gate):
    """On the days since the champion was judged, every column is spread as on the days of the weeks before.

    If one is not, the data have changed, and that is no merit of the candidate. Then a person is asked, whatever
    `on_inconclusive` says, and the champion stays. An answer holds for that column and that first day. After a no, the
    gate fails as long as the days are learnt from.
    """

    metric: str = field(default="", init=False)  # it looks at no score
    always_asks: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return type(self).__name__

    def judge(self, evidence: Evidence) -> Verdict:
        source = evidence.source
        if source is None:
            return self.verdict("FAIL", "there is no evidence about the source")
        if source.open:
            return self._changed("INCONCLUSIVE", source.open, "whether that is right, a person must say")
        if source.refused:
            return self._changed("FAIL", source.refused, "an operator said that it is broken")
        known = len(source.changes)
        return self.verdict(
            "PASS", "no column has changed" if not known else f"nothing changed that was not answered yes ({known})"
        )

    def _changed(self, verdict: VerdictName, changes: Sequence[SourceChange], then: str) -> Verdict:
        told = "; ".join(change.words for change in changes[:MOST_NAMED])
        more = f"; {len(changes) - MOST_NAMED} more" if len(changes) > MOST_NAMED else ""
        days = days_of(changes)
        return self.verdict(
            verdict,
            f"{told}{more}: {then} ({self.why})",
            changes=len(changes),
            column=changes[0].column,
            kind=changes[0].kind,
            first_day=days[0],
            last_day=days[-1],
        )
