"""Judges every partition of a snapshot that has no verdict yet, and whether the window can be used."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any

import pandas as pd

from ml.data.calendars import suggestion
from ml.data.cleaning import to_parquet
from ml.data.handles import CheckedDays, CheckedMonth, Checks, Manifest, PartitionCheck, RuleCount, Snapshot, Undeclared
from ml.data.meaning import Compared, Known, compare, known_of, odd_at_start
from ml.data.partitions import PartitionRows, source_rows
from ml.data.reading import UnusablePartition
from ml.data.rejections import cure_of, undeclared, way_out
from ml.data.row_alone import refuse_other_values
from ml.data.snapshots import due_of_manifest, read_manifest
from ml.data.validation import Batch, BatchVerdict, check_batch, rejected_check, rejection, within_partition
from ml.data.window import last_due_day
from ml.days import month_of
from ml.digests import digest_bytes, digest_value
from ml.errors import DataRejected
from ml.pipeline.clean import RowsAtHand
from ml.pipeline.partitions import Fold, as_verdict, decided_by, read_as_declared
from ml.pipeline.site import Site
from ml.reporting.words import MOST_DAYS
from ml.serving.rules import rule_to_dict
from ml.storage import paths
from ml.storage.kept import KeptMonth, content_key
from ml.storage.records import Night, Work
from ml.storage.store import put_file

log = logging.getLogger("retrain.data")
MOVED_DAYS = 7  # the newest ones, whose moves are worth telling tonight
LONGEST_REASON = 400


def validate_partitions(site: Site, night: Night, snapshot: Snapshot) -> Checks:
    """Judges every partition that has no verdict yet; raises DataRejected where the window cannot be used."""
    manifest = read_manifest(site.store, snapshot.manifest)
    fold = Validation(site, manifest)
    months = _compared(site, manifest, fold.months())
    if fold.kept.decided_otherwise(fold.decided) and fold.new:
        words = _of(fold.new, manifest)
        log.warning("%s is read again: its rules, declarations or the code that reads it changed.", words)
    fold.kept.save(months)
    result = _summary(site, night, manifest, snapshot, months)
    work = Work(stage="", reused=manifest.size - fold.new, computed=fold.new)
    return replace(result, work=work, cleaned_days=tuple(fold.rows_at_hand.days))


def _of(number: int, manifest: Manifest) -> str:
    """How much of the window."""
    if manifest.size == 1:
        return "The one partition"
    return f"{'Each' if number == manifest.size else number} of {manifest.size} partitions"


class Validation(Fold[PartitionCheck, CheckedDays]):
    """The verdict on every partition."""

    def __init__(self, site: Site, manifest: Manifest) -> None:
        rules = [rule_to_dict(rule) for rule in site.rules if rule.scope != "snapshot"]
        columns = [[column.name, column.is_category, column.sensitive] for column in site.use_case.columns]
        decided = decided_by(site, "verdict", digest_value(rules), digest_value(columns))
        super().__init__(site, manifest, "verdict", PartitionCheck, CheckedDays, decided)
        self.rows_at_hand = RowsAtHand(site, manifest)

    def month_key(self, name: str) -> str:
        return content_key(self.decided, digest_bytes(self.manifest.months[name].encode()))

    def days(self, name: str) -> dict[str, str]:
        return self.keys_of(name)

    def make(self, days: dict[str, str]) -> dict[str, PartitionCheck]:
        """In batches of a bounded size. The rows of usable partitions are cleaned while they are there."""
        made: dict[str, PartitionCheck] = {}
        _try_derive(self.site, self.manifest, list(days))
        for batch, unreadable in _batches(self.site, self.manifest, list(days)):
            checks = [*unreadable, *(self._judged(batch, days) if batch is not None else ())]
            for check in checks:
                self.results.keep(days[check.day], check)
                made[days[check.day]] = check
            if batch is not None:
                self.rows_at_hand.clean({check.day: batch.of_day(check.day) for check in checks if not check.rejected})
        return made

    def _judged(self, batch: Batch, days: dict[str, str]) -> Iterator[PartitionCheck]:
        """The verdicts on a batch, once Great Expectations has confirmed its facts. Keeps the rows set aside."""
        verdict = check_batch(self.site.use_case, self.site.rules, batch)
        _confirm(self.site, verdict)
        for day, check in verdict.checks.items():
            if day in verdict.quarantine:
                place = paths.quarantine(self.site.use_case.name, days[day])
                file = put_file(self.site.store, place, to_parquet(verdict.quarantine[day]))
                yield replace(check, quarantine=file)
            else:
                yield check

    def summed(self, key: str, results: dict[str, PartitionCheck]) -> CheckedMonth:
        """Not yet compared with the days before."""
        sums = _summed(list(results.values()), Compared({}, (), {}), compared="")
        return KeptMonth.of(key, PartitionCheck, results, sums)


def _try_derive(site: Site, manifest: Manifest, days: list[str]) -> None:
    """Raises ConfigError where derive computes a row from other rows. It is tried on the newest of a month's new
    partitions before any of their verdicts is kept; one that cannot be read gets its own verdict later."""
    if site.use_case.derive is None:
        return
    for day in sorted(days, reverse=True):
        with suppress(UnusablePartition):
            rows = as_verdict(day, partial(source_rows, site.settings, site.use_case, manifest, day))
            refuse_other_values(site.use_case, rows, day)
            return


def _batches(site: Site, manifest: Manifest, days: list[str]) -> Iterator[tuple[Batch | None, list[PartitionCheck]]]:
    """Rows of as many days as make a batch, and verdicts on days among them that cannot be read as declared."""
    read: dict[str, PartitionRows] = {}
    unreadable: list[PartitionCheck] = []
    taken, room = 0, site.settings.batch_bytes
    for day in days:
        try:
            read[day] = read_as_declared(site, manifest, day)
            taken += _size(read[day].rows)
        except UnusablePartition as error:
            unreadable.append(rejected_check(day, str(error)))
        if taken >= room:
            yield Batch.of(site.use_case.key, read), unreadable
            read, unreadable, taken = {}, [], 0
    yield Batch.of(site.use_case.key, read) if read else None, unreadable


def _size(rows: pd.DataFrame) -> int:
    return int(rows.memory_usage().sum())


def _confirm(site: Site, verdict: BatchVerdict) -> None:
    """Lets Great Expectations count too."""
    if verdict.facts and verdict.facts[0].rows:
        site.confirm([replace(fact, rule=within_partition(fact.rule)) for fact in verdict.facts])


def _summed(checks: list[PartitionCheck], found: Compared, *, compared: str) -> CheckedDays:
    rejected = {check.day: check.rejected for check in checks if check.rejected is not None} | found.lost
    used = [check for check in checks if check.day not in rejected]
    return CheckedDays(
        digest=digest_value([[c.day, c.quarantine.digest if c.quarantine else None] for c in used]),
        partitions=len(checks),
        rejected={check.day: rejected[check.day] for check in checks if check.day in rejected},
        **_sums(used),
        undeclared=undeclared(
            Undeclared(days=1, most=check.undeclared, names=dict.fromkeys(check.unknown_columns, 1))
            for check in used
            if check.undeclared
        ),
        broken=_broken(count for check in used for count in check.broken),
        quarantined_days={check.day: check.quarantined for check in used if check.quarantined},
        moves=found.moves,
        compared=compared,
        lost=found.lost,
        unseen=found.unseen,
    )


def _compared(site: Site, manifest: Manifest, months: dict[str, CheckedMonth]) -> dict[str, CheckedMonth]:
    """Every month after its days were compared with those before them, those of the month before included.

    A month is compared again where its own verdicts or what the month before came to are others than before.
    """
    if not site.use_case.dated:
        return months
    done: dict[str, CheckedMonth] = {}
    before: CheckedMonth | None = None
    limit, first = site.use_case.max_unseen_fraction, list(months.values())[:2]
    odd = odd_at_start([check for month in first for check in _checks(month)], manifest.accepted, limit)
    for name, month in months.items():
        own_odd, accepted = (_of_month(days, name) for days in (odd, manifest.accepted))
        came_to = digest_value([before.key, before.sums.lost, before.sums.unseen]) if before else ""
        key = digest_value([month.key, came_to, limit, sorted(accepted), own_odd])
        if month.sums.compared != key:
            checks = _checks(month)
            found = compare(checks, _known_days(before) if before else [], accepted, limit, own_odd)
            month = replace(month, sums=_summed(checks, found, compared=key))
        done[name] = before = month
    return done


def _of_month(days: Mapping[str, str], name: str) -> dict[str, str]:
    return {day: words for day, words in days.items() if month_of(day) == name}


def _checks(month: CheckedMonth) -> list[PartitionCheck]:
    return list(month.by_key(PartitionCheck).values())


def _known_days(month: CheckedMonth) -> list[Known]:
    """A month's usable days, as those of the next are compared with them."""
    used = (check for check in _checks(month) if check.day not in month.sums.rejected)
    return [known_of(check, month.sums.unseen.get(check.day, {})) for check in used]


def _summary(
    site: Site, night: Night, manifest: Manifest, snapshot: Snapshot, by_name: dict[str, CheckedMonth]
) -> Checks:  # fmt: skip
    months = [month.sums for month in by_name.values()]
    due = _due_partitions(site, night, manifest)
    rejected = {
        day: why
        for month in by_name.values()
        for day, why in month.sums.rejected.items()
        if day in due or not _is_without_rows(month, day)
    }
    left_out = {day: snapshot.unusable.get(day, "it is missing") for day in snapshot.missing_days} | rejected
    sums = _sums(months)
    newest = max(due, default=None)
    if newest in rejected:
        raise DataRejected(
            f"the newest partition ({newest}) must be usable",
            rejected[newest],
            _way_out(site, night, manifest, by_name, newest),
        )
    _refuse_window(site, night, manifest, by_name, sums["rows"], left_out)
    told = (
        {str(date.fromisoformat(snapshot.last_day) - timedelta(days=n)) for n in range(MOVED_DAYS)}
        if (site.use_case.dated)
        else set()
    )
    return Checks(
        digest=digest_value([month.digest for month in months]),
        months=by_name,
        left_out=left_out | {day: f"excluded ({reason})" for day, reason in snapshot.excluded.items()},
        **sums,
        undeclared=undeclared(month.undeclared for month in months),
        broken=_broken(count for month in months for count in month.broken),
        quarantined_days={day: count for month in months for day, count in month.quarantined_days.items()},
        moves=tuple(move for month in months for move in month.moves if move.day in told),
        rules=len(site.rules),
    )


def _due_partitions(site: Site, night: Night, manifest: Manifest) -> set[str]:
    """The partitions that the calendar expects."""
    days = {partition.day for partition in manifest.partitions}
    if site.use_case.calendar == "daily":
        return days
    return days.intersection(due_of_manifest(site.use_case, manifest, night.as_of))


def _is_without_rows(month: CheckedMonth, day: str) -> bool:
    """Whether the day could be read and is empty: on a day that is not due, no data."""
    check = next(check for check in _checks(month) if check.day == day)
    return check.rows == 0 and bool(check.broken)


def _way_out(site: Site, night: Night, manifest: Manifest, months: dict[str, CheckedMonth], day: str) -> str:
    """What lets a night with this rejected day go on."""
    month = manifest.month(month_of(day))
    file = next(partition.file for partition in month.partitions if partition.day == day)
    lost = day in months[month_of(day)].sums.lost
    check = next(check for check in _checks(months[month_of(day)]) if check.day == day)
    return way_out(site.use_case, night.as_of, day, file, cure_of(check, lost=lost), lost=lost)


def _sums(checked: Iterable[PartitionCheck | CheckedDays]) -> dict[str, Any]:
    """What partitions and months count alike."""
    parts = list(checked)
    names = ("rows", "duplicates", "quarantined", "unlabelled")
    unmatched = sum((Counter(part.unmatched) for part in parts), Counter[str]())
    return {name: sum(getattr(part, name) for part in parts) for name in names} | {"unmatched": dict(unmatched)}


def _refuse_window(
    site: Site, night: Night, manifest: Manifest, months: dict[str, CheckedMonth], rows: int, left_out: dict[str, str]
) -> None:
    facts = pd.DataFrame({"left_out_days": [float(len(left_out))], "rows": [float(rows)]})
    reason = rejection([rule for rule in site.rules if rule.scope == "snapshot"], facts, [])
    if reason is not None:
        newest = sorted(left_out.items(), reverse=True)
        days = "; ".join(f"{day}, {why[:LONGEST_REASON]}" for day, why in newest[:MOST_DAYS])
        more = f"; and {len(newest) - MOST_DAYS} more" if len(newest) > MOST_DAYS else ""
        refused = {day for month in months.values() for day in month.sums.rejected}
        rejected = next((day for day, _ in newest if day in refused), None)
        raise DataRejected(
            f"the window up to {last_due_day(site.use_case, night.as_of)} must be usable",
            f"{reason} ({days}{more})",
            "deliver the days that are missing, or raise max_missing_days"
            + suggestion(site.use_case.calendar, list(left_out))
            if rejected is None
            else f"for {rejected}, {_way_out(site, night, manifest, months, rejected)}; the same for the other days",
        )


def _broken(counts: Iterable[RuleCount]) -> tuple[RuleCount, ...]:
    """Every rule that some row or partition broke, summed over partitions, worst first."""
    totals: dict[tuple[str, str, str], tuple[int, int]] = {}
    for count in counts:
        rule = (count.rule, count.scope, count.severity)
        evaluated, unexpected = totals.get(rule, (0, 0))
        totals[rule] = evaluated + count.evaluated, unexpected + count.unexpected
    found = [
        RuleCount(rule=rule, scope=scope, severity=severity, evaluated=evaluated, unexpected=unexpected)
        for (rule, scope, severity), (evaluated, unexpected) in totals.items()
    ]
    return tuple(sorted(found, key=lambda count: (-count.unexpected, count.rule)))
