"""The stages that record: the candidate's version in MLflow, the decision in the ledger, then MLflow's aliases.

The ledger comes before the aliases. A night that is killed between them is finished by the next run.
"""

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
from ml.reporting.mlflow_pages import describe_refit, describe_version
from ml.reporting.trail import Trail
from ml.storage.ledger import AnyEntry, NightEntry
from ml.storage.locks import one_move_at_a_time
from ml.storage.records import Champion, Night
from ml.storage.registry import cut


def read_head(
    site: Site, snapshot: Snapshot, finished: NightEntry | None, plan: Plan | None
) -> tuple[AnyEntry | None, str | None]:
    """The head of the ledger to judge under, and why nothing may be promoted now, as a sentence; None if it may.

    A run that was finished before gets the head that it was judged under, and no reason.
    """
    if finished is not None:
        return site.ledger.entry(finished.judged_against) if finished.judged_against else None, None
    hand_moved = roll_alias_forward(site.ledger, site.registry)
    head = site.ledger.head()
    blocked = hand_moved or opening.held(head) or _excluded_since(head, snapshot) or opening.of_backfill(plan)
    return head, blocked


def _excluded_since(head: AnyEntry | None, snapshot: Snapshot) -> str | None:
    """Which days an operator excluded after this night read them, as a sentence; None if there are none."""
    excluded = head.excluded if head else {}
    in_window = [day for day in excluded if snapshot.first_day <= day <= snapshot.last_day]
    excluded_since = [day for day in in_window if day not in snapshot.excluded]
    if not excluded_since:
        return None
    return f"It learnt from {', '.join(sorted(excluded_since))}, excluded since it began: run it again without."


def register_candidate(
    site: Site, night: Night, training_key: str, snapshot: Snapshot, split: Split, upload: Upload
) -> Champion:
    """Registers the candidate as the one version of this training key, whether it will be promoted or not.

    A candidate that an earlier night recorded has the refit that it has there.
    """
    digests = {
        "snapshot": snapshot.digest,
        "test": split.test_digest,
        "target": site.use_case.target.digest,
        "code": night.code_digest,
        "use_case": night.use_case_digest,
    }
    tags = version_tags(night.use_case, night.as_of, split.fit_until, upload.digest, digests)
    tags |= {"takes": cut(upload.takes)} if upload.takes else {}
    version = site.registry.register(upload.run_id, training_key, tags, above=highest_number(site.ledger))
    recorded = site.ledger.trained(training_key)
    return Champion(
        version=version,
        run_id=upload.run_id,
        as_of=recorded.as_of if recorded else night.as_of,
        fit_until=split.fit_until,
        target_digest=site.use_case.target.digest,
        split_digest=split_digest(site.use_case),
        folder=upload.folder,
        files=upload.files,
        refit=recorded.refit if recorded and site.use_case.refit == "promoted" else None,
    )


def record_decision(
    site: Site, night: Night, run_key: str, candidate: Champion, trail: Trail, head: AnyEntry | None
) -> NightEntry | None:
    """Adds the decision to the ledger. Returns None if another run added an entry after `head`: then judge again.

    A promoted candidate becomes the reference too if there was no champion, or if it was proved better.
    """
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
        source_changes=judgement.source_changes,
        champion=champion,
        reference=candidate if moves and (before is None or judgement.proved_better) else head and head.reference,
        result=result_document(site.use_case, night, run_key, trail, candidate, before, champion),
    )  # fmt: skip
    return opening.append_once(site, entry)


def move_alias(site: Site, entry: NightEntry) -> int | None:
    """Makes MLflow say what the ledger says: aliases, and the tags and description of the candidate's version
    and of its refit.

    Returns the version that the champion's alias was moved to; None if it was not moved.
    """
    moved_to = _follow_last_move(site) if entry.moves_champion else None
    version = site.registry.number_of(entry.candidate) if entry.candidate else None
    if version is not None:  # if MLflow has lost it, `retrain doctor` says so
        describe_version(site.registry, entry, version)
    refit = entry.candidate.refit if entry.candidate else None
    number = site.registry.number_of(refit) if refit else None
    if number is not None:
        describe_refit(site.registry, entry, number)
    return moved_to


def _follow_last_move(site: Site) -> int | None:
    """Lets the aliases follow the last move of the ledger, which may be of a newer night than this one."""
    move = site.ledger.last_move()
    if move is None or move.champion is None:
        return None
    follow_ledger(site.ledger, site.registry, move)
    return move.champion.served.version


def answer_question(
    site: Site, entry: NightEntry, *, promote: bool, name: str, reason: str, exclude: bool = False
) -> AnyEntry:
    """Records an operator's answer to the night's question, and lets the aliases follow.

    `exclude`, with a no: whether the days are left out from now on on which the source had changed.

    Raises UsageError if a candidate that is to be promoted is not in MLflow or has damaged files.
    """
    assert entry.candidate is not None, entry.seq
    with one_move_at_a_time(site.settings.home, entry.use_case):
        if promote:
            require_whole(site.ledger, site.registry, entry.candidate)
        return answer(site.ledger, site.registry, entry, promote=promote, name=name, reason=reason, exclude=exclude)
