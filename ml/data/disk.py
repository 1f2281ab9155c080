"""Errors of a disk while something is read. They may pass by themselves, and say nothing about the data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml.errors import SourceUnavailable


@contextmanager
def reading_from(place: Path) -> Iterator[None]:
    """Turns an error of the disk at this place into SourceUnavailable, which is tried again."""
    try:
        yield
    except OSError as error:
        raise SourceUnavailable(
            f"{place} must be readable", f"{error.strerror or error}", "give access, or wait for the disk"
        ) from error
