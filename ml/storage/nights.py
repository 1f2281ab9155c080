"""What is noted of nights beside the ledger: the beginning of the one that runs, and the last one that ended red.

The ledger knows only nights that decided something. A note is one small object per use case: a beginning that nobody
runs any more is what a killed night leaves, for it could write nothing itself. Notes lie in the store, and where that
does not take them, as on the night that died of it, in the home. They hold our own sentences, and so no values of rows.
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
SILENT = timedelta(days=2)  # no night of another machine takes so long
N = TypeVar("N", "Beginning", "RedNight")


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A night that runs: `holder` names the machine and home whose lock it holds, `flow_run` is Prefect's id of it."""

    use_case: str
    as_of: date
    at: str
    holder: str
    flow_run: str | None


@dataclass(frozen=True, kw_only=True)
class RedNight:
    """A night that ended with an error: the three parts of its sentence, and where to read more.

    A good night of `settled_from` or of a later date settles it; any good night, where that is None. `after` is the
    ledger's newest entry when it ended; None where the ledger could not be read.
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
        ended = "was killed" if self.error == KILLED else "ended red"
        kind = "" if self.error == KILLED else f" ({self.error})"
        return f"{night} {ended} on {self.at[:16].replace('T', ' ')} UTC{kind}: {self.rule}, but {self.value}"


def note_beginning(settings: Settings, use_case: str, as_of: date, flow_run: str | None) -> None:
    """Says that a night runs. To be called while holding the lock of its use case: a beginning of this machine that is
    still there is of a process that was killed."""
    holder = holder_name(settings.home, use_case)
    left = _beginning(settings, use_case)
    if left is not None and left.holder == holder:
        _keep_red(settings, killed(left))
    began = Beginning(use_case=use_case, as_of=as_of, at=_now(), holder=holder, flow_run=flow_run)
    _write(settings, paths.night_beginning(use_case), began)


def forget_beginning(settings: Settings, use_case: str) -> None:
    """To be called when the night has ended, before its lock is given back. Another machine's stays."""
    left = _beginning(settings, use_case)
    if left is not None and left.holder == holder_name(settings.home, use_case):
        _delete(settings, paths.night_beginning(use_case))


def note_red(
    settings: Settings, use_case: str, as_of: date | None, error: Exception, *, flow_run: str | None = None
) -> None:
    """Keeps what a night died of. Whatever goes wrong with that is a line of the log: the night's own error stands."""
    told = error if isinstance(error, RetrainError) else unforeseen(error)
    again = f"retrain run {use_case}" + (f" --as-of {as_of}" if as_of else "")
    next_step = f"{again} --debug shows it" if isinstance(told, Unforeseen) else told.next_step
    settled_from, after = _standing_in_ledger(settings, use_case, as_of)
    _keep_red(
        settings,
        RedNight(
            use_case=use_case, as_of=as_of, at=_now(), error=type(told).__name__, rule=told.rule, value=told.value,
            next_step=next_step, exit_code=told.exit_code, flow_run=flow_run, settled_from=settled_from,
            after=after,
        ),
    )  # fmt: skip


def settle(settings: Settings, entry: NightEntry) -> None:
    """To be called at a night's good end, a replay's too: an older red night is over with it, a newer one is not."""
    red = _red(settings, entry.use_case)
    if red is not None and _settles(red, entry):
        _delete(settings, paths.red_night(entry.use_case))


def last_red(settings: Settings, use_case: str) -> RedNight | None:
    """What the last red night died of, if no good night has settled it since.

    Raises Unavailable where the store does not answer and the home has no note.
    """
    red = _red(settings, use_case, strict=True)
    return None if red is None or _is_settled(settings, red) else red


def left_behind(settings: Settings, use_case: str, is_over: Callable[[Beginning], bool]) -> Beginning | None:
    """The beginning of a night that nobody runs any more; of another machine's, `is_over` knows more than its age.

    Read again behind the lock: a night may end, or begin, while one looks.
    """
    left = _beginning(settings, use_case)
    if left is None:
        return None
    if left.holder != holder_name(settings.home, use_case):
        old = datetime.now(UTC) - datetime.fromisoformat(left.at) > SILENT
        return left if old or is_over(left) else None
    free = is_free(run_lock(settings.home, use_case))
    return left if free and left == _beginning(settings, use_case) else None


def red_since(settings: Settings, use_case: str, since: datetime) -> bool:
    """Whether a red end was noted since then."""
    red = _red(settings, use_case)
    return red is not None and datetime.fromisoformat(red.at) >= since


def killed(left: Beginning) -> RedNight:
    """What is told of a night whose process ended without a word."""
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
    """From which date on a good night settles a red one of this date, and the ledger's newest entry.

    A night that died before it knew its date is of the ledger's newest date or of a later one. Nights without dates are
    ordered by the ledger's numbers.
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
    """A date that is still to come is a wrong clock's, and must not stay red until then."""
    if red.settled_from is None or not _is_dated(entry):
        return True
    return entry.as_of >= min(red.settled_from, datetime.now(UTC).date() + timedelta(days=1))


def _is_settled(settings: Settings, red: RedNight) -> bool:
    """Whether the ledger has a later night that settles it: the note may lie in the home of another machine."""
    try:
        nights = Ledger(open_store(settings.store), red.use_case).nights()
    except RetrainError:
        return False
    after = len(nights) if red.after is None else red.after
    return any(night.seq > after and _settles(red, night) for night in nights)


def _keep_red(settings: Settings, red: RedNight) -> None:
    """What a night of an older date died of does not take the place of a newer one's."""
    before = _red(settings, red.use_case)
    if before is None or _is_settled(settings, before) or not _is_newer(before, red):
        _write(settings, paths.red_night(red.use_case), red)


def _is_newer(one: RedNight, other: RedNight) -> bool:
    return bool(one.settled_from and other.settled_from and one.settled_from > other.settled_from)


def _beginning(settings: Settings, use_case: str) -> Beginning | None:
    return _newest(settings, Beginning, paths.night_beginning(use_case), strict=False)


def _red(settings: Settings, use_case: str, *, strict: bool = False) -> RedNight | None:
    return _newest(settings, RedNight, paths.red_night(use_case), strict=strict)


def _newest(settings: Settings, kind: type[N], key: str, *, strict: bool) -> N | None:
    """The note, in the store or the home; of two the later one. `strict` raises what the store says if neither has
    it."""
    notes, refusal = [], None
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
    return settings.store, str(settings.home)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
