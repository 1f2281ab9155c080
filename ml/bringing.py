"""Sources that are no folder on this disk, brought into one: objects in S3, one file of all days, a database.

It lies in RETRAIN_HOME/cache/sources. Only what changed at the source, or is no longer here as it was brought, is
fetched again.
"""

from pathlib import Path

from ml.brought import BroughtFolder
from ml.config import DatabaseSource, FileSource, Source, UseCase
from ml.database_source import bring_rows
from ml.errors import Busy
from ml.file_source import bring_file
from ml.locks import held_lock
from ml.object_source import bring_objects
from ml.serving.columns import Column
from ml.settings import Settings
from ml.sources import AnySource, DayFiles, listed, reading, source_folder


def bring(settings: Settings, source: AnySource, columns: tuple[Column, ...], time_zone: str = "UTC") -> Path:
    """The source's folder, with what it holds now. Raises SourceUnavailable, DataRejected or ConfigError."""
    path = source_folder(settings, source)
    if isinstance(source, Source) and not source.folder.startswith("s3://"):
        return path
    busy = Busy("a source is brought by one run at a time", "another one brings it", "wait for it to end")
    with held_lock(path.with_name(f"{path.name}.lock"), -1, busy):
        folder = BroughtFolder(path)
        if isinstance(source, FileSource):
            with reading(settings.data / source.file):
                bring_file(settings.data / source.file, source, columns, time_zone, folder, settings.batch_bytes)
        elif isinstance(source, DatabaseSource):
            bring_rows(source, columns, folder)
        else:
            bring_objects(source, folder)
        folder.digests.save()
    return path


def partition_files(settings: Settings, use_case: UseCase, source: AnySource) -> dict[str, DayFiles]:
    """Day (or `all`) to its files, in date order, as the source has them now."""
    return listed(bring(settings, source, use_case.columns, use_case.time_zone))
