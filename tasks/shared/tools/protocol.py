"""The protocol of tools that a model calls while it reasons. The interpreter is one of them.

The content of a call is a text. For the interpreter it is a program; for another tool it is one line with the tool's
name and its arguments as JSON. So calls of every tool are recorded, verified and replayed in the same way.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from tasks.shared.sandbox import ExecutionResult, Limits


class Tool(Protocol):
    """Answers calls in the background. An outage is a result of status SANDBOX_FAILURE, not an exception."""

    def submit(
        self, code: str, session: str | None = None, limits: Limits | None = None
    ) -> Future[ExecutionResult]:
        """Queue a call, with `limits` instead of the recipe's. Returns at once; the future gets the result."""

    def open_session(self) -> str:
        """Start a session in which variables live on from call to call."""

    def close_session(self, session: str) -> None:
        """End a session."""

    def health(self) -> dict[str, Any]:
        """Return the current figures of the tool, or the last known ones."""


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the text by which a call of another tool than the interpreter is recorded and submitted."""
    return f"#!{name} {json.dumps(arguments, ensure_ascii=False)}"


def arguments_of(code: str, name: str) -> str | None:
    """Return the arguments as JSON if `code` is a call of the tool `name`, else None, as for programs."""
    mark = f"#!{name} "
    return code.removeprefix(mark) if code.startswith(mark) else None
