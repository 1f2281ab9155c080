"""Locks between processes of this machine. They are files in the home, held through the kernel, which frees the lock of
a process that was killed. Nothing here works across machines.
"""

import platform
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ml.digests import digest_value
from ml.errors import Busy, RetrainError

WAIT_SECONDS = 0.5
MOVE_SECONDS = 60.0  # `retrain gc` may hold the lock for so long while it deletes


def run_lock(home: Path, name: str) -> Path:
    """The path of a lock. `name` is a use case for the lock of its nights, `<use case>.<as_of>` for one date, and
    `<use case>.backfill` for the process that drives a backfill."""
    return home / "locks" / f"{name}.lock"


def moves_lock(home: Path, use_case: str) -> Path:
    """The lock that is held while an operator's move is recorded and while versions are deleted, so that neither
    happens in the middle of the other."""
    return run_lock(home, f"moves-{use_case}")  # no use case has a - in its name


@contextmanager
def one_move_at_a_time(home: Path, use_case: str) -> Iterator[None]:
    """Holds the use case's moves lock. Raises Busy if another process holds it for longer than MOVE_SECONDS."""
    busy = Busy(
        f"{use_case} is moved by one command at a time", "another one is at it", "wait for it, then run it again"
    )
    with held_lock(moves_lock(home, use_case), MOVE_SECONDS, busy):
        yield


def holder_name(home: Path, name: str) -> str:
    """A label for flow runs that names their lock, this machine and this home: runs with equal labels share a lock."""
    return f"{name}:{digest_value([platform.node(), str(home)])[:12]}"


@contextmanager
def held_lock(path: Path, seconds: float, otherwise: RetrainError) -> Iterator[None]:
    """Holds the lock inside the context. Raises `otherwise` if it is not free within `seconds`; -1 waits for ever."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise otherwise from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def fit_turn(home: Path, *, nightly: bool) -> Iterator[None]:
    """Lets one model be fitted at a time on this machine, so that no GPU ever holds two. A night that waits goes before
    any date of a backfill."""
    turn, first = run_lock(home, "fit-turn"), run_lock(home, "fit-first")  # no use case has a - in its name
    busy = Busy("one model is fitted at a time", "another one is", "wait for it to end")
    with ExitStack() as stack:
        if nightly:
            with held_lock(first, -1, busy):
                stack.enter_context(held_lock(turn, -1, busy))
            yield
            return
        while True:
            with held_lock(turn, -1, busy):
                if is_free(first):
                    yield
                    return
            time.sleep(WAIT_SECONDS)


def in_turns(home: Path, use_case: str, months: Iterable[str]) -> Generator[str]:
    """Yields every month while holding its lock: first the months that are free, then those that another run held.

    Two runs that begin at once share the months between them: each does some, finds the others done, and waits at most
    for the month that the other run is working on.
    """
    busy = Busy("one run works on a month's data", "another one does", "wait for it to end")
    busy_months = []
    for month in months:
        try:
            with held_lock(run_lock(home, f"data-{use_case}.{month}"), 0, busy):
                yield month
        except Busy:
            busy_months.append(month)
    for month in busy_months:
        with held_lock(run_lock(home, f"data-{use_case}.{month}"), -1, busy):
            yield month


def is_active(home: Path, use_case: str) -> bool:
    """Whether this home runs a night, a backfill, or one date of a backfill of the use case."""
    run = run_lock(home, use_case)
    locks = [run, *run.parent.glob(f"{use_case}.*.lock")]
    return not all(is_free(path) for path in locks)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock at this moment. The lock's file is not created if it does not exist."""
    if not path.exists():
        return True
    try:
        with held_lock(path, 0, Busy("a lock is free", "it is held", "wait")):
            return True
    except Busy:
        return False
