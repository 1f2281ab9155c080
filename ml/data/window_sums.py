"""Statistics of a window's parts: last night's sums, plus the days that came to a part and less those that left it.

Sums are exact (`ml.data.statistics`), so that this gives the bits of a sum from scratch. A sum that is gone or damaged
is made again of the statistics of its days, and those of a day of its cleaned rows.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

from ml.data.cleaned import CleanedReader
from ml.data.code import state_code_digest
from ml.data.handles import PARTS, CleanedPartition, Part
from ml.data.sources.folder import ALL
from ml.data.split import split_digest
from ml.data.statistics import DayStatistics, Statistics
from ml.storage import paths
from ml.storage.json_form import parsed, to_json
from ml.storage.kept import Kept, KeptMonth, content_key, seal, unseal

log = logging.getLogger("retrain.windows")
READ_AT_ONCE = 64


SummedMonth = KeptMonth[tuple[str, ...]]  # its results are keys alone; its sums, the first and last day with rows


def _keys(month: SummedMonth) -> tuple[str, ...]:
    """Of the statistics that are in a sum."""
    keys: tuple[str, ...] = parsed(tuple[str, ...], month.results)
    return keys


@dataclass(frozen=True)
class PartSum:
    """The sums of one part's whole days. `spec` says which statistics they are, of what: tonight's are built on last
    night's only where it is the same."""

    months: dict[str, SummedMonth]
    statistics: Statistics
    spec: str = ""

    @property
    def size(self) -> int:
        return sum(len(_keys(month)) for month in self.months.values())


@dataclass(frozen=True)
class PartTotal:
    statistics: Statistics
    days: tuple[str, ...]


@dataclass(frozen=True)
class Portion:
    """One partition's rows in one part, under the key of their statistics. A whole one is the same on later nights."""

    key: str
    partition: CleanedPartition
    part: Part
    whole: bool


class WindowSums:
    """The totals of each part on a date; `reused` and `computed` count the statistics of days behind them, and
    `taken_otherwise` says that the last night's were other statistics."""

    def __init__(self, reader: CleanedReader, as_of: date) -> None:
        self.reader, self.as_of, self.use_case = reader, as_of, reader.use_case
        place = partial(paths.partition_result, self.use_case.name, "statistics")
        self.statistics = Kept(reader.store, DayStatistics, place)
        self.place = paths.months(self.use_case.name, "sums")
        self.spec = content_key(state_code_digest("statistics"), self.use_case.statistics_digest)
        self.split = split_digest(self.use_case)
        self.computed = self.reused = 0
        self.taken_otherwise = False

    def totals(self) -> dict[Part, PartTotal]:
        data = self.reader.store.get(self.place)
        kept: dict[Part, PartSum] = unseal(dict[Part, PartSum], self.place, data) or {}
        self.taken_otherwise = data is not None and {part.spec for part in kept.values()} != {self.spec}
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
            self.reader.store.put(self.place, seal(sums))
        return totals

    def _is_same(self, name: str, ends: tuple[str, str], before: PartSum) -> bool:
        return name in before.months and before.months[name].key == self._month_key(name, ends)

    def _month_key(self, name: str, ends: tuple[str, str]) -> str:
        """If some rows are not known yet, the key includes as_of, so it is valid for tonight only."""
        month = self.reader.cleaned.months[name]
        settled = name != ALL and self.as_of >= month.sums.whole_from
        return content_key(self.spec, month.sums.digest, *ends, "" if settled else str(self.as_of))

    def _summed(self, name: str, ends: tuple[str, str], portions: Sequence[Portion]) -> SummedMonth:
        whole = [portion for portion in portions if portion.whole]
        days = [portion.partition.day for portion in whole if portion.partition.rows]
        key = self._month_key(name, ends) if len(whole) == len(portions) else ""
        return KeptMonth(key, to_json([portion.key for portion in whole]).decode(), (*days[:1], *days[-1:]))

    def _portions(self, name: str, part: Part) -> list[Portion]:
        ends = self.reader.months_of_part(self.as_of, part)[name]
        return [self._portion(partition, part) for partition in self.reader.of_month(name, *ends)]

    def _portion(self, partition: CleanedPartition, part: Part) -> Portion:
        whole = partition.day != ALL and self.as_of >= partition.cleaned.whole_from
        chosen = () if whole else (part, self.split, self._known_by)
        return Portion(content_key(self.spec, *partition.digests, *chosen), partition, part, whole)

    @property
    def _known_by(self) -> str:
        return str(self.as_of) if self.use_case.known_at_column else ""

    def _total(self, whole: PartSum, partial: Sequence[Portion]) -> PartTotal:
        """With the portions that are other ones every night."""
        total, days = whole.statistics, [day for month in whole.months.values() for day in month.sums]
        for portion, own in zip(partial, self._read(partial), strict=True):
            total += own
            days += [portion.partition.day] if own.rows else []
        return PartTotal(total, tuple(days))

    def _slid(self, before: PartSum, now: dict[str, SummedMonth], fresh: dict[str, list[Portion]]) -> Statistics | None:
        """The sum of before with the days that came and less those that left; None where less is read from scratch, or
        one that left can no longer be read."""
        left = {name: month for name, month in before.months.items() if name in fresh or name not in now}
        gone = {key for month in left.values() for key in _keys(month)}
        came = [p for portions in fresh.values() for p in portions if p.whole and p.key not in gone]
        gone -= {p.key for portions in fresh.values() for p in portions if p.whole}
        if len(gone) + len(came) >= max(1, sum(len(_keys(month)) for month in now.values())):
            return None
        found = self.statistics.find(sorted(gone))
        if len(found) < len(gone):
            log.warning("The statistics of a day that left are lost: the window is summed from scratch.")
            return None
        total = before.statistics
        for own in self._read(came):
            total += own
        for state_gone in found.values():
            total -= state_gone.statistics
        return total

    def _summed_up(self, part: Part, now: dict[str, SummedMonth]) -> Statistics:
        total = Statistics.none(self.use_case)
        for own in self._read([p for name in now for p in self._portions(name, part) if p.whole]):
            total += own
        return total

    def _read(self, portions: Sequence[Portion]) -> Iterator[Statistics]:
        for start in range(0, len(portions), READ_AT_ONCE):
            some = portions[start : start + READ_AT_ONCE]
            found = self.statistics.find([portion.key for portion in some])
            for portion in some:
                yield (found.get(portion.key) or self._make(portion)).statistics

    def _make(self, portion: Portion) -> DayStatistics:
        rows = self.reader.part_rows(self.as_of, portion.part, portion.partition)
        made = DayStatistics.of(self.use_case, rows)
        self.statistics.keep(portion.key, made)
        self.computed += 1
        return made
