"""The observation of an execution for every status."""

import pytest

from tasks.shared.sandbox import ExecutionResult, Status
from tasks.shared.sandbox.output import cut_middle
from tasks.shared.sandbox.records import SESSION_ENDED
from tasks.shared.traces.observation import observe


def result(
    status: Status, stdout: str = "", error: str = "", error_line: str = "", **more: object
) -> ExecutionResult:
    return ExecutionResult(status, stdout, error, error_line, 0.01, 10.0, **more)  # type: ignore[arg-type]


LAST_LINE = "ZeroDivisionError: division by zero"
TRACEBACK = f'Traceback (most recent call last):\n  File "<code>", line 2, in <module>\n{LAST_LINE}\n'


def test_output_as_printed_without_the_last_newline():
    assert observe(result(Status.OK, "12\n13\n"), "full") == "12\n13"


@pytest.mark.parametrize(("mode", "last"), [("full", TRACEBACK.rstrip()), ("last_line", LAST_LINE)])
def test_errors_follow_what_was_printed(mode, last):
    shown = observe(result(Status.ERROR, "1\n", TRACEBACK, LAST_LINE), mode)
    assert shown == f"1\n{last}"


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.OUT_OF_MEMORY, Status.FORBIDDEN])
def test_a_stop_is_reported_after_the_output(status):
    shown = observe(result(status, "partial\n"), "full")
    assert shown.startswith("partial\n")
    assert "Error: the program" in shown


@pytest.mark.parametrize("mode", ["full", "last_line"])
@pytest.mark.parametrize("status", [s for s in Status if s is not Status.SANDBOX_FAILURE])
def test_lost_variables_are_reported_once(mode, status):
    error = f"{SESSION_ENDED}\n{TRACEBACK}"
    lost = result(status, "1\n", error, LAST_LINE, session_alive=False)
    assert observe(lost, mode).count(SESSION_ENDED) == 1
    kept = result(status, "1\n", TRACEBACK, LAST_LINE, session_alive=True)
    assert SESSION_ENDED not in observe(kept, mode)


def test_a_sandbox_failure_is_never_shown():
    with pytest.raises(AssertionError, match="never shown"):
        observe(result(Status.SANDBOX_FAILURE), "full")


@pytest.mark.parametrize(("mode", "limit"), [("full", 400), ("full", 160), ("last_line", 400)])
@pytest.mark.parametrize("printed", ["", "1\n", "p" * 395, "p" * 396, "p" * 20_000])
def test_shown_output_is_bounded_and_says_how_much_is_missing(mode, limit, printed):
    stdout, _ = cut_middle(printed, limit)
    line = "ValueError: " + "x" * 20_000 + " the end"
    shown = observe(
        result(Status.ERROR, stdout, f"Traceback (most recent call last):\n{line}", line, output_chars=limit),
        mode,
    )
    assert len(shown) <= limit
    assert "characters left out" in shown
    assert shown.endswith(" the end")
    assert shown.startswith(stdout.strip()[:1] or {"full": "Traceback", "last_line": "ValueError"}[mode][:7])


def test_recut_output_has_one_count():
    stdout, _ = cut_middle("start" + "p" * 9000, 400)
    shown = observe(result(Status.ERROR, stdout, TRACEBACK, LAST_LINE, output_chars=400), "full")
    assert len(shown) == 400
    assert shown.startswith("startp")
    assert shown.endswith(TRACEBACK.rstrip())
    left_out = int(shown.split("output cut: ")[1].split()[0])
    assert left_out + shown.count("p") - TRACEBACK.count("p") - shown[5:].count("output cut") == 9000


@pytest.mark.parametrize("limit", [64, 400])
def test_line_of_a_stop_is_kept_whole(limit):
    shown = observe(result(Status.TIMEOUT, "p" * limit, output_chars=limit), "full")
    assert shown.endswith("\nTimeoutError: the program ran longer than it may")
    assert len(shown) <= limit


def test_standard_error_of_a_silent_success_is_shown():
    warning = "main.py:1: UserWarning: careful\n"
    assert observe(result(Status.OK, "\n", stderr=warning), "full") == warning.rstrip()
    assert observe(result(Status.OK, "12\n", stderr=warning), "full") == "12"
    assert observe(result(Status.ERROR, "", TRACEBACK, LAST_LINE, stderr=warning), "last_line") == LAST_LINE


def test_refusal_has_its_own_line():
    line = "PermissionError: [Errno 1] os.system: no"
    assert observe(result(Status.FORBIDDEN, "1\n", f"Traceback\n{line}", line), "full") == f"1\n{line}"
