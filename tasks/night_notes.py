"""Notes about a night beside the ledger: that it runs, and what it died of if it ended red.

The flow and the command write them; `status` and `doctor` read them.
"""

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
    """If an error ends the night, notes it for `status` and `doctor`, unless a flow inside of this context has done so.

    Errors in `no_ends` do not end a night: for example, another run was active. Nothing is noted of an unknown use
    case either. `as_of` is called only after the error, because a night without a date finds its date while it runs.
    """
    since = datetime.now(UTC) - timedelta(milliseconds=1)  # the times of notes are exact to a millisecond
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
    """Removes the note that the night runs when it ends.

    A process that is told to end leaves the note behind. So the night counts as killed, for it cannot say what became
    of it.
    """
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
    """Whether the use case has a file or a ledger. False if neither can be read."""
    with suppress(RetrainError):
        if name in use_case_files(settings.project):
            return True
    with suppress(RetrainError):
        return bool(open_store(settings.store).keys(paths.ledger_folder(name)))
    return False
