"""How a model uses code: the metrics of ReTool (arXiv 2504.11536) and ToRL (arXiv 2503.23383) as pure functions.

Ratios are None where their denominator is empty. Outages are left out of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.shared.reporting.samples import Sample
from tasks.shared.traces.trajectory import CodeCall


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Metrics of one set of samples, each with its denominator."""

    num_samples: int
    response_tokens: float | None  # mean over samples, interpreter output included (ReTool: 10k to 6k)
    code_ratio: float | None  # samples with a whole code block / samples (ReTool: to 98 %; ToRL: 40 to 80 %)
    code_lines: float | None  # non-blank lines of executed code, mean over samples (ReTool: x5)
    num_code_runs: int  # blocks executed
    num_correct_code_runs: int  # blocks that ran to their end (ReTool: 1k to 5k)
    pass_ratio: float | None  # blocks that ran to their end / blocks executed (ToRL: .76 to .84)
    last_block_pass_right: float | None  # of samples with code and a right answer: the last block ran
    last_block_pass_wrong: float | None  # the same with a wrong answer (ReTool: falls)
    # characters before the first block / characters, over samples with code
    first_code_position: float | None
    num_with_failure: int  # samples with a failed block
    # samples with a failed block, later one that runs and differs / samples with one
    self_correction: float | None
    executed_code_ratio: float | None  # samples with a block really executed / samples (ToRL, effective 1)
    # ... and executed before the first box / samples (ToRL, effective 2)
    executed_before_answer_ratio: float | None
    calls_per_sample: float | None
    truncated_ratio: float | None  # samples that ran out of tokens / samples
    num_unrecognised: int  # malformed blocks: the dialect cannot read them
    num_self_written: int  # feedback tags that the model wrote itself
    num_notices: int  # blocks answered by a notice


def measure(samples: Sequence[Sample]) -> Behaviour:
    """All metrics of the samples, outages left out."""
    valid = [sample for sample in samples if not sample.outage]
    executed = [[call for call in sample.calls if call.executed] for sample in valid]
    calls = [call for of_sample in executed for call in of_sample]
    last = [(of_sample[-1], s.correct) for of_sample, s in zip(executed, valid, strict=True) if of_sample]
    failed = [of_sample for of_sample in executed if any(not call.ran for call in of_sample)]
    first_code = [first_code_position(sample) for sample in valid]
    return Behaviour(
        num_samples=len(valid),
        response_tokens=_mean([sample.num_tokens for sample in valid]),
        code_ratio=_mean([position is not None for position in first_code]),
        code_lines=_mean([sum(code_lines(call.code) for call in of_sample) for of_sample in executed]),
        num_code_runs=len(calls),
        num_correct_code_runs=sum(call.ran for call in calls),
        pass_ratio=_mean([call.ran for call in calls]),
        last_block_pass_right=_mean([call.ran for call, correct in last if correct]),
        last_block_pass_wrong=_mean([call.ran for call, correct in last if not correct]),
        first_code_position=_mean([position for position in first_code if position is not None]),
        num_with_failure=len(failed),
        self_correction=_mean([corrects_itself(of_sample) for of_sample in failed]),
        executed_code_ratio=_mean([bool(of_sample) for of_sample in executed]),
        executed_before_answer_ratio=_mean([executed_before_answer(sample) for sample in valid]),
        calls_per_sample=_mean([len(sample.calls) for sample in valid]),
        truncated_ratio=_mean([sample.finish.value == "length" for sample in valid]),
        num_unrecognised=sum(sample.unrecognised for sample in valid),
        num_self_written=sum(sample.self_written for sample in valid),
        num_notices=sum(not call.executed for sample in valid for call in sample.calls),
    )


def first_code_position(sample: Sample) -> float | None:
    """Characters before the first whole block, run or not, over all characters; None if there is none."""
    first = next((block for turn in sample.blocks_by_turn() for block in turn if block.is_whole), None)
    return first.body / len(sample.text) if first else None


def code_lines(code: str) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for line in code.splitlines())


def corrects_itself(calls: Sequence[CodeCall]) -> bool:
    """Whether a failed block is followed, at once or later, by a different program that runs."""
    return any(
        not call.ran
        and any(later.ran and later.code.strip() != call.code.strip() for later in calls[index + 1 :])
        for index, call in enumerate(calls)
    )


def executed_before_answer(sample: Sample) -> bool:
    r"""Whether a block was executed before the first `\boxed` outside programs and their output."""
    first_run = next((place for place, call in enumerate(sample.calls) if call.executed), None)
    if first_run is None:
        return False
    return not any("\\boxed" in words for words in sample.words_between[: first_run + 1])


def _mean(values: Sequence[float | bool]) -> float | None:
    return sum(values) / len(values) if values else None
