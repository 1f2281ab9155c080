"""Statistics of a window's parts: last night's sums, plus the days that came to a part and less those that left it.

Sums are exact (`ml.features`), so that this gives the bits of a sum from scratch. A sum that is gone or damaged is made
again of day states, and a day state of its block.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from ml import paths
from ml.artifacts import PARTS, Block, Part
from ml.blocks import BlockReader
from ml.features import DayState, Statistics
from ml.run_key import state_code_digest
from ml.sources import ALL
from ml.split import split_digest
from ml.states import States, seal, state_key, unseal

log = logging.getLogger("retrain.windows")
STATES_AT_ONCE = 64


@dataclass(frozen=True)
class PartSum:
    """The sum of day states with these keys."""

    keys: frozenset[str]
    statistics: Statistics


@dataclass(frozen=True)
class PartTotal:
    statistics: Statistics
    days: tuple[str, ...]


@dataclass(frozen=True)
class Portion:
    """One block's rows in one part, under the key of their state; a whole one is the same on every later night."""

    key: str
    block: Block
    part: Part
    whole: bool


class WindowSums:
    """The totals of each part on a date; `reused` and `computed` count the day states behind them."""

    def __init__(self, reader: BlockReader, as_of: date) -> None:
        self.reader, self.as_of, self.use_case = reader, as_of, reader.use_case
        self.states = States(reader.store, self.use_case.name, "statistics", DayState)
        self.place = paths.bundle(self.use_case.name, "sums")
        self.spec = state_key(state_code_digest("statistics"), self.use_case.statistics_digest)
        self.computed = self.reused = 0

    def totals(self) -> dict[Part, PartTotal]:
        kept = unseal(dict[Part, PartSum], self.place, self.reader.store.get(self.place)) or {}
        sums, totals = {}, {}
        for part in PARTS:
            portions = self._portions(part)
            computed = self.computed
            sums[part] = self._sum([p for p in portions if p.whole], kept.get(part))
            totals[part] = self._total(sums[part], portions)
            self.reused += len(portions) - (self.computed - computed)
        if sums != kept:
            self.reader.store.put(self.place, seal(dict[Part, PartSum], sums))
        return totals

    def _portions(self, part: Part) -> list[Portion]:
        return [self._portion(block, part) for block in self.reader.of_part(self.as_of, part)]

    def _portion(self, block: Block, part: Part) -> Portion:
        whole = block.day != ALL and self.as_of >= block.cleaned.whole_from
        chosen = () if whole else (part, split_digest(self.use_case), self._known_by)
        return Portion(state_key(self.spec, *block.digests, *chosen), block, part, whole)

    @property
    def _known_by(self) -> str:
        return str(self.as_of) if self.use_case.known_at_column else ""

    def _total(self, whole: PartSum, portions: Sequence[Portion]) -> PartTotal:
        """With the portions that are other ones every night."""
        total, days = whole.statistics, [p.block.day for p in portions if p.whole and p.block.rows]
        partial = [p for p in portions if not p.whole]
        for portion, state in zip(partial, self._read(partial), strict=True):
            total += state
            days += [portion.block.day] if state.rows else []
        return PartTotal(total, tuple(days))

    def _sum(self, portions: Sequence[Portion], kept: PartSum | None) -> PartSum:
        keys = frozenset(portion.key for portion in portions)
        if kept is not None and len(keys ^ kept.keys) < len(keys):
            slid = self._slide(portions, kept)
            if slid is not None:
                return PartSum(keys, slid)
        total = Statistics.none(self.use_case)
        for state in self._read(portions):
            total += state
        return PartSum(keys, total)

    def _slide(self, portions: Sequence[Portion], kept: PartSum) -> Statistics | None:
        """The kept sum less the days that left; None where one of them can no longer be read."""
        gone = sorted(kept.keys - {portion.key for portion in portions})
        left = self.states.find_single(gone)
        if len(left) < len(gone):
            log.warning("The state of a day that left is lost: the window is summed from scratch.")
            return None
        total = kept.statistics
        for state in self._read([portion for portion in portions if portion.key not in kept.keys]):
            total += state
        for gone_state in left.values():
            total -= gone_state.statistics
        return total

    def _read(self, portions: Sequence[Portion]) -> Iterator[Statistics]:
        for start in range(0, len(portions), STATES_AT_ONCE):
            some = portions[start : start + STATES_AT_ONCE]
            found = self.states.find_single([portion.key for portion in some])
            for portion in some:
                yield (found.get(portion.key) or self._make(portion)).statistics

    def _make(self, portion: Portion) -> DayState:
        rows = self.reader.part_rows(self.as_of, portion.part, portion.block)
        state = DayState.of(self.use_case, rows)
        self.states.keep(portion.key, state)
        self.computed += 1
        return state
