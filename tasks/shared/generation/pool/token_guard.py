"""In a server of the pool: nothing is answered without the pool's token, whichever path is asked for.

vLLM's own key guards only what lies under /v1 and /inference; pause, weights and remote calls would be open to all.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tasks.shared.contract.environment import pool_token

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class RequireToken:
    """ASGI middleware (vLLM's `--middleware`): 401 for every request without `Authorization: Bearer <token>`."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        token = pool_token()
        assert token, "a server of the pool is started with a token"
        self._app = app
        self._wanted = _digest(f"Bearer {token}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass."""
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b"the pool's token is wanted\n"})

    def _may_pass(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(_digest(given[0]), self._wanted)


def _digest(value: bytes) -> bytes:
    """Of equal length for all values, so that a comparison tells nothing of the token's."""
    return hashlib.sha256(value).digest()
