"""A stand-in for a hub on loopback, and no hub: the few routes by which huggingface_hub makes a repository and commits.

It keeps what it is given in memory, takes one token, and says in every answer what it is.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LARGE = 2_000  # bytes; from there on a file goes over as an object of its own


@dataclass(slots=True)
class Hub:
    """What it was given."""

    endpoint: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository -> path -> content
    created: list[dict] = field(default_factory=list)  # bodies of requests for new repositories
    objects: dict[str, bytes] = field(default_factory=dict)  # sha256 -> content
    refuse: tuple[int, str] | None = None  # status and message for every request, whatever its token


@contextmanager
def stand_in_hub(token: str) -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            if hub.refuse is not None:
                self._send({"error": hub.refuse[1]}, hub.refuse[0])
            elif self.headers.get("Authorization") != f"Bearer {token}":
                self._send({"error": "Invalid credentials"}, 401)
            else:
                self._answer(urlsplit(self.path).path, body)

        def do_PUT(self) -> None:
            content, oid = self._body(), self.path.rpartition("/")[2]
            assert hashlib.sha256(content).hexdigest() == oid
            hub.objects[oid] = content
            self._send({})

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, path: str, body: bytes) -> None:
            if path == "/api/repos/create":
                asked = json.loads(body)
                hub.created.append(asked)
                name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
                self._send({"url": f"{hub.endpoint}/{name}", "name": name})
            elif path == "/api/validate-yaml":
                self._send({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = json.loads(body)["files"]
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["size"] > LARGE else "regular",
                        "shouldIgnore": False,
                    }
                    for file in files
                ]
                self._send({"files": modes})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [
                    wanted | {"actions": {"upload": {"href": f"{hub.endpoint}/objects/{wanted['oid']}"}}}
                    for wanted in json.loads(body)["objects"]
                ]
                self._send({"transfer": "basic", "objects": objects})
            else:
                assert path.endswith("/commit/main"), path
                repository = path.removeprefix("/api/").removesuffix("/commit/main")
                for line in body.splitlines():
                    self._commit(hub.files.setdefault(repository, {}), json.loads(line))
                self._send(
                    {
                        "commitUrl": f"{hub.endpoint}/{repository.partition('/')[2]}/commit/{'1' * 40}",
                        "commitOid": "1" * 40,
                    }
                )

        def _commit(self, files: dict[str, bytes], operation: dict) -> None:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]

        def _send(self, content: dict, status: int = 200) -> None:
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.send_header("X-Stand-In", "this is no hub")
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
