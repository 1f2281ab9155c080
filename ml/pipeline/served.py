"""The stage that scores what serves: each version answers the rows of the days on which it served, once they are due.

Nobody judged the version on these days. Each day is answered once and its sums are kept, so that a night pays for new
days only. What cannot be scored is named with its reason, and does not end the night.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import TypeVar

import numpy as np
import pandas as pd

from ml.data.cleaned import CleanedReader
from ml.data.handles import Cleaned, CleanedPartition
from ml.data.split import split_digest
from ml.data.window import last_due_day
from ml.digests import digest_value
from ml.errors import RetrainError, Unavailable
from ml.evaluation.baselines import Constant
from ml.evaluation.code import SERVED
from ml.evaluation.decision import comparability
from ml.evaluation.handles import LearntConstant
from ml.evaluation.judging import NoAnswer
from ml.evaluation.served import NEWEST_DAYS, DayScore, Served, constant_in, read_days, summary, sums_by_day
from ml.metrics.scores import Answers
from ml.pipeline.evaluate import opened_version
from ml.pipeline.site import Site
from ml.storage import paths
from ml.storage.kept import seal
from ml.storage.ledger import AnyEntry
from ml.storage.records import Champion, Night, Work
from ml.storage.served_days import champions_on

PATIENCE = timedelta(days=14)  # how long a day waits for rows that are not known yet
T = TypeVar("T")


def score_served(site: Site, night: Night, cleaned: Cleaned) -> Served:
    """Scores the days that are due and were not scored yet, and sums up the newest days."""
    entries = site.ledger.entries()
    if not (site.use_case.dated and entries):
        return Served()
    kept = read_days(site.store, night.use_case)
    new: dict[str, DayScore] = {}
    unscored: dict[str, str] = {}
    reused = 0
    for service in _services(site, night, site.reader(cleaned), entries):
        missing = {key: partition for key, partition in service.days.items() if key not in kept}
        reused += len(service.days) - len(missing)
        answered, reasons = service.answered(missing) if missing else ({}, {})
        new |= answered
        unscored |= reasons
    served = summary([*kept.values(), *new.values()], entries, site.use_case.metric, site.use_case.test_days)
    work = Work(stage="", reused=reused, computed=len(new))
    return replace(served, work=work, unscored=tuple(sorted(unscored.items())))


def _services(site: Site, night: Night, reader: CleanedReader, entries: list[AnyEntry]) -> Iterator["Service"]:
    """Every version with the newest days on which it served. Days that it may have learnt from are left out."""
    last = last_due_day(site.use_case, night.as_of)
    partitions = {part.day: part for part in reader.days(str(last - timedelta(days=NEWEST_DAYS - 1)), str(last))}
    champions = champions_on(partitions, entries, site.use_case.time_zone)
    for identity in dict.fromkeys(champion.identity for champion in champions.values()):
        days = [day for day, champion in champions.items() if champion.identity == identity]
        champion = champions[days[-1]]
        unseen = [partitions[day] for day in days if champion.fit_until is not None and day > champion.fit_until]
        due = [partition for partition in unseen if _is_due(night, last, partition)]
        if due:
            yield Service(site, night, reader, champion, constant_in(entries, identity), due)


def _is_due(night: Night, last: date, partition: CleanedPartition) -> bool:
    """Whether all rows of the day are known, or have been waited for long enough."""
    return night.as_of >= partition.cleaned.whole_from or last - date.fromisoformat(partition.day) >= PATIENCE


@dataclass(frozen=True)
class Service:
    """The days on which one version served, and the constant that was learnt with it."""

    site: Site
    night: Night
    reader: CleanedReader
    champion: Champion
    constant: LearntConstant | None
    partitions: list[CleanedPartition]

    @cached_property
    def days(self) -> dict[str, CleanedPartition]:
        """Each day by the place of its result, which names all that decides it."""
        target, identity = self.site.use_case.target.digest, list(self.champion.identity)
        learnt = [self.constant.answer, list(self.constant.shares)] if self.constant else None
        decided = [identity, target, SERVED.digest, learnt]
        return {
            paths.served_day(self.night.use_case, part.day, digest_value([*decided, list(part.digests)])): part
            for part in self.partitions
        }

    def answered(self, days: dict[str, CleanedPartition]) -> tuple[dict[str, DayScore], dict[str, str]]:
        """Loads the version once and lets it answer each of these days. The results are kept under their places.

        Returns the results, and by day the reason for each that there is none of.
        """
        results: dict[str, DayScore] = {}
        first = min(partition.day for partition in days.values())
        version, why_not = _tried(lambda: self._opened(first))
        if version is None:
            return {}, {partition.day: self._named(why_not) for partition in days.values()}
        reasons = {}
        for key, partition in days.items():
            result, why_not = _tried(lambda: self._result(partition, version))  # noqa: B023 - called at once
            if result is None:
                reasons[partition.day] = self._named(why_not)
            else:
                self.site.store.put(key, seal(result))
                results[key] = result
        return results, reasons

    def _named(self, reason: str) -> str:
        return f"version {self.champion.version} could not be scored: {reason}"

    def _opened(self, first_day: str) -> Callable[[pd.DataFrame], Answers]:
        target, split = self.site.use_case.target.digest, split_digest(self.site.use_case)
        reason = comparability(self.champion, first_day, target, split, "model that served")
        if reason is not None:
            raise NoAnswer(reason)
        return opened_version(self.site, self.champion)

    def _result(self, partition: CleanedPartition, version: Callable[[pd.DataFrame], Answers]) -> DayScore:
        """The result of one day. Raises NoAnswer if the version cannot answer all of its rows."""
        rows = self.reader.raw_rows_of(self.night.as_of, "test", partition)
        if not len(rows):
            raise NoAnswer("no row is known yet")
        answers = {"served": version(rows)}
        level = 0.0
        if self.constant is not None:
            level = self.constant.answer
            answers["constant"] = Constant(level, self.constant.shares, "").answers(rows)
        sums = {
            who: sums_by_day(self.site.use_case, rows, of_who, level)[partition.day] for who, of_who in answers.items()
        }
        if not all(np.isfinite(of_who.values).all() for of_who in sums.values()):
            raise NoAnswer("an error is too large to be squared and summed")
        return DayScore(
            day=partition.day,
            version=self.champion.version,
            judged=self.champion.identity,
            at=datetime.now(UTC).isoformat(),
            **sums,
        )


def _tried(step: Callable[[], T]) -> tuple[T | None, str]:
    """What the step gives, or None and the reason why it cannot. What may pass is raised."""
    try:
        return step(), ""
    except Unavailable:
        raise
    except (NoAnswer, RetrainError) as error:
        return None, str(error)
