"""Statistics of a window's parts: last night's sums, plus the days that came to a part and less those that left it.

Sums are exact (`ml.data.statistics`), so that this gives the bits of a sum from scratch. A sum that is gone or damaged
is made again of day states, and a day state of its block.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from ml.data.blocks import BlockReader
from ml.data.code import state_code_digest
from ml.data.handles import PARTS, Block, Part
from ml.data.sources.folder import ALL
from ml.data.split import split_digest
from ml.data.statistics import DayState, Statistics
from ml.storage import paths
from ml.storage.states import States, seal, state_key, unseal

log = logging.getLogger("retrain.windows")
STATES_AT_ONCE = 64


@dataclass(frozen=True)
class SummedMonth:
    """What of a month is in a sum: the keys of its states, a line each, and the first and last day with rows. Under the
    same `key` it is the same on every later night."""

    key: str
    states: str
    days: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        return self.states.split()


@dataclass(frozen=True)
class PartSum:
    """The sums of one part's whole days. `spec` says which statistics they are, of what: tonight's are built on last
    night's only where it is the same."""

    months: dict[str, SummedMonth]
    statistics: Statistics
    spec: str = ""

    @property
    def size(self) -> int:
        return sum(len(month.keys) for month in self.months.values())


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
    """The totals of each part on a date; `reused` and `computed` count the day states behind them, and
    `taken_otherwise` says that the last night's were other statistics."""

    def __init__(self, reader: BlockReader, as_of: date) -> None:
        self.reader, self.as_of, self.use_case = reader, as_of, reader.use_case
        self.states = States(reader.store, self.use_case.name, "statistics", DayState)
        self.place = paths.bundle(self.use_case.name, "sums")
        self.spec = state_key(state_code_digest("statistics"), self.use_case.statistics_digest)
        self.split = split_digest(self.use_case)
        self.computed = self.reused = 0
        self.taken_otherwise = False

    def totals(self) -> dict[Part, PartTotal]:
        kept = unseal(dict[Part, PartSum], self.place, self.reader.store.get(self.place)) or {}
        self.taken_otherwise = any(part.spec != self.spec for part in kept.values())
        nothing = PartSum({}, Statistics.none(self.use_case), self.spec)
        sums, totals = {}, {}
        for part in PARTS:
            computed = self.computed
            months = self.reader.months_of_part(self.as_of, part)
            before = kept[part] if part in kept and kept[part].spec == self.spec else nothing
            same = {name: before.months[name] for name in months if self._is_same(name, months[name], before)}
            fresh = {name: self._portions(name, part) for name in months if name not in same}
            now = {name: same.get(name) or self._summed(name, months[name], fresh[name]) for name in months}
            sums[part] = PartSum(now, self._slid(before, now, fresh) or self._summed_up(part, now), self.spec)
            partial = [p for portions in fresh.values() for p in portions if not p.whole]
            totals[part] = self._total(sums[part], partial)
            self.reused += sums[part].size + len(partial) - (self.computed - computed)
        if sums != kept:
            self.reader.store.put(self.place, seal(dict[Part, PartSum], sums))
        return totals

    def _is_same(self, name: str, ends: tuple[str, str], before: PartSum) -> bool:
        return name in before.months and before.months[name].key == self._month_key(name, ends)

    def _month_key(self, name: str, ends: tuple[str, str]) -> str:
        """Of a month with rows that come to be known later: the key is of this date alone."""
        month = self.reader.blocks.months[name]
        settled = name != ALL and self.as_of >= month.whole_from
        return state_key(self.spec, month.digest, *ends, "" if settled else str(self.as_of))

    def _summed(self, name: str, ends: tuple[str, str], portions: Sequence[Portion]) -> SummedMonth:
        whole = [portion for portion in portions if portion.whole]
        days = [portion.block.day for portion in whole if portion.block.rows]
        key = self._month_key(name, ends) if len(whole) == len(portions) else ""
        return SummedMonth(key, "\n".join(portion.key for portion in whole), (*days[:1], *days[-1:]))

    def _portions(self, name: str, part: Part) -> list[Portion]:
        ends = self.reader.months_of_part(self.as_of, part)[name]
        return [self._portion(block, part) for block in self.reader.of_month(name, *ends)]

    def _portion(self, block: Block, part: Part) -> Portion:
        whole = block.day != ALL and self.as_of >= block.cleaned.whole_from
        chosen = () if whole else (part, self.split, self._known_by)
        return Portion(state_key(self.spec, *block.digests, *chosen), block, part, whole)

    @property
    def _known_by(self) -> str:
        return str(self.as_of) if self.use_case.known_at_column else ""

    def _total(self, whole: PartSum, partial: Sequence[Portion]) -> PartTotal:
        """With the portions that are other ones every night."""
        total, days = whole.statistics, [day for month in whole.months.values() for day in month.days]
        for portion, state in zip(partial, self._read(partial), strict=True):
            total += state
            days += [portion.block.day] if state.rows else []
        return PartTotal(total, tuple(days))

    def _slid(self, before: PartSum, now: dict[str, SummedMonth], fresh: dict[str, list[Portion]]) -> Statistics | None:
        """The sum of before with the days that came and less those that left; None where less is read from scratch, or
        one that left can no longer be read."""
        left = {name: month for name, month in before.months.items() if name in fresh or name not in now}
        gone = {key for month in left.values() for key in month.keys}
        came = [p for portions in fresh.values() for p in portions if p.whole and p.key not in gone]
        gone -= {p.key for portions in fresh.values() for p in portions if p.whole}
        if len(gone) + len(came) >= max(1, sum(len(month.keys) for month in now.values())):
            return None
        found = self.states.find(sorted(gone))
        if len(found) < len(gone):
            log.warning("The state of a day that left is lost: the window is summed from scratch.")
            return None
        total = before.statistics
        for state in self._read(came):
            total += state
        for state_gone in found.values():
            total -= state_gone.statistics
        return total

    def _summed_up(self, part: Part, now: dict[str, SummedMonth]) -> Statistics:
        total = Statistics.none(self.use_case)
        for state in self._read([p for name in now for p in self._portions(name, part) if p.whole]):
            total += state
        return total

    def _read(self, portions: Sequence[Portion]) -> Iterator[Statistics]:
        for start in range(0, len(portions), STATES_AT_ONCE):
            some = portions[start : start + STATES_AT_ONCE]
            found = self.states.find([portion.key for portion in some])
            for portion in some:
                yield (found.get(portion.key) or self._make(portion)).statistics

    def _make(self, portion: Portion) -> DayState:
        rows = self.reader.part_rows(self.as_of, portion.part, portion.block)
        state = DayState.of(self.use_case, rows)
        self.states.keep(portion.key, state)
        self.computed += 1
        return state
