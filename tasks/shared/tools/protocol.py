"""What a model calls while it reasons: one protocol, whatever answers; the interpreter is one such tool.

What a call asks is a text. The interpreter's is a program; another tool's is one line, its name and its arguments as
JSON, so that calls of every tool are recorded, verified and made again for a certificate alike.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from tasks.shared.sandbox import ExecutionResult, Limits


class Tool(Protocol):
    """Answers calls in the background. An outage is a result of status SANDBOX_FAILURE, no exception."""

    def submit(
        self, code: str, session: str | None = None, limits: Limits | None = None
    ) -> Future[ExecutionResult]:
        """Queue a call; `limits` in place of the recipe's. The future comes at once, its result may be late."""

    def open_session(self) -> str:
        """Start a session in which variables live on from call to call."""

    def close_session(self, session: str) -> None:
        """End a session."""

    def health(self) -> dict[str, Any]:
        """Figures of whatever answers: now, or the last known."""


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """What a call of a tool beside the interpreter is recorded as, and submitted as."""
    return f"#!{name} {json.dumps(arguments, ensure_ascii=False)}"


def arguments_of(code: str, name: str) -> str | None:
    """The arguments in `code` as JSON, if it is a call of the tool `name`; None for any other, programs included."""
    mark = f"#!{name} "
    return code.removeprefix(mark) if code.startswith(mark) else None
