"""The synchronous interface of the interpreter. It starts a server as a subprocess and talks to it from a thread.

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
from typing import Any

from tasks.shared.sandbox.client import RequestLost, SandboxClient, SandboxLost, SandboxSilent
from tasks.shared.sandbox.protocol import MAX_CODE_BYTES
from tasks.shared.sandbox.records import (
    ExecutionResult,
    Limits,
    SandboxSettings,
    SandboxUnavailable,
    Status,
    sandbox_failure,
    without_output,
)

_STOP_S = 10.0
FIRST_PAUSE_S = 0.05  # between attempts, doubled each time


class Interpreter(contextlib.AbstractContextManager["Interpreter"]):
    """Runs programs in a sandbox server: its own, which ends with this object, or an existing one.

    Raises SandboxUnavailable when it cannot start. `run` and `submit` never raise for an outage: after
    retries, in which an own server starts anew, they return a result with the status SANDBOX_FAILURE.
    """

    def __init__(self, settings: SandboxSettings, address: str | None = None) -> None:
        self.settings = settings
        self._owns_server = address is None
        self.address = address or ""
        """Where the server listens."""
        self._server: subprocess.Popen[str] | None = None
        self._directory = ""
        self._client: SandboxClient | None = None
        self._closed = False
        self._last_health: dict[str, Any] = {}
        self._sessions: dict[str, SandboxClient | None] = {}  # None for a session that could not be opened
        self._connecting = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox-client", daemon=True)
        self._thread.start()
        try:
            self._call(self._connect())
        except SandboxLost as error:
            self.close()
            raise SandboxUnavailable(f"{error}; start one, or leave the address out to embed one") from error
        except BaseException:
            self.close()
            raise

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _connect(self) -> SandboxClient:
        """Return the connected client. A lost one is replaced, and so is an own server that died or fell silent."""
        async with self._connecting:
            if self._closed:
                raise SandboxLost("this interpreter was closed")
            if self._client is not None and self._client.connected:
                return self._client
            if self._owns_server:
                silent = self._client is not None and isinstance(self._client.loss, SandboxSilent)
                if self._server is None or silent or self._server.poll() is not None:
                    await asyncio.to_thread(self._start_server)
            try:
                client = await SandboxClient.connect(self.address, self.settings.token_file)
            except SandboxSilent:
                if self._server is not None:
                    self._server.kill()  # the next attempt starts another
                raise
            if client.isolation == "unsafe" and not self.settings.allow_unsafe:
                await client.close()
                raise SandboxUnavailable(
                    f"the sandbox server at {self.address} runs programs without isolation: "
                    "use another, or set allow_unsafe = true, which marks every report"
                )
            self._client = client
            return client

    def _start_server(self) -> None:
        """Start an own server in place of a lost one, and wait for its ready line. It ends when this process does."""
        if self._server is not None:
            self._server.kill()
            self._stop_server()
        root = Path(__file__).resolve().parents[3]
        environment = {"PATH": os.defpath, "PYTHONPATH": str(root), "LANG": "C.UTF-8"}
        command = [sys.executable, "-m", "tasks.shared.sandbox.server", "--until-stdin-closes"]
        try:
            self._directory = tempfile.mkdtemp(prefix="sandbox-")
            self.address = str(Path(self._directory) / "socket")
            command += ["--socket", self.address, "--settings", json.dumps(asdict(self.settings))]
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        except OSError as error:
            self._stop_server()
            raise SandboxUnavailable(f"the sandbox server cannot be started: {error}") from error
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        answer = json.loads(line) if line else {"failed": "the sandbox server died while it started"}
        if "failed" in answer:
            self._stop_server()
            raise SandboxUnavailable(answer["failed"])

    def _stop_server(self) -> None:
        """End the server, and keep the health that it prints last."""
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

    async def _run(self, code: str, session: str | None, limits: Limits | None) -> ExecutionResult:
        """Run, and retry after a lost connection. A session does not survive its connection."""
        reason = ""
        size = len(code.encode("utf-8", "surrogatepass"))
        if size > MAX_CODE_BYTES:  # the model's error: a server refuses it
            error = f"SyntaxError: a program of {size} bytes; at most {MAX_CODE_BYTES} are run"
            return without_output(Status.ERROR, error)
        if limits is None and not self._owns_server:
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
                if self._closed or (isinstance(error, SandboxSilent) and not self._owns_server):
                    break  # an existing server that answers nothing gets no second request for this call
                await asyncio.sleep(FIRST_PAUSE_S * 2**attempt)
        return sandbox_failure(reason, attempts=attempt + 1)

    def submit(
        self, code: str, session: str | None = None, limits: Limits | None = None
    ) -> Future[ExecutionResult]:
        """Run a program, or a block of a session, in the background.

        The future raises RequestRefused (a ValueError) for an invalid request, such as an unknown session.
        """
        if self._closed:
            raise RuntimeError("this interpreter is closed: make another, or keep to its with-block")
        return asyncio.run_coroutine_threadsafe(self._run(code, session, limits), self._loop)

    def run(self, code: str, session: str | None = None, limits: Limits | None = None) -> ExecutionResult:
        """Run a program and wait for its result."""
        return self.submit(code, session, limits).result()

    def open_session(self) -> str:
        """Open a session to pass to `run`. Its variables live on until `close_session`.

        If the retries do not outlast an outage, all blocks of the session are sandbox failures.
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
        """End a session and free what it holds. A lost session has ended already."""
        client = self._sessions.pop(session, None)
        if client is not None and client.connected:
            with contextlib.suppress(SandboxLost):
                self._call(client.close_session(session))

    def health(self) -> dict[str, Any]:
        """Return the figures of the server: now, at its end once this object is closed, or the last known ones."""
        if not self._closed:
            with contextlib.suppress(SandboxLost, SandboxUnavailable):
                self._last_health = self._call(self._call(self._connect()).health())
        return self._last_health

    def close(self) -> None:
        """End the connection, and an own server. Calls in flight become sandbox failures."""
        if self._closed:
            return
        self._closed = True
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def server_pid(self) -> int:
        """Process id of the own server."""
        assert self._server is not None
        return self._server.pid

    async def _end(self) -> None:
        """Close the client and the own server, once none is being started, and let all calls end."""
        async with self._connecting:
            if self._client is not None:
                await self._client.close()
            await asyncio.to_thread(self._stop_server)
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*calls, return_exceptions=True)

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()
