"""The first steps of a night as plain functions: what is to be run, on which data, and whether the ledger answers.

Nothing here needs torch, MLflow or Great Expectations where nothing is new: the flow runs
these steps as tasks, and `retrain run` asks them before it starts or submits anything.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any, TypeVar

from ml.data.handles import Manifest, Snapshot
from ml.data.snapshots import changed_days, read_manifest, survey
from ml.data.window import newest_day
from ml.days import local_date, month_of
from ml.digests import digest_bytes
from ml.errors import Corrupt
from ml.evaluation.gates import ALLOWING
from ml.models.packaging import refuse_broken_example
from ml.operations.alias import is_followed, roll_alias_forward
from ml.operations.backfill import Plan
from ml.pipeline.machine import this_machine
from ml.pipeline.run_key import learning_key, lock_digest, run_key
from ml.pipeline.site import Site
from ml.pipeline.work import worked
from ml.reporting.document import nothing_new_document
from ml.reporting.endings import Ending, ending
from ml.storage import paths
from ml.storage.json_form import to_json
from ml.storage.ledger import AnyEntry, NightEntry, next_after
from ml.storage.records import Night, Work
from ml.storage.store import is_whole
from ml.use_case.demo import write_demo_data

log = logging.getLogger("retrain.opening")
R = TypeVar("R")


def open_night(
    site: Site, as_of: date | None, scheduled: datetime | None, seed: int | None, again: str | None
) -> Night:
    """What is to be run: the date, the seed, and the digests of all that decides the result."""
    refuse_broken_example(site.use_case, site.rules)
    write_demo_data(site.settings, site.use_case)
    if site.ledger.head() is None:
        site.registry.require_free_name()
    machine = this_machine(site.settings.home)
    return Night(
        use_case=site.use_case.name,
        as_of=as_of or default_as_of(site, scheduled),
        seed=site.use_case.seed if seed is None else seed,
        again=again,
        use_case_digest=site.digest,
        code_digest=site.code,
        lock_digest=lock_digest(machine.instructions),
        device=machine.device,
        threads=site.settings.threads,
    )


def default_as_of(site: Site, scheduled: datetime | None) -> date:
    """The scheduled start's date in the use case's time zone, or today; replaying, the day after the last finished."""
    use_case = site.use_case
    if use_case.replay_from is None:
        return local_date(scheduled, use_case.time_zone) if scheduled else use_case.today()
    head = max((entry.as_of for entry in site.ledger.nights()), default=None)
    last_possible = newest_day(site.settings, use_case) + timedelta(days=use_case.label_delay_days + 1)
    return min(head + timedelta(days=1), last_possible) if head else use_case.replay_from


def take_snapshot(site: Site, night: Night) -> Snapshot:
    """Writes the manifest of the partitions that this night may see."""
    head = site.ledger.head()
    found = survey(site.settings, site.use_case, night.as_of, head.excluded if head else {})
    manifest = replace(found.manifest, accepted=_accepted(found.manifest, head.accepted if head else {}))
    data = to_json(manifest)
    key = paths.manifest(night.use_case, digest_bytes(data))
    kept = site.store.get(key)
    if kept not in {None, data}:
        log.warning("%s is damaged and is made again.", key)
    if new := kept != data:
        site.store.put(key, data)
    first, last = (manifest.month(list(manifest.months)[place]).partitions[place].day for place in (0, -1))
    return Snapshot(
        work=Work(stage="", reused=int(not new), computed=int(new)),
        digest=digest_bytes(data),
        manifest=key,
        partitions=manifest.size,
        first_day=first,
        last_day=last,
        missing_days=found.missing,
        excluded=manifest.excluded,
        changed_days=changed_days(_last_manifest(site), manifest),
        unusable=found.unusable,
        left_out=found.left_out,
    )


def judged_on_other_data(site: Site, night: Night, snapshot: Snapshot) -> NightEntry | None:
    """The last entry of this date, where it was of another snapshot."""
    nights = site.ledger.nights()
    last = next((entry for entry in reversed(nights) if entry.as_of == night.as_of), None)
    return last if last and last.manifest != snapshot.manifest else None


def _accepted(manifest: Manifest, accepted: Mapping[str, str]) -> dict[str, str]:
    """Those of the days that the manifest has."""
    days = {
        part.day for name in {*map(month_of, accepted)} & {*manifest.months} for part in manifest.month(name).partitions
    }
    return {day: accepted[day] for day in sorted(days & accepted.keys())}


def _last_manifest(site: Site) -> Manifest | None:
    night = site.ledger.last_night()
    try:
        return read_manifest(site.store, night.manifest) if night else None
    except Corrupt as error:
        log.warning("%s (which days changed since is not known)", error)
        return None


def find_finished(site: Site, run_key: str, plan: Plan | None) -> tuple[NightEntry | None, bool]:
    """The entry of this very run, if it was judged before; and whether everything after it was done too.

    A run that passed every gate and was only held back, by a hold, a backfill or a hand, is judged again when nothing
    holds it back any more. MLflow is asked only where it was not yet seen to follow the ledger, or a hand may hold.
    """
    entry = site.ledger.finished(run_key)
    hand_moved = None
    if (entry is not None and entry.blocked) or not is_followed(site.ledger):
        hand_moved = roll_alias_forward(site.ledger, site.registry)
    if hand_moved:
        log.warning("%s", hand_moved)
    if entry is not None and entry.blocked and not (hand_moved or held(site.ledger.head()) or of_backfill(plan)):
        return None, False
    return entry, entry is not None and (entry.decision == "NOTHING_NEW" or _is_done(site, entry))


def _is_done(site: Site, entry: NightEntry) -> bool:
    """Published, and its model's files as they were written: of a damaged one the night makes the same bytes again."""
    assert entry.candidate is not None, entry.seq
    broken = [file.key for file in entry.candidate.files if not is_whole(site.store, file)]
    if broken:
        log.warning("%s is gone or changed; the night makes it again.", ", ".join(broken))
    return not broken and site.ledger.is_published(entry)


def find_what_became(site: Site, entry: NightEntry) -> Ending:
    """How a night that was decided before stands now."""
    return ending(entry, replayed_in=site.ledger.entries())


def of_backfill(plan: Plan | None) -> str | None:
    if plan is None or plan.promote == "if-newer":
        return None
    return f"Backfill {plan.digest[:12]} records verdicts and moves no champion."


def held(head: AnyEntry | None) -> str | None:
    if head is None or head.held is None:
        return None
    return f"{head.use_case} is held ({head.held}): nothing moves until retrain release {head.use_case} --reason WHY."


def skip_if_nothing_new(site: Site, night: Night, run_key: str, snapshot: Snapshot) -> NightEntry | None:
    """Records NOTHING_NEW and returns its entry, if the last finished run learnt from the very same; else None."""
    last, head = site.ledger.last_night(), site.ledger.head()
    if last is None or not _is_settled(last) or last.learning_key != _learning_key(site, night, snapshot):
        return None
    champion = head.champion if head else None
    reason = f"Data, use case and code equal those of {last.as_of} (entry {last.seq}); nothing was trained."
    entry = entry_after(
        site, head, night, run_key, snapshot,
        decision="NOTHING_NEW",
        reason=reason,
        candidate=None,
        champion=champion,
        reference=head and head.reference,
        result=nothing_new_document(site.use_case, night, run_key, snapshot, reason, champion),
    )  # fmt: skip
    return append_once(site, entry)


def _is_settled(entry: NightEntry) -> bool:
    """Judged by its gates alone. A KEEP for its date or for a moved alias is worth another night with the same data."""
    return entry.decision not in {"KEEP", "REJECT"} or any(
        verdict["verdict"] not in ALLOWING for verdict in entry.result["verdicts"]
    )


def _learning_key(site: Site, night: Night, snapshot: Snapshot) -> str:
    """With the date where a column says which rows were known by then."""
    known = str(night.as_of) if site.use_case.known_at_column else ""
    return learning_key(night, snapshot.digest + known)


def entry_after(
    site: Site, head: AnyEntry | None, night: Night, run_key: str, snapshot: Snapshot, **decided: Any
) -> NightEntry:
    return NightEntry(
        as_of=night.as_of,
        run_key=run_key,
        learning_key=_learning_key(site, night, snapshot),
        judged_against=head.seq if head else 0,
        manifest=snapshot.manifest,
        **{**next_after(head, night.use_case), **decided},
    )


def append_once(site: Site, entry: NightEntry) -> NightEntry | None:
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


@dataclass
class Opening:
    """A night's first steps one after the other, each with what it cost."""

    site: Site
    work: list[Work] = field(default_factory=list)

    def answer(self, as_of: date | None, seed: int | None, again: str | None) -> tuple[NightEntry, bool] | None:
        """The entry that answers this run, and whether it was there before; None where there is more to do.

        To be called while holding the use case's lock. Records NOTHING_NEW as the flow does, and leaves it questions.
        """
        site = self.site
        if site.ledger.last_night() is None:
            return None
        night = self._step("open night", lambda: open_night(site, as_of, None, seed, again))
        snapshot = self._step("take snapshot", lambda: take_snapshot(site, night))
        key = run_key(night, snapshot.digest)
        finished, done = self._step("look up the ledger", lambda: find_finished(site, key, None))
        if finished is not None:
            return (finished, True) if done and not finished.asks else None
        idle = self._step("compare with last night", lambda: skip_if_nothing_new(site, night, key, snapshot))
        return None if idle is None else (idle, False)

    def _step(self, name: str, step: Callable[[], R]) -> R:
        result, work = worked(name, step)
        self.work.append(work)
        return result
