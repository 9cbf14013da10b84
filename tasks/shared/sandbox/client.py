"""The asynchronous client: any number of programs in flight over one connection."""

from __future__ import annotations

import asyncio
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


class _Wire(asyncio.Protocol):
    """The connection: matches answers to requests by their id, and waits for no answer forever.

    While requests are open it asks the server every few seconds about them. A server that does not answer is lost. A
    request that the server no longer knows, or that runs far beyond its limit, has failed.
    """

    def __init__(self) -> None:
        self._frames = protocol.FrameReader()
        self._next_id = 0
        self._silent_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.transport: asyncio.Transport | None = None
        self.lost = SandboxLost("the server closed the connection")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._timer = asyncio.get_running_loop().call_later(_ASK_EVERY_S, self._ask_about_open)

    def send(self, message: dict[str, Any]) -> asyncio.Future[Any]:
        """Send a request. The future gets its answer. Raises SandboxLost."""
        if self.transport is None or self.transport.is_closing():
            raise self.loss()
        number = self._next_id
        self._next_id += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        frame = protocol.encode({"id": number, **message})
        self.waiting[number] = future
        self.transport.write(frame)
        return future

    def data_received(self, data: bytes) -> None:
        self._silent_s = 0.0
        try:
            for message in self._frames.feed(data):
                self._answer(message)
        except protocol.ProtocolError as error:
            self._give_up(SandboxLost(str(error)))

    def _answer(self, message: dict[str, Any]) -> None:
        if message.get("id") is None:
            self.lost = SandboxLost(str(message.get("error")))
            return
        future = self.waiting.pop(message["id"], None)
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(RequestRefused(message["error"]))
        else:
            future.set_result(message["ok"])

    def _ask_about_open(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_ASK_EVERY_S, self._ask_about_open)
        if not self.waiting or self.transport is None or self.transport.is_closing():
            self._silent_s = 0.0
            return
        is_full = len(self.waiting) >= protocol.MAX_IN_FLIGHT
        if self._silent_s >= (_BUSY_SILENCE_S if is_full else _SILENCE_S):
            reason = f"the sandbox server has answered nothing for {self._silent_s:.0f} s"
            self._give_up(SandboxSilent(reason))
            return
        self._silent_s += _ASK_EVERY_S
        open_ids = [number for number, future in self.waiting.items() if not future.done()]
        self.send({"op": "in_flight"}).add_done_callback(lambda answer: self._compare(open_ids, answer))

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
            future = self.waiting.pop(number, None)
            if future is not None and not future.done():
                future.set_exception(RequestLost(f"a request {reason}"))

    def _give_up(self, error: SandboxLost) -> None:
        self.lost = error
        assert self.transport is not None
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(self.loss())
        self.waiting.clear()

    def loss(self) -> SandboxLost:
        """Return a new exception with the cause of the lost connection."""
        return type(self.lost)(str(self.lost))


class SandboxClient:
    """Talks to one server. Create it with `await SandboxClient.connect(...)`.

    An address is the path of a Unix socket, or `tcp://HOST:PORT` with a file that holds the token.
    """

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self.isolation = ""
        """The isolation of the server's programs: namespaces, landlock or unsafe."""

    @property
    def connected(self) -> bool:
        """Whether requests can be sent."""
        return self._wire.transport is not None and not self._wire.transport.is_closing()

    @property
    def is_silent(self) -> bool:
        """Whether the connection was closed because the server answered nothing."""
        return isinstance(self._wire.lost, SandboxSilent)

    @classmethod
    async def connect(cls, address: str, token_file: str = "") -> SandboxClient:
        """Connect and say hello.

        Raises SandboxLost if there is no server, SandboxSilent if it answers nothing, SandboxUnavailable if it refuses.
        """
        loop = asyncio.get_running_loop()
        token = Path(token_file).read_text().strip() if token_file else ""
        try:
            if address.startswith("tcp://"):
                host, _, port = address.removeprefix("tcp://").rpartition(":")
                _, wire = await loop.create_connection(_Wire, host, int(port))
            else:
                _, wire = await loop.create_unix_connection(_Wire, address)
        except OSError as error:
            raise SandboxLost(f"no sandbox server at {address}: {error}") from error
        client = cls(wire)
        try:
            hello = {"op": "hello", "version": protocol.VERSION, "token": token}
            greeting = await asyncio.wait_for(wire.send(hello), _HELLO_S)
        except TimeoutError as error:
            await client.close()
            raise SandboxSilent(f"the sandbox server at {address} answers nothing") from error
        except SandboxLost as error:
            raise SandboxUnavailable(
                f"the sandbox server at {address} refuses this client: {error}"
            ) from error
        client.isolation = str(greeting["isolation"])
        return client

    async def run(
        self, code: str, session: str | None = None, limits: Limits | None = None
    ) -> ExecutionResult:
        """Run a program, or a block of a session.

        Raises SandboxLost if the server goes away or falls silent, RequestLost if it will never answer, RequestRefused
        if the request is invalid.
        """
        message: dict[str, Any] = {"op": "run", "code": code}
        if session is not None:
            message["session"] = session
        if limits is not None:
            message["limits"] = asdict(limits)
        return ExecutionResult.from_json(await self._wire.send(message))

    async def open_session(self) -> str:
        """Open a session of this connection. Returns its name."""
        return str(await self._wire.send({"op": "open_session"}))

    async def close_session(self, session: str) -> None:
        """End a session."""
        await self._wire.send({"op": "close_session", "session": session})

    async def health(self) -> dict[str, Any]:
        """Return the current figures of the server."""
        return dict(await self._wire.send({"op": "health"}))

    async def close(self) -> None:
        """Close the connection, which ends its sessions and programs in flight."""
        if self._wire.transport is not None:
            self._wire.transport.close()
            await asyncio.sleep(0)
