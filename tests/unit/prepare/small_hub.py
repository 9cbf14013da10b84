"""A hub of datasets on loopback, with the routes that `datasets` and `huggingface_hub` use."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.loopback import Handler, serve_http


@contextmanager
def small_hub(sets: dict[tuple[str, str], dict[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve datasets, (repository, revision) -> files. Yields the endpoint and the requested paths."""
    asked: list[str] = []

    class Hub(Handler):
        def do_GET(self) -> None:
            body = self.body()
            path = urlsplit(self.path).path
            asked.append(path)
            repository, revision = next(found for found in sets if f"/datasets/{found[0]}/" in f"{path}/")
            files, commit = sets[repository, revision], {"X-Repo-Commit": revision}
            names = json.loads(body).get("paths", []) if body.startswith(b"{") else list(files)
            api, resolve = f"/api/datasets/{repository}", f"/datasets/{repository}/resolve/{revision}/"
            if path in (f"{api}/revision/{revision}", api):
                siblings = [{"rfilename": name} for name in files]
                about = {"id": repository, "sha": revision, "siblings": siblings, "tags": []}
                self.reply(200, json.dumps(about).encode(), commit)
            elif path.startswith((f"{api}/tree/{revision}", f"{api}/paths-info/{revision}")):
                listed = [describe(name, content) for name, content in files.items() if name in names]
                self.reply(200, json.dumps(listed).encode(), commit)
            elif path.startswith(resolve) and path.removeprefix(resolve) in files:
                content = files[path.removeprefix(resolve)]
                self.reply(200, content, commit | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
            else:
                missing = "EntryNotFound" if path.startswith(resolve) else "RevisionNotFound"
                self.reply(404, headers={"X-Error-Code": missing})

        do_HEAD = do_POST = do_GET

    with serve_http(Hub) as endpoint:
        yield endpoint, asked


def describe(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
