"""What the model is shown of an execution, for every status."""

import pytest

from tasks.shared.sandbox import ExecutionResult, Status
from tasks.shared.traces.observation import observe


def result(status: Status, stdout: str = "", error: str = "", error_line: str = "") -> ExecutionResult:
    return ExecutionResult(
        status=status, stdout=stdout, error=error, error_line=error_line, seconds=0.01, peak_memory_mb=10.0
    )


LAST_LINE = "ZeroDivisionError: division by zero"
TRACEBACK = f'Traceback (most recent call last):\n  File "<code>", line 2, in <module>\n{LAST_LINE}\n'


def test_output_as_printed_without_the_last_newline():
    assert observe(result(Status.OK, "12\n13\n"), "full") == "12\n13"


@pytest.mark.parametrize(("mode", "last"), [("full", TRACEBACK.rstrip()), ("last_line", LAST_LINE)])
def test_errors_follow_what_was_printed(mode, last):
    shown = observe(result(Status.ERROR, "1\n", TRACEBACK, LAST_LINE), mode)
    assert shown == f"1\n{last}"


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.OUT_OF_MEMORY, Status.FORBIDDEN])
def test_a_stopped_program_is_told_so_after_its_output(status):
    shown = observe(result(status, "partial\n"), "full")
    assert shown.startswith("partial\n")
    assert "Error: the program" in shown


def test_a_sandbox_failure_is_never_shown():
    with pytest.raises(AssertionError, match="never shown"):
        observe(result(Status.SANDBOX_FAILURE), "full")
