"""The only module that talks to files on disk or S3 as a store. Keys come from `ml.paths`.

Both kinds create atomically: a reader sees a whole object or none.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from ml.artifacts import FileRef
from ml.digests import digest_bytes
from ml.errors import ConfigError, Corrupt, StoreUnavailable
from ml.paths import safe_key

S3_URI = re.compile(r"s3://([A-Za-z0-9._-]+)((?:/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*)/?")
MULTIPART_BYTES = 64 * 1024**2  # from here on in parts, of which each is retried; below, S3 checks one sum of the whole


class Store(Protocol):
    """Where every artifact lies. Methods raise StoreUnavailable when the place does not answer or refuses."""

    uri: str

    def get(self, key: str) -> bytes | None:
        """The object's bytes, None if there is none."""

    def put(self, key: str, data: bytes) -> None: ...

    def create(self, key: str, data: bytes) -> bool:
        """Creates the object if there is none; False, and nothing changed, if there is one."""

    def keys(self, prefix: str) -> list[str]:
        """All keys below the folder `prefix`, sorted."""

    def size(self) -> int:
        """Bytes stored."""


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

    def keys(self, prefix: str) -> list[str]:
        with _disk_errors(self.root):
            paths = (self.root / safe_key(prefix)).rglob("*")
            return sorted(p.relative_to(self.root).as_posix() for p in paths if p.is_file() and p.name[0] != ".")

    def size(self) -> int:
        with _disk_errors(self.root):
            paths = [path for path in self.root.rglob("*") if path.name[0] != "."]  # the others come and go
            return sum(path.stat().st_size for path in paths if path.is_file())


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
        self._client: Any = None

    @property
    def client(self) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            # A conditional write waits up to 4 s for eight others. Three attempts are over within 0.2 s where nobody
            # listens, and in 12 s where nothing answers: the longer patience is that of the tasks.
            retries = {"mode": "standard", "total_max_attempts": 3}
            self._client = boto3.client("s3", config=Config(retries=retries, connect_timeout=4, read_timeout=30))
        return self._client

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

    def keys(self, prefix: str) -> list[str]:
        listed = self._listed(f"{self._name(prefix)}/")
        return sorted(item["Key"].removeprefix(self.prefix) for item in listed)

    def size(self) -> int:
        return sum(item["Size"] for item in self._listed(self.prefix))

    def _listed(self, prefix: str) -> list[dict[str, Any]]:
        with self._s3_errors():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return [item for page in pages for item in page.get("Contents", [])]

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
