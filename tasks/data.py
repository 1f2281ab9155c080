"""Stages that fail with the data: snapshot, validation, cleaning, split."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from expectations.suite import verdicts
from ml.data.calendars import suggestion
from ml.data.cleaning import clean, to_block, to_parquet, whole_from
from ml.data.code import state_code_digest
from ml.data.handles import (
    Block,
    Blocks,
    CheckedMonth,
    Checks,
    CleanedMonth,
    CleanedRows,
    Manifest,
    PartitionCheck,
    RuleCount,
    Snapshot,
    Split,
    Undeclared,
)
from ml.data.meaning import Compared, Known, compare, known_of, odd_at_start
from ml.data.partitions import PartitionRows, inputs_by_day, read_partition, source_rows
from ml.data.reading import UnusablePartition
from ml.data.rejections import cure_of, undeclared, way_out, why_unforeseen
from ml.data.row_alone import refuse_other_values
from ml.data.snapshots import due_of_manifest, read_manifest
from ml.data.split import describe, fit_until, share_of_known_groups, split_digest
from ml.data.statistics import fit_encoder
from ml.data.validation import (
    Batch,
    BatchVerdict,
    check_batch,
    drop_duplicates,
    rejected_check,
    rejection,
    within_partition,
)
from ml.data.window import last_due_day
from ml.data.window_sums import WindowSums
from ml.days import month_of
from ml.digests import digest_bytes, digest_value
from ml.errors import ConfigError, DataRejected, RetrainError, SourceUnavailable, is_passing
from ml.reporting.words import MOST_DAYS, counted, newest_of, window_words
from ml.serving.rules import rule_to_dict
from ml.storage import paths
from ml.storage.json_form import packed, parsed, to_json
from ml.storage.ledger import NightEntry
from ml.storage.locks import in_turns
from ml.storage.records import Night, Work, with_work
from ml.storage.states import Bundle, States, decided_otherwise, state_key
from ml.storage.store import put_file
from tasks import opening
from tasks.site import Site, resume, site_of
from tasks.stage import stage

JUDGED: dict[str, pd.DataFrame] = {}  # unique rows that were just judged, by the key of their block, for the cleaner
MOVED_DAYS = 7  # the newest ones, whose moves are worth telling tonight
LONGEST_REASON = 400
Read = TypeVar("Read")
log = logging.getLogger("retrain.data")


@stage("take snapshot", timeout_seconds=600)
def take_snapshot(night: Night) -> Snapshot:
    snapshot = opening.take_snapshot(night)
    log.info("Took a snapshot of %s.", window_words(snapshot.partitions, snapshot.first_day, snapshot.last_day))
    if snapshot.changed_days:
        log.warning("Changed since the last night: %s.", newest_of(snapshot.changed_days, "day"))
    if before := _judged_on_other_data(night, snapshot):
        log.warning("%s was judged before (entry %d), on other data.", night.as_of, before.seq)
    return snapshot


def _judged_on_other_data(night: Night, snapshot: Snapshot) -> NightEntry | None:
    """The last entry of this date, where it was of another snapshot."""
    nights = site_of(night).ledger.nights()
    last = next((entry for entry in reversed(nights) if entry.as_of == night.as_of), None)
    return last if last and last.manifest != snapshot.manifest else None


@stage("validate partitions", timeout_seconds=3600)
def validate_partitions(night: Night, snapshot: Snapshot) -> Checks:
    """Judges every partition that has no verdict yet; raises DataRejected where the window cannot be used."""
    site = site_of(night)
    manifest = read_manifest(site.store, snapshot.manifest)
    rules = digest_value([rule_to_dict(rule) for rule in site.rules if rule.scope != "snapshot"])
    columns = digest_value([[column.name, column.is_category, column.sensitive] for column in site.use_case.columns])
    decided = _decided(site, "verdict", rules, columns)
    JUDGED.clear()
    keys = {name: state_key(decided, digest_bytes(month.encode())) for name, month in manifest.months.items()}
    bundle = Bundle(site.store, night.use_case, "verdict", CheckedMonth)
    verdicts, months = States(site.store, night.use_case, "verdict", PartitionCheck), bundle.same(keys)
    days = {name: _keys(site, manifest, name, decided) for name in keys if name not in months}
    wanted = {day: key for of_month in days.values() for day, key in of_month.items()}
    judged = verdicts.find(wanted.values(), bundle.states(days, PartitionCheck))
    lacking = {name: {day: key for day, key in days[name].items() if key not in judged} for name in days}
    new = 0
    with closing(in_turns(site.settings.home, night.use_case, [name for name in lacking if lacking[name]])) as names:
        for name in names:
            judged |= verdicts.find(lacking[name].values())  # another run may have made them meanwhile
            own = {day: key for day, key in lacking[name].items() if key not in judged}
            judged |= _judge_new(site, manifest, verdicts, own)
            new += len(own)
    for name, of_month in days.items():
        months[name] = _checked_month(keys[name], {key: judged[key] for key in of_month.values()})
    months = _compared(site, manifest, {name: months[name] for name in keys})
    otherwise = decided_otherwise(site.store, night.use_case, "verdict", decided, any_kept=bool(bundle.kept))
    if otherwise and new:
        log.warning("%s is read again: its rules, declarations or the code that reads it changed.", _of(new, manifest))
    bundle.save(months)
    result = _summary(site, night, manifest, snapshot, months)
    log.info(
        "Validated %s (%d new): %s, %d quarantined, %d left out.",
        counted(manifest.size, "partition"), new, counted(result.rows, "row"), result.quarantined,
        len(result.left_out),
    )  # fmt: skip
    return with_work(result, Work(stage="", reused=manifest.size - new, computed=new))


def _of(number: int, manifest: Manifest) -> str:
    """How much of the window."""
    if manifest.size == 1:
        return "The one partition"
    return f"{'Each' if number == manifest.size else number} of {manifest.size} partitions"


def _decided(site: Site, kind: str, *more: str) -> str:
    """All that decides how a partition's bytes become a state of a kind."""
    decided = [kind, state_code_digest(kind), site.use_case.reading_digest, *more]
    if not site.use_case.key:
        decided.append("equal rows are different ones")
    if site.use_case.derive is not None:  # its own source would miss the functions, constants and modules that it uses
        decided.append(site.sources)
    return digest_value(decided)


def _keys(site: Site, manifest: Manifest, month: str, decided: str) -> dict[str, str]:
    """Key of the state of every partition of a month."""
    inputs = inputs_by_day(site.use_case, manifest.month(month))
    return {day: state_key(decided, day, *digests) for day, digests in inputs.items()}


def _judge_new(
    site: Site, manifest: Manifest, verdicts: States[PartitionCheck], new: dict[str, str]
) -> dict[str, PartitionCheck]:
    """Checks new partitions in batches of a bounded size, and keeps the verdicts; by key."""
    found: dict[str, PartitionCheck] = {}
    _try_derive(site, manifest, list(new))
    for batch, unreadable in _batches(site, manifest, list(new)):
        for check in unreadable:
            verdicts.keep(new[check.day], check)
            found[new[check.day]] = check
        if batch is not None:
            found |= _judge_batch(site, verdicts, new, batch)
            _remember(site, manifest, batch)
    return found


def _try_derive(site: Site, manifest: Manifest, days: list[str]) -> None:
    """Raises ConfigError where derive computes a row from other rows. It is tried on the newest of a month's new
    partitions before any of their verdicts is kept; one that cannot be read gets its own verdict later."""
    if site.use_case.derive is None:
        return
    for day in sorted(days, reverse=True):
        with suppress(UnusablePartition):
            rows = _as_verdict(day, partial(source_rows, site.settings, site.use_case, manifest, day))
            refuse_other_values(site.use_case, rows, day)
            return


def _batches(site: Site, manifest: Manifest, days: list[str]) -> Iterator[tuple[Batch | None, list[PartitionCheck]]]:
    """Rows of as many days as make a batch, and verdicts on days among them that cannot be read as declared."""
    read: dict[str, PartitionRows] = {}
    unreadable: list[PartitionCheck] = []
    taken, room = 0, site.settings.batch_bytes
    for day in days:
        try:
            read[day] = _read(site, manifest, day)
            taken += _size(read[day].rows)
        except UnusablePartition as error:
            unreadable.append(rejected_check(day, str(error)))
        if taken >= room:
            yield Batch.of(site.use_case.key, read), unreadable
            read, unreadable, taken = {}, [], 0
    yield Batch.of(site.use_case.key, read) if read else None, unreadable


def _read(site: Site, manifest: Manifest, day: str) -> PartitionRows:
    return _as_verdict(day, partial(read_partition, site.settings, site.use_case, manifest, day))


def _as_verdict(day: str, read: Callable[[], Read]) -> Read:
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


def _size(rows: pd.DataFrame) -> int:
    return int(rows.memory_usage().sum())


def _judge_batch(
    site: Site, verdicts: States[PartitionCheck], new: dict[str, str], batch: Batch
) -> dict[str, PartitionCheck]:
    """Lets Great Expectations judge the facts of a batch, and keeps what was found."""
    verdict = check_batch(site.use_case, site.rules, batch)
    _confirm(verdict)
    found = {}
    for day, check in verdict.checks.items():
        key = new[day]
        if day in verdict.quarantine:
            data = to_parquet(verdict.quarantine[day])
            check = replace(check, quarantine=put_file(site.store, paths.quarantine(site.use_case.name, key), data))
        verdicts.keep(key, check)
        found[key] = check
    return found


def _remember(site: Site, manifest: Manifest, batch: Batch) -> None:
    """Lets the cleaner have rows that need not be read again, as many as are judged at once."""
    if sum(map(_size, list(JUDGED.values()))) + _size(batch.rows) <= max(site.settings.batch_bytes, _size(batch.rows)):
        decided = _decided(site, "cleaned")
        keys = {
            d: k for name in {*map(month_of, batch.places)} for d, k in _keys(site, manifest, name, decided).items()
        }
        JUDGED.update({keys[day]: batch.rows[place] for day, place in batch.places.items()})


def _confirm(verdict: BatchVerdict) -> None:
    """Raises ConfigError where Great Expectations says otherwise than the scan that sets rows aside."""
    if not verdict.facts or not verdict.facts[0].rows:
        return
    facts = [replace(fact, rule=within_partition(fact.rule)) for fact in verdict.facts]
    for fact, judged in zip(facts, verdicts(facts), strict=True):
        if (judged.success, judged.unexpected) != (fact.unexpected == 0, fact.unexpected):
            raise ConfigError(
                f"Great Expectations and the scan agree on '{fact.rule.sentence}'",
                f"one counts {judged.unexpected} rows and the other {fact.unexpected}",
                "report it with the partition",
            )


def _checked_month(key: str, states: dict[str, PartitionCheck]) -> CheckedMonth:
    """A month's verdicts, not yet compared with the days before."""
    text = packed(dict[str, PartitionCheck], states)
    return _summed(key, text, list(states.values()), Compared({}, (), {}), compared="")


def _summed(key: str, states: str, checks: list[PartitionCheck], found: Compared, *, compared: str) -> CheckedMonth:
    rejected = {check.day: check.rejected for check in checks if check.rejected is not None} | found.lost
    used = [check for check in checks if check.day not in rejected]
    return CheckedMonth(
        key=key,
        states=states,
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
        came_to = digest_value([before.key, before.lost, before.unseen]) if before else ""
        key = digest_value([month.key, came_to, limit, sorted(accepted), own_odd])
        if month.compared != key:
            checks = _checks(month)
            found = compare(checks, _known_days(before) if before else [], accepted, limit, own_odd)
            month = _summed(month.key, month.states, checks, found, compared=key)
        done[name] = before = month
    return done


def _of_month(days: Mapping[str, str], name: str) -> dict[str, str]:
    return {day: words for day, words in days.items() if month_of(day) == name}


def _checks(month: CheckedMonth) -> list[PartitionCheck]:
    return list(parsed(dict[str, PartitionCheck], month.states).values())


def _known_days(month: CheckedMonth) -> list[Known]:
    """A month's usable days, as those of the next are compared with them."""
    used = (check for check in _checks(month) if check.day not in month.rejected)
    return [known_of(check, month.unseen.get(check.day, {})) for check in used]


def _summary(
    site: Site, night: Night, manifest: Manifest, snapshot: Snapshot, by_name: dict[str, CheckedMonth]
) -> Checks:  # fmt: skip
    months = list(by_name.values())
    due = _due_partitions(site, night, manifest)
    rejected = {
        day: why
        for month in months
        for day, why in month.rejected.items()
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
    return (
        days
        if site.use_case.calendar == "daily"
        else days.intersection(due_of_manifest(site.use_case, manifest, night.as_of))
    )


def _is_without_rows(month: CheckedMonth, day: str) -> bool:
    """Whether the day could be read and is empty: on a day that is not due, no data."""
    check = next(check for check in _checks(month) if check.day == day)
    return check.rows == 0 and bool(check.broken)


def _way_out(site: Site, night: Night, manifest: Manifest, months: dict[str, CheckedMonth], day: str) -> str:
    """What lets a night with this rejected day go on."""
    month = manifest.month(month_of(day))
    file = next(partition.file for partition in month.partitions if partition.day == day)
    lost = day in months[month_of(day)].lost
    check = next(check for check in _checks(months[month_of(day)]) if check.day == day)
    return way_out(site.use_case, night.as_of, day, file, cure_of(check, lost=lost), lost=lost)


def _sums(checked: Iterable[PartitionCheck | CheckedMonth]) -> dict[str, Any]:
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
        rejected = next((day for day, _ in newest if any(day in month.rejected for month in months.values())), None)
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


@stage("clean partitions", timeout_seconds=3600)
def clean_partitions(night: Night, snapshot: Snapshot, checks: Checks) -> Blocks:
    """Cleans every usable partition that has no block yet, whatever rows its verdict sets aside."""
    site = site_of(night)
    manifest = read_manifest(site.store, snapshot.manifest)
    decided = _decided(site, "cleaned")
    keys = {
        name: state_key(decided, digest_bytes(month.encode()), checks.months[name].digest)
        for name, month in manifest.months.items()
    }
    bundle = Bundle(site.store, night.use_case, "cleaned", CleanedMonth)
    states, months, new = States(site.store, night.use_case, "cleaned", CleanedRows), bundle.same(keys), 0
    fresh = [name for name in keys if name not in months]
    used = {name: _used(checks.months[name], _keys(site, manifest, name, decided)) for name in fresh}
    before = {key: block.cleaned for key, block in bundle.states(used, Block).items()}
    cleaned = states.find([key for of_month in used.values() for key in of_month], before)
    lacking = {name: [key for key in of_month if key not in cleaned] for name, of_month in used.items()}
    with closing(in_turns(site.settings.home, night.use_case, [name for name in lacking if lacking[name]])) as names:
        for name in names:
            cleaned |= states.find(lacking[name])
            own = [key for key in lacking[name] if key not in cleaned]
            cleaned |= {key: _clean(site, manifest, states, used[name][key].day, key) for key in own}
            new += len(own)
    for name, of_month in used.items():
        months[name] = _cleaned_month(keys[name], {key: _block(check, cleaned[key]) for key, check in of_month.items()})
    months = {name: months[name] for name in keys}
    bundle.save(months)
    rows, count = (sum(getattr(month, of) for month in months.values()) for of in ("rows", "partitions"))
    log.info("Cleaned %s in %s (%d new).", counted(rows, "labelled row"), counted(count, "block"), new)
    return Blocks(
        work=Work(stage="", reused=count - new, computed=new),
        manifest=snapshot.manifest,
        digest=digest_value([month.digest for month in months.values()]),
        months=months,
        rows=rows,
    )


def _used(month: CheckedMonth, keys: dict[str, str]) -> dict[str, PartitionCheck]:
    """The verdicts on a month's usable partitions, by the keys of their cleaned rows."""
    return {keys[check.day]: check for check in _checks(month) if check.day not in month.rejected}


def _block(check: PartitionCheck, cleaned: CleanedRows) -> Block:
    return Block(day=check.day, cleaned=cleaned, quarantine=check.quarantine, rows=check.labelled)


def _cleaned_month(key: str, blocks: dict[str, Block]) -> CleanedMonth:
    return CleanedMonth(
        key=key,
        states=packed(dict[str, Block], blocks),
        digest=digest_value([block.digests for block in blocks.values()]),
        partitions=len(blocks),
        rows=sum(block.rows for block in blocks.values()),
        whole_from=max((block.cleaned.whole_from for block in blocks.values()), default=date.min),
    )


def _clean(site: Site, manifest: Manifest, states: States[CleanedRows], day: str, key: str) -> CleanedRows:
    unique = JUDGED.pop(key, None)
    if unique is None:
        rows = _read(site, manifest, day).rows
        unique = drop_duplicates(rows, site.use_case.key)
    cleaned = clean(site.use_case, unique)
    file = put_file(site.store, paths.block(site.use_case.name, key), to_block(cleaned))
    state = CleanedRows(file=file, whole_from=whole_from(site.use_case, cleaned))
    states.keep(key, state)
    return state


@stage("split rows", timeout_seconds=1800)
def split_rows(night: Night, blocks: Blocks) -> Split:
    """Splits by time or key, and fits the encoder on train rows only."""
    site = site_of(night)
    key = digest_value([blocks.digest, str(night.as_of), night.use_case_digest, night.code_digest])
    sums = WindowSums(site.reader(blocks), night.as_of)
    if (counted := sums.reader.counted(night.as_of)) is not None:
        key = digest_value([key, counted])  # which follows from the manifest too
    split = resume(site, Split, "split", key, lambda: _make_split(site, night, sums, key))
    log.info(
        "Split into %s train, %s validation and %s test rows.",
        f"{split.train.rows:,}", f"{split.validation.rows:,}", f"{split.test.rows:,}",
    )  # fmt: skip
    if sums.taken_otherwise and sums.computed and not blocks.work.computed:  # else it was said of the partitions
        log.warning("The statistics of the window are taken again: what is learnt, or the code that counts, changed.")
    reused = sum(month.partitions for month in blocks.months.values()) if split.work.reused else sums.reused
    return with_work(split, Work(stage="", reused=reused, computed=sums.computed))


def _make_split(site: Site, night: Night, sums: WindowSums, key: str) -> Split:
    use_case, totals = site.use_case, sums.totals()
    described = {part: describe(use_case, part, total.statistics, total.days) for part, total in totals.items()}
    train, test_rows = (sums.reader.part_frames(night.as_of, part) for part in ("train", "test"))
    known = share_of_known_groups(use_case, train, test_rows)
    encoder = fit_encoder(use_case, totals["train"].statistics)
    file = put_file(site.store, paths.stage_file(use_case.name, "split", key, "encoder.json"), to_json(encoder))
    known_at = str(night.as_of) if use_case.known_at_column else None
    test = [block.digests for block in sums.reader.of_part(night.as_of, "test")]
    return Split(
        digest=digest_value([key, file.digest]),
        encoder=file,
        fit_until=fit_until(use_case, night.as_of, sums.reader.counted(night.as_of)),
        test_digest=digest_value([test, split_digest(use_case), known_at]),
        train=described["train"],
        validation=described["validation"],
        test=replace(described["test"], group_in_train=known),
    )
