"""A disk that is read: one that does not answer says nothing about data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml.errors import SourceUnavailable


@contextmanager
def reading_from(place: Path) -> Iterator[None]:
    """A disk that does not answer is no verdict on data."""
    try:
        yield
    except OSError as error:
        raise SourceUnavailable(
            f"{place} must be readable", f"{error.strerror or error}", "give access, or wait for the disk"
        ) from error
