"""Every behaviour metric on samples whose values can be counted by hand."""

import pytest

from tasks.shared.reporting.behaviour import corrects_itself, executed_before_answer, measure
from tasks.shared.reporting.purpose import Purpose
from tasks.shared.reporting.summary import purposes
from tasks.shared.traces.trajectory import CodeCall, FinishReason
from tests.unit.reporting.making import make_sample

GOOD = ("a = 6\n\nprint(a * 7)", "ok", "42")
BAD = ("print(b)", "error", "NameError: name 'b' is not defined")


def call(code: str, status: str) -> CodeCall:
    """A call of which only code and status matter."""
    return CodeCall(code, status, "", 0.1, 0, 0)


def test_counts_by_hand() -> None:
    """Five samples: right with code, right after a failure, wrong with a failing last block, text, void."""
    samples = [
        make_sample([GOOD]),
        make_sample([BAD, GOOD], sample=1),
        make_sample([GOOD, BAD], predicted="41", sample=2),
        make_sample([], predicted="42", sample=3),
        make_sample([GOOD], sample=4, finish=FinishReason.SANDBOX_FAILURE),
    ]
    result = measure(samples)
    assert result.num_samples == 4
    assert result.response_tokens == sum(len(sample.text) for sample in samples[:4]) / 4
    assert result.code_ratio == result.executed_code_ratio == result.executed_before_answer_ratio == 0.75
    assert (result.num_code_runs, result.num_correct_code_runs, result.pass_ratio) == (5, 3, 0.6)
    assert (result.last_block_pass_right, result.last_block_pass_wrong) == (1.0, 0.0)
    assert result.code_lines == (2 + 3 + 3 + 0) / 4
    assert (result.num_with_failure, result.self_correction) == (2, 0.5)
    assert result.calls_per_sample == 1.25
    first = samples[0].text.index("```python")
    assert result.first_code_position == pytest.approx(sum(first / len(s.text) for s in samples[:3]) / 3)


def test_an_empty_denominator_gives_none() -> None:
    """Without samples or without code there is no ratio."""
    empty, text_only = measure([]), measure([make_sample([])])
    assert empty.code_ratio is None and empty.num_samples == 0
    assert (text_only.code_ratio, text_only.pass_ratio, text_only.last_block_pass_right) == (0.0, None, None)
    assert text_only.self_correction is None and text_only.first_code_position is None


@pytest.mark.parametrize(
    ("calls", "corrected"),
    [
        ([("x", "error"), ("y", "ok")], True),
        ([("x", "timeout"), ("z", "error"), ("y", "output_cut")], True),
        ([("x", "error"), ("x\n", "ok")], False),  # the same program again is luck, not correction
        ([("y", "ok"), ("x", "error")], False),
        ([("x", "error")], False),
        ([("x", "ok"), ("y", "ok")], False),
    ],
)
def test_self_correction(calls: list[tuple[str, str]], corrected: bool) -> None:
    """A failed block, later one that runs and differs."""
    assert corrects_itself([call(code, status) for code, status in calls]) is corrected


def test_code_after_the_answer_is_not_effective() -> None:
    """ToRL's second form: the code must run before the answer."""
    assert executed_before_answer(make_sample([GOOD]))
    assert not executed_before_answer(make_sample([GOOD], words="I say \\boxed{42}. "))
    assert not executed_before_answer(make_sample([]))


def test_an_opened_block_is_not_code() -> None:
    """Only whole blocks count, run or not."""
    opened = make_sample([], words="<code>\n```python\nprint(")
    whole = make_sample([], words="<code>\n```python\nprint(1)\n```\n")
    assert (measure([opened]).code_ratio, measure([whole]).code_ratio) == (0.0, 1.0)
    assert measure([whole]).executed_code_ratio == 0.0


def test_purposes_are_counted_over_executed_blocks() -> None:
    """Each with the text before it."""
    checked = make_sample([GOOD], words="Let me verify that by machine.\n")
    assert purposes([make_sample([GOOD, GOOD]), checked]) == {Purpose.CALCULATION: 2, Purpose.VERIFICATION: 1}
