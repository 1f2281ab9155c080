"""Values as strict JSON: the form in which handles and kept results are stored. NaN and infinity are refused."""

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
    """Pydantic's reader and writer for a type. It is cached because building one takes a millisecond."""
    return TypeAdapter[Any](cast(Any, kind))


def to_json(value: Any) -> bytes:
    """The value as canonical JSON. Raises ValueError for a NaN.

    The value is dumped to Python first: pydantic's own JSON mode turns a NaN in an `Any` into null without an error.
    """
    return canonical_json(adapter(cast(Hashable, type(value))).dump_python(value))


def from_json(kind: type[H], data: bytes) -> H:
    """The value of type `kind` that `to_json` wrote. Raises a ValueError if it is not one."""
    return adapter(cast(Hashable, kind)).validate_json(data)


@functools.lru_cache(maxsize=512)
def parsed(kind: Hashable, text: str) -> Any:
    """The value of a JSON text that is plain or `packed`. It is cached and shared: do not change it."""
    return adapter(kind).validate_json(unpacked(text))


def unpacked(text: str) -> str:
    """The plain JSON of a text that is `packed`, or plain as in older stores."""
    return text if text.startswith(("{", "[")) else zlib.decompress(base64.b64decode(text)).decode()


def packed(kind: Hashable, value: Any) -> str:
    """The value as compressed JSON, in base64. Every night reads such texts and few nights parse them. A month's
    results resemble each other and shrink to a seventh."""
    return base64.b64encode(zlib.compress(adapter(kind).dump_json(value))).decode()
