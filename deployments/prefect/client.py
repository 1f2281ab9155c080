"""Plain HTTP requests to Prefect's API, for commands that must not spend seconds on importing Prefect."""

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
    """Whether a GET of this URL succeeds."""
    return _status_and_body("GET", url, None, {})[0] == http.client.OK


def ask(url: str, query: Mapping[str, Any] | None = None, *, method: str = "POST") -> Any:
    """The JSON answer of Prefect's API; None if it does not answer, refuses, or answers with nothing.

    With a `query` it is posted (or sent by `method`); without one the URL is read.
    """
    method, content = ("GET", None) if query is None else (method, json.dumps(query))
    status, body = _status_and_body(method, url, content, _authorization())
    return json.loads(body) if status in SUCCESS and body else None


def ask_all(url: str, query: Mapping[str, Any]) -> list[Any] | None:
    """All rows that a filter of Prefect's API finds, which it gives in pages; None if it does not answer."""
    rows: list[Any] = []
    while page := ask(url, {**query, "offset": len(rows)}):
        rows += page
    return None if page is None else rows


def insisted(url: str, query: dict[str, Any] | None = None) -> Any:
    """Like `ask`, but tries again if there is no answer: on sqlite, a request may find the database locked.

    Only for requests that may be sent twice. Raises PrefectUnavailable after TRIES requests.
    """
    for _ in range(TRIES):
        answer = ask(url, query)
        if answer is not None:
            return answer
        time.sleep(TRY_AGAIN_SECONDS)
    raise PrefectUnavailable(
        "Prefect does what it is asked", f"{url} failed {TRIES} times", "read its log, start again"
    )


def _authorization() -> dict[str, str]:
    """The header for a Prefect server with a password, as Prefect's own client sends it."""
    credentials = os.environ.get("PREFECT_API_AUTH_STRING")
    return {"Authorization": f"Basic {b64encode(credentials.encode()).decode()}"} if credentials else {}


def _status_and_body(method: str, url: str, content: str | None, authorization: Mapping[str, str]) -> tuple[int, bytes]:
    """Makes one request. The status is 0 if nobody answers.

    It never goes through a proxy, for which a loopback address would mean the proxy's own machine.
    """
    try:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        with closing(kind(parts.netloc, timeout=ANSWER_SECONDS)) as connection:
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request(method, target, content, {"Content-Type": "application/json", **authorization})
            response = connection.getresponse()
            return response.status, response.read()
    except (OSError, ValueError, http.client.HTTPException):  # ValueError: the URL is no address
        return 0, b""
