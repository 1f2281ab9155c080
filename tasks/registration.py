"""The stages that read and write the registry and the ledger: open a night, register, record, move the alias."""

import logging
from datetime import date, datetime

from ml.data.handles import Snapshot, Split
from ml.models.handles import Upload
from ml.operations.backfill import Plan
from ml.pipeline import opening, register
from ml.reporting.endings import Ending
from ml.reporting.trail import Trail
from ml.storage.ledger import AnyEntry, NightEntry
from ml.storage.records import Champion, Night
from tasks.site import open_site, site_of
from tasks.stage import stage

log = logging.getLogger("retrain.registration")


@stage("open night", timeout_seconds=300)
def open_night(
    use_case: str, as_of: date | None, scheduled: datetime | None, seed: int | None, again: str | None
) -> Night:
    """What this night is to run: its date, its seed, and the digests of everything that decides the result."""
    night = opening.open_night(open_site(use_case), as_of, scheduled, seed, again)
    log.info("Opened %s as of %s: %s, seed %d.", use_case, night.as_of, night.device, night.seed)
    return night


@stage("look up the ledger", timeout_seconds=300)
def find_finished(night: Night, run_key: str, plan: Plan | None) -> tuple[NightEntry | None, bool]:
    """The ledger's entry of the same run, if it was judged before, and whether its report was published too."""
    return opening.find_finished(site_of(night), run_key, plan)


@stage("look up what became of it", timeout_seconds=300)
def find_what_became(entry: NightEntry) -> Ending:
    """How a night that was decided before stands now."""
    return opening.find_what_became(open_site(entry.use_case), entry)


@stage("compare with last night", timeout_seconds=300)
def skip_if_nothing_new(night: Night, run_key: str, snapshot: Snapshot) -> NightEntry | None:
    """Records NOTHING_NEW and returns its entry if the last finished run learnt from exactly the same; else None."""
    return opening.skip_if_nothing_new(site_of(night), night, run_key, snapshot)


@stage("read champion", timeout_seconds=300)
def read_head(
    night: Night, snapshot: Snapshot, finished: NightEntry | None, plan: Plan | None
) -> tuple[AnyEntry | None, str | None]:
    """The ledger's newest entry, and the reason why nothing may be promoted now, if there is one.

    For a run that was judged before (`finished`), it is the entry that was newest then.
    """
    return register.read_head(site_of(night), snapshot, finished, plan)


@stage("register candidate", timeout_seconds=600)
def register_candidate(night: Night, training_key: str, snapshot: Snapshot, split: Split, upload: Upload) -> Champion:
    """Registers the one version of this training key, whether it will be promoted or not."""
    candidate = register.register_candidate(site_of(night), night, training_key, snapshot, split, upload)
    log.info("Registered %s version %d.", night.use_case, candidate.version)
    return candidate


@stage("record decision", timeout_seconds=300)
def record_decision(
    night: Night, run_key: str, candidate: Champion, trail: Trail, head: AnyEntry | None
) -> NightEntry | None:
    """Adds the decision to the ledger and returns its entry; None if another run added one since `head` was read."""
    return register.record_decision(site_of(night), night, run_key, candidate, trail, head)


@stage("move alias", timeout_seconds=300)
def move_alias(night: Night, entry: NightEntry) -> None:
    """Makes MLflow agree with the ledger: sets the aliases, the tags and the description of the version."""
    moved_to = register.move_alias(site_of(night), entry)
    if moved_to is not None:
        log.info("Moved the alias champion to version %d.", moved_to)
