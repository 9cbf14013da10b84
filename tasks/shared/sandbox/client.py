"""The asynchronous client: any number of programs in flight over one connection."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.shared.sandbox import protocol
from tasks.shared.sandbox.records import ExecutionResult, Limits, SandboxUnavailable

_HELLO_S = 10.0
_ASK_EVERY_S = 5.0
_SILENCE_S = 20.0
"""A server that sends nothing for so long is lost. It never works that long between two messages."""
_BUSY_SILENCE_S = 600.0
"""The same while it has `MAX_IN_FLIGHT` requests, since it then reads on only after half of them."""


class SandboxLost(ConnectionError):
    """There is no connection to the server, or it broke."""


class RequestLost(RuntimeError):
    """The server is alive but will never answer this request."""


class RequestRefused(ValueError):
    """The server refuses the request. The message says why."""


class SandboxSilent(SandboxLost):
    """There is a server, but it answers nothing."""


class SandboxClient(asyncio.Protocol):
    """A connection to one server: matches answers to requests by their id, and waits for no answer forever.

    While requests are open it asks the server every few seconds about them. A server that does not answer is lost. A
    request that the server no longer knows, or that runs far beyond its limit, has failed.
    """

    def __init__(self) -> None:
        self._frames = protocol.FrameReader()
        self._ids = itertools.count()
        self._silent_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._transport: asyncio.Transport | None = None
        self.isolation = ""
        """The isolation of the server's programs: namespaces, landlock or unsafe."""
        self.loss = SandboxLost("the server closed the connection")
        """Why there is no connection, once it is lost."""

    @classmethod
    async def connect(cls, address: str, token_file: str = "") -> SandboxClient:
        """Connect to the path of a Unix socket, or to `tcp://HOST:PORT` with a file that holds the token.

        Raises SandboxLost if there is no server, SandboxSilent if it answers nothing, SandboxUnavailable if it refuses.
        """
        loop = asyncio.get_running_loop()
        token = Path(token_file).read_text().strip() if token_file else ""
        try:
            if address.startswith("tcp://"):
                host, _, port = address.removeprefix("tcp://").rpartition(":")
                _, client = await loop.create_connection(cls, host, int(port))
            else:
                _, client = await loop.create_unix_connection(cls, address)
        except (OSError, OverflowError) as error:  # the latter for a port above 65535
            raise SandboxLost(f"no sandbox server at {address}: {error}") from error
        try:
            hello = {"op": "hello", "version": protocol.VERSION, "token": token}
            greeting = await asyncio.wait_for(client._send(hello), _HELLO_S)
        except TimeoutError as error:
            await client.close()
            raise SandboxSilent(f"the sandbox server at {address} answers nothing") from error
        except SandboxLost as error:
            raise SandboxUnavailable(
                f"the sandbox server at {address} refuses this client: {error}"
            ) from error
        client.isolation = str(greeting["isolation"])
        return client

    @property
    def connected(self) -> bool:
        """Whether requests can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def run(
        self, code: str, session: str | None = None, limits: Limits | None = None
    ) -> ExecutionResult:
        """Run a program, or a block of a session.

        Raises SandboxLost if the server goes away or falls silent, RequestLost if it will never answer, RequestRefused
        if the request is invalid.
        """
        asked = None if limits is None else asdict(limits)
        message = {"op": "run", "code": code, "session": session, "limits": asked}
        return ExecutionResult.from_json(await self._send(message))

    async def open_session(self) -> str:
        """Open a session of this connection. Returns its name."""
        return str(await self._send({"op": "open_session"}))

    async def close_session(self, session: str) -> None:
        """End a session."""
        await self._send({"op": "close_session", "session": session})

    async def health(self) -> dict[str, Any]:
        """Return the current figures of the server."""
        return dict(await self._send({"op": "health"}))

    async def close(self) -> None:
        """Close the connection, which ends its sessions and programs in flight."""
        if self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(_ASK_EVERY_S, self._ask_about_open)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self.loss)
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        self._silent_s = 0.0
        try:
            for message in self._frames.feed(data):
                self._answer(message)
        except protocol.ProtocolError as error:
            self._give_up(SandboxLost(str(error)))

    def _send(self, message: dict[str, Any]) -> asyncio.Future[Any]:
        """Send a request. The future gets its answer. Raises SandboxLost."""
        if self._transport is None or self._transport.is_closing():
            raise self.loss
        number = next(self._ids)
        frame = protocol.encode({"id": number, **message})
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._transport.write(frame)
        return self._waiting[number]

    def _answer(self, message: dict[str, Any]) -> None:
        if message.get("id") is None:
            self.loss = SandboxLost(str(message.get("error")))
            return
        future = self._waiting.pop(message["id"], None)
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(RequestRefused(message["error"]))
        else:
            future.set_result(message["ok"])

    def _ask_about_open(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_ASK_EVERY_S, self._ask_about_open)
        if not self._waiting or not self.connected:
            self._silent_s = 0.0
            return
        is_full = len(self._waiting) >= protocol.MAX_IN_FLIGHT
        if self._silent_s >= (_BUSY_SILENCE_S if is_full else _SILENCE_S):
            self._give_up(
                SandboxSilent(f"the sandbox server has answered nothing for {self._silent_s:.0f} s")
            )
            return
        self._silent_s += _ASK_EVERY_S
        open_ids = [number for number, future in self._waiting.items() if not future.done()]
        self._send({"op": "in_flight"}).add_done_callback(lambda answer: self._compare(open_ids, answer))

    def _compare(self, open_ids: list[int], answer: asyncio.Future[Any]) -> None:
        """Fail the open requests that the server does not know, or that run far beyond their limit."""
        if answer.cancelled() or answer.exception() is not None:
            return
        known = {number: (running_s, limit_s) for number, running_s, limit_s in answer.result()}
        for number in open_ids:
            running_s, limit_s = known.get(number, (None, 0.0))
            if number not in known:
                reason = "is no longer known to the server"
            elif running_s is not None and running_s > limit_s:
                reason = f"has run for {running_s:.0f} s"
            else:
                continue
            future = self._waiting.pop(number, None)
            if future is not None and not future.done():
                future.set_exception(RequestLost(f"a request {reason}"))

    def _give_up(self, loss: SandboxLost) -> None:
        self.loss = loss
        assert self._transport is not None
        self._transport.abort()
