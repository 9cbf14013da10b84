"""A dataset hub of one repository on loopback: the few routes that `datasets` and `huggingface_hub` ask for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@contextmanager
def small_hub(repository: str, revision: str, files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve `files` as dataset `repository` at `revision` alone; the endpoint, and the paths asked for so far."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            wanted = json.loads(body).get("paths", []) if body.startswith(b"{") else None
            self._answer(with_body=True, wanted=wanted)

        def _answer(self, with_body: bool, wanted: list[str] | None = None) -> None:
            path = urlsplit(self.path).path
            asked.append(path)
            api, resolve = f"/api/datasets/{repository}", f"/datasets/{repository}/resolve/{revision}/"
            entries = [describe(name, content) for name, content in files.items()]
            if path in (f"{api}/revision/{revision}", api):
                siblings = [{"rfilename": name} for name in files]
                self._send(
                    json.dumps(
                        {"id": repository, "sha": revision, "siblings": siblings, "tags": []}
                    ).encode(),
                    with_body,
                )
            elif path.startswith((f"{api}/tree/{revision}", f"{api}/paths-info/{revision}")):
                if wanted is not None:
                    entries = [entry for entry in entries if entry["path"] in wanted]
                self._send(json.dumps(entries).encode(), with_body)
            elif path.startswith(resolve) and path.removeprefix(resolve) in files:
                content = files[path.removeprefix(resolve)]
                self._send(content, with_body, etag=hashlib.sha1(content).hexdigest())
            else:
                self.send_response(404)
                self.send_header(
                    "X-Error-Code", "EntryNotFound" if path.startswith(resolve) else "RevisionNotFound"
                )
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _send(self, content: bytes, with_body: bool, etag: str = "") -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", revision)
            if etag:
                self.send_header("ETag", f'"{etag}"')
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def describe(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
