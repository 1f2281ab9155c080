"""Stages that fail with the data: snapshot, validation, cleaning, split."""

import logging

import pandas as pd

from expectations.suite import unexpected_counts
from ml import paths
from ml.artifacts import (
    PARTS,
    Block,
    Blocks,
    CheckedPartition,
    Checks,
    Manifest,
    Night,
    PartitionCheck,
    RuleCount,
    Snapshot,
    Split,
    Work,
    from_json,
    to_json,
    with_work,
)
from ml.cleaning import clean, from_parquet, to_parquet
from ml.config import require_known
from ml.digests import digest_bytes, digest_file, digest_value
from ml.errors import ConfigError, DataRejected
from ml.features import DayState, fit_encoder
from ml.report import counted, window_words
from ml.run_key import data_code_digest
from ml.serving.rules import rule_to_dict
from ml.snapshots import (
    UnusablePartition,
    changed_days,
    last_due_day,
    partition_inputs,
    read_partition,
    take_manifest,
)
from ml.split import describe, fit_until, split_digest
from ml.stages import resume_or_make
from ml.store import put_file
from ml.training import part_frames, test_inputs
from ml.validation import (
    ROW_NUMBER,
    Batch,
    BatchVerdict,
    check_batch,
    drop_duplicates,
    rejected_check,
    rejection,
    within_partition,
)
from tasks.stage import Site, resume, site_of, stage

log = logging.getLogger("retrain.data")


@stage("take snapshot", timeout_seconds=600)
def take_snapshot(night: Night) -> Snapshot:
    """Writes the manifest of the partitions that this night may see."""
    site = site_of(night)
    head = site.ledger.head()
    manifest, missing = take_manifest(site.settings, site.use_case, night.as_of, head.excluded if head else {})
    data = to_json(manifest)
    key = paths.manifest(night.use_case, digest_bytes(data))
    new = site.store.create(key, data)
    changed = changed_days(_last_manifest(site), manifest)
    days = [partition.day for partition in manifest.partitions]
    log.info("Took a snapshot of %s.", window_words(len(days), days[0], days[-1]))
    if changed:
        log.warning("Changed since the last night: %s.", ", ".join(changed))
    return Snapshot(
        work=Work(stage="", reused=int(not new), computed=int(new)),
        digest=digest_bytes(data),
        manifest=key,
        partitions=len(days),
        first_day=days[0],
        last_day=days[-1],
        missing_days=missing,
        excluded=manifest.excluded,
        changed_days=changed,
    )


def _last_manifest(site: Site) -> Manifest | None:
    night = site.ledger.last_night()
    data = site.store.get(night.manifest) if night else None
    return from_json(Manifest, data) if data else None


def read_manifest(site: Site, snapshot: Snapshot) -> Manifest:
    data = site.store.get(snapshot.manifest)
    assert data is not None, snapshot.manifest
    return from_json(Manifest, data)


@stage("validate partitions", timeout_seconds=3600)
def validate_partitions(night: Night, snapshot: Snapshot) -> Checks:
    """Judges every partition that has no verdict yet; raises DataRejected where the window cannot be used."""
    site = site_of(night)
    manifest = read_manifest(site, snapshot)
    states = {partition.day: _state(site, manifest, partition.day) for partition in manifest.partitions}
    kept = {day: check for day, state in states.items() if (check := _kept_check(site, state)) is not None}
    new = {day: state for day, state in states.items() if day not in kept}
    judged = {**kept, **_judge_new(site, manifest, new)}
    checks = [judged[day] for day in states]
    result = _summary(site, night, snapshot, states, checks)
    log.info(
        "Validated %s (%d new): %s, %d quarantined, %d left out.",
        counted(len(states), "partition"), len(new), counted(result.rows, "row"), result.quarantined,
        len(result.left_out),
    )  # fmt: skip
    return with_work(result, Work(stage="", reused=len(states) - len(new), computed=len(new)))


def _state(site: Site, manifest: Manifest, day: str) -> str:
    """Key of a partition's verdict and block: its bytes, the rules, and all that decides how bytes become rows."""
    rules = [rule_to_dict(rule) for rule in site.rules if rule.scope != "snapshot"]
    reading = [data_code_digest(), site.use_case.data_digest]
    if site.use_case.derive is not None:  # its source alone would miss the functions and constants that it uses
        reading.append(digest_file(require_known(site.use_case.name, site.settings.project)))
    return digest_value([partition_inputs(site.use_case, manifest, day), rules, reading, day])


def _kept_check(site: Site, state: str) -> PartitionCheck | None:
    """The partition's verdict, if it was judged before and can be read."""
    data = site.store.get(paths.partition_check(site.use_case.name, state))
    try:
        return None if data is None else from_json(PartitionCheck, data)
    except ValueError:
        log.warning("The verdict of a partition cannot be read; the partition is judged again.")
        return None


def _judge_new(site: Site, manifest: Manifest, new: dict[str, str]) -> dict[str, PartitionCheck]:
    """Checks new partitions, lets Great Expectations confirm the counts in one batch, and keeps the verdicts."""
    frames: dict[str, pd.DataFrame] = {}
    unknown: dict[str, tuple[str, ...]] = {}
    checks: dict[str, PartitionCheck] = {}
    for day in new:
        try:
            frames[day], unknown[day] = read_partition(site.settings, site.use_case, manifest, day)
        except UnusablePartition as error:
            checks[day] = rejected_check(day, str(error))
    if frames:
        batch = Batch.of(frames, unknown)
        verdict = check_batch(site.use_case, site.rules, batch)
        _confirm(site, batch, verdict)
        for day, rows in verdict.quarantine.items():
            site.store.put(paths.quarantine(site.use_case.name, new[day]), to_parquet(rows))
        checks |= verdict.checks
    for day, check in checks.items():
        site.store.put(paths.partition_check(site.use_case.name, new[day]), to_json(check))
    return checks


def _confirm(site: Site, batch: Batch, verdict: BatchVerdict) -> None:
    """Raises ConfigError where Great Expectations counts other rows than the masks that set them aside."""
    rules = [rule for rule in site.rules if rule.scope == "row"]
    if not len(batch.rows) or not rules:
        return
    counted = unexpected_counts(batch.rows, [within_partition(rule) for rule in rules])
    for rule, count, masked in zip(rules, counted, verdict.totals, strict=True):
        if count != masked:
            raise ConfigError(
                f"Great Expectations and the mask agree on '{rule.sentence}'",
                f"one counts {count} rows and the other {masked}",
                "report it with the partition",
            )


def _summary(
    site: Site, night: Night, snapshot: Snapshot, states: dict[str, str], checks: list[PartitionCheck]
) -> Checks:
    left_out = {day: "it is missing" for day in snapshot.missing_days}
    left_out |= {check.day: check.rejected for check in checks if check.rejected is not None}
    used = [check for check in checks if check.rejected is None]
    _refuse_window(site, night, checks, left_out)
    partitions = tuple(CheckedPartition(day=check.day, state=states[check.day]) for check in used)
    return Checks(
        digest=digest_value([[p.day, p.state] for p in partitions]),
        partitions=partitions,
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
    for count in (count for check in checks for count in check.counts):
        rule = (count.rule, count.scope, count.severity)
        evaluated, unexpected = totals.get(rule, (0, 0))
        totals[rule] = evaluated + count.evaluated, unexpected + count.unexpected
    found = [
        RuleCount(rule=rule, scope=scope, severity=severity, evaluated=evaluated, unexpected=unexpected)
        for (rule, scope, severity), (evaluated, unexpected) in totals.items()
        if unexpected
    ]
    return tuple(sorted(found, key=lambda count: -count.unexpected))


@stage("clean partitions", timeout_seconds=3600)
def clean_partitions(night: Night, snapshot: Snapshot, checks: Checks) -> Blocks:
    """Cleans every partition that has no block yet."""
    site = site_of(night)
    manifest = read_manifest(site, snapshot)
    made = [_block(site, manifest, partition) for partition in checks.partitions]
    blocks = tuple(block for block, _ in made)
    reused = sum(kept for _, kept in made)
    rows = sum(block.rows for block in blocks)
    log.info(
        "Cleaned %s in %s (%d new).",
        counted(rows, "labelled row"), counted(len(blocks), "block"), len(blocks) - reused,
    )  # fmt: skip
    return Blocks(
        work=Work(stage="", reused=reused, computed=len(blocks) - reused),
        digest=digest_value([[block.day, block.file.digest] for block in blocks]),
        blocks=blocks,
        rows=rows,
    )


def _block(site: Site, manifest: Manifest, partition: CheckedPartition) -> tuple[Block, bool]:
    name, state = site.use_case.name, partition.state

    def make() -> Block:
        rows, _ = read_partition(site.settings, site.use_case, manifest, partition.day)
        unique = drop_duplicates(rows)
        aside = site.store.get(paths.quarantine(name, state))
        set_aside = from_parquet(aside)[ROW_NUMBER] if aside else pd.Series(dtype="int64")
        block = clean(site.use_case, unique, set_aside)
        return Block(
            day=partition.day, file=put_file(site.store, paths.block(name, state), to_parquet(block)), rows=len(block)
        )

    return resume_or_make(site.store, Block, paths.stage(name, "block", state), make)


@stage("split rows", timeout_seconds=1800)
def split_rows(night: Night, blocks: Blocks) -> Split:
    """Splits by time or key, and fits the encoder on train rows only."""
    site = site_of(night)
    key = digest_value([blocks.digest, str(night.as_of), night.use_case_digest, night.code_digest])
    split = resume(site, Split, "split", key, lambda: _make_split(site, night, blocks, key))
    log.info(
        "Split into %s train, %s validation and %s test rows.",
        f"{split.train.rows:,}", f"{split.validation.rows:,}", f"{split.test.rows:,}",
    )  # fmt: skip
    return split


def _make_split(site: Site, night: Night, blocks: Blocks, key: str) -> Split:
    use_case = site.use_case
    train, validation, test = (list(part_frames(site.store, use_case, night, blocks, part)) for part in PARTS)
    described = {
        part: describe(use_case, part, frames) for part, frames in zip(PARTS, (train, validation, test), strict=True)
    }
    encoder = fit_encoder(use_case, [DayState.of(use_case, frame) for frame in train if len(frame)])
    file = put_file(site.store, paths.stage_file(use_case.name, "split", key, "encoder.json"), to_json(encoder))
    known_at = str(night.as_of) if use_case.known_at_column else None
    return Split(
        digest=digest_value([key, file.digest]),
        encoder=file,
        fit_until=fit_until(use_case, night.as_of),
        test_digest=digest_value([test_inputs(use_case, night, blocks), split_digest(use_case), known_at]),
        train=described["train"],
        validation=described["validation"],
        test=described["test"],
    )
