"""Notes on nights that the ledger does not know: the night that runs now, and the last night that ended with an error.

The ledger has only nights that decided something. There are two small objects per use case. A night notes its beginning
and deletes the note when it ends; a note that stays although no process runs the night is the trace of a night that was
killed. A night that ends with an error ("red") notes the error, and a later good night deletes that note.

Notes lie in the store. Where the store cannot take them, which may be what ended the night, they lie in the home. They
contain our own sentences only, and never values of rows.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from ml.errors import RetrainError, Unforeseen, unforeseen
from ml.settings import Settings
from ml.storage import paths
from ml.storage.kept import seal, unseal
from ml.storage.ledger import Ledger, NightEntry
from ml.storage.locks import holder_name, is_free, run_lock
from ml.storage.store import open_store

log = logging.getLogger("retrain.nights")
KILLED = "Killed"
SILENT = timedelta(days=2)  # a night of another machine that began so long ago was killed: none takes so long
N = TypeVar("N", "Beginning", "RedNight")


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A night that has begun. `holder` names the machine and home whose lock it holds, `flow_run` is Prefect's id."""

    use_case: str
    as_of: date
    at: str
    holder: str
    flow_run: str | None


@dataclass(frozen=True, kw_only=True)
class RedNight:
    """A night that ended with an error: the three parts of the error's sentence, and the flow run to read more in.

    The note is settled (deleted, or no longer shown) by a good night of `settled_from` or a later date; by any good
    night if `settled_from` is None. `after` is the number of the ledger's newest entry when the night ended; None if
    the ledger could not be read.
    """

    use_case: str
    as_of: date | None
    at: str
    error: str
    rule: str
    value: str
    next_step: str
    exit_code: int
    flow_run: str | None
    settled_from: date | None
    after: int | None

    @property
    def seen(self) -> str:
        """`the night as of 2024-03-18 ended red on 2024-03-18 03:00 UTC (DataRejected): ..., but ...`."""
        night = f"the night as of {self.as_of}" if self.as_of else "the last night"
        ended = "was killed after it began" if self.error == KILLED else "ended red"
        kind = "" if self.error == KILLED else f" ({self.error})"
        return f"{night} {ended} on {self.at[:16].replace('T', ' ')} UTC{kind}: {self.rule}, but {self.value}"


def note_beginning(settings: Settings, use_case: str, as_of: date, flow_run: str | None) -> None:
    """Notes that a night begins. Call it while holding the lock of the use case.

    Because of that lock, a note that this machine left before is of a process that was killed. It becomes a
    red night.
    """
    holder = holder_name(settings.home, use_case)
    earlier = _beginning(settings, use_case)
    if earlier is not None and earlier.holder == holder:
        _keep_red(settings, killed(earlier))
    began = Beginning(use_case=use_case, as_of=as_of, at=_now(), holder=holder, flow_run=flow_run)
    _write(settings, paths.night_beginning(use_case), began)


def forget_beginning(settings: Settings, use_case: str) -> None:
    """Deletes the note of the beginning, unless it is another machine's. Call it when the night has ended, before its
    lock is released."""
    begun = _beginning(settings, use_case)
    if begun is not None and begun.holder == holder_name(settings.home, use_case):
        _delete(settings, paths.night_beginning(use_case))


def note_red(
    settings: Settings, use_case: str, as_of: date | None, error: Exception, *, flow_run: str | None = None
) -> None:
    """Notes the error that ended a night. Raises nothing if the note cannot be written, so that the night's own error
    is the one that is reported; the log says it."""
    sentence = error if isinstance(error, RetrainError) else unforeseen(error)
    repeat = f"retrain run {use_case}" + (f" --as-of {as_of}" if as_of else "")
    next_step = f"{repeat} --debug shows it" if isinstance(sentence, Unforeseen) else sentence.next_step
    settled_from, after = _standing_in_ledger(settings, use_case, as_of)
    _keep_red(
        settings,
        RedNight(
            use_case=use_case,
            as_of=as_of,
            at=_now(),
            error=type(sentence).__name__,
            rule=sentence.rule,
            value=sentence.value,
            next_step=next_step,
            exit_code=sentence.exit_code,
            flow_run=flow_run,
            settled_from=settled_from,
            after=after,
        ),
    )


def settle(settings: Settings, entry: NightEntry) -> bool:
    """Deletes the note of a red night that this good night settles. Call it at the good end of a night, and also
    when a run only repeats what was decided before.

    Returns whether the use case is red still, because the red night is of a later date.
    """
    red = _red(settings, entry.use_case)
    if red is None:
        return False
    if _settles(red, entry):
        _delete(settings, paths.red_night(entry.use_case))
        return False
    return not _is_settled(settings, red)


def last_red(settings: Settings, use_case: str) -> RedNight | None:
    """The last red night, if no good night has settled it since.

    If the store does not answer and the home has no note, raises what the store raised.
    """
    red = _red(settings, use_case, strict=True)
    return None if red is None or _is_settled(settings, red) else red


def left_behind(settings: Settings, use_case: str, is_over: Callable[[Beginning], bool]) -> Beginning | None:
    """The noted beginning of a night that nobody runs any more; None if there is none.

    For a night of this machine, its lock tells. For a night of another machine, `is_over` is asked, and its age counts.
    """
    noted = _beginning(settings, use_case)
    if noted is None:
        return None
    if noted.holder != holder_name(settings.home, use_case):
        old = datetime.now(UTC) - datetime.fromisoformat(noted.at) > SILENT
        return noted if old or is_over(noted) else None
    free = is_free(run_lock(settings.home, use_case))
    # The note is read again after the lock: meanwhile that night may have ended, or another one begun.
    return noted if free and noted == _beginning(settings, use_case) else None


def running_night(settings: Settings, use_case: str) -> Beginning | None:
    """The noted beginning of a night that this machine runs now, or another one may run; None if there is none.

    Whether another machine still runs it, only Prefect can tell.
    """
    noted = _beginning(settings, use_case)
    if noted is None or noted.holder != holder_name(settings.home, use_case):
        return noted
    return None if is_free(run_lock(settings.home, use_case)) else noted


def red_since(settings: Settings, use_case: str, since: datetime) -> bool:
    """Whether a red night was noted at or after that time."""
    red = _red(settings, use_case)
    return red is not None and datetime.fromisoformat(red.at) >= since


def killed(left: Beginning) -> RedNight:
    """The red night for a beginning whose process ended without noting how."""
    return RedNight(
        use_case=left.use_case,
        as_of=left.as_of,
        at=left.at,
        error=KILLED,
        rule="a night that begins says how it ends",
        value="its process ended without a word (killed, out of memory, or its machine stopped)",
        next_step=f"retrain run {left.use_case} --as-of {left.as_of} goes on where it stopped",
        exit_code=RetrainError.exit_code,
        flow_run=left.flow_run,
        settled_from=left.as_of,
        after=None,
    )


def _standing_in_ledger(settings: Settings, use_case: str, as_of: date | None) -> tuple[date | None, int | None]:
    """Which good nights settle a red night of this date (`settled_from`), and the ledger's newest entry (`after`).

    A night that ended before it knew its date had the ledger's newest date or a later one, so it is settled from there.
    The nights of a use case without dates are ordered by their numbers in the ledger alone.
    """
    try:
        entries = Ledger(open_store(settings.store), use_case).entries()
    except RetrainError:
        return as_of, None
    nights = [entry for entry in entries if isinstance(entry, NightEntry)]
    if nights and not _is_dated(nights[-1]):
        return None, len(entries)
    return as_of or max((night.as_of for night in nights), default=None), len(entries)


def _is_dated(entry: NightEntry) -> bool:
    model = entry.candidate or entry.champion
    return model is None or model.dated


def _settles(red: RedNight, entry: NightEntry) -> bool:
    """Whether the good night settles the red one. A red night's date after tomorrow comes from a wrong clock: it counts
    as tomorrow, so that the use case does not stay red until that date."""
    if red.settled_from is None or not _is_dated(entry):
        return True
    return entry.as_of >= min(red.settled_from, datetime.now(UTC).date() + timedelta(days=1))


def _is_settled(settings: Settings, red: RedNight) -> bool:
    """Whether the ledger has a later night that settles it. That night may not have been able to delete the note, which
    may lie in the home of another machine."""
    try:
        nights = Ledger(open_store(settings.store), red.use_case).nights()
    except RetrainError:
        return False
    after = len(nights) if red.after is None else red.after
    return any(night.seq > after and _settles(red, night) for night in nights)


def _keep_red(settings: Settings, red: RedNight) -> None:
    """Notes the red night, unless an unsettled one of a later date is noted already."""
    before = _red(settings, red.use_case)
    if before is None or _is_settled(settings, before) or not _is_newer(before, red):
        _write(settings, paths.red_night(red.use_case), red)


def _is_newer(one: RedNight, other: RedNight) -> bool:
    """Whether the first is of a later date; False if a date is not known."""
    return bool(one.settled_from and other.settled_from and one.settled_from > other.settled_from)


def _beginning(settings: Settings, use_case: str) -> Beginning | None:
    return _newest(settings, Beginning, paths.night_beginning(use_case), strict=False)


def _red(settings: Settings, use_case: str, *, strict: bool = False) -> RedNight | None:
    return _newest(settings, RedNight, paths.red_night(use_case), strict=strict)


def _newest(settings: Settings, kind: type[N], key: str, *, strict: bool) -> N | None:
    """The note under this key in the store or the home, the later one if both have it.

    If neither has it and a place did not answer, `strict` raises that place's error.
    """
    notes: list[N] = []
    refusal = None
    for place in _places(settings):
        try:
            note = unseal(kind, key, open_store(place).get(key))
        except RetrainError as error:
            refusal = refusal or error
        else:
            notes += [note] if note is not None else []
    if strict and refusal is not None and not notes:
        raise refusal
    return max(notes, key=lambda note: note.at, default=None)


def _write(settings: Settings, key: str, note: Any) -> None:
    """Writes the note into the first place that takes it; the log says which did not."""
    for place in _places(settings):
        try:
            return open_store(place).put(key, seal(note))
        except RetrainError as error:
            log.warning("The end of the night could not be noted in %s. %s", place, error)
    return None


def _delete(settings: Settings, key: str) -> None:
    for place in _places(settings):
        with suppress(RetrainError):
            open_store(place).delete(key)


def _places(settings: Settings) -> tuple[str, str]:
    """Where notes may lie, in the order of trying: the store and the home."""
    return settings.store, str(settings.home)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
