"""What validation and cleaning share: one kept result for every partition of a window, summed by month.

A result is computed only if none is kept under its content key. What validation and cleaning compute stands in their
own modules.
"""

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
from ml.pipeline.site import Site, own_code_digest
from ml.storage import paths
from ml.storage.kept import Kept, KeptMonth, KeptMonths, content_key
from ml.storage.locks import in_turns

R = TypeVar("R")
S = TypeVar("S")


class Fold(ABC, Generic[R, S]):
    """The results of one kind (verdicts, cleaned rows) for every partition of a window, with their sums by month.

    A month whose key did not change is taken as it was kept. For any other month, kept results are used and the missing
    ones are made, while no other run of this machine works on the month. `new` counts the results that were made.

    `decided` is a digest of the code, rules and declarations that decide a result (`decided_by`).
    """

    def __init__(self, site: Site, manifest: Manifest, kind: str, result: type[R], sums: type[S], decided: str) -> None:
        self.site, self.manifest, self.result, self.decided = site, manifest, result, decided
        self.results = kept_of_partitions(site, kind, result)
        self.kept = KeptMonths(site.store, site.use_case.name, kind, sums)
        self.new = 0

    def months(self) -> dict[str, KeptMonth[S]]:
        """Every month of the window by name, in order."""
        keys = {name: self.month_key(name) for name in self.manifest.months}
        unchanged = self.kept.same(keys)
        days = {name: self.days(name) for name in keys if name not in unchanged}
        results = self._find_or_make(days)
        return {
            name: unchanged.get(name) or self.summed(keys[name], {key: results[key] for key in days[name].values()})
            for name in keys
        }

    def _find_or_make(self, days: dict[str, dict[str, str]]) -> dict[str, R]:
        """The results by content key. `days` is month to day to content key."""
        wanted_keys = [key for keys in days.values() for key in keys.values()]
        results = self.results.find(wanted_keys, self.known(days))
        incomplete_months = [name for name, keys in days.items() if not results.keys() >= {*keys.values()}]
        with closing(in_turns(self.site.settings.home, self.site.use_case.name, incomplete_months)) as names:
            for name in names:
                missing_keys = [key for key in days[name].values() if key not in results]
                results |= self.results.find(missing_keys)  # another run may have made them meanwhile
                missing_days = {day: key for day, key in days[name].items() if key not in results}
                results |= self.make(missing_days)
                self.new += len(missing_days)
        return results

    def keys_of(self, name: str) -> dict[str, str]:
        """Day to content key of every partition of the month."""
        return keys_of(self.site, self.manifest, name, self.decided)

    def known(self, names: Collection[str]) -> dict[str, R]:
        """The results of these months, by content key, that the object of all months has."""
        return self.kept.results(names, self.result)

    @abstractmethod
    def month_key(self, name: str) -> str:
        """The key of the month: a digest of everything that decides its results and sums."""

    @abstractmethod
    def days(self, name: str) -> dict[str, str]:
        """Day to content key of those partitions of the month that are to have a result."""

    @abstractmethod
    def make(self, days: dict[str, str]) -> dict[str, R]:
        """Makes and keeps the results of these days of a month. `days` is day to content key; results are by key."""

    @abstractmethod
    def summed(self, key: str, results: dict[str, R]) -> KeptMonth[S]:
        """The month with this key from its results by content key."""


def decided_by(site: Site, kind: str, *more: str) -> str:
    """A digest of everything that decides how the bytes of a partition become a result of this kind.

    That is our code, the use case's declarations, its own code that reads or derives rows, and `more` digests that the
    kind depends on.
    """
    decided = [kind, state_code_digest(kind), site.use_case.reading_digest, *more]
    if not site.use_case.key:
        decided.append("equal rows are different ones")
    decided += filter(None, [own_code_digest(site.loaded.reading), site.loaded.at_import])
    return digest_value(decided)


def kept_of_partitions(site: Site, kind: str, result: type[R]) -> Kept[R]:
    """The kept results of single partitions, by content key."""
    return Kept(site.store, result, partial(paths.partition_result, site.use_case.name, kind))


def keys_of(site: Site, manifest: Manifest, month: str, decided: str) -> dict[str, str]:
    """Day to content key of every partition of the month. The key follows from `decided` and the bytes that are
    read."""
    inputs = inputs_by_day(site.use_case, manifest.month(month))
    return {day: content_key(decided, day, *digests) for day, digests in inputs.items()}


def read_as_declared(site: Site, manifest: Manifest, day: str) -> PartitionRows:
    """The rows of a partition, read as the use case declares. Raises what `as_verdict` raises."""
    return as_verdict(day, partial(read_partition, site.settings, site.use_case, manifest, day))


def as_verdict(day: str, read: Callable[[], R]) -> R:
    """What `read` returns for the partition of that day.

    Raises UnusablePartition if a library or the use case's own code fails on its bytes, so that one odd file costs its
    day and not the night. Raises SourceUnavailable for a failure of this machine that may pass.
    """
    try:
        return read()
    except (UnusablePartition, RetrainError):
        raise
    except Exception as error:  # pyarrow and pandas raise exceptions of any kind for odd bytes
        if is_passing(error):
            raise SourceUnavailable(
                "a partition is read by a machine that has memory and a disk", f"{day} ends in {type(error).__name__}",
                "check them, then run again",
            ) from error  # fmt: skip
        raise UnusablePartition(why_unforeseen(error)) from error
