"""An HTTP server between a client and an S3 server that refuses, delays and cuts off requests as it is told."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["", "busy", "slow", "cut"]  # passed on; 503 Slow Down; a second late; closed in mid-body
SLOW_S = 1.0
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class FaultyS3:
    """What happens to each request; counts what was done to them."""

    def __init__(self) -> None:
        self.fault: Callable[[str, str], Fault] = lambda method, path: ""
        self.done: dict[Fault, int] = dict.fromkeys(("", "busy", "slow", "cut"), 0)
        self.url = ""


@contextmanager
def faulty_s3(upstream: str) -> Iterator[FaultyS3]:
    """A server in front of the one at `upstream` (host:port)."""
    state = FaultyS3()

    class Handler(_Handler):
        faults = state
        address = upstream

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    faults: FaultyS3
    address: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

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
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        given = {name.lower(): value for name, value in headers.items()}.get("content-length")
        self.send_header("Content-Length", given if self.command == "HEAD" and given else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle
