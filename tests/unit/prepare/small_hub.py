"""A dataset hub of one repository on loopback, with the routes that `datasets` and `huggingface_hub` use."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.loopback import Handler, serve_http


@contextmanager
def small_hub(repository: str, revision: str, files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve `files` as dataset `repository` at `revision` alone. Yields the endpoint and the requested paths."""
    asked: list[str] = []

    class Hub(Handler):
        def do_GET(self) -> None:
            body = self.body()
            names = json.loads(body).get("paths", []) if body.startswith(b"{") else list(files)
            path = urlsplit(self.path).path
            asked.append(path)
            api, resolve = f"/api/datasets/{repository}", f"/datasets/{repository}/resolve/{revision}/"
            if path in (f"{api}/revision/{revision}", api):
                siblings = [{"rfilename": name} for name in files]
                self._send({"id": repository, "sha": revision, "siblings": siblings, "tags": []})
            elif path.startswith((f"{api}/tree/{revision}", f"{api}/paths-info/{revision}")):
                self._send([describe(name, content) for name, content in files.items() if name in names])
            elif path.startswith(resolve) and path.removeprefix(resolve) in files:
                content = files[path.removeprefix(resolve)]
                self.reply(200, content, commit | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
            else:
                missing = "EntryNotFound" if path.startswith(resolve) else "RevisionNotFound"
                self.reply(404, headers={"X-Error-Code": missing})

        do_HEAD = do_POST = do_GET

        def _send(self, content: object) -> None:
            self.reply(200, json.dumps(content).encode(), commit)

    commit = {"X-Repo-Commit": revision}
    with serve_http(Hub) as endpoint:
        yield endpoint, asked


def describe(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
