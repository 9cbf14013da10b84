"""What the model is shown of an execution: the one function behind synthesis, RL and evaluation.

ReTool feeds back stdout or the whole error message, ToRL the last line of the traceback. A time-out or memory stop is
told as such, a refusal in the one line that names what was refused, after everything that was printed before it. Where
the variables of a session are lost with its block, the model is told so there.
A program that ended well and printed nothing shows its standard error, warnings for example. All together is at most
the `output_chars` of its limits: what is cut, is cut in the middle and marked.
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
    """The observation text for an execution that reached an end; a sandbox failure has none (AssertionError)."""
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
    """Output and error one below the other, in `limit` characters: the error has half of them, or what is left."""
    if not shown or not error:
        return cut_again(shown or error, limit)
    room = max(limit // 2, limit - len(shown) - 1)
    error, _ = cut_middle(error, limit if len(error) <= _LINE_CHARS else room)
    left = limit - len(error) - 1
    return f"{cut_again(shown, left)}\n{error}" if left > 0 else error
