"""A package index on this machine that asks for a user and a password: what pip is configured with in a drill."""

import base64
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from packaging.utils import canonicalize_name


@dataclass
class Index:
    """Where it is, and what it was asked for with the right password."""

    host: str
    url: str
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve_wheels(folder: Path, user: str, password: str) -> Iterator[Index]:
    """The wheels of a folder behind `http://user:password@host/simple`."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    index = Index("", "")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers["Authorization"] != expected:
                self.send_response(HTTPStatus.UNAUTHORIZED)
                self.send_header("WWW-Authenticate", "Basic")
                self.end_headers()
                return
            index.asked.append(self.path)
            kind, name = self.path.strip("/").split("/", 1)
            content = (folder / name).read_bytes() if kind == "files" else _page(folder, name)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html" if kind == "simple" else "application/octet-stream")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: the drill counts what was asked."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.host = f"127.0.0.1:{server.server_port}"
    index.url = f"http://{user}:{password}@{index.host}/simple"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()


def _page(folder: Path, name: str) -> bytes:
    """The links to the wheels of a distribution."""
    wheels = [
        wheel.name for wheel in folder.glob("*.whl") if canonicalize_name(wheel.name.split("-")[0]) == name
    ]
    return "".join(f'<a href="/files/{wheel}">{wheel}</a>\n' for wheel in wheels).encode()
