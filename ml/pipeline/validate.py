"""The stage that validates: every partition of a snapshot gets a verdict, unless it has one already; then the window.

A verdict says whether a partition is usable and which of its rows go into quarantine. Days are then compared with the
days before them, and days on which a column lost its meaning are rejected too. A window whose newest partition is
rejected, or that breaks a rule for the whole snapshot, is refused with DataRejected.
"""

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
MOVED_DAYS = 7  # how many of the newest days the report tells moves of
LONGEST_REASON = 400  # letters


def validate_partitions(site: Site, night: Night, snapshot: Snapshot) -> Checks:
    """Judges every partition that has no verdict yet. Raises DataRejected if the window cannot be used."""
    manifest = read_manifest(site.store, snapshot.manifest)
    fold = Validation(site, manifest)
    months = _compared(site, manifest, fold.months())
    if fold.kept.decided_otherwise(fold.decided) and fold.new:
        partitions = _partitions_in_words(fold.new, manifest)
        log.warning("%s is read again: its rules, declarations or the code that reads it changed.", partitions)
    fold.kept.save(months)
    result = _summary(site, night, manifest, snapshot, months)
    work = Work(stage="", reused=manifest.size - fold.new, computed=fold.new)
    return replace(result, work=work, cleaned_days=tuple(fold.rows_at_hand.days))


def _partitions_in_words(number: int, manifest: Manifest) -> str:
    """`12 of 300 partitions`, as the subject of a sentence."""
    if manifest.size == 1:
        return "The one partition"
    return f"{'Each' if number == manifest.size else number} of {manifest.size} partitions"


class Validation(Fold[PartitionCheck, CheckedDays]):
    """The verdict on every partition of the window. `rows_at_hand` cleans the usable ones at once."""

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
        """Judges these days in batches of bounded size. Usable partitions are cleaned while their rows are in
        memory."""
        verdicts: dict[str, PartitionCheck] = {}
        _try_derive(self.site, self.manifest, list(days))
        for batch, unreadable in _batches(self.site, self.manifest, list(days)):
            checks = [*unreadable, *(self._judge(batch, days) if batch is not None else ())]
            for check in checks:
                self.results.keep(days[check.day], check)
                verdicts[days[check.day]] = check
            if batch is not None:
                self.rows_at_hand.clean({check.day: batch.of_day(check.day) for check in checks if not check.rejected})
        return verdicts

    def _judge(self, batch: Batch, days: dict[str, str]) -> Iterator[PartitionCheck]:
        """The verdicts on a batch, after Great Expectations has confirmed the counts. Keeps the quarantined rows."""
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
        """The month before its days are compared with earlier days, which `_compared` does."""
        sums = _summed(list(results.values()), Compared({}, (), {}), compared="")
        return KeptMonth.of(key, PartitionCheck, results, sums)


def _try_derive(site: Site, manifest: Manifest, days: list[str]) -> None:
    """Raises ConfigError if the use case's `derive` computes a row from other rows.

    It is tried on the newest of these days that can be read, before any verdict is kept. The days that cannot be read
    get their verdicts later.
    """
    if site.use_case.derive is None:
        return
    for day in sorted(days, reverse=True):
        with suppress(UnusablePartition):
            rows = as_verdict(day, partial(source_rows, site.settings, site.use_case, manifest, day))
            refuse_other_values(site.use_case, rows, day)
            return


def _batches(site: Site, manifest: Manifest, days: list[str]) -> Iterator[tuple[Batch | None, list[PartitionCheck]]]:
    """Batches of the rows of several days, each with the verdicts on days that could not be read as declared.

    The last batch is None if no day was left that could be read.
    """
    read: dict[str, PartitionRows] = {}
    unreadable: list[PartitionCheck] = []
    bytes_read = 0
    for day in days:
        try:
            read[day] = read_as_declared(site, manifest, day)
            bytes_read += _size(read[day].rows)
        except UnusablePartition as error:
            unreadable.append(rejected_check(day, str(error)))
        if bytes_read >= site.settings.batch_bytes:
            yield Batch.of(site.use_case.key, read), unreadable
            read, unreadable, bytes_read = {}, [], 0
    yield Batch.of(site.use_case.key, read) if read else None, unreadable


def _size(rows: pd.DataFrame) -> int:
    """The bytes that the rows take in memory."""
    return int(rows.memory_usage().sum())


def _confirm(site: Site, verdict: BatchVerdict) -> None:
    """Lets Great Expectations count the broken rules too. Raises ConfigError if it counts otherwise."""
    if verdict.facts and verdict.facts[0].rows:
        site.confirm([replace(fact, rule=within_partition(fact.rule)) for fact in verdict.facts])


def _summed(checks: list[PartitionCheck], comparison: Compared, *, compared: str) -> CheckedDays:
    """The sums of a month from its verdicts and the comparison with earlier days. `compared` is the comparison's
    key."""
    rejected = {check.day: check.rejected for check in checks if check.rejected is not None} | comparison.lost
    used = [check for check in checks if check.day not in rejected]
    return CheckedDays(
        digest=digest_value([[check.day, check.quarantine and check.quarantine.digest] for check in used]),
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
        moves=comparison.moves,
        compared=compared,
        lost=comparison.lost,
        unseen=comparison.unseen,
    )


def _compared(site: Site, manifest: Manifest, months: dict[str, CheckedMonth]) -> dict[str, CheckedMonth]:
    """The months after every day was compared with the days before it, those of the month before included.

    A month is compared again only if its own verdicts, or the results of the month before, have changed.
    """
    if not site.use_case.dated:
        return months
    compared_months: dict[str, CheckedMonth] = {}
    before: CheckedMonth | None = None
    limit, first_months = site.use_case.max_unseen_fraction, list(months.values())[:2]
    all_odd_days = odd_at_start([check for month in first_months for check in _checks(month)], manifest.accepted, limit)
    for name, month in months.items():
        odd_days, accepted = (_days_in_month(days, name) for days in (all_odd_days, manifest.accepted))
        digest_before = digest_value([before.key, before.sums.lost, before.sums.unseen]) if before else ""
        key = digest_value([month.key, digest_before, limit, sorted(accepted), odd_days])
        if month.sums.compared != key:
            checks = _checks(month)
            comparison = compare(checks, _known_days(before) if before else [], accepted, limit, odd_days)
            month = replace(month, sums=_summed(checks, comparison, compared=key))
        compared_months[name] = before = month
    return compared_months


def _days_in_month(days: Mapping[str, str], name: str) -> dict[str, str]:
    return {day: words for day, words in days.items() if month_of(day) == name}


def _checks(month: CheckedMonth) -> list[PartitionCheck]:
    return list(month.by_key(PartitionCheck).values())


def _known_days(month: CheckedMonth) -> list[Known]:
    """The usable days of a month, in the form in which the days of the next month are compared with them."""
    usable = (check for check in _checks(month) if check.day not in month.sums.rejected)
    return [known_of(check, month.sums.unseen.get(check.day, {})) for check in usable]


def _summary(
    site: Site, night: Night, manifest: Manifest, snapshot: Snapshot, by_name: dict[str, CheckedMonth]
) -> Checks:  # fmt: skip
    """The whole window. Raises DataRejected if its newest partition or the window itself cannot be used."""
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
    newest_days = _newest_days(snapshot) if site.use_case.dated else set()
    return Checks(
        digest=digest_value([month.digest for month in months]),
        months=by_name,
        left_out=left_out | {day: f"excluded ({reason})" for day, reason in snapshot.excluded.items()},
        **sums,
        undeclared=undeclared(month.undeclared for month in months),
        broken=_broken(count for month in months for count in month.broken),
        quarantined_days={day: count for month in months for day, count in month.quarantined_days.items()},
        moves=tuple(move for month in months for move in month.moves if move.day in newest_days),
        rules=len(site.rules),
    )


def _newest_days(snapshot: Snapshot) -> set[str]:
    last_day = date.fromisoformat(snapshot.last_day)
    return {str(last_day - timedelta(days=number)) for number in range(MOVED_DAYS)}


def _due_partitions(site: Site, night: Night, manifest: Manifest) -> set[str]:
    """The days of partitions that the calendar expects."""
    days = {partition.day for partition in manifest.partitions}
    if site.use_case.calendar == "daily":
        return days
    return days.intersection(due_of_manifest(site.use_case, manifest, night.as_of))


def _is_without_rows(month: CheckedMonth, day: str) -> bool:
    """Whether the partition could be read and is empty. If its day is not due, that counts as no data, and no fault."""
    check = next(check for check in _checks(month) if check.day == day)
    return check.rows == 0 and bool(check.broken)


def _way_out(site: Site, night: Night, manifest: Manifest, months: dict[str, CheckedMonth], day: str) -> str:
    """What an operator can do so that a night with this rejected day goes on."""
    month = months[month_of(day)]
    file = next(part.file for part in manifest.month(month_of(day)).partitions if part.day == day)
    lost = day in month.sums.lost
    check = next(check for check in _checks(month) if check.day == day)
    return way_out(site.use_case, night.as_of, day, file, cure_of(check, lost=lost), lost=lost)


def _sums(checked: Iterable[PartitionCheck | CheckedDays]) -> dict[str, Any]:
    """The totals that partitions and months have alike: rows and those that were duplicate, quarantined, unlabelled, or
    not matched by a side table."""
    parts = list(checked)
    names = ("rows", "duplicates", "quarantined", "unlabelled")
    unmatched = sum((Counter(part.unmatched) for part in parts), Counter[str]())
    return {name: sum(getattr(part, name) for part in parts) for name in names} | {"unmatched": dict(unmatched)}


def _refuse_window(
    site: Site, night: Night, manifest: Manifest, months: dict[str, CheckedMonth], rows: int, left_out: dict[str, str]
) -> None:
    """Raises DataRejected if the window breaks a rule for the whole snapshot. `left_out` is day to reason."""
    facts = pd.DataFrame({"left_out_days": [float(len(left_out))], "rows": [float(rows)]})
    reason = rejection(site.use_case, [rule for rule in site.rules if rule.scope == "snapshot"], facts, [])
    if reason is not None:
        newest = sorted(left_out.items(), reverse=True)
        days = "; ".join(f"{day}, {why[:LONGEST_REASON]}" for day, why in newest[:MOST_DAYS])
        more = f"; and {len(newest) - MOST_DAYS} more" if len(newest) > MOST_DAYS else ""
        rejected_days = {day for month in months.values() for day in month.sums.rejected}
        rejected = next((day for day, _ in newest if day in rejected_days), None)
        raise DataRejected(
            f"the window up to {last_due_day(site.use_case, night.as_of)} must be usable",
            f"{reason} ({days}{more})",
            "deliver the days that are missing, or raise max_missing_days"
            + suggestion(site.use_case.calendar, list(left_out))
            if rejected is None
            else f"for {rejected}, {_way_out(site, night, manifest, months, rejected)}; the same for the other days",
        )


def _broken(counts: Iterable[RuleCount]) -> tuple[RuleCount, ...]:
    """Every rule that a row or partition broke, summed over partitions, the most often broken first."""
    totals: dict[tuple[str, str, str], tuple[int, int]] = {}
    for count in counts:
        rule = (count.rule, count.scope, count.severity)
        evaluated, unexpected = totals.get(rule, (0, 0))
        totals[rule] = evaluated + count.evaluated, unexpected + count.unexpected
    broken_rules = [
        RuleCount(rule=rule, scope=scope, severity=severity, evaluated=evaluated, unexpected=unexpected)
        for (rule, scope, severity), (evaluated, unexpected) in totals.items()
    ]
    return tuple(sorted(broken_rules, key=lambda count: (-count.unexpected, count.rule)))
