"""When a run is dead: nobody executes it any more, and nobody has said so.

A process that executes a run holds a lock, and notes on the run which lock of which machine that is. The kernel frees
the lock when the process ends, however it ends. So the lock answers for runs of this home; time alone for others.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ml.storage.locks import holder_name, is_free, run_lock

STARTS_WITHIN = timedelta(minutes=30)  # a process does in seconds; a container may fetch its image first
SILENT = timedelta(minutes=15)  # a run that Prefect executes says every three that it is there


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What is known of a run that has not ended: the lock that it noted, as `holder_name` writes it; since when it has
    been about to start (None: it began); and when it was last heard of (None: nobody asked)."""

    lock: str = ""
    about_to_start: datetime | None = None
    last_heard: datetime | None = None


def is_dead(home: Path, run: Signs, *, held: str = "") -> bool:
    """Whether nobody executes the run any more. `held` names a lock that the asker holds: then the run does not.

    False where nothing can be said: a run of another machine of which nobody asked when it was last heard of.
    """
    now = datetime.now(UTC)
    if run.about_to_start is not None:  # it may still have the note of its last attempt's lock
        return now - run.about_to_start > STARTS_WITHIN
    if run.last_heard is not None and now - run.last_heard < SILENT:
        return False
    name = run.lock.split(":")[0]
    if run.lock and run.lock == holder_name(home, name):
        return name == held or is_free(run_lock(home, name))
    return run.last_heard is not None
