"""The decorator that makes a Prefect task of a stage: its name, its retries, its cost, and its errors in our words."""

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
OPTIONS = {"return_state", "wait_for"}  # keyword arguments that are Prefect's own
P = ParamSpec("P")
R = TypeVar("R")


class Stage(Task[P, R]):
    """A task whose arguments Prefect does not search for results of other tasks, for they may have thousands of parts.

    An argument that is itself the result of a task still becomes an arrow in Prefect's picture of the run. The night is
    an exception: every stage takes it, and so many arrows would hide the order of the stages.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wrapped: Any = {name: opaque(unlinked(value)) for name, value in kwargs.items() if name not in OPTIONS}
        options: Any = {name: value for name, value in kwargs.items() if name in OPTIONS}
        plain: Any = (opaque(unlinked(value)) for value in args)
        return super().__call__(*plain, **wrapped, **options)


def unlinked(value: object) -> object:
    """A copy of a night, which Prefect does not recognise as a task's result; any other value as it is."""
    return replace(value) if isinstance(value, Night) else value


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether to retry: only if the store, the registry or a server is unavailable. Other errors would come again."""
    del task, run
    error = state.result(raise_on_failure=False)
    if isinstance(error, Unavailable):
        log.warning("%s (tried again up to %d times)", error, RETRIES)
    return isinstance(error, Unavailable)


def stage(name: str, *, timeout_seconds: float) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Makes a task of this name.

    What a call cost is noted for the run's table, and in the handle if it returns one. A library's error becomes ours.
    """

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
