"""Copies sources that are no folder on this disk into one: objects in S3, one file of all days, a database, or a
company's own kind.

The folder lies in RETRAIN_HOME/cache/sources. Something is fetched again only if it changed at the source, or if its
copy is no longer as it was written. A source without any data is refused.
"""

from ml.data.dataset import Reading
from ml.data.disk import reading_from
from ml.data.source_kinds import DatabaseSource, DaySource, FileSource, RowSource, Source
from ml.data.sources.brought import BroughtFolder
from ml.data.sources.database import bring_rows
from ml.data.sources.days import bring_days
from ml.data.sources.file import bring_file
from ml.data.sources.folder import DayFiles, Listing, listed, refuse_empty, source_folder
from ml.data.sources.objects import bring_objects
from ml.errors import Busy, DataRejected
from ml.serving.columns import Column
from ml.settings import Settings
from ml.storage.locks import held_lock


def bring(
    settings: Settings, source: RowSource, columns: tuple[Column, ...], time_zone: str = "UTC"
) -> BroughtFolder | None:
    """Brings the source into its folder, which then has what the source has now; None if it is read where it lies.

    Raises SourceUnavailable if the source does not answer, DataRejected or ConfigError if it is not as declared.
    """
    if isinstance(source, Source) and source.is_on_disk:
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
        elif isinstance(source, DaySource):
            bring_days(source, settings.data, folder)
        else:
            assert isinstance(source, Source), source
            bring_objects(source, folder)
        folder.digests.save()
    return folder


def listing(settings: Settings, use_case: Reading, source: RowSource) -> Listing:
    """What the source has now, and what of it belongs to no day. Raises DataRejected if it has nothing."""
    place = source.words(settings.data)
    brought = bring(settings, source, use_case.columns, use_case.time_zone)
    if brought is None:
        _refuse_missing_folder(settings, source)
    listing_now = listed(source_folder(settings, source, use_case.time_zone, use_case.columns), place)
    if brought is not None:
        days = {day: files for day, files in listing_now.days.items() if day not in brought.unusable}
        unusable, left_out = listing_now.unusable | brought.unusable, (*brought.left_out, *listing_now.left_out)
        listing_now = Listing(days, unusable, left_out)
    refuse_empty(listing_now, place)
    return listing_now


def _refuse_missing_folder(settings: Settings, source: RowSource) -> None:
    folder = source_folder(settings, source)
    with reading_from(folder):
        if folder.exists():
            return
    raise DataRejected("the folder of a source must be there", f"there is no {folder}", "make it, or mend the source")


def partition_files(settings: Settings, use_case: Reading, source: RowSource) -> dict[str, DayFiles]:
    """The files of each day (or of `all`), in date order, as the source has them now."""
    return listing(settings, use_case, source).days
