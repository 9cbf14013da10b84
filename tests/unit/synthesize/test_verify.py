"""Verification, rule by rule: each rule on a trace that breaks it and nothing else."""

from dataclasses import replace

import pytest

from tasks.synthesize.traces import Problem, Reason, WrittenTrace
from tasks.synthesize.verify import verify
from tests.unit.synthesize.in_process import InProcessRunner

PROBLEM = Problem("tiny/x", "What is 2 + 3?", "5", "tiny", "sum")


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
        (GOOD.replace("```python", "```py"), Reason.BAD_FORMAT),
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
