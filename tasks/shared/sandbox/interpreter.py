"""The synchronous face of the interpreter: starts a server as a subprocess and talks to it from a thread.

with Interpreter(SandboxSettings()) as interpreter:
    interpreter.run("print(1 + 1)").stdout  # "2\\n"
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from tasks.shared.sandbox.client import RequestLost, SandboxClient, SandboxLost, SandboxSilent
from tasks.shared.sandbox.records import (
    ExecutionResult,
    Limits,
    SandboxSettings,
    SandboxUnavailable,
    sandbox_failure,
)

_STOP_S = 10.0
FIRST_PAUSE_S = 0.05  # between attempts, doubled each time


class Interpreter:
    """Runs programs in a sandbox server: its own (started here, ended with this object), or an existing one.

    Raises SandboxUnavailable when it cannot start. `run` and `submit` never raise for an outage: it comes back
    as a result with status SANDBOX_FAILURE, after retries (in which an own server is started anew).
    """

    def __init__(self, settings: SandboxSettings, address: str | None = None) -> None:
        self.settings = settings
        self._given = address
        self._address = address or ""
        self._server: subprocess.Popen[str] | None = None
        self._directory = ""
        self._client: SandboxClient | None = None
        self._closed = False
        self._last_health: dict[str, Any] = {}
        self._sessions: dict[str, SandboxClient | None] = {}  # None: it could not be opened
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox-client", daemon=True)
        self._thread.start()
        try:
            if address is None:
                self._start_server()
            self._reconnecting = self._call(self._make_lock())
            self._call(self._connect())
        except SandboxLost as error:
            self.close()
            raise SandboxUnavailable(f"{error}; start one, or leave the address out to embed one") from error
        except BaseException:
            self.close()
            raise

    async def _make_lock(self) -> asyncio.Lock:
        return asyncio.Lock()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _start_server(self) -> None:
        """Start the subprocess and wait for its ready line. It ends when this process does."""
        self._directory = tempfile.mkdtemp(prefix="sandbox-")
        path = str(Path(self._directory) / "socket")
        root = Path(__file__).resolve().parents[3]
        environment = {"PATH": os.defpath, "PYTHONPATH": str(root), "LANG": "C.UTF-8"}
        command = [
            sys.executable,
            "-m",
            "tasks.shared.sandbox.server",
            "--socket",
            path,
            "--until-stdin-closes",
        ]
        command += ["--settings", json.dumps(asdict(self.settings))]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        answer = json.loads(line) if line else {"failed": "the sandbox server died while it started"}
        if "failed" in answer:
            self._stop_server()
            raise SandboxUnavailable(answer["failed"])
        self._address = path

    def _stop_server(self) -> None:
        """End the server and read its last words: the health at its end."""
        if self._server is not None:
            assert self._server.stdin is not None and self._server.stdout is not None
            self._server.stdin.close()
            try:
                self._server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            for line in self._server.stdout:
                self._last_health = json.loads(line).get("health", self._last_health)
            self._server.stdout.close()
            self._server = None
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _connect(self) -> SandboxClient:
        """The living client, made anew (with its server, if that is ours) when it was lost."""
        async with self._reconnecting:
            if self._client is not None and self._client.connected:
                return self._client
            silent = self._client is not None and self._client.is_silent
            if self._server is not None and (silent or self._server.poll() is not None):
                await asyncio.to_thread(self._restart_server)
            try:
                client = await SandboxClient.connect(self._address, self.settings.token_file)
            except SandboxSilent:
                if self._server is not None:
                    self._server.kill()  # the next try starts another
                raise
            if client.isolation == "unsafe" and not self.settings.allow_unsafe:
                await client.close()
                raise SandboxUnavailable(
                    f"the sandbox server at {self._address} runs programs without isolation: "
                    "use another, or set allow_unsafe = true, which marks every report"
                )
            self._client = client
            return client

    def _restart_server(self) -> None:
        assert self._server is not None
        self._server.kill()
        self._stop_server()
        self._start_server()

    async def _run(self, code: str, session: str | None, limits: Limits | None) -> ExecutionResult:
        """Run with retries over lost connections; a session does not survive its connection."""
        reason = ""
        if limits is None and self._given is not None:
            limits = self.settings.limits  # an existing server has defaults of its own
        for attempt in range(self.settings.retries + 1):
            try:
                client = await self._connect()
                if session in self._sessions and self._sessions[session] is not client:
                    reason = "the connection of this session was lost, its variables with it"
                    break
                return await client.run(code, session, limits)
            except RequestLost as error:
                reason = str(error)
                break
            except (SandboxLost, SandboxUnavailable) as error:
                reason = str(error)
                if self._closed or (isinstance(error, SandboxSilent) and self._server is None):
                    break  # a server of others that answers nothing is not asked again for this call
                await asyncio.sleep(FIRST_PAUSE_S * 2**attempt)
        return sandbox_failure(reason, attempt + 1)

    def submit(
        self, code: str, session: str | None = None, limits: Limits | None = None
    ) -> Future[ExecutionResult]:
        """Run a program (or a block of a session) in the background.

        The future raises RequestRefused (a ValueError) for a request that is not acceptable, such as a
        session that does not exist or a program above 1 MiB.
        """
        if self._closed:
            raise RuntimeError("this interpreter is closed: make another, or keep to its with-block")
        return asyncio.run_coroutine_threadsafe(self._run(code, session, limits), self._loop)

    def run(self, code: str, session: str | None = None, limits: Limits | None = None) -> ExecutionResult:
        """Run a program and wait for its result."""
        return self.submit(code, session, limits).result()

    def open_session(self) -> str:
        """A new session; pass it to `run`. Variables live on until `close_session`.

        In an outage that outlasts the retries it is a session whose blocks are all sandbox failures.
        """
        return str(self._call(self._open_session()))

    async def _open_session(self) -> str:
        for attempt in range(self.settings.retries + 1):
            try:
                client = await self._connect()
                session = await client.open_session()
            except (SandboxLost, SandboxUnavailable):
                await asyncio.sleep(FIRST_PAUSE_S * 2**attempt)
            else:
                self._sessions[session] = client
                return session
        session = f"lost-{uuid.uuid4().hex}"
        self._sessions[session] = None
        return session

    def close_session(self, session: str) -> None:
        """End a session and what it holds; one that was lost has ended already."""
        client = self._sessions.pop(session, None)
        if client is not None and client.connected:
            with contextlib.suppress(SandboxLost):
                self._call(client.close_session(session))

    def health(self) -> dict[str, Any]:
        """Figures of the server: now, at its end once this object is closed, or the last known in an outage."""
        if not self._closed:
            with contextlib.suppress(SandboxLost, SandboxUnavailable):
                self._last_health = self._call(self._ask_health())
        return self._last_health

    async def _ask_health(self) -> dict[str, Any]:
        return await (await self._connect()).health()

    def close(self) -> None:
        """End the connection, and the server if it is ours. Calls in flight become sandbox failures."""
        if self._closed:
            return
        self._closed = True
        if self._client is not None:
            self._call(self._client.close())
        self._stop_server()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Interpreter:
        """The interpreter itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
