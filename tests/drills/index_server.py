"""A package index on this machine with user and password, for which a drill configures pip."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.loopback import Handler, serve_http


@dataclass
class Index:
    """Its address, and the paths of the requests that had the password."""

    host: str
    url: str
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve_wheels(folder: Path, user: str, password: str) -> Iterator[Index]:
    """Serve the wheels of a folder at `http://user:password@host/simple`."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    index = Index("", "")

    class Wheels(Handler):
        def do_GET(self) -> None:
            if self.headers["Authorization"] != expected:
                self.reply(HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Basic"})
                return
            index.asked.append(self.path)
            kind, name = self.path.strip("/").split("/", 1)
            content = (folder / name).read_bytes() if kind == "files" else _page(folder, name)
            content_type = "text/html" if kind == "simple" else "application/octet-stream"
            self.reply(HTTPStatus.OK, content, {"Content-Type": content_type})

    with serve_http(Wheels) as address:
        index.host = address.removeprefix("http://")
        index.url = f"http://{user}:{password}@{index.host}/simple"
        yield index


def _page(folder: Path, name: str) -> bytes:
    """The links to the wheels of a distribution."""
    wheels = [
        wheel.name for wheel in folder.glob("*.whl") if canonicalize_name(wheel.name.split("-")[0]) == name
    ]
    return "".join(f'<a href="/files/{wheel}">{wheel}</a>\n' for wheel in wheels).encode()
