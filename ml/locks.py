"""Locks among the processes of this machine. The kernel forgets those of a process that was killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ml.errors import Busy, RetrainError


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


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock at this moment."""
    try:
        with held_lock(path, 0, Busy("a lock is free", "it is held", "wait")):
            return True
    except Busy:
        return False
