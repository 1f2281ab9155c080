"""Whether a day's columns still mean what they meant: a day's counts are compared with those of the days before it.

Three things are counted per day: rows without a value, rows with a category that no earlier day had, and rows that a
side table does not match. The counts of a partition follow from its bytes alone; the comparison belongs to the
snapshot. A day that lost its meaning is rejected; one that only moved gets a sentence in the report.

A day is compared with the usable days before it, in its own month and in the month before, so that a night compares
only few days again, however long its window is. The first days of a window have too few days before them. They are
compared with the days around them: otherwise an odd day would pass as soon as the days before it have left the window.
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

SAMPLE = 64  # how many categories are kept per column and day
ALL_HASHES = 2**32 - 1  # the bound of a sample that has every category
FEWEST_CATEGORIES = 16  # a comparison of samples needs as many categories, unless both samples have every category
FEWEST_DAYS = 7  # a day is judged if it is compared with at least as many days (for categories: days with a value)
FEWEST_ROWS = 10  # a day with fewer rows is not judged: by chance alone, all of them may be new or null
FEWEST_DAYS_TO_COUNT = 3  # unseen rows of a day are counted if at least as many days before it have a value
MOST_USUAL = 0.5  # where more was usual nothing is judged: a column of identifiers has no vocabulary to lose
NOTABLE = 0.1  # a share that exceeds the usual one by more is worth a sentence in the report
MOST_REASONS = 3  # how many reasons a rejection names


class Signal(NamedTuple):
    """What is counted: rows without a value, rows with an unseen category, or rows that a side table does not match.

    `name` is the column's, or that of the side table.
    """

    kind: Literal["null", "unseen", "unmatched"]
    name: str


@dataclass(frozen=True)
class Sample:
    """A sample of a column's categories on one day: those `SAMPLE` categories whose hashes are the smallest.

    `rows` says how many rows have each of them, by the category's hash. If any row has a category whose hash is at most
    `bound`, that category is in the sample. So the samples of several days tell exactly which categories are new among
    those up to the smallest bound, however many categories there are.
    """

    rows: Mapping[int, int]
    bound: int

    @classmethod
    def of(cls, hashes: NDArray[np.uint32], counts: NDArray[np.int64]) -> "Sample":
        """The sample of a column, from the hash of every category and the number of rows that have it."""
        unique, positions = np.unique(hashes, return_inverse=True)
        rows = np.bincount(positions, counts, len(unique)).astype(np.int64)
        kept = dict(zip(unique[:SAMPLE].tolist(), rows[:SAMPLE].tolist(), strict=True))
        return cls(kept, ALL_HASHES if len(unique) <= SAMPLE else max(kept))

    @property
    def text(self) -> str:
        """The form in which a sample is stored: one short text, because a window has a sample per column and day."""
        words = [f"{hashed:x}:{count}" for hashed, count in self.rows.items()]
        return " ".join([*words, *(["+"] if self.bound < ALL_HASHES else [])])


@functools.lru_cache(maxsize=4096)
def parse_sample(text: str) -> Sample:
    """Inverse of `Sample.text`. The result is cached and shared, so it must not be changed."""
    pairs = (word.split(":") for word in text.removesuffix("+").split())
    rows = {int(hashed, 16): int(count) for hashed, count in pairs}
    has_more = text.endswith("+")
    return Sample(rows, max(rows) if has_more else ALL_HASHES)


def hashes_of(texts: Sequence[str]) -> NDArray[np.uint32]:
    """(texts,) uint32: the hash of each text. A text has the same hash in every process and on every machine."""
    if not len(texts):
        return np.empty(0, np.uint32)
    wide = pd.util.hash_array(np.array(texts, dtype=object), categorize=False)
    return (wide >> np.uint64(32)).astype(np.uint32)


def sample_of(positions: NDArray[np.signedinteger[Any]], hashes: NDArray[np.uint32]) -> Sample:
    """The sample of a day's rows: `positions` (rows,) says which of the `hashes` (categories,) each row has.

    A row without a category has a position outside of `hashes`.
    """
    present = positions[(positions >= 0) & (positions < len(hashes))]
    categories, counts = np.unique(present, return_counts=True)
    return Sample.of(hashes[categories], counts)


@dataclass(frozen=True)
class Known:
    """A usable day with which later days are compared.

    `shares`: the share of its rows by signal. `samples`: the sample of its categories by column.
    """

    day: str
    shares: Mapping[Signal, float]
    samples: Mapping[str, Sample]


@dataclass
class Reference:
    """The usable days with which a day is compared.

    It holds how many days there are and, per column, on how many of them it had a value (`days_with`), the hashes of
    their categories and the smallest bound of their samples. `usual` is the largest share that a signal had on any day.
    """

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
        """The share of rows whose category none of these days had, among the rows that have a category.

        It is None if too few of these days have a value in the column, or the samples share too few categories.
        """
        if self.days_with.get(name, 0) < FEWEST_DAYS_TO_COUNT:
            return None
        bound = min(sample.bound, self.bounds[name])
        rows = {hashed: count for hashed, count in sample.rows.items() if hashed <= bound}
        if bound < ALL_HASHES and len(rows) < FEWEST_CATEGORIES:
            return None
        new = sum(count for hashed, count in rows.items() if hashed not in self.categories[name])
        return new / sum(rows.values())

    def can_judge(self, signal: Signal) -> bool:
        """Whether there are enough days to judge the signal, and it was not usual for most rows."""
        days = self.days_with.get(signal.name, 0) if signal.kind == "unseen" else self.days
        return days >= FEWEST_DAYS and self.usual.get(signal, 0.0) <= MOST_USUAL


@dataclass(frozen=True)
class Compared:
    """What the comparison of a month's days says.

    `lost`: why a day lost its meaning, by day. `moves`: what moved without being lost. `unseen`: the share of unseen
    rows, by day and column.
    """

    lost: dict[str, str]
    moves: tuple[Move, ...]
    unseen: dict[str, dict[str, float]]


def odd_at_start(checks: Iterable[PartitionCheck], accepted: Mapping[str, str], limit: float) -> dict[str, str]:
    """Which of a window's first days lost their meaning, and why, by day.

    `checks`: those of the window's first months. `accepted` and `limit` are as for `compare`.
    """
    usable = [check for check in checks if check.rejected is None][: 2 * FEWEST_DAYS + 1]
    samples_alone = [known_of(check, {}) for check in usable]
    known = [
        known_of(check, {} if check.day in accepted else _unseen(check, _others(samples_alone, position)))
        for position, check in enumerate(usable)
    ]
    lost = dict[str, str]()
    for position, check in enumerate(usable[:FEWEST_DAYS]):
        if check.day not in accepted:
            lost |= _lost(check, known[position], _others(known, position), limit)
    return lost


def _others(known: Sequence[Known], position: int) -> Reference:
    """All days but the one at this position."""
    return Reference.of([*known[:position], *known[position + 1 :]])


def compare(
    checks: Iterable[PartitionCheck],
    before: Iterable[Known],
    accepted: Mapping[str, str],
    limit: float,
    odd: Mapping[str, str] = MappingProxyType({}),
) -> Compared:
    """Compares every usable day of a month with the usable days before it.

    `before`: the usable days of the month before. `limit`: the use case's `max_unseen_fraction`. `odd`: days that
    `odd_at_start` found lost already, each with its reason. `accepted`: days whose changes an operator accepted, each
    with the operator's reason. An accepted day is not judged; later days are compared with it too, and its categories
    count as seen.
    """
    reference = Reference.of(before)
    lost, moves, unseen = dict[str, str](), list[Move](), dict[str, dict[str, float]]()
    for check in checks:
        if check.rejected is not None:
            continue
        shares = _unseen(check, reference) if check.day not in accepted else {}
        known = known_of(check, shares)
        if check.day not in accepted:
            lost |= {check.day: odd[check.day]} if check.day in odd else _lost(check, known, reference, limit)
        if check.day not in lost:
            moves += _moves(check, known, reference)
            unseen |= {check.day: shares} if shares else {}
            reference.add(known)
    return Compared(lost, tuple(moves), unseen)


def _lost(check: PartitionCheck, known: Known, reference: Reference, limit: float) -> dict[str, str]:
    """The day and why it lost its meaning; empty if it did not."""
    reasons = _reasons(check, known, reference, limit)
    return {check.day: "; ".join(reasons[:MOST_REASONS])} if reasons else {}


def _unseen(check: PartitionCheck, reference: Reference) -> dict[str, float]:
    """The day's share of unseen rows, for each column that has any."""
    shares = {name: reference.unseen(name, parse_sample(text)) for name, text in check.categories.items()}
    return {name: round(share, 4) for name, share in shares.items() if share}


def known_of(check: PartitionCheck, unseen: Mapping[str, float]) -> Known:
    """A usable day in the form in which later days are compared with it.

    `unseen`: its shares of unseen rows by column.
    """
    rows, delivered = max(1, rows_of(check)), max(1, check.rows)  # matches are counted before duplicates are dropped
    shares = {Signal("null", name): count / rows for name, count in check.nulls.items()}
    shares |= {Signal("unmatched", name): count / delivered for name, count in check.unmatched.items()}
    shares |= {Signal("unseen", name): share for name, share in unseen.items()}
    return Known(check.day, shares, {name: parse_sample(text) for name, text in check.categories.items()})


def rows_of(check: PartitionCheck) -> int:
    """The number of rows that were counted, which leaves out exact duplicates."""
    return check.rows - check.duplicates


def _reasons(check: PartitionCheck, known: Known, reference: Reference, limit: float) -> list[str]:
    """Why the day lost its meaning.

    A side table that was lost comes first, because it explains columns that are empty.
    """
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
    """Whether the share means a loss. For nulls and missing matches it does only if no row has a value or a match."""
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
    """What moved further than on any day before. A day that is lost is not asked for its moves."""
    if rows_of(check) < FEWEST_ROWS:
        return []
    judged = {signal: share for signal, share in known.shares.items() if reference.can_judge(signal)}
    usual = {signal: reference.usual.get(signal, 0.0) for signal in judged}
    return [
        Move(day=check.day, kind=signal.kind, name=signal.name, share=round(share, 4), usual=round(usual[signal], 4))
        for signal, share in judged.items()
        if share > usual[signal] + NOTABLE
    ]
