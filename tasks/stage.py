"""How a stage becomes a Prefect task."""

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import opaque

from ml.errors import Unavailable
from ml.pipeline.work import worked
from ml.storage.records import Night
from tasks.flow_run import in_our_words, note_work

log = logging.getLogger("retrain.stage")
RETRIES = 3
OPTIONS = {"return_state", "wait_for"}  # Prefect's own
P = ParamSpec("P")
R = TypeVar("R")


class Stage(Task[P, R]):
    """A task within whose arguments Prefect does not look for other tasks' results: a window's have thousands of
    parts. An argument that is itself a result is still shown as one, but for the night, which every stage takes: its
    arrows to all of them would hide in which order they come."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wrapped: Any = {name: opaque(unlinked(value)) for name, value in kwargs.items() if name not in OPTIONS}
        options: Any = {name: value for name, value in kwargs.items() if name in OPTIONS}
        plain: Any = (opaque(unlinked(value)) for value in args)
        return super().__call__(*plain, **wrapped, **options)


def unlinked(value: object) -> object:
    """A night as an object of its own: Prefect knows a result by where it lies in memory."""
    return replace(value) if isinstance(value, Night) else value


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Only an unavailable store, registry or server is worth a retry; data and gates answer the same again."""
    del task, run
    error = state.result(raise_on_failure=False)
    if isinstance(error, Unavailable):
        log.warning("%s (tried again up to %d times)", error, RETRIES)
    return isinstance(error, Unavailable)


def stage(name: str, *, timeout_seconds: float) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task of that name; a returned handle carries the seconds that it took, and a raised error is ours."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with in_our_words():
                result, work = worked(name, lambda: function(*args, **kwargs))
            note_work(work)
            return result

        return Stage(
            timed,
            name=name,
            task_run_name=name,
            retries=RETRIES,
            retry_delay_seconds=exponential_backoff(backoff_factor=2),
            retry_jitter_factor=0.5,
            retry_condition_fn=is_transient,
            timeout_seconds=timeout_seconds,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    return decorate
