"""The embedded databases of Prefect and MLflow as files: how they are copied, told from empty ones, and moved.

It reads their tables by name and starts neither library. What is a secret in them never enters a copy.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from ml.errors import Corrupt, RegistryUnavailable
from ml.settings import Settings

LOCKED_SECONDS = 30.0  # a night holds a database's lock for milliseconds
FOLLOWERS = ("", "-wal", "-shm", "-journal")  # a database is its file and what sqlite writes beside it

# A database is in use as soon as one of these tables has a row. What an empty server writes at its start is not named.
USED = {
    "mlflow": ("runs", "registered_models", "logged_models", "trace_info"),
    "prefect": ("flow_run", "block_document", "automation"),
}
# Prefect keeps a block's secrets encrypted, and their key in the same database (`configuration`). An automation that
# calls a block could only fail without it. MLflow keeps passwords of gateways and of webhooks.
SECRETS = {
    "mlflow": (
        "UPDATE model_definitions SET secret_id = NULL",
        "DELETE FROM secrets",
        "DELETE FROM webhook_events",
        "DELETE FROM webhooks",
    ),
    "prefect": (
        "DELETE FROM automation WHERE actions LIKE '%block_document_id%'"
        " OR actions_on_trigger LIKE '%block_document_id%' OR actions_on_resolve LIKE '%block_document_id%'",
        "DELETE FROM automation_related_resource WHERE automation_id NOT IN (SELECT id FROM automation)",
        "DELETE FROM automation_bucket WHERE automation_id NOT IN (SELECT id FROM automation)",
        "DELETE FROM composite_trigger_child_firing WHERE automation_id NOT IN (SELECT id FROM automation)",
        "UPDATE deployment SET storage_document_id = NULL, infrastructure_document_id = NULL",
        "UPDATE flow_run SET infrastructure_document_id = NULL",
        "DELETE FROM block_document_reference",
        "DELETE FROM block_document",
        "DELETE FROM configuration",
        "DELETE FROM csrf_token",
    ),
}
HOLDERS = {"mlflow": ("secrets", "webhooks"), "prefect": ("block_document",)}  # of what a person must set up again
# Where MLflow writes down whole addresses of files in the store.
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
    ("trace_tags", "value"),
)


def database_files(settings: Settings) -> dict[str, Path]:
    """The embedded databases by name; one that is PostgreSQL's or another server's is none of them."""
    files = {}
    if settings.tracking_uri.startswith("sqlite:///"):
        files["mlflow"] = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    if prefect_elsewhere() is None:
        files["prefect"] = settings.home / "prefect" / "prefect.db"
    return files


def prefect_elsewhere() -> str | None:
    """The variable that says that Prefect's database is not the home's, if one does."""
    names = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_API_URL")
    return next((name for name in names if os.environ.get(name)), None)


def copy_database(name: str, source: Path, target: Path) -> bool:
    """Copies the database as it is at one moment while others write to it. Returns whether secrets were left out of it.

    Raises RegistryUnavailable for one that stays locked, Corrupt for one that is damaged.
    """
    with _sentences(source), _open(source) as live, _open(target) as copy:
        live.backup(copy)
        _require_sound(copy, source)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, whatever the source writes beside it
        had_secrets = any(_has_rows(copy, table) for table in HOLDERS[name])
        for statement in SECRETS[name]:
            _without(copy, statement)
        copy.commit()
        copy.execute("VACUUM")  # or what was deleted would still stand in the file's free pages
    return had_secrets


def _without(database: sqlite3.Connection, statement: str) -> None:
    """Carries out a deletion. A table that this version of the library lacks holds no secret."""
    try:
        database.execute(statement)
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise


def is_lost(name: str, file: Path) -> bool:
    """Whether nothing is in the database: it is not there, it is damaged, or a command has made an empty one since."""
    if not file.is_file():
        return True
    try:
        with _open(file) as database:
            _require_sound(database, file)
            return not any(_has_rows(database, table) for table in USED[name])
    except (sqlite3.DatabaseError, Corrupt) as error:
        if isinstance(error, sqlite3.OperationalError):  # locked, or not to be read: nothing is known of it
            raise _unavailable(file, error) from error
        return True


def _has_rows(database: sqlite3.Connection, table: str) -> bool:
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
        return False
    return database.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() is not None


def relocate(file: Path, old: str, new: str) -> int:
    """Rewrites MLflow's addresses of files below the store `old` to the store `new`; how many there were.

    MLflow stores whole addresses, so that its models would not load from a store that lies elsewhere.
    """
    moved = {old: new, f"file://{old}": new if "://" in new else f"file://{new}"}
    with _sentences(file), _open(file) as database:
        count = sum(_moved(database, place, pair) for place in LOCATIONS for pair in moved.items())
        database.commit()
    return count


def _moved(database: sqlite3.Connection, place: tuple[str, str], pair: tuple[str, str]) -> int:
    (table, column), (old, new) = place, pair
    if not database.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone():
        return 0
    statement = (
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?"
    )
    return database.execute(statement, (new, len(old) + 1, old, len(old) + 1, f"{old}/")).rowcount


def place_database(copy: Path, file: Path, aside: str) -> Path | None:
    """Puts the copy where the database belongs; what was there is kept beside it, under the name `aside`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = file.with_name(f"{file.name}.{aside}") if file.exists() else None
    for suffix in reversed(FOLLOWERS):  # the file itself last: a half-moved database is a lost one, and found as such
        there = file.with_name(file.name + suffix)
        if there.exists():
            there.replace(file.with_name(f"{file.name}.{aside}{suffix}"))
    copy.replace(file)
    return kept


def _require_sound(database: sqlite3.Connection, file: Path) -> None:
    answer = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if answer != "ok":
        raise Corrupt("a database is whole", f"{file} is damaged", "retrain restore FILE, with an earlier backup")


@contextmanager
def _open(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, timeout=LOCKED_SECONDS)) as database:
        yield database


@contextmanager
def _sentences(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unavailable(file, error) from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(
            "a database is whole", f"{file}: {error}", "retrain restore FILE, with an earlier backup"
        ) from error


def _unavailable(file: Path, error: sqlite3.Error) -> RegistryUnavailable:
    return RegistryUnavailable(
        "a database can be read", f"{file}: {error}", "wait until nobody locks it, and try again"
    )


def older_libraries(written_by: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Libraries that are older here than where the databases were written: they could not read them."""
    from packaging.version import Version

    return [name for name, version in written_by.items() if name in here and Version(here[name]) < Version(version)]
