"""Whether a day's columns still mean what they meant: its counts, compared with those of the days before it.

What is counted of a partition is a function of its bytes alone. The comparison belongs to the snapshot. A day is
compared with the usable days before it in its own month and in the month before, so that a night compares few days
again, however long its window is. The first days of a window have too few before them, and are compared with those
around them: else an odd day would pass once the days before it have left the window.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.handles import Move, PartitionCheck

SAMPLE = 64  # categories that are kept of a column and day
FEWEST_CATEGORIES = 16  # that two samples can compare, where one of them does not have all
ALL_HASHES = 2**32 - 1
FEWEST_DAYS = 7  # before the day, with a value in the column
FEWEST_ROWS = 10  # of the day: of fewer, chance alone may make all of them new, or null
FEWEST_DAYS_TO_COUNT = 3  # before a day whose own share of unseen rows tells what is usual
MOST_USUAL = 0.5  # a column of which earlier days lost this share has no vocabulary to lose: an identifier
NOTABLE = 0.1  # over what was usual: worth a sentence in the report
MOST_REASONS = 3


class Signal(NamedTuple):
    """What is counted: rows without a value, rows with an unseen category, or rows that a side table does not match."""

    kind: Literal["null", "unseen", "unmatched"]
    name: str


@dataclass(frozen=True)
class Sample:
    """Rows by the hash of their category, of the `SAMPLE` categories whose hashes are the smallest.

    A category whose hash is at most `bound` is in the sample if any row has it. So samples of several days tell exactly
    which of the categories up to their smallest bound are new, whatever the number of categories.
    """

    rows: Mapping[int, int]
    bound: int

    @classmethod
    def of(cls, hashes: NDArray[np.uint32], counts: NDArray[np.int64]) -> "Sample":
        """Of every category's hash, and how many rows have it."""
        unique, place = np.unique(hashes, return_inverse=True)
        rows = np.bincount(place, counts, len(unique)).astype(np.int64)
        kept = dict(zip(unique[:SAMPLE].tolist(), rows[:SAMPLE].tolist(), strict=True))
        return cls(kept, ALL_HASHES if len(unique) <= SAMPLE else max(kept))

    @property
    def text(self) -> str:
        """As it is kept: one short text, since a window keeps one for every column and day."""
        words = [f"{hashed:x}:{count}" for hashed, count in self.rows.items()]
        return " ".join([*words, *(["+"] if self.bound < ALL_HASHES else [])])


@functools.lru_cache(maxsize=4096)
def parse_sample(text: str) -> Sample:
    """Inverse of `Sample.text`; it is shared, so nobody changes it."""
    words, cut = text.removesuffix("+").split(), text.endswith("+")
    pairs = (word.split(":") for word in words)
    rows = {int(hashed, 16): int(count) for hashed, count in pairs}
    return Sample(rows, max(rows) if cut else ALL_HASHES)


def hashes_of(texts: Sequence[str]) -> NDArray[np.uint32]:
    """(texts,) the same for a text in every process and on every machine."""
    if not len(texts):
        return np.empty(0, np.uint32)
    found = pd.util.hash_array(np.array(texts, dtype=object), categorize=False)
    return (found >> np.uint64(32)).astype(np.uint32)


def sample_of(positions: NDArray[np.signedinteger[Any]], hashes: NDArray[np.uint32]) -> Sample:
    """Of rows by the position of their category among the hashed ones; a row without one has another position."""
    present = positions[(positions >= 0) & (positions < len(hashes))]
    found, counts = np.unique(present, return_counts=True)
    return Sample.of(hashes[found], counts)


@dataclass(frozen=True)
class Known:
    """A usable day that later ones are compared with."""

    day: str
    shares: Mapping[Signal, float]
    samples: Mapping[str, Sample]


@dataclass
class Reference:
    """The usable days that a day is compared with: how many there are, what they had, and what was usual."""

    first_day: str = ""
    days: int = 0
    days_with: dict[str, int] = field(default_factory=dict)
    categories: dict[str, set[int]] = field(default_factory=dict)
    bounds: dict[str, int] = field(default_factory=dict)
    usual: dict[Signal, float] = field(default_factory=dict)

    @classmethod
    def of(cls, days: Iterable[Known]) -> "Reference":
        reference = cls()
        for known in days:
            reference.add(known)
        return reference

    def add(self, known: Known) -> None:
        self.first_day, self.days = self.first_day or known.day, self.days + 1
        for name, sample in known.samples.items():
            self.days_with[name] = self.days_with.get(name, 0) + 1
            self.categories.setdefault(name, set()).update(sample.rows)
            self.bounds[name] = min(self.bounds.get(name, ALL_HASHES), sample.bound)
        for signal, share in known.shares.items():
            self.usual[signal] = max(self.usual.get(signal, 0.0), share)

    def unseen(self, name: str, sample: Sample) -> float | None:
        """The share of the rows with a category whose category no other day had; None where too few days had any."""
        if self.days_with.get(name, 0) < FEWEST_DAYS_TO_COUNT:
            return None
        bound = min(sample.bound, self.bounds[name])
        rows = {hashed: count for hashed, count in sample.rows.items() if hashed <= bound}
        if bound < ALL_HASHES and len(rows) < FEWEST_CATEGORIES:
            return None
        new = sum(count for hashed, count in rows.items() if hashed not in self.categories[name])
        return new / sum(rows.values())

    def can_judge(self, signal: Signal) -> bool:
        days = self.days_with.get(signal.name, 0) if signal.kind == "unseen" else self.days
        return days >= FEWEST_DAYS and self.usual.get(signal, 0.0) <= MOST_USUAL


@dataclass(frozen=True)
class Compared:
    """What a month's days came to: those that lost their meaning and why, what moved, and shares of unseen rows."""

    lost: dict[str, str]
    moves: tuple[Move, ...]
    unseen: dict[str, dict[str, float]]


def odd_at_start(checks: Iterable[PartitionCheck], accepted: Mapping[str, str], limit: float) -> dict[str, str]:
    """Which of a window's first days lost their meaning, and why; of the checks of its first months."""
    usable = [check for check in checks if check.rejected is None][: 2 * FEWEST_DAYS + 1]
    plain = [known_of(check, {}) for check in usable]
    known = [
        known_of(check, {} if check.day in accepted else _unseen(check, Reference.of(_without(plain, place))))
        for place, check in enumerate(usable)
    ]
    lost = dict[str, str]()
    for place, check in enumerate(usable[:FEWEST_DAYS]):
        if check.day not in accepted:
            lost |= _lost(check, known[place], Reference.of(_without(known, place)), limit)
    return lost


def _without(known: Sequence[Known], place: int) -> list[Known]:
    return [*known[:place], *known[place + 1 :]]


def compare(
    checks: Iterable[PartitionCheck],
    before: Iterable[Known],
    accepted: Mapping[str, str],
    limit: float,
    odd: Mapping[str, str] = MappingProxyType({}),
) -> Compared:
    """Every usable day of a month against the usable ones before it. `limit`: the use case's `max_unseen_fraction`;
    `odd`: days that are lost already.

    An accepted day is not judged; it is part of what later days are compared with, and its categories count as seen.
    """
    reference = Reference.of(before)
    lost, moves, unseen = dict[str, str](), list[Move](), dict[str, dict[str, float]]()
    for check in checks:
        if check.rejected is not None:
            continue
        own = _unseen(check, reference) if check.day not in accepted else {}
        known = known_of(check, own)
        if check.day not in accepted:
            lost |= {check.day: odd[check.day]} if check.day in odd else _lost(check, known, reference, limit)
        if check.day not in lost:
            moves += _moves(check, known, reference)
            unseen |= {check.day: own} if own else {}
            reference.add(known)
    return Compared(lost, tuple(moves), unseen)


def _lost(check: PartitionCheck, known: Known, reference: Reference, limit: float) -> dict[str, str]:
    """The day and why it lost its meaning; nothing where it did not."""
    reasons = _reasons(check, known, reference, limit)
    return {check.day: "; ".join(reasons[:MOST_REASONS])} if reasons else {}


def _unseen(check: PartitionCheck, reference: Reference) -> dict[str, float]:
    shares = {name: reference.unseen(name, parse_sample(text)) for name, text in check.categories.items()}
    return {name: round(share, 4) for name, share in shares.items() if share}


def known_of(check: PartitionCheck, unseen: Mapping[str, float]) -> Known:
    """A usable day as later ones are compared with it; `unseen`: its shares of unseen rows."""
    rows, delivered = max(1, rows_of(check)), max(1, check.rows)  # what is joined still has its exact duplicates
    shares = {Signal("null", name): count / rows for name, count in check.nulls.items()}
    shares |= {Signal("unmatched", name): count / delivered for name, count in check.unmatched.items()}
    shares |= {Signal("unseen", name): share for name, share in unseen.items()}
    return Known(check.day, shares, {name: parse_sample(text) for name, text in check.categories.items()})


def rows_of(check: PartitionCheck) -> int:
    """Rows that were counted: exact duplicates are not."""
    return check.rows - check.duplicates


def _reasons(check: PartitionCheck, known: Known, reference: Reference, limit: float) -> list[str]:
    """Why the day lost its meaning; a lost side table, which empties columns, first."""
    if rows_of(check) < FEWEST_ROWS:
        return []
    lost = [
        signal
        for signal, share in known.shares.items()
        if reference.can_judge(signal) and _is_lost(signal, share, reference.usual.get(signal, 0.0), limit)
        if signal.kind != "unseen" or sum(parse_sample(check.categories[signal.name]).rows.values()) >= FEWEST_ROWS
    ]
    ordered = sorted(lost, key=lambda signal: (("unmatched", "null", "unseen").index(signal.kind), signal.name))
    return [_reason(signal, known.shares[signal], reference) for signal in ordered]


def _is_lost(signal: Signal, share: float, usual: float, limit: float) -> bool:
    """Nulls and missing matches are believed as long as any row has a value or a match."""
    return share > limit + (1 - limit) * usual if signal.kind == "unseen" else share == 1


def _reason(signal: Signal, share: float, reference: Reference) -> str:
    usual = reference.usual.get(signal, 0.0)
    days = f"{reference.days} usable days since {reference.first_day}"
    words = {
        "null": f"{signal.name} is missing in all rows",
        "unseen": f"{share:.0%} of the rows have a value in {signal.name} that was never seen before",
        "unmatched": f"side table {signal.name} matches none of the rows",
    }
    return f"{words[signal.kind]} (at most {usual:.0%} on the {days})"


def _moves(check: PartitionCheck, known: Known, reference: Reference) -> list[Move]:
    """What moved further than it ever did before, without being lost."""
    if rows_of(check) < FEWEST_ROWS:
        return []
    judged = {signal: share for signal, share in known.shares.items() if reference.can_judge(signal)}
    usual = {signal: reference.usual.get(signal, 0.0) for signal in judged}
    return [
        Move(day=check.day, kind=signal.kind, name=signal.name, share=round(share, 4), usual=round(usual[signal], 4))
        for signal, share in judged.items()
        if share > usual[signal] + NOTABLE
    ]
