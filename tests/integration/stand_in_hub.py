"""A stand-in for a hub on loopback: the few routes with which huggingface_hub makes a repository and commits.

It keeps all files in memory, accepts one token, and says in every reply that it is not a real hub.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.loopback import Handler, serve_http

LARGE = 2_000  # bytes; a larger file is uploaded as an object


@dataclass(slots=True)
class Hub:
    """The files and requests that the stand-in has received."""

    endpoint: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository -> path -> content
    created: list[dict] = field(default_factory=list)  # bodies of requests for new repositories
    objects: dict[str, bytes] = field(default_factory=dict)  # sha256 -> content
    refuse: tuple[int, str] | None = None  # status and message for every request, whatever its token


@contextmanager
def stand_in_hub(token: str) -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub()

    class HubHandler(Handler):
        def do_POST(self) -> None:
            body = self._whole_body()
            if hub.refuse is not None:
                self._send({"error": hub.refuse[1]}, hub.refuse[0])
            elif self.headers.get("Authorization") != f"Bearer {token}":
                self._send({"error": "Invalid credentials"}, 401)
            else:
                self._answer(urlsplit(self.path).path, body)

        def do_PUT(self) -> None:
            content, oid = self._whole_body(), self.path.rpartition("/")[2]
            assert hashlib.sha256(content).hexdigest() == oid
            hub.objects[oid] = content
            self._send({})

        def _whole_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.body()
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
                for file in files:
                    mode = "lfs" if file.pop("size") > LARGE else "regular"
                    file |= {"uploadMode": mode, "shouldIgnore": False}
                self._send({"files": files})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [
                    file | {"actions": {"upload": {"href": f"{hub.endpoint}/objects/{file['oid']}"}}}
                    for file in json.loads(body)["objects"]
                ]
                self._send({"transfer": "basic", "objects": objects})
            else:
                assert path.endswith("/commit/main"), path
                repository = path.removeprefix("/api/").removesuffix("/commit/main")
                for line in body.splitlines():
                    self._commit(hub.files.setdefault(repository, {}), json.loads(line))
                commit = "1" * 40
                url = f"{hub.endpoint}/{repository.partition('/')[2]}/commit/{commit}"
                self._send({"commitUrl": url, "commitOid": commit})

        def _commit(self, files: dict[str, bytes], operation: dict) -> None:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]

        def _send(self, content: dict, status: int = 200) -> None:
            headers = {"Content-Type": "application/json", "X-Stand-In": "this is no hub"}
            self.reply(status, json.dumps(content).encode(), headers)

    with serve_http(HubHandler) as hub.endpoint:
        yield hub
