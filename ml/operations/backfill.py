"""A backfill: one operator's request to run many as_of dates. Its plan, attempts and controls lie in the store.

A plan is made once and kept under its digest, and exactly that plan is run. It is refused if the world that it was made
for has changed. Every run of a date is an attempt; every request such as "pause" is a control. Both are objects that
are created only if absent, so any terminal reads the same state and adds to it, also after a restart.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from cronsim import CronSim, CronSimError

from ml.data.snapshots import refuse_window
from ml.digests import digest_bytes
from ml.errors import Corrupt, DataRejected, UsageError
from ml.operations.dead_runs import Signs, is_dead
from ml.settings import Settings
from ml.storage import paths
from ml.storage.json_form import from_json, to_json
from ml.storage.ledger import Ledger, NightEntry, operator_name, version_of
from ml.storage.locks import holder_name, run_lock
from ml.storage.store import Store
from ml.use_case.definition import UseCase

Reprocess = Literal["none", "failed", "completed"]
Promote = Literal["never", "if-newer"]
Outcome = Literal["done", "rejected", "failed", "interrupted"]
ControlName = Literal["pause", "resume", "cancel", "retry-failed"]
ENDED = {"done": "left no entry in the ledger", "rejected": "was rejected", "failed": "failed"}
MOST_DATES = 3_700  # ten years of days: whoever asks for more has mistyped


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One date: whether it will run, and why."""

    as_of: date
    runs: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run and in which order. `code` is the digest of the code and use case that it was planned for."""

    use_case: str
    first: date
    last: date
    every: str
    reprocess: Reprocess
    promote: Promote
    newest_first: bool
    code: str
    rows: tuple[PlanRow, ...]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the plan, which is also its name."""
        return digest_bytes(to_json(self))

    @property
    def dates(self) -> list[date]:
        """The dates that run, in the order of running."""
        return [row.as_of for row in self.rows if row.runs]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One run of a date.

    `outcome` is None while it runs, and stays None if it was killed. It is "interrupted" if Prefect's server went away;
    then the date is still to be run. `entry` is the number of its entry in the ledger.
    """

    as_of: date
    number: int
    plan: str
    at: str
    outcome: Outcome | None = None
    entry: int | None = None
    reason: str = ""
    nonce: str = ""  # makes the bytes unique, so that only one of two drivers can take the same number


@dataclass(frozen=True, kw_only=True)
class Control:
    """What an operator asked of a backfill.

    `behind` belongs to "retry-failed": for each date that had failed, the number of its newest attempt. Those attempts
    no longer count.
    """

    command: ControlName
    by: str
    at: str
    behind: dict[str, int] = field(default_factory=dict)


def dates_between(first: date, last: date, every: str) -> list[date]:
    """The dates from `first` to `last`: every few days or weeks (`1d`, `2w`), or the days on which a cron line is due.

    Raises UsageError if `every` is neither, or for no dates or too many.
    """
    if last < first:
        raise UsageError("--from is not after --to", f"{first} is after {last}", "exchange them")
    step = {"d": 1, "w": 7}.get(every[-1:])
    if step and every[:-1].isdecimal() and int(every[:-1]):
        days = [first + timedelta(days=n) for n in range(0, (last - first).days + 1, step * int(every[:-1]))]
    else:
        days = list(_due(first, last, every))
    if not days:
        raise UsageError("a backfill has a date", f"{every} gives none from {first} to {last}", "widen the range")
    if len(days) > MOST_DATES:
        raise UsageError(f"a backfill has at most {MOST_DATES} dates", f"it has {len(days)}", "choose a shorter range")
    return days


def _due(first: date, last: date, every: str) -> Iterator[date]:
    """The days on which a cron line is due, each once. Raises UsageError for a line that is none."""
    try:
        ticks = CronSim(every, datetime.combine(first, time.min) - timedelta(minutes=1))
    except CronSimError:
        raise UsageError(
            "--every is days like 1d, weeks like 1w, or a cron line",
            f"it is {every!r}",
            'write for example "0 3 * * 1"',
        ) from None
    newest = first - timedelta(days=1)
    for tick in ticks:
        if tick.date() > last:
            return
        if tick.date() != newest:
            newest = tick.date()
            yield newest


def driver_name(use_case: str) -> str:
    """The name of the lock that a running backfill holds."""
    return f"{use_case}.backfill"


def date_name(use_case: str, as_of: date) -> str:
    """The name of the lock that a running date of a backfill holds."""
    return f"{use_case}.{as_of}"


def driver_lock(settings: Settings, use_case: str) -> Path:
    """The path of the lock that a running backfill of the use case holds on this machine."""
    return run_lock(settings.home, driver_name(use_case))


def is_driven(settings: Settings, use_case: str, *, driving: bool = False) -> bool:
    """Whether a backfill of the use case runs on this machine. With `driving`, the caller holds its lock itself and
    does not count."""
    name = driver_name(use_case)
    driver = Signs(lock=holder_name(settings.home, name))
    return not is_dead(settings.home, driver, held=name if driving else "")


@dataclass(frozen=True)
class World:
    """What a plan depends on: the data, the ledger, and earlier attempts.

    `excluded` is day to reason, `nights` date to its newest night, `attempts` date to all its attempts in order.
    `active` says that a backfill runs, so that an attempt without an outcome may still be running.
    """

    settings: Settings
    use_case: UseCase
    excluded: Mapping[str, str]
    nights: Mapping[date, NightEntry]
    attempts: Mapping[date, Sequence[Attempt]]
    active: bool

    @classmethod
    def now(cls, settings: Settings, use_case: UseCase, store: Store, *, driving: bool = False) -> "World":
        """The world as it is. `driving` says that the caller is the one that drives backfills, so that none runs
        now."""
        ledger = Ledger(store, use_case.name)
        head = ledger.head()
        attempts: dict[date, list[Attempt]] = {}
        for attempt in read_attempts(store, use_case.name):
            attempts.setdefault(attempt.as_of, []).append(attempt)
        nights = {night.as_of: night for night in ledger.nights()}
        active = is_driven(settings, use_case.name, driving=driving)
        return cls(settings, use_case, head.excluded if head else {}, nights, attempts, active)

    def row(self, as_of: date, reprocess: Reprocess) -> PlanRow:
        """Whether the date is to run, and why."""
        night, attempts = self.nights.get(as_of), self.attempts.get(as_of, [])
        if as_of > self.use_case.today():
            return PlanRow(as_of=as_of, runs=False, reason="in the future")
        try:
            refuse_window(self.settings, self.use_case, as_of, self.excluded)
        except DataRejected as error:
            return PlanRow(as_of=as_of, runs=False, reason=f"no data: {error.value}")
        if night is not None and reprocess != "completed":
            return PlanRow(as_of=as_of, runs=False, reason=f"already done ({_result(night)})")
        if attempts and attempts[-1].outcome is None and self.active:
            return PlanRow(as_of=as_of, runs=False, reason=f"in flight (attempt {attempts[-1].number})")
        if attempts and attempts[-1].outcome in {"failed", "rejected"} and reprocess == "none":
            failed = f"failed before (attempt {len(attempts)}); add --reprocess failed"
            return PlanRow(as_of=as_of, runs=False, reason=failed)
        return PlanRow(as_of=as_of, runs=True, reason=_why(night, attempts))


def _result(night: NightEntry) -> str:
    version = version_of(night.candidate)
    return f"version {version}" if version is not None else "nothing new"


def _why(night: NightEntry | None, attempts: Sequence[Attempt]) -> str:
    """Why a date runs."""
    if night is not None:
        return f"will run again (it has {_result(night)})"
    if not attempts:
        return "will run: no night has this date yet"
    last = attempts[-1]
    ended = ENDED.get(last.outcome or "", "was interrupted")
    return f"will run, attempt {len(attempts) + 1}: attempt {last.number} {ended}"


def make_plan(
    world: World, dates: Sequence[date], every: str, code: str,
    *, reprocess: Reprocess, promote: Promote, newest_first: bool,
) -> Plan:  # fmt: skip
    """A plan with one row for each date. `every` is kept as the operator wrote it.

    Raises UsageError for a use case without days, and for promotions that would go from the newest date backwards.
    """
    name = world.use_case.name
    if not world.use_case.dated:
        raise UsageError("a backfill runs a use case with days", f"{name} has none", f"retrain run {name}")
    if promote == "if-newer" and newest_first:
        raise UsageError("promotions go in the order of their dates", "--newest-first turns it round", "drop one")
    ordered = sorted(dates, reverse=newest_first)
    rows = tuple(world.row(as_of, reprocess) for as_of in ordered)
    return Plan(
        use_case=name, first=min(dates), last=max(dates), every=every, reprocess=reprocess, promote=promote,
        newest_first=newest_first, code=code, rows=rows,
    )  # fmt: skip


def keep_plan(store: Store, plan: Plan) -> str:
    """Stores the plan and returns its digest."""
    store.create(paths.backfill_plan(plan.digest), to_json(plan))
    return plan.digest


def read_plan(store: Store, digest: str) -> Plan:
    """The plan whose digest begins so. Raises UsageError if none or several do, Corrupt if the plan is damaged."""
    all_digests = [key.split("/")[1] for key in store.keys(paths.backfills()) if key.endswith("/plan.json")]
    matching = [name for name in all_digests if name.startswith(digest)] if digest else []
    if len(matching) != 1:
        value = f"{digest!r} begins {len(matching)} of {len(all_digests)}"
        raise UsageError("PLAN is the beginning of one plan's digest", value, "retrain backfill plan prints it")
    data = store.get(paths.backfill_plan(matching[0])) or b""
    if digest_bytes(data) != matching[0]:
        raise Corrupt(f"plan {matching[0][:12]} is as it was made", "its bytes changed", "make it again")
    return from_json(Plan, data)


def refuse_changed_world(plan: Plan, world: World, code: str) -> None:
    """Raises UsageError, which names what changed, if the plan would be made otherwise now.

    Dates that this plan itself has attempted are not compared.
    """
    if code != plan.code:
        raise UsageError(
            "a plan runs the code that it was made for", f"the code or the file of {plan.use_case} changed",
            "make a new plan",
        )  # fmt: skip
    for row in plan.rows:
        attempted = any(attempt.plan == plan.digest for attempt in world.attempts.get(row.as_of, []))
        now = world.row(row.as_of, plan.reprocess)
        if not attempted and (now.runs, now.reason) != (row.runs, row.reason):
            raise UsageError(
                "a plan is applied to the world that it was made for",
                f"{row.as_of} was planned as '{row.reason}' and is now '{now.reason}'",
                "make a new plan",
            )


Known = dict[str, Attempt]  # attempts that were read before, by their keys in the store


def read_attempts(store: Store, use_case: str, known: Known | None = None) -> list[Attempt]:
    """All attempts of a use case's dates, in the order of date and number; those that have ended with their outcome.

    The objects never change, so those in `known` are not read again, and those that are read are added to it.
    """
    known = {} if known is None else known
    keys = store.keys(paths.backfill_attempts(use_case))
    new = [key for key in keys if key not in known]
    known |= {key: from_json(Attempt, data or b"") for key, data in zip(new, store.get_many(new), strict=True)}
    attempts = (known[key] for key in keys)  # an attempt's end sorts after its start, and so replaces it below
    return list({(attempt.as_of, attempt.number): attempt for attempt in attempts}.values())


def start_attempt(store: Store, plan: Plan, as_of: date) -> Attempt:
    """Notes the start of an attempt under the next free number of the date, and returns the attempt."""
    attempt = Attempt(as_of=as_of, number=1, plan=plan.digest, at=now_text(), nonce=secrets.token_hex(8))
    while not store.create(paths.backfill_start(plan.use_case, str(as_of), attempt.number), to_json(attempt)):
        attempt = replace(attempt, number=attempt.number + 1)
    return attempt


def end_attempt(store: Store, plan: Plan, attempt: Attempt) -> None:
    """Notes how the attempt ended."""
    store.create(paths.backfill_end(plan.use_case, str(attempt.as_of), attempt.number), to_json(attempt))


def read_controls(store: Store, digest: str) -> list[Control]:
    """What operators asked of the plan, oldest first."""
    keys = store.keys(paths.backfill_controls(digest))
    return [from_json(Control, data) for data in store.get_many(keys) if data is not None]


def add_control(store: Store, plan: Plan, command: ControlName) -> None:
    """Asks something of a backfill. Raises UsageError if the backfill was cancelled."""
    controls = read_controls(store, plan.digest)
    if any(control.command == "cancel" for control in controls):
        raise UsageError("a cancelled backfill stays so", f"{command} was asked", "make a new plan")
    behind = Progress.of(store, plan).failed_attempts if command == "retry-failed" else {}
    control = Control(command=command, by=operator_name(), at=now_text(), behind=behind)
    number = len(controls) + 1
    while not store.create(paths.backfill_control(plan.digest, number), to_json(control)):
        number += 1


def now_text() -> str:
    """The time in UTC as stored objects have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Progress:
    """A backfill as it stands.

    `attempts` has, for each date, the attempt that counts: it succeeded, or it failed and no later retry was asked.
    `ended` are the dates that have ended at least once, `interrupted` those that were interrupted and are still to run.
    `asked` is what operators asked last, "cancel" if they ever did, and `controls` is the number of their requests.
    """

    plan: Plan
    attempts: Mapping[date, Attempt]
    ended: frozenset[date]
    interrupted: frozenset[date]
    asked: ControlName | None
    controls: int

    @classmethod
    def of(cls, store: Store, plan: Plan, known: Known | None = None) -> "Progress":
        """The progress of a plan. `known` are attempts that were read before (`read_attempts`)."""
        controls = read_controls(store, plan.digest)
        retried = {as_of: number for control in controls for as_of, number in control.behind.items()}
        attempts = [a for a in read_attempts(store, plan.use_case, known) if a.plan == plan.digest]
        ended = [a for a in attempts if a.outcome not in {None, "interrupted"}]
        newest = {a.as_of: a for a in attempts}
        counting = {a.as_of: a for a in ended if a.outcome == "done" or a.number > retried.get(str(a.as_of), 0)}
        commands: list[ControlName] = [control.command for control in controls]
        last_command = "cancel" if "cancel" in commands else commands[-1] if commands else None
        interrupted = frozenset(as_of for as_of, attempt in newest.items() if attempt.outcome == "interrupted")
        ended_dates = frozenset(attempt.as_of for attempt in ended)
        return cls(plan, counting, ended_dates, interrupted - counting.keys(), last_command, len(controls))

    @property
    def open_dates(self) -> list[date]:
        """The dates that are still to run, in the order of running."""
        return [as_of for as_of in self.plan.dates if as_of not in self.attempts]

    @property
    def done(self) -> int:
        """How many dates succeeded."""
        return sum(attempt.outcome == "done" for attempt in self.attempts.values())

    @property
    def failed(self) -> int:
        """How many dates failed, those with rejected data included."""
        return len(self.failed_attempts)

    @property
    def failed_attempts(self) -> dict[str, int]:
        """The number of the newest attempt of each failed date."""
        return {str(as_of): attempt.number for as_of, attempt in self.attempts.items() if attempt.outcome != "done"}

    @property
    def state(self) -> str:
        """One of cancelled, finished, paused and open."""
        if self.asked == "cancel":
            return "cancelled"
        if not self.open_dates:
            return "finished"
        return "paused" if self.asked == "pause" else "open"

    def is_turn_of(self, as_of: date) -> bool:
        """Whether every earlier date of the plan has ended at least once, because promotions go in the order of dates.

        A later date does not wait for the retry of a date that has failed.
        """
        return all(earlier in self.ended for earlier in self.plan.dates if earlier < as_of)
