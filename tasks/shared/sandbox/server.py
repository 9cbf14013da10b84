"""The sandbox server: python -m tasks.shared.sandbox.server --socket PATH | --tcp HOST:PORT --token-file FILE

Serves many clients. Prints one JSON line when it is ready (`{"ready": address, "isolation": mode}`), and its health as
the last line, on SIGTERM or when its standard input closes (`--until-stdin-closes`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import hmac
import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.shared.sandbox import protocol
from tasks.shared.sandbox.broker import Broker
from tasks.shared.sandbox.capacity import above_hard_limit
from tasks.shared.sandbox.protocol import FrameReader, ProtocolError
from tasks.shared.sandbox.records import ExecutionResult, SandboxSettings, SandboxUnavailable

_HELLO_S = 10.0


class Connection(asyncio.Protocol):
    """A client's connection: its requests in flight and its sessions, which end with it."""

    _transport: asyncio.Transport
    _greeting: asyncio.TimerHandle
    """Ends the connection unless the client says hello."""

    def __init__(self, broker: Broker, token: str, connections: set[Connection]) -> None:
        self._broker, self._token, self._connections = broker, token, connections
        self._reader = FrameReader()
        self._greeted = False
        self._in_flight: dict[asyncio.Future[ExecutionResult], object] = {}
        self._sessions: set[str] = set()
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's hello, for a limited time."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)
        loop = asyncio.get_running_loop()
        self._greeting = loop.call_later(_HELLO_S, self._refuse, "no hello within 10 s")

    def connection_lost(self, exc: Exception | None) -> None:
        """Withdraw the requests of a client that went away, and end its sessions."""
        self._connections.discard(self)
        self._greeting.cancel()
        for future in list(self._in_flight):
            future.cancel()
        for session in self._sessions:
            self._broker.close_session(session)
        self._sessions.clear()

    def close(self) -> None:
        """Send what is written, then close the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Handle the messages in the client's bytes."""
        try:
            for message in self._reader.feed(data):
                self._handle(message)
        except ProtocolError as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        """Send the reason, and close the connection."""
        self._broker.metrics.bad_requests += 1
        self._send({"id": None, "error": reason})
        self.close()

    def _send(self, message: dict[str, Any]) -> None:
        if not self._transport.is_closing():
            self._transport.write(protocol.encode(message))

    def _handle(self, message: dict[str, Any]) -> None:
        if not self._greeted:
            self._greet(message)
            return
        number, operation = message.get("id"), message.get("op")
        if isinstance(number, bool) or not isinstance(number, int):
            raise ProtocolError(f"request id must be a whole number, not {number!r:.40}")
        answer: object = None
        try:
            if operation == "run":
                self._run(number, message)
                return
            if operation == "open_session":
                answer = self._broker.open_session()
                self._sessions.add(answer)
            elif operation == "close_session":
                self._broker.close_session(self._own_session(message))
                self._sessions.discard(message["session"])
            elif operation == "in_flight":
                answer = [[open_id, *self._broker.progress(run)] for run, open_id in self._in_flight.items()]
            elif operation == "health":
                answer = self._broker.health()
            else:
                known = "run, open_session, close_session, in_flight or health"
                raise ProtocolError(f"unknown op {operation!r:.40}: {known}")
        except (ProtocolError, RuntimeError) as error:
            self._broker.metrics.bad_requests += 1
            self._send({"id": number, "error": str(error)})
        else:
            self._send({"id": number, "ok": answer})

    def _greet(self, message: dict[str, Any]) -> None:
        if message.get("op") != "hello" or message.get("version") != protocol.VERSION:
            raise ProtocolError(f"the first message must be hello with version {protocol.VERSION}")
        token = str(message.get("token") or "")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            raise ProtocolError("wrong token")
        self._greeted = True
        self._greeting.cancel()
        self._send({"id": 0, "ok": {"isolation": self._broker.workers.isolation}})

    def _own_session(self, message: dict[str, Any]) -> str:
        session = message.get("session")
        if not isinstance(session, str) or session not in self._sessions:
            raise ProtocolError("no such session on this connection")
        return session

    def _run(self, number: int, message: dict[str, Any]) -> None:
        code, defaults = protocol.parse_code(message.get("code")), self._broker.settings.limits
        limits = protocol.parse_limits(message.get("limits"), defaults)
        if limits.disk_mb > defaults.disk_mb:
            raise ProtocolError(f"limit disk_mb: this server allows {defaults.disk_mb}")
        if limits is not defaults and (refusal := above_hard_limit(limits, self._broker.workers.warm_mb)):
            raise ProtocolError(refusal)
        session = None if message.get("session") is None else self._own_session(message)
        future = self._broker.submit(code, limits, session)
        self._in_flight[future] = number
        future.add_done_callback(self._answer)
        if len(self._in_flight) >= protocol.MAX_IN_FLIGHT and not self._paused:
            self._transport.pause_reading()
            self._paused = True

    def _answer(self, future: asyncio.Future[ExecutionResult]) -> None:
        number = self._in_flight.pop(future)
        if not future.cancelled():
            self._send({"id": number, "ok": asdict(future.result())})
        if self._paused and len(self._in_flight) < protocol.MAX_IN_FLIGHT // 2:
            self._transport.resume_reading()
            self._paused = False


async def serve(settings: SandboxSettings, path: str, tcp: str, token: str, until_stdin_closes: bool) -> None:
    """Run the server until it is stopped. Raises SandboxUnavailable if workers cannot be kept."""
    loop = asyncio.get_running_loop()
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU):  # the processes that it starts inherit these
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hard, hard))
    broker = Broker(settings)
    connections: set[Connection] = set()
    connect = functools.partial(Connection, broker, token, connections)
    stop = asyncio.Event()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(broker.workers.close)
        broker.workers.start()
        if refusal := above_hard_limit(settings.limits, broker.workers.warm_mb):
            raise SandboxUnavailable(refusal)
        await broker.workers.first_child()
        try:
            if tcp:
                host, _, port = tcp.rpartition(":")
                server: asyncio.Server = await loop.create_server(connect, host, int(port), backlog=1024)
                address = "tcp://{}:{}".format(*server.sockets[0].getsockname()[:2])
            else:
                os.umask(0o077)
                server = await loop.create_unix_server(connect, path, backlog=1024)
                cleanup.callback(Path(path).unlink, missing_ok=True)
                address = path
        except (OSError, OverflowError) as error:
            raise SandboxUnavailable(
                f"the sandbox cannot listen at {path or tcp}: {error}; choose another, for an own server by TMPDIR"
            ) from error
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.set)
        if until_stdin_closes:
            loop.add_reader(0, lambda: None if os.read(0, 1) else stop.set())
        print(json.dumps({"ready": address, "isolation": broker.workers.isolation}), flush=True)
        broker.workers.failed.add_done_callback(lambda _: stop.set())
        await stop.wait()
        reason = broker.workers.failed.result() if broker.workers.failed.done() else "the server was stopped"
        broker.fail_all(reason)
        await asyncio.sleep(0)
        server.close()
        for connection in list(connections):
            connection.close()
        try:
            print(json.dumps({"health": broker.health()}), flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the process that would read this is gone
        if broker.workers.failed.done():
            raise SandboxUnavailable(f"the sandbox cannot keep its workers: {reason}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", default="", help="path of the Unix socket to serve on")
    where.add_argument("--tcp", default="", help="HOST:PORT to serve on; needs --token-file")
    parser.add_argument("--token-file", type=Path, help="file with the token that clients must show")
    parser.add_argument("--settings", default="{}", help="SandboxSettings as JSON")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop when standard input ends")
    arguments = parser.parse_args()
    if arguments.tcp and arguments.token_file is None:
        parser.error("--tcp needs --token-file: whoever reaches the port could run programs")
    if arguments.tcp and not arguments.tcp.rpartition(":")[2].isdecimal():
        parser.error(f"--tcp {arguments.tcp}: write HOST:PORT")
    try:
        token = arguments.token_file.read_text().strip() if arguments.token_file else ""
        if arguments.tcp and len(token) < 16:
            parser.error(f"the token in {arguments.token_file} is shorter than 16 characters")
        settings = SandboxSettings.from_json(arguments.settings)
        asyncio.run(serve(settings, arguments.socket, arguments.tcp, token, arguments.until_stdin_closes))
    except (SandboxUnavailable, OSError, ValueError, TypeError) as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
