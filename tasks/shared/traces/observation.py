"""What the model is shown of an execution: the one function behind synthesis, RL and evaluation.

ReTool feeds back stdout or the whole error message, ToRL the last line of the traceback. A time-out, memory or
security stop is told as such, after everything that was printed before it.
"""

from typing import Literal

from tasks.shared.sandbox import ExecutionResult, Status

STOPPED = {
    Status.TIMEOUT: "TimeoutError: the program ran longer than it may",
    Status.OUT_OF_MEMORY: "MemoryError: the program used more memory than it may",
    Status.FORBIDDEN: "PermissionError: the program tried something that the sandbox forbids",
}


def observe(result: ExecutionResult, error_feedback: Literal["full", "last_line"]) -> str:
    """The observation text for an execution that reached an end; a sandbox failure has none (AssertionError)."""
    assert result.status is not Status.SANDBOX_FAILURE, "a sandbox failure is never shown to the model"
    error = result.error if error_feedback == "full" else result.error_line
    if result.status in STOPPED:
        error = STOPPED[result.status]
    parts = [part.rstrip("\n") for part in (result.stdout, error) if part.strip()]
    return "\n".join(parts)
