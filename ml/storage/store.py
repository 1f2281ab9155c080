"""The store: objects under keys, in a folder on disk or in S3. No other module reads or writes either as a store.

Keys come from `ml.storage.paths`; a key that could leave the store is refused. Both kinds of stores write atomically: a
reader sees a whole object or none. When a write has returned, the object survives a loss of power. An error that may
pass by itself is raised as StoreUnavailable, and the tasks try again. An error that only a person can mend
(credentials, rights, a missing bucket) is raised as ConfigError.
"""

import errno
import hashlib
import os
import random
import re
import tempfile
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cached_property
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from ml.digests import digest_bytes
from ml.errors import ConfigError, Corrupt, StoreUnavailable, UsageError
from ml.settings import s3_encryption
from ml.storage.paths import is_ours, safe_key
from ml.storage.records import FileRef
from ml.storage.s3_errors import broke_on_its_way, code, first_line, in_words

S3_URI = re.compile(r"s3://([A-Za-z0-9._-]+)((?:/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*)/?")
MULTIPART_BYTES = 8 * 1024**2  # larger objects are sent in parts, and each part is retried by itself
STREAMED_BYTES = 64 * 1024**2  # size of a part of a stream of unknown length; S3 takes 10,000 parts, so 640 GB
CONNECTIONS = 10  # to S3 at once
LEFTOVER = ".writing-"  # prefix of files that are being written
LEFTOVER_SECONDS = 3600.0  # an object that takes longer to write was given up
ATTEMPTS = 3  # if bytes were lost on their way; boto3 itself makes three attempts if no answer began
R = TypeVar("R")


class Store(Protocol):
    """Where every artifact lies.

    Every method raises StoreUnavailable if the place does not answer or is full, ConfigError if it refuses access, and
    UsageError for a key that could leave the store.
    """

    uri: str

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if there is none."""

    def put(self, key: str, data: bytes) -> None:
        """Writes the object, over one that is there."""

    def create(self, key: str, data: bytes) -> bool:
        """Creates the object if there is none. Returns False, and changes nothing, if there is one with other bytes.

        Returns True if there is one with these very bytes: a library may repeat a request whose answer was lost, and
        then the write has succeeded although the repeated request finds an object. A caller that must know that it was
        the one to create the object therefore puts something unique into its bytes.
        """

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The objects' bytes in the order of `keys`; None for an object that is not there."""

    def delete(self, key: str) -> None:
        """Removes the object; nothing happens where there is none."""

    def keys(self, prefix: str) -> list[str]:
        """All keys below the folder `prefix`, sorted."""

    def sizes(self, prefix: str = "", min_age_seconds: float = 0.0) -> dict[str, int]:
        """The size in bytes of every object below the folder `prefix`, by key; of the whole store by default.

        Objects written less than `min_age_seconds` ago are left out. No object is read.
        """

    def leftovers(self, min_age_seconds: float = LEFTOVER_SECONDS) -> list[str]:
        """Names of unfinished writes that are at least so old, sorted. They are no objects, but they take space."""

    def delete_leftover(self, name: str) -> None:
        """Removes an unfinished write that `leftovers` named."""

    def link(self, folder: str, to: str) -> None:
        """Makes `folder` another name of the folder `to`, for programs such as MLflow's server that read the disk.

        It does nothing in S3, which has no folders.
        """

    def writing(self, key: str) -> "AbstractContextManager[Sink]":
        """Writes an object that is too long for memory. The object exists once the context has ended without an error.

        Raises UsageError if the object is there already.
        """

    def reading(self, key: str) -> "AbstractContextManager[BinaryIO]":
        """The object's bytes as a stream. Raises UsageError if there is none."""


class Sink(Protocol):
    """Takes the bytes of a stream in order."""

    def write(self, data: bytes, /) -> int: ...


def open_store(uri: str) -> Store:
    """The store in a folder or at s3://bucket/prefix. Raises ConfigError for any other address."""
    if "://" not in uri:
        return DiskStore(Path(uri).absolute())
    place = S3_URI.fullmatch(uri)
    if place is None:
        raise ConfigError("RETRAIN_STORE is a folder or s3://bucket/prefix", f"it is {uri!r}", "set one of the two")
    return S3Store(place[1], place[2].removeprefix("/"))


def put_file(store: Store, key: str, data: bytes) -> FileRef:
    """Writes the object. Returns the reference by which `get_file` and `is_whole` check its bytes later."""
    store.put(key, data)
    return FileRef(key=key, size=len(data), digest=digest_bytes(data))


def is_whole(store: Store, file: FileRef) -> bool:
    """Whether the file is there and its bytes are those that were written."""
    data = store.get(file.key)
    return data is not None and digest_bytes(data) == file.digest


def get_file(store: Store, file: FileRef) -> bytes:
    """The file's bytes. Raises Corrupt if it is gone or its bytes are not those that were written."""
    data = store.get(file.key)
    if data is None or digest_bytes(data) != file.digest:
        problem = "it is gone" if data is None else f"its SHA-256 is {digest_bytes(data)[:12]}"
        raise Corrupt(f"{file.key} must have SHA-256 {file.digest[:12]}", problem, "run the night again to rebuild it")
    return data


class DiskStore:
    """Objects as files below a folder."""

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
            self._sync_folders(path)

    def create(self, key: str, data: bytes) -> bool:
        with _disk_errors(self.root), self._written(key, data) as (temporary, path):
            try:
                path.hardlink_to(temporary)  # fails if the name exists; with O_EXCL a reader could see half a file
            except FileExistsError:
                return path.is_file() and path.read_bytes() == data
            self._sync_folders(path)
            return True

    def _sync_folders(self, path: Path) -> None:
        """Makes the file's name survive a loss of power, and the names of its folders, which may be new. It takes 0.4
        of the 0.9 ms of a write."""
        for folder in path.relative_to(self.root).parents:
            handle = os.open(self.root / folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    @contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[tuple[str, Path]]:
        """A temporary file with these bytes, safe on the disk, and the path that the object is to have."""
        path = self.root / safe_key(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=LEFTOVER, dir=path.parent)
        try:
            os.fchmod(handle, 0o644)  # a service that runs as another user loads the models
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary, path
        finally:
            Path(temporary).unlink(missing_ok=True)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Reads one after the other. Threads were four times slower for small files and no faster for large ones."""
        return [self.get(key) for key in keys]

    def delete(self, key: str) -> None:
        """Leaves the folder, even if it is empty: a writer may have made it a moment ago for its own file."""
        with _disk_errors(self.root), suppress(FileNotFoundError, IsADirectoryError):
            (self.root / safe_key(key)).unlink()

    def keys(self, prefix: str) -> list[str]:
        return sorted(self.sizes(safe_key(prefix)))

    def sizes(self, prefix: str = "", min_age_seconds: float = 0.0) -> dict[str, int]:
        folder = self.root / safe_key(prefix) if prefix else self.root
        objects = [(path, stat) for path, stat in self._files(folder) if path.name[0] != "."]
        written_until = time.time() - min_age_seconds
        old = [(path, stat) for path, stat in objects if not min_age_seconds or stat.st_mtime <= written_until]
        return {self._key(path): stat.st_size for path, stat in old}

    def leftovers(self, min_age_seconds: float = LEFTOVER_SECONDS) -> list[str]:
        written_until = time.time() - min_age_seconds
        files = [(path, stat) for path, stat in self._files(self.root) if path.name.startswith(LEFTOVER)]
        return sorted(self._key(path) for path, stat in files if stat.st_mtime <= written_until)

    def delete_leftover(self, name: str) -> None:
        self.delete(name)

    def link(self, folder: str, to: str) -> None:
        path = self.root / safe_key(folder)
        with _disk_errors(self.root), suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(os.path.relpath(self.root / safe_key(to), path.parent))

    @contextmanager
    def writing(self, key: str) -> Iterator[Sink]:
        path = self.root / safe_key(key)
        if path.exists():
            raise _there_already(str(path))
        with _disk_errors(self.root):
            handle, temporary = tempfile.mkstemp(prefix=LEFTOVER, dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)  # no hard link, which a disk for backups may not support
                self._sync_folders(path)
            finally:
                Path(temporary).unlink(missing_ok=True)

    @contextmanager
    def reading(self, key: str) -> Iterator[BinaryIO]:
        path = self.root / safe_key(key)
        if not path.is_file():
            raise _not_there(str(path))
        with _disk_errors(self.root), path.open("rb") as file:
            yield file

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _files(self, folder: Path) -> list[tuple[Path, os.stat_result]]:
        with _disk_errors(self.root):
            return [] if self._is_linked(folder) else list(_walk(folder, self.root))

    def _is_linked(self, folder: Path) -> bool:
        """Whether the folder is a `link` to another folder of the store. Files are listed, and deleted, under their own
        names only."""
        real, root = folder.resolve(), self.root.resolve()
        return real.is_relative_to(root) and real != root / folder.relative_to(self.root)


def _walk(folder: Path, root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below the folder. Unlike `Path.rglob`, it raises PermissionError for a folder that it may not read.

    Links to places in the store are skipped: their files are met under their own names.
    """
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and (folder / entry.name).resolve().is_relative_to(root.resolve()):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, root)
            else:
                with suppress(FileNotFoundError):  # deleted since it was listed
                    yield folder / entry.name, entry.stat()


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Turns errors of the disk into ours."""
    try:
        yield
    except OSError as error:
        problem = f"{error.strerror or error}" + (f" at {error.filename}" if error.filename else "")
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or error.errno == errno.EROFS:
            raise ConfigError(
                f"the store {root} must be a folder that we may read and write", problem, "give access"
            ) from error
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise StoreUnavailable(
            f"the store {root} must be readable and writable", problem, "free some space" if full else "check the disk"
        ) from error


class S3Store:
    """Objects below s3://bucket/prefix.

    Credentials and endpoint come from the standard AWS variables, the encryption from RETRAIN_S3_ENCRYPTION. Sender and
    receiver check every byte by CRC32.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".removesuffix("/")
        self.encryption = _encryption()

    @cached_property  # its lock lets one thread at a time call `boto3.client`, which is not safe in several
    def client(self) -> Any:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        # A conditional write may wait 4 s while eight others write. Three attempts take 0.2 s if nobody listens at the
        # address and 12 s if nothing answers. The tasks are more patient: they try again later.
        retries = {"mode": "standard", "total_max_attempts": 3}
        config = Config(retries=retries, connect_timeout=4, read_timeout=30, max_pool_connections=CONNECTIONS)
        try:
            return boto3.client("s3", config=config)
        except ValueError as error:
            if isinstance(error, BotoCoreError):
                raise
            raise ConfigError(
                "AWS_ENDPOINT_URL is an address such as https://host:port", first_line(error), "mend it"
            ) from error

    def get(self, key: str) -> bytes | None:
        name = self._name(key)
        return self._tried(lambda: self._read(name))

    def fetch(self, key: str) -> tuple[bytes, str] | None:
        """The bytes and the ETag of an object that `etags` listed, whatever its name; None if it is gone."""
        return self._tried(lambda: self._fetched(f"{self.prefix}{key}"))

    def _read(self, name: str) -> bytes | None:
        bytes_and_etag = self._fetched(name)
        return None if bytes_and_etag is None else bytes_and_etag[0]

    def _fetched(self, name: str) -> tuple[bytes, str] | None:
        from botocore.exceptions import ClientError

        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=name)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise
        self._require("ETag" in answer)
        return answer["Body"].read(), answer["ETag"]

    def put(self, key: str, data: bytes) -> None:
        name = self._name(key)
        self._tried(lambda: self._write(name, data))

    def _write(self, name: str, data: bytes) -> None:
        if len(data) < MULTIPART_BYTES:
            self._require("ETag" in self.client.put_object(Bucket=self.bucket, Key=name, Body=data, **self.encryption))
            return
        from boto3.s3.transfer import TransferConfig

        options = dict(self.encryption)
        if self.client.meta.config.request_checksum_calculation == "when_supported":
            # boto3 by itself sends a checksum of the parts' checksums, which it does not compare when it reads.
            options["ChecksumCRC32"] = b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        parts = TransferConfig(multipart_threshold=MULTIPART_BYTES)
        try:
            self.client.upload_fileobj(BytesIO(data), self.bucket, name, options, Config=parts)
            stored = self.client.head_object(Bucket=self.bucket, Key=name)["ContentLength"]
        except KeyError:  # raised by boto3 if the answer lacks what S3 always answers
            stored = -1
        except _boto_errors() as error:
            if code(error) != "NoSuchUpload" or self._read(name) != data:
                raise
            return  # the upload was completed, but the answer was lost and boto3 asked again
        self._require(stored == len(data))

    def create(self, key: str, data: bytes) -> bool:
        assert len(data) < MULTIPART_BYTES, "what is created is a document, in one request"
        name = self._name(key)
        return self._tried(lambda: self._create(name, data))

    def _create(self, name: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            answer = self.client.put_object(Bucket=self.bucket, Key=name, Body=data, IfNoneMatch="*", **self.encryption)
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
            return self._read(name) == data
        self._require("ETag" in answer)
        return True

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(self.get, keys))

    def delete(self, key: str) -> None:
        name = self._name(key)
        answer = self._tried(lambda: self.client.delete_object(Bucket=self.bucket, Key=name))
        self._require(answer["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.NO_CONTENT)

    def keys(self, prefix: str) -> list[str]:
        return sorted(self.sizes(safe_key(prefix)))

    def sizes(self, prefix: str = "", min_age_seconds: float = 0.0) -> dict[str, int]:
        folder = f"{self._name(prefix)}/" if prefix else self.prefix
        items = self._tried(lambda: self._listed("list_objects_v2", "Contents", folder))
        written_until = time.time() - min_age_seconds
        old = [item for item in items if not min_age_seconds or item["LastModified"].timestamp() <= written_until]
        return {item["Key"].removeprefix(self.prefix): item["Size"] for item in old}

    def etags(self) -> dict[str, str]:
        """The ETag of every object by key. It changes when the object's bytes change."""
        items = self._tried(lambda: self._listed("list_objects_v2", "Contents", self.prefix))
        return {item["Key"].removeprefix(self.prefix): item["ETag"] for item in items}

    def leftovers(self, min_age_seconds: float = LEFTOVER_SECONDS) -> list[str]:
        """Multipart uploads of ours that were neither completed nor aborted, each as `key?upload`."""
        begun_until = time.time() - min_age_seconds
        uploads = self._tried(lambda: self._listed("list_multipart_uploads", "Uploads", self.prefix))
        old = {
            upload["UploadId"]: upload["Key"] for upload in uploads if upload["Initiated"].timestamp() <= begun_until
        }
        keys = {upload: key.removeprefix(self.prefix) for upload, key in old.items()}
        return sorted(f"{key}?{upload}" for upload, key in keys.items() if is_ours(key))

    def delete_leftover(self, name: str) -> None:
        key, _, upload = name.partition("?")
        with self._s3_errors(), suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=self._name(key), UploadId=upload)

    def link(self, folder: str, to: str) -> None:
        """Does nothing: S3 has no folders."""

    @contextmanager
    def writing(self, key: str) -> Iterator[Sink]:
        name = self._name(key)
        if self._length(name) is not None:
            raise _there_already(f"{self.uri}/{key}")
        parts = _Parts(self, name)
        try:
            yield parts
            parts.complete()
        except BaseException:
            parts.abort()
            raise
        self._require(self._length(name) == parts.size)

    @contextmanager
    def reading(self, key: str) -> Iterator[BinaryIO]:
        name = self._name(key)
        if self._length(name) is None:
            raise _not_there(f"{self.uri}/{key}")
        with self._s3_errors(), closing(self.client.get_object(Bucket=self.bucket, Key=name)["Body"]) as body:
            yield body

    def _length(self, name: str) -> int | None:
        """The object's size in bytes; None if there is no object."""
        from botocore.exceptions import ClientError

        def ask() -> int | None:
            try:
                return int(self.client.head_object(Bucket=self.bucket, Key=name)["ContentLength"])
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.NOT_FOUND:
                    return None
                raise

        return self._tried(ask)

    def _listed(self, operation: str, kind: str, prefix: str) -> list[dict[str, Any]]:
        pages = list(self.client.get_paginator(operation).paginate(Bucket=self.bucket, Prefix=prefix))
        self._require(all("IsTruncated" in page for page in pages))
        return [item for page in pages for item in page.get(kind, [])]

    def _name(self, key: str) -> str:
        return f"{self.prefix}{safe_key(key)}"

    def _require(self, answered_by_s3: bool) -> None:
        """Raises StoreUnavailable if the answer is none of S3's. At a wrong address, anything may answer 200, and what
        it did not store must not count as stored."""
        if not answered_by_s3:
            raise StoreUnavailable(
                f"the store {self.uri} must be an S3 server", "what answers is none", "check AWS_ENDPOINT_URL"
            )

    def _tried(self, work: Callable[[], R]) -> R:
        """The result of `work`, which is tried three times if bytes were lost on their way. boto3 itself tries again
        only if no answer began."""
        with self._s3_errors():
            for attempt in range(ATTEMPTS - 1):
                try:
                    return work()
                except _boto_errors() as error:
                    if not broke_on_its_way(error):
                        raise
                    time.sleep(random.uniform(0, 0.2 * 2**attempt))
            return work()

    @contextmanager
    def _s3_errors(self) -> Iterator[None]:
        try:
            yield
        except _boto_errors() as error:
            raise in_words(error, self.uri) from error


class _Parts:
    """Sends a stream to S3 in parts. The object exists once `complete` has returned."""

    def __init__(self, store: S3Store, name: str) -> None:
        self.store, self.where, self.size = store, {"Bucket": store.bucket, "Key": name}, 0
        self.object, self.digest = dict(self.where), hashlib.sha256()
        self.held, self.parts = bytearray(), list[dict[str, Any]]()
        begun = store._tried(lambda: store.client.create_multipart_upload(**self.where, **store.encryption))
        self.where["UploadId"] = begun["UploadId"]

    def write(self, data: bytes, /) -> int:
        self.held += data
        self.size += len(data)
        self.digest.update(data)
        while len(self.held) >= STREAMED_BYTES:
            self._send(bytes(self.held[:STREAMED_BYTES]))
            del self.held[:STREAMED_BYTES]
        return len(data)

    def _send(self, data: bytes) -> None:
        number = len(self.parts) + 1
        part = self.store._tried(lambda: self.store.client.upload_part(**self.where, PartNumber=number, Body=data))
        checksums = {name: value for name, value in part.items() if name == "ETag" or name.startswith("ChecksumCRC")}
        self.parts.append({"PartNumber": number, **checksums})

    def complete(self) -> None:
        """Sends the last part and makes the object appear."""
        if self.held or not self.parts:
            self._send(bytes(self.held))
        done = {"MultipartUpload": {"Parts": self.parts}}
        try:
            self.store._tried(lambda: self.store.client.complete_multipart_upload(**self.where, **done))
        except (StoreUnavailable, ConfigError):
            if not self._is_stored():
                raise

    def _is_stored(self) -> bool:
        """Whether the object has the bytes that were sent. The upload may be complete although the answer was lost."""
        try:
            if self.store._length(self.object["Key"]) != self.size:
                return False
            with self.store._s3_errors(), closing(self.store.client.get_object(**self.object)["Body"]) as body:
                return hashlib.file_digest(body, "sha256").digest() == self.digest.digest()
        except (StoreUnavailable, ConfigError):
            return False

    def abort(self) -> None:
        """Gives the upload up. Errors are ignored, so that the one that led here is reported."""
        with suppress(*_boto_errors()):
            self.store.client.abort_multipart_upload(**self.where)


def _there_already(place: str) -> UsageError:
    return UsageError("nothing is written over", f"{place} is there already", "name another file")


def _not_there(place: str) -> UsageError:
    return UsageError("a file that is read is there", f"{place} is not", "check its name")


def _boto_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return BotoCoreError, ClientError, ResponseParserError, HTTPError


def _encryption() -> dict[str, str]:
    """The arguments that every write to S3 has."""
    kind, key = s3_encryption()
    return ({"ServerSideEncryption": kind} if kind else {}) | ({"SSEKMSKeyId": key} if key else {})
