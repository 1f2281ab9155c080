"""A real S3 server (SeaweedFS) on loopback."""

import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

HOST = "127.0.0.1"
BUCKET = "models"
START_SECONDS = 60.0  # measured: 1 s alone, 5 s on two busy cores
SERVICES = ("s3", "master", "volume", "filer", "admin")
# The server takes these keys as its only identity; the rest keeps a developer's own files and roles out of the tests.
IDENTITY = {
    "AWS_ACCESS_KEY_ID": "retrain-tests",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
FOREIGN = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "MLFLOW_S3_ENDPOINT_URL")
# Kills the whole group soon after the process that started it has gone, even if that was killed.
WATCHED = '(while kill -0 "$0"; do sleep 0.5; done; kill -9 0) 2>/dev/null & exec "$@"'


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and the variables by which any AWS client finds it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        return {**IDENTITY, "AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_ENDPOINT_URL": self.endpoint}

    def client(self) -> Any:
        """A client of its own, beside the one under test."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=IDENTITY["AWS_DEFAULT_REGION"],
            aws_access_key_id=IDENTITY["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=IDENTITY["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
        )


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A fresh server with one bucket for the time of the context; ready when a PUT and a GET succeed."""
    names = [f"{service}.{port}" for service in SERVICES for port in ("port", "port.grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with TemporaryDirectory(prefix="s3-") as folder, _process(Path(folder), ports) as process:
        server = S3Server(f"http://{HOST}:{ports['s3.port']}")
        _wait(server, process, Path(folder) / "log")
        yield server


@contextmanager
def _process(folder: Path, ports: Mapping[str, int]) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", WATCHED, str(os.getpid()), *_command(folder, ports)],
            env={**os.environ, **IDENTITY, "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for service in SERVICES:  # it leaves these beside its folder
            (Path(gettempdir()) / f"seaweedfs-{service}-grpc-{ports[f'{service}.port.grpc']}.sock").unlink(True)


def _command(folder: Path, ports: Mapping[str, int]) -> list[str]:
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    return [
        str(weed), f"-logdir={folder}", "mini", f"-dir={folder}", f"-ip={HOST}", f"-ip.bind={HOST}",
        *(f"-{name}={port}" for name, port in ports.items()),
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", "-admin.ui=false", "-webdav=false",
        "-master.telemetry=false", f"-filer.localSocket={folder}/f.sock", f"-s3.localSocket={folder}/s.sock",
    ]  # fmt: skip


def _wait(server: S3Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _serves(server):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def _serves(server: S3Server) -> bool:
    client = server.client()
    try:
        if not client.list_buckets()["Buckets"]:
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
        return client.get_object(Bucket=BUCKET, Key="ready")["Body"].read() == b"yes"
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()


def free_ports(number: int) -> list[int]:
    """Ports that differ: all are held until the last is found."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(number)]
        for listener in listeners:
            listener.bind((HOST, 0))
        return [listener.getsockname()[1] for listener in listeners]
