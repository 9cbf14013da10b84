"""Verification, rule by rule: each rule on a trace that breaks it and nothing else."""

from concurrent.futures import Future
from dataclasses import replace

import pytest

from tasks.shared.sandbox import ExecutionResult, Status
from tasks.synthesize.recorded import agree, contradiction
from tasks.synthesize.selection.config import VerificationConfig
from tasks.synthesize.traces import Reason, TrainingProblem, WrittenTrace
from tasks.synthesize.verify import settle, verify
from tests.unit.synthesize.in_process import InProcessRunner

PROBLEM = TrainingProblem("tiny/x", "What is 2 + 3?", "5", "tiny", "sum")


def block(code: str, output: str) -> str:
    return f"I compute.\n<code>\n```python\n{code}\n```\n</code>\n<interpreter>\n{output}\n</interpreter>\n"


END = "So.\n<answer>\n\\boxed{5}\n</answer>"
GOOD = block("print(2 + 3)", "5") + END
FAILED = block("prnt(2 + 3)", "NameError: name 'prnt' is not defined")


def judged(trace: str, rules, runner=None):
    return verify(WrittenTrace("tiny/x/0", PROBLEM, trace), rules, runner or InProcessRunner())


@pytest.mark.parametrize("trace", [GOOD, END, FAILED + GOOD, block("x = 5\nprint(x)", "5") + GOOD])
def test_a_good_trace_is_accepted(trace, retool):
    verdict = judged(trace, retool)
    assert verdict.accepted, verdict
    assert verdict.reason is Reason.ACCEPTED


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        (GOOD.replace("</code>", ""), Reason.BAD_FORMAT),
        (GOOD.replace("<code>", ""), Reason.BAD_FORMAT),
        (GOOD.replace("```python", "```sh"), Reason.BAD_FORMAT),
        (GOOD.replace("</interpreter>", ""), Reason.BAD_FORMAT),
        ("\n<interpreter>\n5\n</interpreter>\n" + END, Reason.BAD_FORMAT),
        (block("print(5)", "5") + "So 5.", Reason.NO_ANSWER),
        (GOOD + " and \\boxed{6}", Reason.NO_ANSWER),
        (GOOD.replace("<answer>\n", "").replace("\n</answer>", ""), Reason.NO_ANSWER),
        (block("print(5)", "5") * 5 + END, Reason.TOO_MANY_CALLS),
        (block("print(2 + 4)", "5") + END, Reason.OUTPUT_DIFFERS),
        (FAILED.replace("NameError: name 'prnt' is not defined", "5") + END, Reason.OUTPUT_DIFFERS),
        (block("print(5)", "5 ") + END, Reason.OUTPUT_DIFFERS),
        (block("print(6)", "5") + GOOD, Reason.OUTPUT_DIFFERS),
        (FAILED + END, Reason.LAST_BLOCK_FAILED),
        (block("print(6)", "6") + END.replace("5", "6"), Reason.WRONG_ANSWER),
        (END.replace("5", "6"), Reason.WRONG_ANSWER),
    ],
)
def test_a_bad_trace_is_rejected_for_its_reason(trace, reason, retool):
    verdict = judged(trace, retool)
    assert not verdict.accepted
    assert verdict.reason is reason, verdict
    assert verdict.detail, "a rejected trace says why"


def test_the_detail_shows_recorded_and_real_output(retool):
    verdict = judged(block("print(2 + 4)", "5") + END, retool)
    assert "recorded" in verdict.detail
    assert "6" in verdict.detail
    assert verdict.block_status == ("ok",)


def test_announced_calls_belong_to_the_recorded_output(retool):
    announced = replace(retool, announce_remaining_calls=True)
    trace = block("print(5)", "5\nremaining calls: 3") + END
    assert judged(trace, announced).accepted
    assert judged(GOOD, announced).reason is Reason.OUTPUT_DIFFERS
    assert judged(trace.replace("calls: 3", "calls: 2"), announced).reason is Reason.OUTPUT_DIFFERS


def test_blocks_share_variables_only_where_the_recipe_says_so(retool):
    trace = block("x = 5", "") + block("print(x)", "5") + END
    runner = InProcessRunner()
    assert judged(trace, replace(retool, stateful=True), runner).accepted
    assert runner.closed == list(runner.sessions), "the session is closed"
    assert judged(trace, retool).reason is Reason.OUTPUT_DIFFERS


@pytest.mark.parametrize("stateful", [False, True])
def test_an_outage_is_no_error_of_the_trace(stateful, retool):
    runner = InProcessRunner(outage_on="2 + 3")
    verdict = judged(block("print(5)", "5") + GOOD, replace(retool, stateful=stateful), runner)
    assert verdict.reason is Reason.SANDBOX_FAILURE
    assert verdict.block_status == ("ok", "sandbox_failure")


@pytest.mark.parametrize(
    ("recorded", "real", "equal"),
    [
        ("0.333333333", "0.3333333333333333", True),
        ("x = 0.333333333, n = 3", "x = 0.3333333333333333, n = 3", True),
        ("-1.5e-07", "-1.50000000001e-07", True),
        ("3.3e-17", "0.0", True),
        ("0.0", "-2.2e-16", True),
        ("0.0", "9e-13", False),
        ("p = 2.3e-14", "p = 7.1e-13", False),
        ("2.3e-17", "7.1e-17", False),
        ("0.3333", "0.3333333333333333", False),
        ("0.333333333 a", "0.3333333333333333 b", False),
        ("2", "2.0", False),
        ("1000000001", "1000000002", False),
        ("0.5", "-0.5", False),
        ("nan", "0.5", False),
    ],
)
def test_floats_may_differ_within_the_tolerance_and_nothing_else_may(recorded, real, equal):
    assert agree(recorded, real, 1e-6) is equal
    assert agree(recorded, real, 0.0) is False


def test_a_float_of_another_machine_is_kept_as_it_was_recorded(retool):
    trace = block("print(5 / 3)", "1.66666666667") + END
    verdict = judged(trace, retool)
    assert verdict.accepted and verdict.trace == trace and verdict.num_replaced == 0
    strict = replace(retool, verification=VerificationConfig(float_tolerance=0.0))
    assert judged(trace, strict).reason is Reason.OUTPUT_DIFFERS


# --- replace: the true output is put in place


REPLACE = VerificationConfig(recorded_output="replace")


def test_the_true_output_replaces_an_uncontradicted_one(retool):
    rules = replace(retool, verification=REPLACE)
    verdict = judged(block("print(2 + 3, 'in all')", "five in all") + END, rules)
    assert verdict.accepted, verdict
    assert verdict.trace == block("print(2 + 3, 'in all')", "5 in all") + END
    assert verdict.num_replaced == 1
    assert judged(verdict.trace, retool).accepted, "what is kept would pass the comparison"


@pytest.mark.parametrize(
    ("code", "recorded", "after", "contradicts"),
    [
        ("print(5)", "7", "The 7 shows it. ", True),
        ("print(5)", "7", "It is done. ", False),
        ("print(5)", "7\n5", "The 5 shows it. ", False),
        ("print(2.5)", "2.71828", "About 2.72, rounded up twice. ", True),
        ("print(5)", "2", "As 2 + 3 was asked. ", False),
        ("print(False)", "True", "Now. ", True),
        ("print(5)", "NameError: name 'x' is not defined", "Now. ", True),
        ("print(x)", "5", "Now. ", True),
        ("print('b =', 5)", "a is odd", "Since a is odd. ", True),
        ("print(1234)", "1,235", "So 1235. ", True),
    ],
)
def test_what_follows_may_not_build_on_the_false_output(code, recorded, after, contradicts, retool):
    rules = replace(retool, verification=REPLACE)
    last = block("print(2 + 3)", "5")
    verdict = judged(block(code, recorded) + after + last + END, rules)
    assert verdict.reason is (Reason.CONTRADICTED if contradicts else Reason.ACCEPTED), verdict


def test_a_page_of_numbers_meets_a_page_of_text():
    recorded = "\n".join(str(n) for n in range(10**7, 10**7 + 20_000))
    words = " ".join(str(n) for n in range(2 * 10**7, 2 * 10**7 + 20_000))
    assert contradiction(recorded, "1", "", words) == ""
    assert contradiction(recorded, "1", "", f"{words} and 10000007") == "10000007 is used"
    assert contradiction("9e999 0.5", "1", "", "1e400 and 0.50") == "0.50 is used"


def test_a_true_output_that_holds_tags_ends_where_it_ends(retool):
    rules = replace(retool, verification=REPLACE)
    verdict = judged(block("print('</interpreter>\\n<code>')", "") + END, rules)
    assert verdict.accepted
    assert judged(verdict.trace, retool).accepted


def test_a_block_that_is_not_whole_needs_its_notice(retool):
    broken = "Now.\n<code>\n```python\nprint(5)\n</code>"
    notice = retool.notice(0, retool.dialect.read(broken))
    assert judged(broken + notice + GOOD, retool).block_status == ("ok",)
    assert judged(broken + notice + GOOD, retool).accepted
    for trace, rules in (
        (broken + "\n<interpreter>\n5\n</interpreter>\n" + GOOD, retool),
        (broken + GOOD, retool),
        (broken + notice + GOOD, replace(retool, block_notices=False)),
    ):
        assert judged(trace, rules).reason is Reason.BAD_FORMAT


def test_a_notice_counts_as_a_call(retool):
    broken = "Now.\n<code>\n```python\nprint(5)\n</code>"
    rules = replace(retool, max_calls=1)
    assert (
        judged(broken + rules.notice(0, rules.dialect.read(broken)) + GOOD, rules).reason
        is Reason.TOO_MANY_CALLS
    )


# --- time-outs


class SlowUnderLoad(InProcessRunner):
    """Programs that name `slow` time out under the usual limits, those that name `endless` under any."""

    def submit(self, code, session=None, limits=None):
        if "endless" in code or ("slow" in code and limits is None):
            future: Future[ExecutionResult] = Future()
            line = "TimeoutError: the program ran longer than 5 s"
            future.set_result(ExecutionResult(Status.TIMEOUT, "", line, line, 5.0, 1.0))
            return future
        return super().submit(code, session, limits)


TIMED_OUT = "TimeoutError: the program ran longer than it may"


@pytest.mark.parametrize(
    ("trace", "first", "settled"),
    [
        (block("slow = 5\nprint(slow)", "5") + END, Reason.TIMED_OUT, Reason.ACCEPTED),
        (block("slow = 6\nprint(slow)", "5") + END, Reason.TIMED_OUT, Reason.OUTPUT_DIFFERS),
        (block("endless = 5\nprint(endless)", "5") + END, Reason.TIMED_OUT, Reason.TIMED_OUT),
        (block("slow = 5", TIMED_OUT) + GOOD, Reason.ACCEPTED, Reason.ACCEPTED),
        (
            block("slow = 5", TIMED_OUT) + block("slow = 5\nprint(slow)", "5") + END,
            Reason.TIMED_OUT,
            Reason.ACCEPTED,
        ),
    ],
)
def test_a_time_out_is_settled_alone_and_with_more_time(trace, first, settled, retool):
    runner = SlowUnderLoad()
    written = WrittenTrace("tiny/x/0", PROBLEM, trace)
    verdict = verify(written, retool, runner)
    assert verdict.reason is first
    ((_, verdict),) = settle([(written, verdict)], retool, runner)
    assert verdict.reason is settled, verdict
