"""Locks among the processes of this machine. The kernel forgets those of a process that was killed."""

import platform
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ml.digests import digest_value
from ml.errors import Busy, RetrainError

WAIT_SECONDS = 0.5
MOVE_SECONDS = 60.0  # gc deletes for so long, perhaps


def run_lock(home: Path, name: str) -> Path:
    """The lock of a use case's nights; of one date as `<use case>.<as_of>`, of a backfill's driver `.backfill`."""
    return home / "locks" / f"{name}.lock"


def moves_lock(home: Path, use_case: str) -> Path:
    """Held while an operator's move is recorded, and while versions are deleted: each sees what the other did."""
    return run_lock(home, f"moves-{use_case}")  # no use case has a - in its name


@contextmanager
def one_move_at_a_time(home: Path, use_case: str) -> Iterator[None]:
    """Raises Busy where another move, or a deletion, takes longer than MOVE_SECONDS."""
    busy = Busy(
        f"{use_case} is moved by one command at a time", "another one is at it", "wait for it, then run it again"
    )
    with held_lock(moves_lock(home, use_case), MOVE_SECONDS, busy):
        yield


def holder_name(home: Path, name: str) -> str:
    """What flow runs that share one lock have as a label: those of this name, machine and home."""
    return f"{name}:{digest_value([platform.node(), str(home)])[:12]}"


@contextmanager
def held_lock(path: Path, seconds: float, otherwise: RetrainError) -> Iterator[None]:
    """Holds the lock for the time of the context; raises `otherwise` if it is not free within so many seconds."""
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
    """One fit at a time on this machine, so that no GPU ever holds two; a nightly's goes before any of a backfill."""
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
    """Every month while no other run of this machine works on its data: first those that are free, then the others.

    So of two runs that begin at once each does some months and finds the others done, and none waits for longer than
    for the one month that it wants too.
    """
    busy = Busy("one run works on a month's data", "another one does", "wait for it to end")
    held = []
    for month in months:
        try:
            with held_lock(run_lock(home, f"data-{use_case}.{month}"), 0, busy):
                yield month
        except Busy:
            held.append(month)
    for month in held:
        with held_lock(run_lock(home, f"data-{use_case}.{month}"), -1, busy):
            yield month


def is_active(home: Path, use_case: str) -> bool:
    """Whether a night, a date of a backfill, or a backfill of the use case goes on in this home."""
    run = run_lock(home, use_case)
    locks = [run, *run.parent.glob(f"{use_case}.*.lock")]
    return not all(is_free(path) for path in locks)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock at this moment. One that was never taken is not made by looking."""
    if not path.exists():
        return True
    try:
        with held_lock(path, 0, Busy("a lock is free", "it is held", "wait")):
            return True
    except Busy:
        return False
