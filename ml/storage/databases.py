"""The SQLite databases of Prefect and MLflow as files: how to copy them, move them, and tell a used from an empty one.

Tables are read by their names; neither library is started. A copy never contains the secrets of a database. Databases
on a server, such as PostgreSQL, are not handled here.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from ml.errors import Corrupt, RegistryUnavailable
from ml.settings import Settings

LOCKED_SECONDS = 30.0  # a night holds a database's lock for milliseconds
FOLLOWERS = ("", "-wal", "-shm", "-journal")  # suffixes of the files that make up one SQLite database

# A database is in use if one of these tables has a row. A server that starts with an empty database writes to others.
USED = {
    "mlflow": ("runs", "registered_models", "logged_models", "trace_info"),
    "prefect": ("flow_run", "block_document", "automation"),
}
# Statements that remove the secrets from a copy. Prefect encrypts the secrets of blocks, but keeps the key in the same
# database (table `configuration`). Automations that call a block are removed too: without it they could only fail.
# MLflow keeps the passwords of gateways and webhooks.
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
# Tables that hold secrets. If one has rows, a person must set up its contents again after a restore.
HOLDERS = {"mlflow": ("secrets", "webhooks"), "prefect": ("block_document",)}
# Tables and columns in which MLflow keeps absolute addresses of files in the store.
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
    ("trace_tags", "value"),
)


def lost_mlflow(settings: Settings) -> Path | None:
    """MLflow's database file if it is not there; None if it is, or if MLflow keeps its database elsewhere.

    A command that only reads does not ask MLflow then, because MLflow would make a new and empty database.
    """
    file = database_files(settings).get("mlflow")
    return file if file is not None and not file.exists() else None


def database_files(settings: Settings) -> dict[str, Path]:
    """The SQLite databases of this installation, by name. A database on a server is not among them."""
    files = {}
    if settings.tracking_uri.startswith("sqlite:///"):
        files["mlflow"] = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    if prefect_elsewhere() is None:
        files["prefect"] = settings.home / "prefect" / "prefect.db"
    return files


def prefect_elsewhere() -> str | None:
    """The environment variable that puts Prefect's database outside of the home; None if no variable does."""
    names = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_API_URL")
    return next((name for name in names if os.environ.get(name)), None)


def copy_database(name: str, source: Path, target: Path) -> bool:
    """Copies the database as it is at one moment, although others may write to it. Returns whether it had secrets,
    which the copy lacks.

    Raises RegistryUnavailable if the database stays locked, Corrupt if it is damaged.
    """
    with _sentences(source), _open(source) as live, _open(target) as copy:
        live.backup(copy)
        _require_sound(copy, source)
        copy.execute("PRAGMA journal_mode = DELETE")  # so that the copy is one file
        had_secrets = any(_has_rows(copy, table) for table in HOLDERS[name])
        for statement in SECRETS[name]:
            _execute_if_table_exists(copy, statement)
        copy.commit()
        copy.execute("VACUUM")  # otherwise the free pages of the file would still contain what was deleted
    return had_secrets


def _execute_if_table_exists(database: sqlite3.Connection, statement: str) -> None:
    """Other versions of the library may lack the table or the column, which then holds no secret."""
    try:
        database.execute(statement)
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise


def is_lost(name: str, file: Path) -> bool:
    """Whether the database holds nothing: its file is missing or damaged, or a server has created it anew and empty.

    Raises RegistryUnavailable if it cannot be read now, for example because it is locked.
    """
    if not file.is_file():
        return True
    try:
        with _open(file) as database:
            _require_sound(database, file)
            return not any(_has_rows(database, table) for table in USED[name])
    except (sqlite3.DatabaseError, Corrupt) as error:
        if isinstance(error, sqlite3.OperationalError):  # locked or unreadable, which says nothing about its contents
            raise _unavailable(file, error) from error
        return True


def _has_rows(database: sqlite3.Connection, table: str) -> bool:
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
        return False
    return database.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() is not None


def relocate(file: Path, old: str, new: str) -> int:
    """Changes MLflow's addresses of files in the store `old` to the store `new`. Returns how many it changed.

    MLflow keeps absolute addresses, so without this its models would not load after the store moved.
    """
    new_by_old = {old: new, f"file://{old}": new if "://" in new else f"file://{new}"}
    with _sentences(file), _open(file) as database:
        count = sum(_relocate_column(database, place, pair) for place in LOCATIONS for pair in new_by_old.items())
        database.commit()
    return count


def _relocate_column(database: sqlite3.Connection, place: tuple[str, str], pair: tuple[str, str]) -> int:
    """Changes the addresses in one column; `place` is (table, column), `pair` is (old, new)."""
    (table, column), (old, new) = place, pair
    if not database.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone():
        return 0
    statement = (
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?"
    )
    return database.execute(statement, (new, len(old) + 1, old, len(old) + 1, f"{old}/")).rowcount


def place_database(copy: Path, file: Path, aside: str) -> Path | None:
    """Moves the copy to where the database belongs. A database that was there is renamed to end in `.{aside}`; the path
    of that file is returned, None if there was none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = file.with_name(f"{file.name}.{aside}") if file.exists() else None
    for suffix in reversed(FOLLOWERS):  # the main file last: if this is cut off, a restore finds it lost again
        part = file.with_name(file.name + suffix)
        if part.exists():
            part.replace(file.with_name(f"{file.name}.{aside}{suffix}"))
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
    """Turns SQLite's errors into ours."""
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
    """The libraries whose version here is older than the one that wrote the databases, and so could not read them."""
    from packaging.version import Version

    return [name for name, version in written_by.items() if name in here and Version(here[name]) < Version(version)]
