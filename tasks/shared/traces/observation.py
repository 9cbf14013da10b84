"""The output that a model sees of an execution: one function for synthesis, RL and evaluation.

ReTool feeds back stdout or the whole error message, ToRL the last line of the traceback. The printed output comes
first. Then a time-out or a memory limit is reported as such, and a refusal as one line that names what was refused. If
a session loses its variables with the block, the text says so.
A program that succeeded and printed nothing shows its standard error, for example warnings. The whole text has at most
`output_chars` characters; a longer one is cut in the middle, with a mark.
"""

from typing import Literal

from tasks.shared.sandbox import ExecutionResult, Status
from tasks.shared.sandbox.output import cut_again, cut_middle
from tasks.shared.sandbox.records import SESSION_ENDED

STOPPED = {
    Status.TIMEOUT: "TimeoutError: the program ran longer than it may",
    Status.OUT_OF_MEMORY: "MemoryError: the program used more memory than it may",
}
_NOT_ALLOWED = "PermissionError: the program tried something that the sandbox forbids"
_LOST = "variables are lost"
_ENDED_WELL = (Status.OK, Status.OUTPUT_CUT)
_LINE_CHARS = 120
"""An error of one line no longer than this is never cut for the sake of the output above it."""


def observe(result: ExecutionResult, error_feedback: Literal["full", "last_line"]) -> str:
    """The observation text of a finished execution. AssertionError for a sandbox failure, which has none."""
    assert result.status is not Status.SANDBOX_FAILURE, "a sandbox failure is never shown to the model"
    error = result.error if error_feedback == "full" else result.error_line
    if result.status in STOPPED:
        error = STOPPED[result.status]
    elif result.status is Status.FORBIDDEN:
        error = result.error_line or _NOT_ALLOWED
    if result.session_alive is False and _LOST not in error:
        error = f"{error}\n{SESSION_ENDED}".lstrip("\n")
    shown = result.stdout.rstrip("\n") if result.stdout.strip() else ""
    error = error.rstrip("\n") if error.strip() else ""
    if result.status in _ENDED_WELL and not shown and not error:
        shown = result.stderr.rstrip("\n") if result.stderr.strip() else ""
    return _within(shown, error, result.output_chars)


def _within(shown: str, error: str, limit: int) -> str:
    """Output followed by the error, in `limit` characters: the error gets half, or what the output leaves."""
    if not shown or not error:
        return cut_again(shown or error, limit)
    room = max(limit // 2, limit - len(shown) - 1)
    error, _ = cut_middle(error, limit if len(error) <= _LINE_CHARS else room)
    left = limit - len(error) - 1
    return f"{cut_again(shown, left)}\n{error}" if left > 0 else error
