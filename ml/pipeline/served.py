"""The stage that scores what serves: each version answers the rows of the days on which it served, once they are due.

Nobody judged the version on these days. Each day is answered once and its sums are kept, so that a night pays for new
days only. A night that has nothing new to learn has no new day either. What cannot be scored is named with its reason,
and does not end the night.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import takewhile
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
from ml.evaluation.code import SERVED_DAYS
from ml.evaluation.day_scores import NEWEST_DAYS, DayScore, constant_in, read_days, sums_by_day
from ml.evaluation.decision import comparability
from ml.evaluation.handles import LearntConstant
from ml.evaluation.judging import NoAnswer
from ml.evaluation.served import Served, summary, why_twin_is_better
from ml.metrics.day_sums import DaySums
from ml.metrics.scores import Answers
from ml.operations.alias import roll_alias_forward
from ml.operations.backfill import Plan
from ml.operations.moves import take_over
from ml.operations.usable import why_unusable
from ml.pipeline import opening
from ml.pipeline.evaluate import opened_version
from ml.pipeline.site import Site
from ml.storage import paths
from ml.storage.kept import seal
from ml.storage.ledger import AnyEntry, NightEntry, TakeOverEntry
from ml.storage.records import Champion, Night, Registered, Work
from ml.storage.served_days import champions_on

Answer = Callable[[pd.DataFrame], Answers]
PATIENCE = timedelta(days=14)  # how long a day waits for rows that are not known yet
T = TypeVar("T")


def score_served(
    site: Site, night: Night, cleaned: Cleaned, finished: NightEntry | None, plan: Plan | None
) -> Served:  # fmt: skip
    """Scores the days that are due and were not scored yet, and sums up the newest days.

    If the refit that serves is then surely worse than its twin, the twin takes over. A run that was `finished` before
    moves nothing.
    """
    entries = site.ledger.entries()
    if not (site.use_case.dated and entries):
        return Served()
    days = score_days(site, night, cleaned, entries)
    served = summary(days.results, entries, site.use_case.metric, site.use_case.test_days)
    twin, takes_over = (None, False) if finished else _twin(site, night, days.results, entries, plan)
    return replace(served, work=days.work, unscored=days.unscored, twin=twin, takes_over=takes_over)


@dataclass(frozen=True)
class Scored:
    """Everything that is kept of the newest days, oldest results first, and the reason for each day without one."""

    results: list[DayScore]
    unscored: tuple[tuple[str, str], ...]
    work: Work


def score_days(site: Site, night: Night, cleaned: Cleaned, entries: list[AnyEntry]) -> Scored:
    """Lets each version answer the days on which it served, those that are due and have no result yet."""
    kept = read_days(site.store, night.use_case)
    new, unscored, reused = dict[str, DayScore](), dict[str, str](), 0
    for service in _services(site, night, site.reader(cleaned), entries):
        missing = {key: partition for key, partition in service.days.items() if key not in kept}
        reused += len(service.days) - len(missing)
        answered, reasons = service.answered(missing) if missing else ({}, {})
        new |= answered
        unscored |= reasons
    work = Work(stage="", reused=reused, computed=len(new))
    return Scored([*kept.values(), *new.values()], tuple(sorted(unscored.items())), work)


def _twin(
    site: Site, night: Night, results: list[DayScore], entries: list[AnyEntry], plan: Plan | None
) -> tuple[str | None, bool]:  # fmt: skip
    """Lets the twin of the refit that serves take over if the refit is surely worse.

    Returns what is to be said of it, None if nothing is, and whether it takes over. A run that was cut off after the
    take-over finds it in the ledger.
    """
    head = entries[-1]
    since_last_night = takewhile(lambda entry: not isinstance(entry, NightEntry), reversed(entries))
    done = next((entry for entry in since_last_night if isinstance(entry, TakeOverEntry)), None)
    if done is not None:
        return done.reason, True
    why = why_twin_is_better(results, head, site.use_case.metric)
    if why is None or head.champion is None:
        return None, False
    refit, judged = head.champion.served.version, head.champion.version
    worse = f"Version {refit}, the refit of version {judged}, is surely worse than it: {why}."
    blocked = _why_no_move(site, head, head.champion, plan)
    if blocked is not None:
        return f"{worse} The refit serves all the same. {blocked}", False
    reason = f"{worse} Version {judged} takes over."
    if not take_over(site.ledger, site.registry, head, night.as_of, reason):
        return (
            f"{worse} The refit serves on, for another entry of the ledger came first; the next night looks again.",
            False,
        )
    return reason, True


def _why_no_move(site: Site, head: AnyEntry, champion: Champion, plan: Plan | None) -> str | None:
    """Why the twin may not take over, as a sentence; None if it may."""
    blocked = roll_alias_forward(site.ledger, site.registry) or opening.held(head) or opening.of_backfill(plan)
    unusable = why_unusable(site.store, site.registry, champion)
    return blocked or (f"Its twin cannot serve: {unusable}." if unusable else None)


def _services(site: Site, night: Night, reader: CleanedReader, entries: list[AnyEntry]) -> Iterator["Service"]:
    """Every version with the newest days on which it served. Days that it may have learnt from are left out."""
    last = last_due_day(site.use_case, night.as_of)
    first_day, last_day = str(last - timedelta(days=NEWEST_DAYS - 1)), str(last)
    partitions = {partition.day: partition for partition in reader.days(first_day, last_day)}
    champions = champions_on(partitions, entries, site.use_case.time_zone)
    for champion in dict.fromkeys(champions.values()):
        seen_until = max(version.fit_until or last_day for version in champion.versions)
        unseen = [partitions[day] for day, served in champions.items() if served == champion and day > seen_until]
        due = [partition for partition in unseen if _is_due(night, last, partition)]
        if due:
            yield Service(site, night, reader, champion, constant_in(entries, champion.identity), due)


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
        target, versions = self.site.use_case.target.digest, [list(one.identity) for one in self.champion.versions]
        learnt = [self.constant.answer, list(self.constant.shares)] if self.constant else None
        decided = [versions, target, SERVED_DAYS.digest, learnt]
        return {
            paths.served_day(self.night.use_case, part.day, digest_value([*decided, list(part.digests)])): part
            for part in self.partitions
        }

    def answered(self, days: dict[str, CleanedPartition]) -> tuple[dict[str, DayScore], dict[str, str]]:
        """Loads the versions once and lets them answer each of these days. The results are kept under their places.

        Returns the results, and by day the reason for each that there is none of.
        """
        results, reasons = dict[str, DayScore](), dict[str, str]()
        served, why_not = _tried(lambda: self._opened(self.champion.served))
        twin, _ = _tried(lambda: self._opened(self.champion)) if served and self.champion.refit else (None, "")
        for key, partition in days.items():
            result = None
            if served is not None:
                result, why_not = _tried(lambda: self._result(partition, served, twin))  # noqa: B023 - called at once
            if result is None:
                reasons[partition.day] = f"version {self.champion.served.version} could not be scored: {why_not}"
            else:
                self.site.store.put(key, seal(result))
                results[key] = result
        return results, reasons

    def _opened(self, version: Registered) -> Answer:
        """Loads the version. Raises NoAnswer if it can never answer rows of today."""
        first, use_case = min(partition.day for partition in self.partitions), self.site.use_case
        reason = comparability(
            self.champion, first, use_case.target.digest, split_digest(use_case), "model that served"
        )
        if reason is not None:
            raise NoAnswer(reason)
        return opened_version(self.site, version)

    def _result(self, partition: CleanedPartition, served: Answer, twin: Answer | None) -> DayScore:
        """The result of one day. Raises NoAnswer if the version that served cannot answer all of its rows."""
        rows = self.reader.raw_rows_of(self.night.as_of, "test", partition)
        if not len(rows):
            raise NoAnswer("no row is known yet")
        sums = {"served": self._sums(rows, served(rows))}
        if twin is not None:
            of_twin, _ = _tried(lambda: self._sums(rows, twin(rows)))
            sums |= {"twin": of_twin} if of_twin else {}
        if self.constant is not None:
            sums["constant"] = self._sums(rows, Constant(self.constant.answer, self.constant.shares, "").answers(rows))
        return DayScore(
            day=partition.day,
            version=self.champion.served.version,
            judged=self.champion.identity,
            at=datetime.now(UTC).isoformat(),
            **sums,
        )

    def _sums(self, rows: pd.DataFrame, answers: Answers) -> DaySums:
        """The sums of the answers to the rows of one day. Raises NoAnswer if one is not finite."""
        level = self.constant.answer if self.constant else 0.0
        (sums,) = sums_by_day(self.site.use_case, rows, answers, level).values()
        if not np.isfinite(sums.values).all():
            raise NoAnswer("an error is too large to be squared and summed")
        return sums


def _tried(step: Callable[[], T]) -> tuple[T | None, str]:
    """What the step gives, or None and the reason why it cannot. What may pass is raised."""
    try:
        return step(), ""
    except Unavailable:
        raise
    except (NoAnswer, RetrainError) as error:
        return None, str(error)
