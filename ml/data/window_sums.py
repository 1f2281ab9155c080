"""Statistics of train, validation and test: last night's sums, plus the days that came to a part, less those that left.

Sums are exact (`ml.data.statistics`), so the result equals a sum from scratch bit for bit. A sum that is lost or
damaged is made again from the statistics of its days, and the statistics of a day from its cleaned rows.
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
READ_AT_ONCE = 64  # days

# `results` holds the keys of the statistics that were summed; `sums` holds the first and the last day that have rows.
SummedMonth = KeptMonth[tuple[str, ...]]


def _keys(month: SummedMonth) -> tuple[str, ...]:
    """The keys of the day statistics that are in the month's sum."""
    keys: tuple[str, ...] = parsed(tuple[str, ...], month.results)
    return keys


@dataclass(frozen=True)
class PartSum:
    """The sums over the whole days of one part.

    `spec` is a digest of what is summed and by which code. Tonight's sums are built on last night's only if it is
    equal.
    """

    months: dict[str, SummedMonth]
    statistics: Statistics
    spec: str = ""

    @property
    def size(self) -> int:
        """How many days are in the sum."""
        return sum(len(_keys(month)) for month in self.months.values())


@dataclass(frozen=True)
class PartTotal:
    """The statistics of all rows of a part, and days of it that have rows, its first and its last among them."""

    statistics: Statistics
    days: tuple[str, ...]


@dataclass(frozen=True)
class Portion:
    """A partition's rows in one part, with the key of their statistics.

    `whole`: all rows of the partition belong to it, so that it is the same on later nights.
    """

    key: str
    partition: CleanedPartition
    part: Part
    whole: bool


class WindowSums:
    """The totals of each part on a date.

    After `totals()`, `reused` and `computed` say how many days' statistics were read and how many were made, and
    `taken_otherwise` says whether the sums kept by the last night were of other statistics and could not be used.
    """

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
        """The total of each part. The sums of whole days are kept for the next night."""
        data = self.reader.store.get(self.place)
        kept: dict[Part, PartSum] = unseal(dict[Part, PartSum], self.place, data) or {}
        self.taken_otherwise = data is not None and {part.spec for part in kept.values()} != {self.spec}
        nothing = PartSum({}, Statistics.none(self.use_case), self.spec)
        sums, totals = {}, {}
        for part in PARTS:
            computed = self.computed
            months = self.reader.months_of_part(self.as_of, part)
            before = kept[part] if part in kept and kept[part].spec == self.spec else nothing
            unchanged = {name: before.months[name] for name in months if self._is_same(name, months[name], before)}
            fresh = {name: self._portions(name, part) for name in months if name not in unchanged}
            tonight = {name: unchanged.get(name) or self._summed(name, months[name], fresh[name]) for name in months}
            total = self._slid(before, tonight, fresh) or self._summed_up(part, tonight)
            sums[part] = PartSum(tonight, total, self.spec)
            partial = [p for portions in fresh.values() for p in portions if not p.whole]
            totals[part] = self._total(sums[part], partial)
            self.reused += sums[part].size + len(partial) - (self.computed - computed)
        if sums != kept:
            self.reader.store.put(self.place, seal(sums))
        return totals

    def _is_same(self, name: str, ends: tuple[str, str], before: PartSum) -> bool:
        """Whether last night's sum has the month as it is tonight."""
        return name in before.months and before.months[name].key == self._month_key(name, ends)

    def _month_key(self, name: str, ends: tuple[str, str]) -> str:
        """If some rows are not known yet, the key includes as_of, so it is valid for tonight only."""
        month = self.reader.cleaned.months[name]
        settled = name != ALL and self.as_of >= month.sums.whole_from
        return content_key(self.spec, month.sums.digest, *ends, "" if settled else str(self.as_of))

    def _summed(self, name: str, ends: tuple[str, str], portions: Sequence[Portion]) -> SummedMonth:
        """The whole portions of a month.

        If some are not whole, the key is empty, so the month is looked at every night.
        """
        whole = [portion for portion in portions if portion.whole]
        days = [portion.partition.day for portion in whole if portion.partition.rows]
        key = self._month_key(name, ends) if len(whole) == len(portions) else ""
        return KeptMonth(key, to_json([portion.key for portion in whole]).decode(), (*days[:1], *days[-1:]))

    def _portions(self, name: str, part: Part) -> list[Portion]:
        ends = self.reader.months_of_part(self.as_of, part)[name]
        return [self._portion(partition, part) for partition in self.reader.of_month(name, *ends)]

    def _portion(self, partition: CleanedPartition, part: Part) -> Portion:
        """The partition's rows in the part. Unless it is whole, its key says which rows were chosen, and until when."""
        whole = partition.day != ALL and self.as_of >= partition.cleaned.whole_from
        known_by = str(self.as_of) if self.use_case.known_at_column else ""
        chosen = () if whole else (part, self.split, known_by)
        return Portion(content_key(self.spec, *partition.digests, *chosen), partition, part, whole)

    def _total(self, whole: PartSum, partial: Sequence[Portion]) -> PartTotal:
        """The sum of the whole days, plus the portions that differ from night to night."""
        total, days = whole.statistics, [day for month in whole.months.values() for day in month.sums]
        for portion, statistics in zip(partial, self._read(partial), strict=True):
            total += statistics
            days += [portion.partition.day] if statistics.rows else []
        return PartTotal(total, tuple(days))

    def _slid(
        self, before: PartSum, tonight: dict[str, SummedMonth], fresh: dict[str, list[Portion]]
    ) -> Statistics | None:
        """Last night's sum, plus the days that came, less the days that left.

        It is None if a sum from scratch reads fewer days, or if the statistics of a day that left cannot be read.
        """
        changed = {name: month for name, month in before.months.items() if name in fresh or name not in tonight}
        old_keys = {key for month in changed.values() for key in _keys(month)}
        whole = [portion for portions in fresh.values() for portion in portions if portion.whole]
        came = [portion for portion in whole if portion.key not in old_keys]
        gone = old_keys - {portion.key for portion in whole}
        if len(gone) + len(came) >= max(1, sum(len(_keys(month)) for month in tonight.values())):
            return None
        days_gone = self.statistics.find(sorted(gone))
        if len(days_gone) < len(gone):
            log.warning("The statistics of a day that left are lost: the window is summed from scratch.")
            return None
        total = before.statistics
        for statistics in self._read(came):
            total += statistics
        for day in days_gone.values():
            total -= day.statistics
        return total

    def _summed_up(self, part: Part, tonight: dict[str, SummedMonth]) -> Statistics:
        """The sum from scratch."""
        total = Statistics.none(self.use_case)
        for statistics in self._read([p for name in tonight for p in self._portions(name, part) if p.whole]):
            total += statistics
        return total

    def _read(self, portions: Sequence[Portion]) -> Iterator[Statistics]:
        """The statistics of each portion, in order. Those that are not kept are made."""
        for start in range(0, len(portions), READ_AT_ONCE):
            batch = portions[start : start + READ_AT_ONCE]
            kept = self.statistics.find([portion.key for portion in batch])
            for portion in batch:
                yield (kept.get(portion.key) or self._make(portion)).statistics

    def _make(self, portion: Portion) -> DayStatistics:
        rows = self.reader.part_rows(self.as_of, portion.part, portion.partition)
        made = DayStatistics.of(self.use_case, rows)
        self.statistics.keep(portion.key, made)
        self.computed += 1
        return made
