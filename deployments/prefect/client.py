"""Prefect's API by plain requests: asking costs no import of Prefect."""

import http.client
import json
import os
import time
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from ml.errors import PrefectUnavailable

ANSWER_SECONDS = 5.0
SUCCESS = range(200, 300)
TRIES, TRY_AGAIN_SECONDS = 5, 1.0


def answers(url: str) -> bool:
    return _status_and_body("GET", url, None, {})[0] == http.client.OK


def ask(url: str, query: Mapping[str, Any] | None = None, *, method: str = "POST") -> Any:
    """The answer of Prefect's API, to what is posted or else to the URL alone; None where it has none."""
    method, content = ("GET", None) if query is None else (method, json.dumps(query))
    status, body = _status_and_body(method, url, content, _authorization())
    return json.loads(body) if status in SUCCESS and body else None


def insisted(url: str, query: dict[str, Any]) -> Any:
    """The answer of Prefect's API to what may be asked twice. On sqlite one request may find the database locked."""
    for _ in range(TRIES):
        answer = ask(url, query)
        if answer is not None:
            return answer
        time.sleep(TRY_AGAIN_SECONDS)
    raise PrefectUnavailable(
        "Prefect does what it is asked", f"{url} failed {TRIES} times", "read its log, start again"
    )


def _authorization() -> dict[str, str]:
    """What a Prefect server with a password wants to see, as its own client does it."""
    given = os.environ.get("PREFECT_API_AUTH_STRING")
    return {"Authorization": f"Basic {b64encode(given.encode()).decode()}"} if given else {}


def _status_and_body(method: str, url: str, content: str | None, authorization: Mapping[str, str]) -> tuple[int, bytes]:
    """One request. The status is 0 where nobody answers. A proxy is not asked: it would look for its own loopback."""
    try:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        with closing(kind(parts.netloc, timeout=ANSWER_SECONDS)) as connection:
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request(method, target, content, {"Content-Type": "application/json", **authorization})
            response = connection.getresponse()
            return response.status, response.read()
    except (OSError, ValueError, http.client.HTTPException):  # ValueError: it is no address
        return 0, b""
