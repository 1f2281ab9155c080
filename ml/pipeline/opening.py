"""The first steps of a night: what is to be run, on which data, and whether the ledger already has the answer.

The flow runs these steps as tasks, and `retrain run` calls them before it starts or submits anything. If nothing is
new, they import neither torch nor MLflow nor Great Expectations, so the answer comes at once.
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
from ml.pipeline.run_key import learning_key, run_key, training_key
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
    """What is to be run: the date, the seed, and the digests of everything else that decides the result.

    `as_of`, `seed` and `again` are the operator's choices. Raises ConfigError for a use case that cannot be run.
    """
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
        use_case_digest=site.training,
        code_digest=site.code,
        judging_digest=site.judging,
        instructions=machine.instructions,
        device=site.use_case.model.device_on(machine.device),
        threads=site.settings.threads,
        dated=site.use_case.dated or site.use_case.known_at_column is not None,
    )


def default_as_of(site: Site, scheduled: datetime | None) -> date:
    """The date of a night for which nobody chose one: that of the scheduled start in the use case's time zone, or
    today.

    A use case that replays the past (`replay_from`) goes on with the day after its newest date in the ledger.
    """
    use_case = site.use_case
    if use_case.replay_from is None:
        return local_date(scheduled, use_case.time_zone) if scheduled else use_case.today()
    newest_date = max((entry.as_of for entry in site.ledger.nights()), default=None)
    last_possible = newest_day(site.settings, use_case) + timedelta(days=use_case.label_delay_days + 1)
    return min(newest_date + timedelta(days=1), last_possible) if newest_date else use_case.replay_from


def take_snapshot(site: Site, night: Night) -> Snapshot:
    """Finds the partitions that this night may see and writes them into a manifest.

    The manifest's key follows from its contents. Raises UsageError for a date in the future, DataRejected for a
    window that is empty or lacks its newest day or too many others.
    """
    head = site.ledger.head()
    surveyed = survey(site.settings, site.use_case, night.as_of, head.excluded if head else {})
    manifest = replace(surveyed.manifest, accepted=_accepted(surveyed.manifest, head.accepted if head else {}))
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
        missing_days=surveyed.missing,
        excluded=manifest.excluded,
        changed_days=changed_days(_last_manifest(site), manifest),
        unusable=surveyed.unusable,
        left_out=surveyed.left_out,
    )


def judged_on_other_data(site: Site, night: Night, snapshot: Snapshot) -> NightEntry | None:
    """The newest entry of this date if it was made from another snapshot; else None."""
    nights = site.ledger.nights()
    last = next((entry for entry in reversed(nights) if entry.as_of == night.as_of), None)
    return last if last and last.manifest != snapshot.manifest else None


def _accepted(manifest: Manifest, accepted: Mapping[str, str]) -> dict[str, str]:
    """The accepted days that the manifest has, each with the operator's reason."""
    months = {*map(month_of, accepted)} & {*manifest.months}
    days = {partition.day for name in months for partition in manifest.month(name).partitions}
    return {day: accepted[day] for day in sorted(days & accepted.keys())}


def _last_manifest(site: Site) -> Manifest | None:
    night = site.ledger.last_night()
    try:
        return read_manifest(site.store, night.manifest) if night else None
    except Corrupt as error:
        log.warning("%s (which days changed since is not known)", error)
        return None


def find_finished(site: Site, run_key: str, plan: Plan | None) -> tuple[NightEntry | None, bool]:
    """The entry of this run if it was judged before, and whether everything after the decision was done too.

    If every gate allowed the promotion and only a hold, a backfill or a moved alias prevented it (`blocked`), the run
    is judged again once nothing prevents it: then there is no entry. MLflow is asked only if its alias was not yet seen
    to follow the ledger, or if the entry is blocked.
    """
    entry = site.ledger.finished(run_key)
    hand_moved = None  # a sentence if somebody moved the alias by hand, or MLflow lost the champion
    if (entry is not None and entry.blocked) or not is_followed(site.ledger):
        hand_moved = roll_alias_forward(site.ledger, site.registry)
    if hand_moved:
        log.warning("%s", hand_moved)
    if entry is not None and entry.blocked and not (hand_moved or held(site.ledger.head()) or of_backfill(plan)):
        return None, False
    return entry, entry is not None and (entry.decision == "NOTHING_NEW" or _is_done(site, entry))


def _is_done(site: Site, entry: NightEntry) -> bool:
    """Whether the night was published and its model's files are undamaged. A night with damaged files runs again and
    writes the same bytes."""
    assert entry.candidate is not None, entry.seq
    files = (file for version in entry.candidate.versions for file in version.files)
    damaged = [file.key for file in files if not is_whole(site.store, file)]
    if damaged:
        log.warning("%s is gone or changed; the night makes it again.", ", ".join(damaged))
    return not damaged and site.ledger.is_published(entry)


def find_what_became(site: Site, entry: NightEntry) -> Ending:
    """What has become of a night that was decided before."""
    return ending(entry, replayed_in=site.ledger.entries())


def of_backfill(plan: Plan | None) -> str | None:
    """Why a backfill that never promotes keeps the champion, as a sentence; None for any other run."""
    if plan is None or plan.promote == "if-newer":
        return None
    return f"Backfill {plan.digest[:12]} records verdicts and moves no champion."


def held(head: AnyEntry | None) -> str | None:
    """Why an operator's hold keeps the champion, as a sentence; None if there is no hold."""
    if head is None or head.held is None:
        return None
    return f"{head.use_case} is held ({head.held}): nothing moves until retrain release {head.use_case} --reason WHY."


def skip_if_nothing_new(site: Site, night: Night, run_key: str, snapshot: Snapshot) -> NightEntry | None:
    """Records NOTHING_NEW and returns its entry if this night would learn just what the last one did; else None.

    None also if another run added to the ledger first, or the last night's decision may still change.
    """
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
    """Whether a night with the same data would decide the same. A candidate that every gate allowed and that was not
    promoted, because of its date or a moved alias, may be promoted by another night."""
    return (
        entry.decision not in {"KEEP", "REJECT"}
        or entry.judged_champion
        or any(verdict["verdict"] not in ALLOWING for verdict in entry.result["verdicts"])
    )


def _learning_key(site: Site, night: Night, snapshot: Snapshot) -> str:
    """If a column says when a row became known, the key includes as_of, because other rows may be known on that
    date."""
    date_of_knowledge = str(night.as_of) if site.use_case.known_at_column else ""
    return learning_key(night, snapshot.digest + date_of_knowledge)


def entry_after(
    site: Site, head: AnyEntry | None, night: Night, run_key: str, snapshot: Snapshot, **decided: Any
) -> NightEntry:
    """The night's entry after the head. `decided` are the fields of NightEntry that the night changes."""
    return NightEntry(
        as_of=night.as_of,
        run_key=run_key,
        learning_key=_learning_key(site, night, snapshot),
        training_key=training_key(night, snapshot.digest),
        judged_against=head.seq if head else 0,
        manifest=snapshot.manifest,
        **{**next_after(head, night.use_case), **decided},
    )


def append_once(site: Site, entry: NightEntry) -> NightEntry | None:
    """Adds the entry and returns it. If this run was recorded before, returns that entry and adds none.

    Returns None if another run took the entry's number: then the night is to be judged under the new head.
    """
    finished = _recorded(site, entry)  # perhaps by the same run on another machine
    if finished is None and site.ledger.append(entry):
        log.info("Recorded %s as entry %d of the ledger.", entry.decision, entry.seq)
        return entry
    finished = finished or _recorded(site, entry)  # perhaps by an attempt whose answer was lost
    if finished is None:
        log.warning("Another run added to the ledger first; this one looks again at the new head.")
    return finished


def _recorded(site: Site, entry: NightEntry) -> NightEntry | None:
    """The entry of this run if there is one; None if that one is blocked and the new one is not."""
    finished = site.ledger.finished(entry.run_key)
    return None if finished is None or (finished.blocked and not entry.blocked) else finished


@dataclass
class Opening:
    """Runs the first steps of a night one after the other. `work` says what each of them cost."""

    site: Site
    work: list[Work] = field(default_factory=list)

    def answer(self, as_of: date | None, seed: int | None, again: str | None) -> tuple[NightEntry, bool] | None:
        """The entry that answers this run, and whether it was there before; None if the flow must run.

        Call it while holding the use case's lock. It records NOTHING_NEW just as the flow does. A night that asked an
        operator is left to the flow.
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
