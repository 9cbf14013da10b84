"""What stands before the API: the key, the size of a body, how long a client may take to send it."""

import asyncio
import hmac
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_SECONDS = 30.0
READ_ON = 8  # times the largest size, of a body that is refused for its own
GUARDED = ("/v1/", "/metrics")


class Gate:
    """ASGI middleware. Bodies are read whole before anything looks at them."""

    def __init__(self, app: ASGIApp, key: str, max_body: int) -> None:
        """`key`: "" for none; `max_body`: bytes."""
        self._app = app
        self._key = key
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        if (
            self._key
            and scope["path"].startswith(GUARDED)
            and not hmac.compare_digest(headers.get("authorization", b""), b"Bearer " + self._key.encode())
        ):
            said = "the API key is missing or wrong: send it as Authorization: Bearer KEY"
            return await _refuse(send, 401, said, "invalid_api_key")
        try:
            body = await self._body(receive)
        except TimeoutError:
            return await _refuse(send, 408, f"the body did not come within {BODY_SECONDS:g} s", "timeout")
        if body is None:
            return await _refuse(send, 413, f"the body is larger than {self._max_body} bytes", "too_large")
        return await self._app(scope, _replay(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The body; None for one that is too large, which is read on for a while: a client that still sends hears no
        answer.
        """
        body, size = bytearray(), 0
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                part = message.get("body", b"")
                size += len(part)
                body += part if size <= self._max_body else b""
                if not message.get("more_body", False) or size > READ_ON * self._max_body:
                    return bytes(body) if size <= self._max_body else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand the body out once; then whatever comes, as that the client has gone."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


async def _refuse(send: Send, status: int, message: str, code: str) -> None:
    error: dict[str, Any] = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
