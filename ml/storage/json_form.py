"""Values as strict JSON: what handles and kept results are written as."""

import base64
import functools
import zlib
from collections.abc import Hashable
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from ml.digests import canonical_json

H = TypeVar("H")


@functools.cache
def adapter(kind: Hashable) -> TypeAdapter[Any]:
    """What reads and writes values of that type; building one takes a millisecond."""
    return TypeAdapter[Any](cast(Any, kind))


def to_json(value: Any) -> bytes:
    """Strict JSON of a handle: a NaN raises ValueError."""
    return canonical_json(
        adapter(cast(Hashable, type(value))).dump_python(value)
    )  # mode="json" makes a NaN in an Any null


def from_json(kind: type[H], data: bytes) -> H:
    """Inverse of `to_json`. Raises pydantic.ValidationError (a ValueError) for anything else."""
    return adapter(cast(Hashable, kind)).validate_json(data)


@functools.lru_cache(maxsize=512)
def parsed(kind: Hashable, text: str) -> Any:
    """A value that a handle holds as JSON, plain or `packed`; it is shared, so nobody changes it."""
    return adapter(kind).validate_json(unpacked(text))


def unpacked(text: str) -> str:
    """The JSON that a handle holds, plain, as all were in older stores, or `packed`."""
    return text if text.startswith(("{", "[")) else zlib.decompress(base64.b64decode(text)).decode()


def packed(kind: Hashable, value: Any) -> str:
    """Its JSON as a text that every night reads and few nights parse: a month's results are alike, and shrink by 7."""
    return base64.b64encode(zlib.compress(adapter(kind).dump_json(value))).decode()
