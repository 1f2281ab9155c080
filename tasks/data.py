"""The stages that prepare the data: snapshot, validation, cleaning, split. If one fails, look at the data first."""

import logging

from ml.data.handles import Checks, Cleaned, Snapshot, Split
from ml.pipeline import clean, opening, split, validate
from ml.reporting.words import counted, newest_of, window_words
from ml.storage.records import Night
from tasks.site import site_of
from tasks.stage import stage

log = logging.getLogger("retrain.data")


@stage("take snapshot", timeout_seconds=600)
def take_snapshot(night: Night) -> Snapshot:
    """Writes the manifest of the partitions that this night may see."""
    site = site_of(night)
    snapshot = opening.take_snapshot(site, night)
    log.info("Took a snapshot of %s.", window_words(snapshot.partitions, snapshot.first_day, snapshot.last_day))
    if snapshot.changed_days:
        log.warning("Changed since the last night: %s.", newest_of(snapshot.changed_days, "day"))
    if before := opening.judged_on_other_data(site, night, snapshot):
        log.warning("%s was judged before (entry %d), on other data.", night.as_of, before.seq)
    return snapshot


@stage("validate partitions", timeout_seconds=3600)
def validate_partitions(night: Night, snapshot: Snapshot) -> Checks:
    """Checks every partition that has no verdict yet. Raises DataRejected if the window cannot be used."""
    checks = validate.validate_partitions(site_of(night), night, snapshot)
    log.info(
        "Validated %s (%d new): %s, %d quarantined, %d left out.",
        counted(snapshot.partitions, "partition"), checks.work.computed, counted(checks.rows, "row"),
        checks.quarantined, len(checks.left_out),
    )  # fmt: skip
    return checks


@stage("clean partitions", timeout_seconds=3600)
def clean_partitions(night: Night, snapshot: Snapshot, checks: Checks) -> Cleaned:
    """Cleans every usable partition that has no cleaned rows yet; rows that the checks set aside are left out."""
    cleaned = clean.clean_partitions(site_of(night), snapshot, checks)
    count, rows = counted(cleaned.partitions, "partition"), counted(cleaned.rows, "labelled row")
    log.info("Cleaned %s (%d new): %s.", count, cleaned.work.computed, rows)
    return cleaned


@stage("split rows", timeout_seconds=1800)
def split_rows(night: Night, cleaned: Cleaned) -> Split:
    """Splits the rows by time or by key, and fits the encoder on train rows only."""
    parts = split.split_rows(site_of(night), night, cleaned)
    log.info(
        "Split into %s train, %s validation and %s test rows.",
        f"{parts.train.rows:,}", f"{parts.validation.rows:,}", f"{parts.test.rows:,}",
    )  # fmt: skip
    return parts
