"""The asynchronous client: any number of programs in flight over one connection."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.shared.sandbox import protocol
from tasks.shared.sandbox.records import ExecutionResult, Limits, SandboxUnavailable


class SandboxLost(ConnectionError):
    """The connection to the server broke, or was never there."""


class RequestRefused(ValueError):
    """The server understood the request and refuses it; the message says why."""


class _Wire(asyncio.Protocol):
    """The connection: matches answers to requests by their id."""

    def __init__(self) -> None:
        self._frames = protocol.FrameReader()
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.transport: asyncio.Transport | None = None
        self.reason = "the server closed the connection"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._frames.feed(data):
                self._answer(message)
        except protocol.ProtocolError as error:
            self.reason = str(error)
            assert self.transport is not None
            self.transport.abort()

    def _answer(self, message: dict[str, Any]) -> None:
        if message.get("id") is None:
            self.reason = str(message.get("error"))
            return
        future = self.waiting.pop(message["id"], None)
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(RequestRefused(message["error"]))
        else:
            future.set_result(message["ok"])

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(SandboxLost(self.reason))
        self.waiting.clear()


class SandboxClient:
    """Talks to one server. Use `await SandboxClient.connect(...)`.

    Addresses: the path of a Unix socket, or `tcp://HOST:PORT` with the file that holds the token.
    """

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._next_id = 0
        self.isolation = ""
        """The stack the server runs its programs under: namespaces, landlock or unsafe."""

    @property
    def connected(self) -> bool:
        """Whether requests can be sent."""
        return self._wire.transport is not None and not self._wire.transport.is_closing()

    @classmethod
    async def connect(cls, address: str, token_file: str = "") -> SandboxClient:
        """Connect and greet. Raises SandboxLost if there is no server, SandboxUnavailable if it refuses."""
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
            greeting = await client._ask({"op": "hello", "version": protocol.VERSION, "token": token})
        except SandboxLost as error:
            raise SandboxUnavailable(
                f"the sandbox server at {address} refuses this client: {error}"
            ) from error
        client.isolation = str(greeting["isolation"])
        return client

    async def _ask(self, message: dict[str, Any]) -> Any:
        """Send a request and wait for its answer. Raises SandboxLost or RequestRefused."""
        transport = self._wire.transport
        if transport is None or transport.is_closing():
            raise SandboxLost(self._wire.reason)
        number = self._next_id
        self._next_id += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        frame = protocol.encode({"id": number, **message})
        self._wire.waiting[number] = future
        transport.write(frame)
        return await future

    async def run(
        self, code: str, session: str | None = None, limits: Limits | None = None
    ) -> ExecutionResult:
        """Run a program, or a block of a session.

        Raises SandboxLost if the server goes away, RequestRefused if the request is not acceptable.
        """
        message: dict[str, Any] = {"op": "run", "code": code}
        if session is not None:
            message["session"] = session
        if limits is not None:
            message["limits"] = asdict(limits)
        return ExecutionResult.from_json(await self._ask(message))

    async def open_session(self) -> str:
        """The name of a new session, known to this connection alone."""
        return str(await self._ask({"op": "open_session"}))

    async def close_session(self, session: str) -> None:
        """End a session."""
        await self._ask({"op": "close_session", "session": session})

    async def health(self) -> dict[str, Any]:
        """The server's figures of this moment."""
        return dict(await self._ask({"op": "health"}))

    async def close(self) -> None:
        """Close the connection; sessions and programs in flight end with it."""
        if self._wire.transport is not None:
            self._wire.transport.close()
            await asyncio.sleep(0)
