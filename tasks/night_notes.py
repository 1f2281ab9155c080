"""What is noted of a night beside the ledger while it runs and where it ends red, by the flow and by the command."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta

from ml.errors import Busy, RetrainError
from ml.settings import Settings
from ml.storage import paths
from ml.storage.nights import forget_beginning, note_red, red_since
from ml.storage.store import open_store
from ml.use_case.loading import use_case_files

log = logging.getLogger("retrain.nights")


@contextmanager
def red_end_noted(
    settings: Settings,
    use_case: str,
    as_of: Callable[[], date | None],
    flow_run: str | None = None,
    no_ends: tuple[type[RetrainError], ...] = (Busy,),
) -> Iterator[None]:
    """Keeps what the night died of, for `status` and `doctor`, unless the flow that ran in here has done so.

    `no_ends` are errors that are no end of a night, as where another run is active; neither is a use case that nobody
    knows. The date is asked for at the end: a night finds its own.
    """
    since = datetime.now(UTC) - timedelta(milliseconds=1)  # as exact as notes are
    try:
        yield
    except no_ends:
        raise
    except Exception as error:
        if not red_since(settings, use_case, since) and _is_known(settings, use_case):
            note_red(settings, use_case, as_of(), error, flow_run=flow_run)
        raise


@contextmanager
def beginning_forgotten(settings: Settings, use_case: str) -> Iterator[None]:
    """Takes back, at the night's end, that it runs. A process that is told to end leaves it: it says no more."""
    from prefect.exceptions import TerminationSignal

    try:
        yield
    except TerminationSignal:
        raise
    except BaseException:
        forget_beginning(settings, use_case)
        raise
    else:
        forget_beginning(settings, use_case)


def _is_known(settings: Settings, name: str) -> bool:
    with suppress(RetrainError):
        if name in use_case_files(settings.project):
            return True
    with suppress(RetrainError):
        return bool(open_store(settings.store).keys(paths.ledger_folder(name)))
    return False
