"""The candidate's version, the decision in the ledger, and aliases that follow it."""

from ml.data.handles import Snapshot, Split
from ml.data.split import split_digest
from ml.models.handles import Upload
from ml.operations.alias import follow_ledger, roll_alias_forward
from ml.operations.backfill import Plan
from ml.operations.moves import answer, require_whole
from ml.operations.versions import highest_number, version_tags
from ml.pipeline import opening
from ml.pipeline.site import Site
from ml.reporting.document import result_document
from ml.reporting.mlflow_pages import describe_version
from ml.reporting.trail import Trail
from ml.storage.ledger import AnyEntry, NightEntry
from ml.storage.locks import one_move_at_a_time
from ml.storage.records import Champion, Night


def read_head(
    site: Site, snapshot: Snapshot, finished: NightEntry | None, plan: Plan | None
) -> tuple[AnyEntry | None, str | None]:
    """The ledger's head, or that a finished run was judged under; and why nothing may be promoted now, if so."""
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


def register_candidate(
    site: Site, night: Night, run_key: str, snapshot: Snapshot, split: Split, upload: Upload
) -> Champion:
    """Makes the one version of this run key, kept or not."""
    digests = {
        "snapshot": snapshot.digest,
        "test": split.test_digest,
        "target": site.use_case.target.digest,
        "code": night.code_digest,
        "use_case": night.use_case_digest,
    }
    tags = version_tags(night.use_case, night.as_of, split.fit_until, upload.digest, digests)
    version = site.registry.register(upload.run_id, run_key, tags, above=highest_number(site.ledger))
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


def record_decision(
    site: Site, night: Night, run_key: str, candidate: Champion, trail: Trail, head: AnyEntry | None
) -> NightEntry | None:
    """Adds the decision to the ledger; None if another run did so since the champion was read."""
    judgement, before = trail.judgement, head.champion if head else None
    moves = judgement.decision in {"FIRST", "PROMOTE"}
    champion = candidate if moves else before
    entry = opening.entry_after(
        site, head, night, run_key, trail.snapshot,
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


def move_alias(site: Site, entry: NightEntry) -> int | None:
    """Makes MLflow say what the ledger says: aliases, tags, and a description of the version.

    Returns the version that the champion's alias was moved to, if it was.
    """
    moved_to = _follow(site) if entry.moves_champion else None
    if entry.candidate is not None:
        _describe(site, entry, entry.candidate)
    return moved_to


def _follow(site: Site) -> int | None:
    """To the ledger's last move: a newer one than this night's, if another run moved on meanwhile."""
    move = site.ledger.last_move()
    if move is None or move.champion is None:
        return None
    follow_ledger(site.ledger, site.registry, move)
    return move.champion.version


def _describe(site: Site, entry: NightEntry, candidate: Champion) -> None:
    version = site.registry.number_of(candidate)
    if version is None:
        return  # deleted since, or lost: `retrain doctor` says it
    describe_version(site.registry, entry, version)


def answer_question(site: Site, entry: NightEntry, *, promote: bool, name: str, reason: str) -> AnyEntry:
    """Records what an operator answered where gates could not tell, and lets the aliases follow."""
    assert entry.candidate is not None, entry.seq
    with one_move_at_a_time(site.settings.home, entry.use_case):
        if promote:
            require_whole(site.ledger, site.registry, entry.candidate)
        return answer(site.ledger, site.registry, entry, promote=promote, name=name, reason=reason)
