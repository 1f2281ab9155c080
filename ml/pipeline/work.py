"""Measures what a stage costs in time and memory, and how much of it had been done before."""

import resource
import time
from collections.abc import Callable
from typing import TypeVar

from ml.storage.records import Handle, Work, with_work

R = TypeVar("R")


def worked(stage: str, function: Callable[[], R]) -> tuple[R, Work]:
    """Runs the function as the stage `stage`. Returns its result and the work.

    If the result is a Handle, it says how much was reused, and the returned handle carries the work too.
    """
    start = time.perf_counter()
    result = function()
    seconds = round(time.perf_counter() - start, 3)
    if not isinstance(result, Handle):
        return result, Work(stage=stage, seconds=seconds, computed=1, peak_mb=_peak_mb())
    reused = result.work.reused
    computed = result.work.computed or int(not reused)
    work = Work(stage=stage, seconds=seconds, reused=reused, computed=computed, peak_mb=_peak_mb())
    return with_work(result, work), work


def _peak_mb() -> int:
    """The most resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
