"""The output that a model sees of an execution: one function for synthesis, RL and evaluation.

ReTool feeds back stdout or the whole error message, ToRL the last line of the traceback. Printed output comes first,
then the error. A time-out or a memory limit is named as such, a refusal is one line that names what was refused, and
the text says if a session loses its variables. A program that succeeded without printing shows its standard error, for
example warnings. A text longer than `output_chars` characters is cut in the middle, with a mark.
"""

from typing import Literal

from tasks.shared.sandbox import ExecutionResult, Status
from tasks.shared.sandbox.output import cut_again, cut_middle
from tasks.shared.sandbox.records import SESSION_ENDED

STOPPED = {
    Status.TIMEOUT: "TimeoutError: the program ran longer than it may",
    Status.OUT_OF_MEMORY: "MemoryError: the program used more memory than it may",
}
NOT_ALLOWED = "PermissionError: the program tried something that the sandbox forbids"
LOST = "variables are lost"
SUCCEEDED = (Status.OK, Status.OUTPUT_CUT)  # an output that is cut is still that of a program that succeeded
LINE_CHARS = 120  # an error no longer than this is never cut to make room for the output above it


def observe(result: ExecutionResult, error_feedback: Literal["full", "last_line"]) -> str:
    """The observation text of a finished execution. AssertionError for a sandbox failure, which has none."""
    assert result.status is not Status.SANDBOX_FAILURE, "a sandbox failure is never shown to the model"
    error = result.error if error_feedback == "full" else result.error_line
    if result.status in STOPPED:
        error = STOPPED[result.status]
    elif result.status is Status.FORBIDDEN:
        error = result.error_line or NOT_ALLOWED
    if result.session_alive is False and LOST not in error:
        error = f"{error}\n{SESSION_ENDED}".lstrip("\n")
    output, error, warnings = (
        text.rstrip("\n") if text.strip() else "" for text in (result.stdout, error, result.stderr)
    )
    if result.status in SUCCEEDED and not output and not error:
        output = warnings
    return _within(output, error, result.output_chars)


def _within(output: str, error: str, limit: int) -> str:
    """Output followed by the error, in `limit` characters: the error gets half, or the room that the output leaves."""
    if not output or not error:
        return cut_again(output or error, limit)
    room = max(limit // 2, limit - len(output) - 1)
    error, _ = cut_middle(error, limit if len(error) <= LINE_CHARS else room)
    left = limit - len(error) - 1
    return f"{cut_again(output, left)}\n{error}" if left > 0 else error
