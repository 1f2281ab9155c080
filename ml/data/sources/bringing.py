"""Sources that are no folder on this disk, brought into one: objects in S3, one file of all days, a database.

It lies in RETRAIN_HOME/cache/sources. Only what changed at the source, or is no longer here as it was brought, is
fetched again.
"""

from ml.data.dataset import Reading
from ml.data.declared_sources import DatabaseSource, FileSource, Source
from ml.data.disk import reading_from
from ml.data.sources.brought import BroughtFolder
from ml.data.sources.database import bring_rows
from ml.data.sources.file import bring_file
from ml.data.sources.folder import AnySource, DayFiles, Listing, listed, refuse_empty, source_folder, source_words
from ml.data.sources.objects import bring_objects
from ml.errors import Busy, DataRejected
from ml.serving.columns import Column
from ml.settings import Settings
from ml.storage.locks import held_lock


def bring(
    settings: Settings, source: AnySource, columns: tuple[Column, ...], time_zone: str = "UTC"
) -> BroughtFolder | None:
    """The source's folder, with what it holds now; None for one that is read where it lies. Raises SourceUnavailable,
    DataRejected or ConfigError."""
    if isinstance(source, Source) and not source.folder.startswith("s3://"):
        return None
    path = source_folder(settings, source, time_zone, columns)
    busy = Busy("a source is brought by one run at a time", "another one brings it", "wait for it to end")
    with held_lock(path.with_name(f"{path.name}.lock"), -1, busy):
        folder = BroughtFolder(path)
        if isinstance(source, FileSource):
            with reading_from(settings.data / source.file):
                bring_file(settings.data / source.file, source, columns, time_zone, folder, settings.batch_bytes)
        elif isinstance(source, DatabaseSource):
            bring_rows(source, columns, time_zone, folder)
        else:
            bring_objects(source, folder)
        folder.digests.save()
    return folder


def listing(settings: Settings, use_case: Reading, source: AnySource) -> Listing:
    """What the source has now, and what of it belongs to no day. Raises DataRejected where it has nothing."""
    place = source_words(settings, source)
    brought = bring(settings, source, use_case.columns, use_case.time_zone)
    if brought is None:
        _refuse_missing_folder(settings, source)
    found = listed(source_folder(settings, source, use_case.time_zone, use_case.columns), place)
    if brought is not None:
        days = {day: files for day, files in found.days.items() if day not in brought.unusable}
        found = Listing(days, found.unusable | brought.unusable, (*brought.left_out, *found.left_out))
    refuse_empty(found, place)
    return found


def _refuse_missing_folder(settings: Settings, source: AnySource) -> None:
    folder = source_folder(settings, source)
    with reading_from(folder):
        if folder.exists():
            return
    raise DataRejected("the folder of a source must be there", f"there is no {folder}", "make it, or mend the source")


def partition_files(settings: Settings, use_case: Reading, source: AnySource) -> dict[str, DayFiles]:
    """Day (or `all`) to its files, in date order, as the source has them now."""
    return listing(settings, use_case, source).days
