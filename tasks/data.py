"""Stages that fail with the data: snapshot, validation, cleaning, split."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from expectations.suite import verdicts
from ml import paths
from ml.artifacts import (
    Block,
    Blocks,
    CheckedPartition,
    Checks,
    CleanedRows,
    Manifest,
    Night,
    PartitionCheck,
    RuleCount,
    Snapshot,
    Split,
    Work,
    to_json,
    with_work,
)
from ml.cleaning import clean, to_block, to_parquet, whole_from
from ml.config import require_known
from ml.digests import digest_file, digest_value
from ml.errors import ConfigError, DataRejected
from ml.features import fit_encoder
from ml.ledger import NightEntry
from ml.report import counted, window_words
from ml.run_key import state_code_digest
from ml.serving.rules import rule_to_dict
from ml.snapshots import (
    UnusablePartition,
    inputs_by_day,
    last_due_day,
    read_manifest,
    read_partition,
)
from ml.split import describe, fit_until, split_digest
from ml.states import States, state_key
from ml.store import put_file
from ml.validation import (
    Batch,
    BatchVerdict,
    check_batch,
    drop_duplicates,
    rejected_check,
    rejection,
    within_partition,
)
from ml.windows import WindowSums
from tasks import opening
from tasks.site import Site, resume, site_of
from tasks.stage import stage

ROWS_A_BATCH = 500_000  # judged at once: a row of 20 columns takes 200 bytes
JUDGED: dict[str, pd.DataFrame] = {}  # unique rows that were just judged, by the key of their block, for the cleaner
log = logging.getLogger("retrain.data")


@stage("take snapshot", timeout_seconds=600)
def take_snapshot(night: Night) -> Snapshot:
    snapshot = opening.take_snapshot(night)
    log.info("Took a snapshot of %s.", window_words(snapshot.partitions, snapshot.first_day, snapshot.last_day))
    if snapshot.changed_days:
        log.warning("Changed since the last night: %s.", ", ".join(snapshot.changed_days))
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
    JUDGED.clear()
    keys = _keys(site, manifest, "verdict", rules)
    verdicts = States(site.store, night.use_case, "verdict", PartitionCheck)
    kept = verdicts.find(keys.values())
    new = {day: key for day, key in keys.items() if key not in kept}
    judged = {**kept, **_judge_new(site, manifest, verdicts, new)}
    verdicts.bundle_up({key: judged[key] for key in keys.values()})
    checks = [judged[key] for key in keys.values()]
    result = _summary(site, night, snapshot, checks)
    log.info(
        "Validated %s (%d new): %s, %d quarantined, %d left out.",
        counted(len(keys), "partition"), len(new), counted(result.rows, "row"), result.quarantined,
        len(result.left_out),
    )  # fmt: skip
    return with_work(result, Work(stage="", reused=len(keys) - len(new), computed=len(new)))


def _keys(site: Site, manifest: Manifest, kind: str, *more: str) -> dict[str, str]:
    """Key of every partition's state of a kind: its bytes, and all that decides how they become that state."""
    decided = [kind, state_code_digest(kind), site.use_case.reading_digest, *more]
    if site.use_case.derive is not None:  # its source alone would miss the functions and constants that it uses
        decided.append(digest_file(require_known(site.use_case.name, site.settings.project)))
    same = digest_value(decided)
    return {day: state_key(same, day, *inputs) for day, inputs in inputs_by_day(site.use_case, manifest).items()}


def _judge_new(
    site: Site, manifest: Manifest, verdicts: States[PartitionCheck], new: dict[str, str]
) -> dict[str, PartitionCheck]:
    """Checks new partitions in batches of a bounded size, and keeps the verdicts; by key."""
    found: dict[str, PartitionCheck] = {}
    for batch, unreadable in _batches(site, manifest, list(new)):
        for check in unreadable:
            verdicts.keep(new[check.day], check)
            found[new[check.day]] = check
        if batch is not None:
            found |= _judge_batch(site, verdicts, new, batch)
            _remember(site, manifest, batch)
    return found


def _batches(site: Site, manifest: Manifest, days: list[str]) -> Iterator[tuple[Batch | None, list[PartitionCheck]]]:
    """Rows of as many days as make a batch, and verdicts on days among them that cannot be read as declared."""
    frames: dict[str, pd.DataFrame] = {}
    unknown: dict[str, tuple[str, ...]] = {}
    unreadable: list[PartitionCheck] = []
    rows = 0
    for day in days:
        try:
            frames[day], unknown[day] = read_partition(site.settings, site.use_case, manifest, day)
            rows += len(frames[day])
        except UnusablePartition as error:
            unreadable.append(rejected_check(day, str(error)))
        if rows >= ROWS_A_BATCH:
            yield Batch.of(site.use_case.key, frames, unknown), unreadable
            frames, unknown, unreadable, rows = {}, {}, [], 0
    yield Batch.of(site.use_case.key, frames, unknown) if frames else None, unreadable


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
    """Lets the cleaner have one batch of rows that need not be read again."""
    if not JUDGED:
        keys = _keys(site, manifest, "cleaned")
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


def _summary(site: Site, night: Night, snapshot: Snapshot, checks: list[PartitionCheck]) -> Checks:
    left_out = {day: "it is missing" for day in snapshot.missing_days}
    left_out |= {check.day: check.rejected for check in checks if check.rejected is not None}
    used = [check for check in checks if check.rejected is None]
    _refuse_window(site, night, checks, left_out)
    return Checks(
        digest=digest_value([[c.day, c.quarantine.digest if c.quarantine else None] for c in used]),
        partitions=tuple(CheckedPartition(day=c.day, quarantine=c.quarantine, rows=c.labelled) for c in used),
        left_out=left_out | {day: f"excluded ({reason})" for day, reason in snapshot.excluded.items()},
        rows=sum(check.rows for check in used),
        duplicates=sum(check.duplicates for check in used),
        quarantined=sum(check.quarantined for check in used),
        unlabelled=sum(check.unlabelled for check in used),
        unknown_columns={check.day: check.unknown_columns for check in used if check.unknown_columns},
        broken=_broken(checks),
        quarantined_days={check.day: check.quarantined for check in used if check.quarantined},
        rules=len(site.rules),
    )


def _refuse_window(site: Site, night: Night, checks: list[PartitionCheck], left_out: dict[str, str]) -> None:
    newest = checks[-1]
    if newest.rejected is not None:
        raise DataRejected(
            f"the newest partition ({newest.day}) must be usable",
            newest.rejected,
            "deliver it again, then run the night again",
        )
    usable = float(sum(check.rows for check in checks if check.rejected is None))
    facts = pd.DataFrame({"left_out_days": [float(len(left_out))], "rows": [usable]})
    reason = rejection([rule for rule in site.rules if rule.scope == "snapshot"], facts, [])
    if reason is not None:
        days = "; ".join(f"{day}: {why}" for day, why in sorted(left_out.items())[:5])
        raise DataRejected(
            f"the window up to {last_due_day(site.use_case, night.as_of)} must be usable",
            f"{reason} ({days})",
            "deliver the days again",
        )


def _broken(checks: list[PartitionCheck]) -> tuple[RuleCount, ...]:
    """Every rule that some row or partition broke, summed over partitions, worst first."""
    totals: dict[tuple[str, str, str], tuple[int, int]] = {}
    for count in (count for check in checks for count in check.broken):
        rule = (count.rule, count.scope, count.severity)
        evaluated, unexpected = totals.get(rule, (0, 0))
        totals[rule] = evaluated + count.evaluated, unexpected + count.unexpected
    found = [
        RuleCount(rule=rule, scope=scope, severity=severity, evaluated=evaluated, unexpected=unexpected)
        for (rule, scope, severity), (evaluated, unexpected) in totals.items()
    ]
    return tuple(sorted(found, key=lambda count: -count.unexpected))


@stage("clean partitions", timeout_seconds=3600)
def clean_partitions(night: Night, snapshot: Snapshot, checks: Checks) -> Blocks:
    """Cleans every usable partition that has no block yet, whatever rows its verdict sets aside."""
    site = site_of(night)
    manifest = read_manifest(site.store, snapshot.manifest)
    every = _keys(site, manifest, "cleaned")
    keys = {partition.day: every[partition.day] for partition in checks.partitions}
    states = States(site.store, night.use_case, "cleaned", CleanedRows)
    kept = states.find(keys.values())
    cleaned = {key: kept.get(key) or _clean(site, manifest, states, day, key) for day, key in keys.items()}
    states.bundle_up(cleaned)
    blocks = tuple(
        Block(day=p.day, cleaned=cleaned[keys[p.day]], quarantine=p.quarantine, rows=p.rows) for p in checks.partitions
    )
    rows = sum(block.rows for block in blocks)
    log.info(
        "Cleaned %s in %s (%d new).",
        counted(rows, "labelled row"), counted(len(blocks), "block"), len(blocks) - len(kept),
    )  # fmt: skip
    return Blocks(
        work=Work(stage="", reused=len(kept), computed=len(blocks) - len(kept)),
        manifest=snapshot.manifest,
        digest=digest_value([block.digests for block in blocks]),
        blocks=blocks,
        rows=rows,
    )


def _clean(site: Site, manifest: Manifest, states: States[CleanedRows], day: str, key: str) -> CleanedRows:
    unique = JUDGED.pop(key, None)
    if unique is None:
        rows, _ = read_partition(site.settings, site.use_case, manifest, day)
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
    split = resume(site, Split, "split", key, lambda: _make_split(site, night, sums, key))
    log.info(
        "Split into %s train, %s validation and %s test rows.",
        f"{split.train.rows:,}", f"{split.validation.rows:,}", f"{split.test.rows:,}",
    )  # fmt: skip
    reused = len(blocks.blocks) if split.work.reused else sums.reused
    return with_work(split, Work(stage="", reused=reused, computed=sums.computed))


def _make_split(site: Site, night: Night, sums: WindowSums, key: str) -> Split:
    use_case, totals = site.use_case, sums.totals()
    described = {part: describe(use_case, part, total.statistics, total.days) for part, total in totals.items()}
    encoder = fit_encoder(use_case, totals["train"].statistics)
    file = put_file(site.store, paths.stage_file(use_case.name, "split", key, "encoder.json"), to_json(encoder))
    known_at = str(night.as_of) if use_case.known_at_column else None
    test = [block.digests for block in sums.reader.of_part(night.as_of, "test")]
    return Split(
        digest=digest_value([key, file.digest]),
        encoder=file,
        fit_until=fit_until(use_case, night.as_of),
        test_digest=digest_value([test, split_digest(use_case), known_at]),
        train=described["train"],
        validation=described["validation"],
        test=described["test"],
    )
