"""What validation and cleaning share: results of a window's partitions, kept by partition and folded by month."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import closing
from functools import partial
from typing import Generic, TypeVar

from ml.data.code import state_code_digest
from ml.data.handles import Manifest
from ml.data.partitions import PartitionRows, inputs_by_day, read_partition
from ml.data.reading import UnusablePartition
from ml.data.rejections import why_unforeseen
from ml.digests import digest_value
from ml.errors import RetrainError, SourceUnavailable, is_passing
from ml.pipeline.site import Site
from ml.storage import paths
from ml.storage.kept import Kept, KeptMonth, KeptMonths, content_key
from ml.storage.locks import in_turns

R = TypeVar("R")
S = TypeVar("S")


class Fold(ABC, Generic[R, S]):
    """The results of one kind of every partition of a window, and what they come to by month.

    A month whose key is as it was is taken whole. Of any other, the results that are kept are taken and the rest are
    made, while no other run of this machine works on that month. `new` counts those that were made.
    """

    def __init__(self, site: Site, manifest: Manifest, kind: str, result: type[R], sums: type[S], decided: str) -> None:
        self.site, self.manifest, self.result, self.decided = site, manifest, result, decided
        self.results = kept_of_partitions(site, kind, result)
        self.kept = KeptMonths(site.store, site.use_case.name, kind, sums)
        self.new = 0

    def months(self) -> dict[str, KeptMonth[S]]:
        """Every month of the window, in order."""
        keys = {name: self.month_key(name) for name in self.manifest.months}
        same = self.kept.same(keys)
        days = {name: self.days(name) for name in keys if name not in same}
        results = self._found_or_made(days)
        return {
            name: same.get(name) or self.summed(keys[name], {key: results[key] for key in days[name].values()})
            for name in keys
        }

    def _found_or_made(self, days: dict[str, dict[str, str]]) -> dict[str, R]:
        wanted = [key for of_month in days.values() for key in of_month.values()]
        found = self.results.find(wanted, self.known(days))
        lacking = [name for name, of_month in days.items() if not found.keys() >= {*of_month.values()}]
        with closing(in_turns(self.site.settings.home, self.site.use_case.name, lacking)) as names:
            for name in names:
                open_keys = [key for key in days[name].values() if key not in found]
                found |= self.results.find(open_keys)  # another run may have made them meanwhile
                own = {day: key for day, key in days[name].items() if key not in found}
                found |= self.make(own)
                self.new += len(own)
        return found

    def keys_of(self, name: str) -> dict[str, str]:
        """Day to content key of every partition of a month."""
        return keys_of(self.site, self.manifest, name, self.decided)

    def known(self, names: Collection[str]) -> dict[str, R]:
        """The results that the kept months have, by key."""
        return self.kept.results(names, self.result)

    @abstractmethod
    def month_key(self, name: str) -> str:
        """Follows from all that decides what a month comes to."""

    @abstractmethod
    def days(self, name: str) -> dict[str, str]:
        """Day to content key of those partitions of a month that have a result."""

    @abstractmethod
    def make(self, days: dict[str, str]) -> dict[str, R]:
        """Makes and keeps the results of these partitions of a month; by key."""

    @abstractmethod
    def summed(self, key: str, results: dict[str, R]) -> KeptMonth[S]:
        """What the results of a month come to."""


def decided_by(site: Site, kind: str, *more: str) -> str:
    """Digest of all that decides how a partition's bytes become a result of a kind."""
    decided = [kind, state_code_digest(kind), site.use_case.reading_digest, *more]
    if not site.use_case.key:
        decided.append("equal rows are different ones")
    if site.use_case.derive is not None:  # its own source would miss the functions, constants and modules that it uses
        decided.append(site.sources)
    return digest_value(decided)


def kept_of_partitions(site: Site, kind: str, result: type[R]) -> Kept[R]:
    """What is kept of single partitions, by content key."""
    return Kept(site.store, result, partial(paths.partition_result, site.use_case.name, kind))


def keys_of(site: Site, manifest: Manifest, month: str, decided: str) -> dict[str, str]:
    """Day to content key of every partition of a month."""
    inputs = inputs_by_day(site.use_case, manifest.month(month))
    return {day: content_key(decided, day, *digests) for day, digests in inputs.items()}


def read_as_declared(site: Site, manifest: Manifest, day: str) -> PartitionRows:
    """The partition as it is read. Raises UnusablePartition as `as_verdict` says."""
    return as_verdict(day, partial(read_partition, site.settings, site.use_case, manifest, day))


def as_verdict(day: str, read: Callable[[], R]) -> R:
    """What is read of a partition. Raises UnusablePartition for whatever bytes make a library or the use case's own
    code fail: one odd file costs its day, not the night."""
    try:
        return read()
    except (UnusablePartition, RetrainError):
        raise
    except Exception as error:  # pyarrow and pandas raise exceptions of any kind for bytes that are odd
        if is_passing(error):
            raise SourceUnavailable(
                "a partition is read by a machine that has memory and a disk", f"{day} ends in {type(error).__name__}",
                "check them, then run again",
            ) from error  # fmt: skip
        raise UnusablePartition(why_unforeseen(error)) from error
