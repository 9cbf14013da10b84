"""A block runner for unit tests: the tests' own programs run in this process."""

import contextlib
import io
import traceback
from concurrent.futures import Future
from dataclasses import dataclass, field

from tasks.shared.sandbox import ExecutionResult, Limits, Status


@dataclass
class InProcessRunner:
    """Runs each program at once. The sandbox fails on programs that contain `outage_on`."""

    outage_on: str = ""
    sessions: dict[str, dict[str, object]] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)

    def submit(
        self, code: str, session: str | None = None, limits: Limits | None = None
    ) -> Future[ExecutionResult]:
        future: Future[ExecutionResult] = Future()
        if self.outage_on and self.outage_on in code:
            line = "SandboxFailure: no worker"
            future.set_result(ExecutionResult(Status.SANDBOX_FAILURE, "", line, line, 0.0, 0.0))
            return future
        scope = self.sessions[session] if session is not None else {}
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(code, "<block>", "exec"), scope)
        except Exception as error:  # noqa: BLE001 - whatever the program under test raises is its result
            text = traceback.format_exc()
            line = traceback.format_exception_only(error)[-1].strip()
            future.set_result(ExecutionResult(Status.ERROR, out.getvalue(), text, line, 0.01, 1.0))
        else:
            future.set_result(ExecutionResult(Status.OK, out.getvalue(), "", "", 0.01, 1.0))
        return future

    def open_session(self) -> str:
        name = f"s{len(self.sessions)}"
        self.sessions[name] = {}
        return name

    def close_session(self, session: str) -> None:
        self.closed.append(session)
