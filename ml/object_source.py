"""Objects in S3, brought as the files of a folder."""

from ml.brought import BroughtFolder
from ml.config import Source
from ml.digests import write_whole
from ml.sources import DAY_FILE, HIVE, KINDS, is_hidden
from ml.store import S3Store, open_store


def bring_objects(source: Source, folder: BroughtFolder) -> None:
    """An object is fetched again only where its ETag changed, which follows from its bytes."""
    store = open_store(source.folder)
    assert isinstance(store, S3Store)
    now = {key: etag for key, etag in store.etags().items() if _is_of_a_day(key)}
    before = folder.source or {}
    for key in sorted(now):
        if now[key] != before.get(key) or key not in folder.intact:
            data = store.get(key)
            if data is None:  # it went between the list and now
                del now[key]
            else:
                write_whole(folder.path / key, data)
    folder.keep(now, now)


def _is_of_a_day(key: str) -> bool:
    """Whether such a file in a folder would be listed, or refused; consoles and Spark keep marks of their own."""
    day, _, rest = key.partition("/")
    if not rest:
        return DAY_FILE.fullmatch(day) is not None
    return HIVE.fullmatch(day) is not None and rest.endswith(KINDS) and not any(map(is_hidden, rest.split("/")))
