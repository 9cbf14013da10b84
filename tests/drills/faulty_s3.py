"""An HTTP server between a client and an S3 server that refuses, delays or cuts off chosen requests."""

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from tests.loopback import Handler, serve_http

Fault = Literal["", "busy", "slow", "cut"]  # forwarded; 503 Slow Down; a second late; closed within the body
SLOW_S = 1.0
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class FaultyS3:
    """Chooses what happens to each request, and counts it."""

    def __init__(self) -> None:
        self.fault: Callable[[str, str], Fault] = lambda method, path: ""
        self.done: dict[Fault, int] = dict.fromkeys(("", "busy", "slow", "cut"), 0)
        self.url = ""


@contextmanager
def faulty_s3(upstream: str) -> Iterator[FaultyS3]:
    """A server in front of the one at `upstream` (host:port)."""
    state = FaultyS3()

    class FaultyHandler(_Handler):
        faults = state
        address = upstream

    with serve_http(FaultyHandler) as state.url:
        yield state


class _Handler(Handler):
    faults: FaultyS3
    address: str

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.faults.fault(self.command, self.path)
        self.faults.done[fault] += 1
        if fault == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(length)
        if fault == "busy":
            self._answer(503, {"Content-Type": "application/xml"}, BUSY)
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        upstream = http.client.HTTPConnection(self.address, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        self._answer(answer.status, dict(answer.getheaders()), content)
        upstream.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        kept = {
            name.title(): value
            for name, value in headers.items()
            if name.lower() not in ("transfer-encoding", "connection", "server", "date")
        }
        if self.command != "HEAD":
            kept.pop("Content-Length", None)
        self.reply(status, content, kept)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle
