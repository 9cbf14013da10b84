"""How a model uses code: the metrics of ReTool (arXiv 2504.11536) and ToRL (arXiv 2503.23383) as pure functions.

Ratios are None where their denominator is empty. Void samples are left out of all of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.shared.reporting.samples import Sample
from tasks.shared.traces.trajectory import CodeCall

RAN = ("ok", "output_cut")  # sandbox statuses of a program that ended well
BLOCK = "```python"  # opens a code block in both dialects
WHOLE_BLOCK = re.compile(r"```python\n.*?```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of one set of samples. Denominators stand beside each field."""

    num_samples: int
    response_tokens: float | None  # mean over samples, interpreter output included (ReTool: 10k to 6k)
    code_ratio: float | None  # samples with a whole code block / samples (ReTool: to 98 %; ToRL: 40 to 80 %)
    code_lines: float | None  # non-blank lines of executed code, mean over samples (ReTool: x5)
    num_code_runs: int  # blocks executed
    num_correct_code_runs: int  # blocks that ran to their end (ReTool: 1k to 5k)
    pass_ratio: float | None  # blocks that ran to their end / blocks executed (ToRL: .76 to .84)
    last_block_pass_right: float | None  # of samples with code and a right answer: the last block ran
    last_block_pass_wrong: float | None  # the same with a wrong answer (ReTool: falls)
    first_code_position: (
        float | None
    )  # characters before the first block / characters, over samples with code
    num_with_failure: int  # samples with a failed block
    self_correction: (
        float | None
    )  # samples with a failed block, later one that runs and differs / samples with one
    executed_code_ratio: float | None  # samples with a block really executed / samples (ToRL, effective 1)
    executed_before_answer_ratio: (
        float | None
    )  # ... and executed before the first box / samples (ToRL, effective 2)
    calls_per_sample: float | None
    truncated_ratio: float | None  # samples that ran out of tokens / samples


def measure(samples: Sequence[Sample]) -> Behaviour:
    """All metrics of the samples that are not void."""
    valid = [sample for sample in samples if not sample.void]
    with_calls = [sample for sample in valid if sample.calls]
    calls = [call for sample in valid for call in sample.calls]
    failed = [sample for sample in with_calls if any(not ran(call) for call in sample.calls)]
    return Behaviour(
        num_samples=len(valid),
        response_tokens=_mean([sample.num_tokens for sample in valid]),
        code_ratio=_mean([has_code(sample.text) for sample in valid]),
        code_lines=_mean([sum(code_lines(call.code) for call in sample.calls) for sample in valid]),
        num_code_runs=len(calls),
        num_correct_code_runs=sum(ran(call) for call in calls),
        pass_ratio=_mean([ran(call) for call in calls]),
        last_block_pass_right=_mean([ran(s.calls[-1]) for s in with_calls if s.correct]),
        last_block_pass_wrong=_mean([ran(s.calls[-1]) for s in with_calls if not s.correct]),
        first_code_position=_mean([s.text.index(BLOCK) / len(s.text) for s in valid if has_code(s.text)]),
        num_with_failure=len(failed),
        self_correction=_mean([corrects_itself(sample.calls) for sample in failed]),
        executed_code_ratio=_mean([bool(sample.calls) for sample in valid]),
        executed_before_answer_ratio=_mean([executed_before_answer(sample) for sample in valid]),
        calls_per_sample=_mean([len(sample.calls) for sample in valid]),
        truncated_ratio=_mean([sample.finish.value == "length" for sample in valid]),
    )


def ran(call: CodeCall) -> bool:
    """The block ran to its end, whatever it printed."""
    return call.status in RAN


def has_code(text: str) -> bool:
    """A whole code block was written, whether or not it was run."""
    return WHOLE_BLOCK.search(text) is not None


def code_lines(code: str) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for line in code.splitlines())


def corrects_itself(calls: Sequence[CodeCall]) -> bool:
    """A failed block is followed, at once or later, by one that runs and is another program."""
    return any(
        not ran(call)
        and any(ran(later) and later.code.strip() != call.code.strip() for later in calls[index + 1 :])
        for index, call in enumerate(calls)
    )


def executed_before_answer(sample: Sample) -> bool:
    r"""A block was executed before the first `\boxed` that is not part of a program or its output."""
    if not sample.calls:
        return False
    first_code = sample.text.find(BLOCK)
    first_box = sample.text.find("\\boxed")
    return first_box < 0 or first_code < first_box


def _mean(values: Sequence[float | bool]) -> float | None:
    return sum(values) / len(values) if values else None
