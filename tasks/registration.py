"""Stages that fail with the registry or the ledger: open, register, record, move the alias."""

import logging
from datetime import date, datetime

from ml.data.handles import Snapshot, Split
from ml.data.split import split_digest
from ml.models.handles import Upload
from ml.operations.alias import follow_ledger, roll_alias_forward
from ml.operations.backfill import Plan
from ml.operations.versions import highest_number, version_tags
from ml.reporting.document import result_document
from ml.reporting.mlflow_pages import describe_version
from ml.reporting.trail import Trail
from ml.storage.ledger import AnyEntry, NightEntry
from ml.storage.records import Champion, Night
from tasks import opening
from tasks.site import site_of
from tasks.stage import stage

log = logging.getLogger("retrain.registration")


@stage("open night", timeout_seconds=300)
def open_night(
    use_case: str, as_of: date | None, scheduled: datetime | None, seed: int | None, again: str | None
) -> Night:
    night = opening.open_night(use_case, as_of, scheduled, seed, again)
    log.info("Opened %s as of %s: %s, seed %d.", use_case, night.as_of, night.device, night.seed)
    return night


find_finished = stage("look up the ledger", timeout_seconds=300)(opening.find_finished)
find_what_became = stage("look up what became of it", timeout_seconds=300)(opening.find_what_became)
skip_if_nothing_new = stage("compare with last night", timeout_seconds=300)(opening.skip_if_nothing_new)


@stage("read champion", timeout_seconds=300)
def read_head(
    night: Night, snapshot: Snapshot, finished: NightEntry | None, plan: Plan | None
) -> tuple[AnyEntry | None, str | None]:  # fmt: skip
    """The ledger's head, or that a finished run was judged under; and why nothing may be promoted now, if so."""
    site = site_of(night)
    if finished is not None:
        return site.ledger.entry(finished.judged_against) if finished.judged_against else None, None
    hand_moved = roll_alias_forward(site.ledger, site.registry)
    head = site.ledger.head()
    blocked = hand_moved or opening.held(head) or _excluded_since(head, snapshot) or opening.of_backfill(plan)
    return head, blocked


def _excluded_since(head: AnyEntry | None, snapshot: Snapshot) -> str | None:
    """A day that an operator excluded after the night read it."""
    excluded = head.excluded if head else {}
    since = [day for day in excluded if snapshot.first_day <= day <= snapshot.last_day and day not in snapshot.excluded]
    if not since:
        return None
    return f"It learnt from {', '.join(sorted(since))}, excluded since it began: run it again without."


@stage("register candidate", timeout_seconds=600)
def register_candidate(night: Night, run_key: str, snapshot: Snapshot, split: Split, upload: Upload) -> Champion:
    """Makes the one version of this run key, kept or not."""
    site = site_of(night)
    digests = {
        "snapshot": snapshot.digest,
        "test": split.test_digest,
        "target": site.use_case.target.digest,
        "code": night.code_digest,
        "use_case": night.use_case_digest,
    }
    tags = version_tags(night.use_case, night.as_of, split.fit_until, upload.digest, digests)
    version = site.registry.register(upload.run_id, run_key, tags, above=highest_number(site.ledger))
    log.info("Registered %s version %d.", night.use_case, version)
    return Champion(
        version=version,
        run_id=upload.run_id,
        as_of=night.as_of,
        fit_until=split.fit_until,
        target_digest=site.use_case.target.digest,
        split_digest=split_digest(site.use_case),
        folder=upload.folder,
        files=upload.files,
    )


@stage("record decision", timeout_seconds=300)
def record_decision(
    night: Night, run_key: str, candidate: Champion, trail: Trail, head: AnyEntry | None
) -> NightEntry | None:
    """Adds the decision to the ledger; None if another run did so since the champion was read."""
    site = site_of(night)
    judgement, before = trail.judgement, head.champion if head else None
    moves = judgement.decision in {"FIRST", "PROMOTE"}
    champion = candidate if moves else before
    entry = opening.entry_after(
        head, night, run_key, trail.snapshot,
        decision=judgement.decision,
        reason=judgement.reason,
        candidate=candidate,
        blocked=judgement.blocked,
        asks=judgement.asks,
        champion=champion,
        reference=candidate if moves and (before is None or judgement.proved_better) else head and head.reference,
        result=result_document(site.use_case, night, run_key, trail, candidate.version, before, champion),
    )  # fmt: skip
    return opening.append_once(site, entry)


@stage("move alias", timeout_seconds=300)
def move_alias(night: Night, entry: NightEntry) -> None:
    """Makes MLflow say what the ledger says: aliases, tags, and a description of the version."""
    site = site_of(night)
    move = site.ledger.last_move() if entry.moves_champion else None
    if move and move.champion:  # a newer one than this entry's, if another run moved on meanwhile
        follow_ledger(site.ledger, site.registry, move)
        log.info("Moved the alias champion to version %d.", move.champion.version)
    if entry.candidate is None:
        return
    version = site.registry.number_of(entry.candidate)
    if version is None:
        return  # deleted since, or lost: `retrain doctor` says it
    describe_version(site.registry, entry, version)
