"""Stages that fail with the registry or the ledger: open, register, record, move the alias."""

import logging
from datetime import date, datetime, timedelta
from typing import Any

from ml.alias import follow_ledger, roll_alias_forward
from ml.artifacts import Champion, Night, Snapshot, Split, Trail, Upload
from ml.backfill import Plan
from ml.config import require_known
from ml.days import local_date
from ml.demo import write_demo_data
from ml.gates import ALLOWING
from ml.ledger import AnyEntry, NightEntry, next_after
from ml.packaging import refuse_broken_example
from ml.report import nothing_new_document, result_document
from ml.run_key import code_digest, device_class, learning_key, lock_digest
from ml.snapshots import newest_day
from ml.split import split_digest
from ml.store import is_whole
from tasks.stage import Site, open_site, site_of, stage

log = logging.getLogger("retrain.registration")


@stage("open night", timeout_seconds=300)
def open_night(
    use_case: str, as_of: date | None, scheduled: datetime | None, seed: int | None, again: str | None
) -> Night:
    """What is to be run: the date, the seed, and the digests of all that decides the result."""
    site = open_site(use_case)
    refuse_broken_example(site.use_case, site.rules)
    write_demo_data(site.settings, site.use_case)
    night = Night(
        use_case=use_case,
        as_of=as_of or default_as_of(site, scheduled),
        seed=site.use_case.seed if seed is None else seed,
        again=again,
        use_case_digest=site.digest,
        code_digest=code_digest(require_known(use_case, site.settings.project)),
        lock_digest=lock_digest(),
        device=device_class(),
        threads=site.settings.threads,
    )
    log.info("Opened %s as of %s: %s, seed %d.", use_case, night.as_of, night.device, night.seed)
    return night


def default_as_of(site: Site, scheduled: datetime | None) -> date:
    """The scheduled start's date in the use case's time zone, or today; replaying, the day after the last finished."""
    use_case = site.use_case
    if use_case.replay_from is None:
        return local_date(scheduled, use_case.time_zone) if scheduled else use_case.today()
    head = max((entry.as_of for entry in site.ledger.nights()), default=None)
    last_possible = newest_day(site.settings, use_case) + timedelta(days=use_case.label_delay_days + 1)
    return min(head + timedelta(days=1), last_possible) if head else use_case.replay_from


@stage("look up the ledger", timeout_seconds=300)
def find_finished(night: Night, run_key: str, plan: Plan | None) -> tuple[NightEntry | None, bool]:
    """The entry of this very run, if it was judged before; and whether everything after it was done too.

    A run that passed every gate and was only held back, by a hold, a backfill or a hand, is judged again when nothing
    holds it back any more.
    """
    site = site_of(night)
    hand_moved = roll_alias_forward(site.ledger, site.registry)
    if hand_moved:
        log.warning("%s", hand_moved)
    entry = site.ledger.finished(run_key)
    if entry is not None and entry.blocked and not (hand_moved or _held(site.ledger.head()) or _of_backfill(plan)):
        return None, False
    return entry, entry is not None and (entry.decision == "NOTHING_NEW" or _is_done(site, entry))


def _is_done(site: Site, entry: NightEntry) -> bool:
    """Published, and its model's files as they were written: of a damaged one the night makes the same bytes again."""
    assert entry.candidate is not None, entry.seq
    broken = [file.key for file in entry.candidate.files if not is_whole(site.store, file)]
    if broken:
        log.warning("%s is gone or changed; the night makes it again.", ", ".join(broken))
    return not broken and site.ledger.is_published(entry)


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
    return head, hand_moved or _held(head) or _excluded_since(head, snapshot) or _of_backfill(plan)


def _of_backfill(plan: Plan | None) -> str | None:
    if plan is None or plan.promote == "if-newer":
        return None
    return f"Backfill {plan.digest[:12]} records verdicts and moves no champion."


def _excluded_since(head: AnyEntry | None, snapshot: Snapshot) -> str | None:
    """A day that an operator excluded after the night read it."""
    excluded = head.excluded if head else {}
    since = [day for day in excluded if snapshot.first_day <= day <= snapshot.last_day and day not in snapshot.excluded]
    if not since:
        return None
    return f"It learnt from {', '.join(sorted(since))}, excluded since it began: run it again without."


def _held(head: AnyEntry | None) -> str | None:
    if head is None or head.held is None:
        return None
    return f"{head.use_case} is held ({head.held}): nothing moves until retrain release {head.use_case}."


@stage("register candidate", timeout_seconds=600)
def register_candidate(night: Night, run_key: str, snapshot: Snapshot, split: Split, upload: Upload) -> Champion:
    """Makes the one version of this run key, kept or not."""
    site = site_of(night)
    tags = {
        "use_case": night.use_case,
        "as_of": str(night.as_of),
        "fit_until": split.fit_until or "undated",
        "snapshot_digest": snapshot.digest,
        "test_digest": split.test_digest,
        "model_digest": upload.digest,
        "target_digest": site.use_case.target.digest,
        "code_digest": night.code_digest,
        "use_case_digest": night.use_case_digest,
    }
    version = site.registry.register(upload.run_id, run_key, tags)
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
    entry = _entry(
        night, run_key, trail.snapshot, head,
        decision=judgement.decision,
        reason=judgement.reason,
        candidate=candidate,
        blocked=judgement.blocked,
        asks=judgement.asks,
        champion=champion,
        reference=candidate if moves and (before is None or judgement.proved_better) else head and head.reference,
        result=result_document(site.use_case, night, run_key, trail, candidate.version, before, champion),
    )  # fmt: skip
    return _append(site, entry)


@stage("compare with last night", timeout_seconds=300)
def skip_if_nothing_new(night: Night, run_key: str, snapshot: Snapshot) -> NightEntry | None:
    """Records NOTHING_NEW and returns its entry, if the last finished run learnt from the very same; else None."""
    site = site_of(night)
    last, head = site.ledger.last_night(), site.ledger.head()
    if last is None or not _is_settled(last) or last.learning_key != _learning_key(site, night, snapshot):
        return None
    champion = head.champion if head else None
    reason = f"Data, use case and code equal those of {last.as_of} (entry {last.seq}); nothing was trained."
    entry = _entry(
        night, run_key, snapshot, head,
        decision="NOTHING_NEW",
        reason=reason,
        candidate=None,
        champion=champion,
        reference=head and head.reference,
        result=nothing_new_document(site.use_case, night, run_key, snapshot, reason, champion),
    )  # fmt: skip
    return _append(site, entry)


def _is_settled(entry: NightEntry) -> bool:
    """Judged by its gates alone. A KEEP for its date or for a moved alias is worth another night with the same data."""
    return entry.decision not in {"KEEP", "REJECT"} or any(
        verdict["verdict"] not in ALLOWING for verdict in entry.result["verdicts"]
    )


def _learning_key(site: Site, night: Night, snapshot: Snapshot) -> str:
    """With the date where a column says which rows were known by then."""
    known = str(night.as_of) if site.use_case.known_at_column else ""
    return learning_key(night, snapshot.digest + known)


def _entry(night: Night, run_key: str, snapshot: Snapshot, head: AnyEntry | None, **decided: Any) -> NightEntry:
    return NightEntry(
        as_of=night.as_of,
        run_key=run_key,
        learning_key=_learning_key(site_of(night), night, snapshot),
        judged_against=head.seq if head else 0,
        manifest=snapshot.manifest,
        **{**next_after(head, night.use_case), **decided},
    )


def _append(site: Site, entry: NightEntry) -> NightEntry | None:
    """The entry once it is in the ledger; the one that is there if this very run was recorded before; None if another
    run took its place.

    Looked for first: the head that was read may be this run's own entry, recorded by its twin on another machine.
    """
    finished = _recorded(site, entry)
    if finished is None and site.ledger.append(entry):
        log.info("Recorded %s as entry %d of the ledger.", entry.decision, entry.seq)
        return entry
    finished = finished or _recorded(site, entry)  # by an attempt whose answer was lost
    if finished is None:
        log.warning("Another run added to the ledger first; this one looks again at the new head.")
    return finished


def _recorded(site: Site, entry: NightEntry) -> NightEntry | None:
    """This very run's entry, unless it was only held back then and is not now."""
    finished = site.ledger.finished(entry.run_key)
    return None if finished is None or (finished.blocked and not entry.blocked) else finished


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
    version = entry.candidate.version
    verdicts = {f"verdict.{v['gate']}": f"{v['verdict']}: {v['reason']}" for v in entry.result["verdicts"]}
    tags = {"decision": entry.decision, "reason": entry.reason, "ledger_entry": str(entry.seq), **verdicts}
    site.registry.tag_version(version, tags)
    site.registry.describe_version(version, f"{entry.decision} as of {entry.as_of}. {entry.reason}")
