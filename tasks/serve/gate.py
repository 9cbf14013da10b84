"""Middleware before the API: checks the key, the size of a body, and how long a client takes to send it."""

import asyncio
import hmac

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.serve.schemas import ApiError

BODY_SECONDS = 30.0
READ_ON = 8  # a body that is too large is read up to this many times the largest size
GUARDED = ("/v1/", "/metrics")


class Gate:
    """ASGI middleware that reads each body whole before the application sees it."""

    def __init__(self, app: ASGIApp, key: str, max_body: int) -> None:
        """`key`: "" for none; `max_body`: bytes."""
        self._app = app
        self._key = key
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            if self._key and scope["path"].startswith(GUARDED):
                self._check_key(Headers(scope=scope).get("authorization", ""))
            body = await self._body(receive)
        except ApiError as error:
            return await JSONResponse(error.body, error.status)(scope, receive, send)
        return await self._app(scope, _replay(body, receive), send)

    def _check_key(self, authorization: str) -> None:
        if not hmac.compare_digest(authorization.encode("latin-1"), b"Bearer " + self._key.encode()):
            message = "the API key is missing or wrong: send it as Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key")

    async def _body(self, receive: Receive) -> bytes:
        """Return the body. Raises ApiError if it is too large or too slow.

        A body that is too large is read on for a while, because a client that still sends reads no answer.
        """
        body, size, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and size <= READ_ON * self._max_body:
                    message = await receive()
                    part, more = message.get("body", b""), message.get("more_body", False)
                    size += len(part)
                    body += part if size <= self._max_body else b""
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {BODY_SECONDS:g} s", code="timeout") from None
        if size > self._max_body:
            raise ApiError(413, f"the body is larger than {self._max_body} bytes", code="too_large")
        return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body once, then what follows, such as a disconnect."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message
