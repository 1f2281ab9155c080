"""The only module that talks to files on disk or S3 as a store. Keys come from `ml.paths`.

Both kinds create atomically: a reader sees a whole object or none.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from ml.artifacts import FileRef
from ml.digests import digest_bytes
from ml.errors import ConfigError, Corrupt, StoreUnavailable
from ml.paths import safe_key

S3_URI = re.compile(r"s3://([A-Za-z0-9._-]+)((?:/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*)/?")
MULTIPART_BYTES = 64 * 1024**2  # from here on in parts, of which each is retried; below, S3 checks one sum of the whole
CONNECTIONS = 10  # to S3 at once


class Store(Protocol):
    """Where every artifact lies. Methods raise StoreUnavailable when the place does not answer or refuses."""

    uri: str

    def get(self, key: str) -> bytes | None:
        """The object's bytes, None if there is none."""

    def put(self, key: str, data: bytes) -> None: ...

    def create(self, key: str, data: bytes) -> bool:
        """Creates the object if there is none; False, and nothing changed, if there is one."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The objects' bytes in the order of `keys`, None for one that is not there."""

    def delete(self, key: str) -> None:
        """Removes the object; nothing happens where there is none."""

    def keys(self, prefix: str) -> list[str]:
        """All keys below the folder `prefix`, sorted."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """The bytes of every object below the folder `prefix`, or of all, by key; none is read."""


def open_store(uri: str) -> Store:
    """A store at a folder or at s3://bucket/prefix."""
    if "://" not in uri:
        return DiskStore(Path(uri).absolute())
    place = S3_URI.fullmatch(uri)
    if place is None:
        raise ConfigError("RETRAIN_STORE is a folder or s3://bucket/prefix", f"it is {uri!r}", "set one of the two")
    return S3Store(place[1], place[2].removeprefix("/"))


def put_file(store: Store, key: str, data: bytes) -> FileRef:
    store.put(key, data)
    return FileRef(key=key, size=len(data), digest=digest_bytes(data))


def get_file(store: Store, file: FileRef) -> bytes:
    """The file's bytes. Raises Corrupt if it is gone or its bytes are not those that were written."""
    data = store.get(file.key)
    if data is None or digest_bytes(data) != file.digest:
        seen = "it is gone" if data is None else f"its SHA-256 is {digest_bytes(data)[:12]}"
        raise Corrupt(f"{file.key} must have SHA-256 {file.digest[:12]}", seen, "run the night again to rebuild it")
    return data


class DiskStore:
    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, str(root)

    def get(self, key: str) -> bytes | None:
        with _disk_errors(self.root):
            try:
                return (self.root / safe_key(key)).read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                return None

    def put(self, key: str, data: bytes) -> None:
        with _disk_errors(self.root), self._written(key, data) as (temporary, path):
            Path(temporary).replace(path)

    def create(self, key: str, data: bytes) -> bool:
        with _disk_errors(self.root), self._written(key, data) as (temporary, path):
            try:
                path.hardlink_to(temporary)  # fails where the name exists, and shows whole contents: O_EXCL shows half
            except FileExistsError:
                return False
            return True

    @contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[tuple[str, Path]]:
        path = self.root / safe_key(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        try:
            os.fchmod(handle, 0o644)  # a service of another user loads what this one registered
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary, path
        finally:
            Path(temporary).unlink(missing_ok=True)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def delete(self, key: str) -> None:
        """The folder stays, be it empty: a writer may have made it a moment ago."""
        with _disk_errors(self.root), suppress(FileNotFoundError, IsADirectoryError):
            (self.root / safe_key(key)).unlink()

    def keys(self, prefix: str) -> list[str]:
        return sorted(self.sizes(safe_key(prefix)))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        folder = self.root / safe_key(prefix) if prefix else self.root
        with _disk_errors(self.root):
            return {path.relative_to(self.root).as_posix(): size for path, size in _files(folder)}


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every file below the folder but temporary ones, and its bytes; `Path.rglob` skips folders it may not read."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(folder / entry.name)
            elif entry.name[0] != ".":
                with suppress(FileNotFoundError):  # deleted since it was listed
                    yield folder / entry.name, entry.stat().st_size


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"the store {root} must be readable and writable", f"{error.strerror or error}", "give access or space"
        ) from error


class S3Store:
    """Objects below s3://bucket/prefix; credentials and endpoint by the standard AWS variables."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".removesuffix("/")

    @cached_property  # of one thread at a time, as `boto3.client` is not safe in several
    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        # A conditional write waits up to 4 s for eight others. Three attempts are over within 0.2 s where nobody
        # listens, and in 12 s where nothing answers: the longer patience is that of the tasks.
        retries = {"mode": "standard", "total_max_attempts": 3}
        config = Config(retries=retries, connect_timeout=4, read_timeout=30, max_pool_connections=CONNECTIONS)
        return boto3.client("s3", config=config)

    def get(self, key: str) -> bytes | None:
        from botocore.exceptions import ClientError

        with self._s3_errors():
            try:
                return self.client.get_object(Bucket=self.bucket, Key=self._name(key))["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise

    def put(self, key: str, data: bytes) -> None:
        with self._s3_errors():
            if len(data) < MULTIPART_BYTES:
                self.client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data)
            else:
                self.client.upload_fileobj(BytesIO(data), self.bucket, self._name(key))

    def create(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        with self._s3_errors():
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error.response["Error"]["Code"] != "PreconditionFailed":
                    raise
                repeated = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                return repeated and self.get(key) == data  # the first attempt made it, and its answer was lost
            return True

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(self.get, keys))

    def delete(self, key: str) -> None:
        with self._s3_errors():
            self.client.delete_object(Bucket=self.bucket, Key=self._name(key))

    def keys(self, prefix: str) -> list[str]:
        return sorted(self.sizes(safe_key(prefix)))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        folder = f"{self._name(prefix)}/" if prefix else self.prefix
        with self._s3_errors():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=folder)
            items = [item for page in pages for item in page.get("Contents", [])]
        return {item["Key"].removeprefix(self.prefix): item["Size"] for item in items}

    def _name(self, key: str) -> str:
        return f"{self.prefix}{safe_key(key)}"

    @contextmanager
    def _s3_errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            seen = str(error).splitlines()[0][:300].rstrip(". ")
            raise StoreUnavailable(
                f"the store {self.uri} must answer", seen, "check the bucket, the AWS_ variables and the network"
            ) from error
