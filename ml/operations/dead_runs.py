"""When a run is dead: no process executes it any more, and it was not noted that it ended.

A process that executes a run holds a lock, and writes on the run which lock of which machine that is. The kernel frees
the lock when the process ends, in whatever way. So for a run of this home the lock answers; for a run of another
machine only the time since it was last heard of.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ml.storage.locks import holder_name, is_free, run_lock

STARTS_WITHIN = timedelta(minutes=30)  # a process starts within seconds, but a container may fetch its image first
SILENT = timedelta(minutes=15)  # Prefect sends a sign of life for every run each three minutes


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What is known of a run that is not noted as ended.

    `lock` is what the run noted about its lock, as `holder_name` writes it. `about_to_start` is the time since when it
    is to start; None if it has begun. `last_heard` is the time of its last sign of life; None if nobody asked for it.
    """

    lock: str = ""
    about_to_start: datetime | None = None
    last_heard: datetime | None = None


def is_dead(home: Path, run: Signs, *, held: str = "") -> bool:
    """Whether nobody executes the run any more. `held` names a lock that the caller holds, so that the run does not.

    Returns False if nothing can be said: the run is of another machine, and nobody asked for its last sign of life.
    """
    now = datetime.now(UTC)
    if run.about_to_start is not None:  # then `lock` may be a note of an earlier attempt
        return now - run.about_to_start > STARTS_WITHIN
    if run.last_heard is not None and now - run.last_heard < SILENT:
        return False
    name = run.lock.split(":")[0]
    if run.lock and run.lock == holder_name(home, name):
        return name == held or is_free(run_lock(home, name))
    return run.last_heard is not None
