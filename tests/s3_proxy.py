"""A proxy on loopback between an HTTP client and its server, which does to a request what a bad network would."""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.s3_server import HOST


class Exchange(BaseHTTPRequestHandler):
    """One request and what becomes of it; a fault drives it. Every exchange has a connection of its own."""

    protocol_version = "HTTP/1.1"
    server: "Proxy"

    def carry(self) -> None:
        self.close_connection = True
        self.server.seen.append(self)
        self.server.fault(self)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = carry  # noqa: N815

    @property
    def request_line(self) -> str:
        return f"{self.command} {self.path}"

    @property
    def length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    def ask(self, change: Callable[[bytes], bytes] = bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer: status, headers, body."""
        return self.ask_with(change(self.rfile.read(self.length)))

    def ask_with(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection(self.server.target)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def begin(self, status: int, headers: list[tuple[str, str]], length: int) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.flush()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        of_head = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else "0"
        self.begin(status, headers, len(body) or int(of_head))
        self.wfile.write(body)

    def reset(self) -> None:
        """The client sees a connection that is reset, not one that ends."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

    def log_message(self, *arguments: object) -> None: ...


Fault = Callable[[Exchange], None]


class Proxy(ThreadingHTTPServer):
    """Hands everything on to `target`, as its fault says; `seen` holds every exchange."""

    daemon_threads = True

    def __init__(self, target: str, port: int) -> None:
        super().__init__((HOST, port), Exchange)
        self.target, self.endpoint = target, f"http://{HOST}:{self.server_port}"
        self.fault: Fault = hand_on
        self.seen: list[Exchange] = []
        self.struck: list[str] = []

    def strike(self, fault: Fault, *, times: int | None = None, on: str = "") -> None:
        """From now on the fault meets requests whose line matches `on` from its start; all of them, or a few."""
        self.struck.clear()

        def struck(exchange: Exchange) -> None:
            if not re.match(on, exchange.request_line) or (times is not None and len(self.struck) >= times):
                hand_on(exchange)
                return
            self.struck.append(exchange.request_line)
            fault(exchange)

        self.fault = struck

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was reset in the middle is no error of ours."""


@contextmanager
def proxy_to(endpoint: str, port: int = 0) -> Iterator[Proxy]:
    proxy = Proxy(urlsplit(endpoint).netloc, port)
    threading.Thread(target=proxy.serve_forever, args=[0.02], daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


def hand_on(exchange: Exchange) -> None:
    exchange.answer(*exchange.ask())


def lose_answer(exchange: Exchange) -> None:
    """The server has done it, and the client never hears of it."""
    exchange.ask()


def repeat(exchange: Exchange) -> None:
    """A gateway sends the request a second time, and the client hears of the second answer only."""
    body = exchange.rfile.read(exchange.length)
    for _ in range(2):
        answer = exchange.ask_with(body)
    exchange.answer(*answer)


def garble_answer(exchange: Exchange) -> None:
    """The server has done it, and a gateway says that it failed."""
    exchange.ask()
    exchange.answer(502, [("Content-Type", "text/html")], b"<html>Bad gateway</html>")


def reset_request(exchange: Exchange) -> None:
    """In the middle of what is sent; the server sees nothing."""
    exchange.rfile.read(exchange.length // 2)
    exchange.reset()


def reset_answer(exchange: Exchange) -> None:
    status, headers, body = exchange.ask()
    exchange.begin(status, headers, len(body))
    exchange.wfile.write(body[: len(body) // 2])
    time.sleep(0.02)  # the reset would overtake what was written
    exchange.reset()


def cut_answer(exchange: Exchange) -> None:
    """The connection ends in the middle of the body, or before an answer without one."""
    status, headers, body = exchange.ask()
    if body:
        exchange.begin(status, headers, len(body))
        exchange.wfile.write(body[: len(body) // 2])


def flip_request(exchange: Exchange) -> None:
    exchange.answer(*exchange.ask(_flipped))


def flip_answer(exchange: Exchange) -> None:
    status, headers, body = exchange.ask()
    exchange.answer(status, headers, _flipped(body))


def slow(exchange: Exchange) -> None:
    """Both ways in pieces, with pauses."""
    time.sleep(0.05)
    status, headers, body = exchange.ask()
    if not body:
        exchange.answer(status, headers, body)
        return
    exchange.begin(status, headers, len(body))
    step = max(1, len(body) // 4)
    for start in range(0, len(body), step):
        exchange.wfile.write(body[start : start + step])
        exchange.wfile.flush()
        time.sleep(0.02)


def say(status: int, code: str) -> Fault:
    """Answers itself, as S3 would; the server sees nothing."""

    def answer(exchange: Exchange) -> None:
        exchange.rfile.read(exchange.length)
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        exchange.answer(status, [("Content-Type", "application/xml")], body)

    return answer


def page(status: int, body: bytes) -> Fault:
    """Something else than S3 answers at its address."""

    def answer(exchange: Exchange) -> None:
        exchange.rfile.read(exchange.length)
        exchange.answer(status, [("Content-Type", "text/html")], body)

    return answer


def _flipped(body: bytes) -> bytes:
    """One bit of the middle byte changed."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
