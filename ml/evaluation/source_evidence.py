"""What the gate SourceUnchanged looks at: what changed in the source since the champion was judged, and who said what.

A change is asked about once. The ledger keeps the answers (`ml.storage.records.SourceAnswer`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ml.data.code import COUNTED
from ml.digests import digest_value
from ml.storage.records import SourceAnswer, SourceChange

WATCHED = "watched"  # the stage that keeps how the days of a night were spread
REWRITTEN = "rewritten"  # the kind of a change that other code made of the same bytes
DELIVERED = "delivered"  # the kind of a change that days have which were delivered again
LOSS = "loss"  # the kind of a change that only the champion's answers show


@dataclass(frozen=True, kw_only=True)
class DayLoss:
    """How the model that served a day did on the day's labelled rows, as it was kept when the day was first judged.

    `relative`: its log loss as a multiple of the best constant's on the same rows; of a regression, its squared error.
    """

    rows: int
    relative: float


@dataclass(frozen=True, kw_only=True)
class SourceEvidence:
    """Every change of the source on the days that the champion's own night had not seen, or has seen otherwise.

    `days`: the days that were judged, in order. `answers`: what operators said of changes, the oldest first. `losses`
    are by day, those of the weeks before among them.
    """

    days: tuple[str, ...] = ()
    changes: tuple[SourceChange, ...] = ()
    answers: tuple[SourceAnswer, ...] = ()
    losses: dict[str, DayLoss] = field(default_factory=dict)

    @property
    def open(self) -> list[SourceChange]:
        """The changes that nobody has answered."""
        return [change for change in self.changes if self.answer_to(change) is None]

    @property
    def refused(self) -> list[SourceChange]:
        """The changes of which an operator said that the source is broken."""
        answers = ((change, self.answer_to(change)) for change in self.changes)
        return [change for change, answer in answers if answer is not None and not answer.accepted]

    def answer_to(self, change: SourceChange) -> SourceAnswer | None:
        """The newest answer to the change; None if there is none."""
        return next((answer for answer in reversed(self.answers) if self._is_answered_by(change, answer)), None)

    def _is_answered_by(self, change: SourceChange, answer: SourceAnswer) -> bool:
        """Whether the change is the one that was answered, which may go on after days that were excluded since."""
        if (answer.column, answer.kind) != (change.column, change.kind) or answer.first_day > change.first_day:
            return False
        between = (day for day in self.days if answer.first_day <= day < change.first_day)
        return not any(between)


def days_of(changes: Iterable[SourceChange]) -> list[str]:
    """Every day on which one of them was seen, in order."""
    return sorted({day for change in changes for day in change.days})


def days_to_exclude(changes: Iterable[SourceChange]) -> list[str]:
    """The days that can be left out because of these changes. What other code made of the same bytes is mended in the
    code instead, because it made it of all days."""
    return days_of(change for change in changes if change.kind != REWRITTEN)


def watched_key(training_key: str) -> str:
    """The key under which a night keeps how its days were spread."""
    return digest_value([training_key, COUNTED.digest])
