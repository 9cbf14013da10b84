"""The metrics of a step, in two records: values that the request determines, and measured times."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from tasks.rl.experience import Experience
from tasks.rl.probe import Gap
from tasks.rl.update import UpdateResult, named_sums
from tasks.shared.contract.stage import Value
from tasks.shared.traces.trajectory import FinishReason


def learning_metrics(
    step: int, round_number: int, experience: Experience, result: UpdateResult, gap: Gap | None
) -> dict[str, Value]:
    """Rewards, behaviour and the update of one step. Ratios and means are over trajectories without an outage.

    code_ratio: share with a whole block, run or not, as in evaluation; executed_code_ratio: share with one that ran;
    pass_ratio: share of blocks that ended without an error; void_ratio: share with a void turn; response_tokens: of the
    whole response; sampled_tokens: the policy's own; unrecognised_blocks: malformed blocks; notices: those answered
    with a notice; self_written_feedback: output tags that the policy wrote itself.
    """
    kept = [row for row, outage in zip(experience.graded, experience.outage, strict=True) if not outage]
    calls = [call for row in kept for call in row.trajectory.calls if call.executed]
    return {
        "step": step,
        "round": round_number,
        "trajectories": len(experience.graded),
        "outages": int(experience.outage.sum()),
        "groups": len({row.group for row in experience.graded}),
        "dropped": int(experience.dropped.sum()),
        "in_loss": int(experience.in_loss.sum()),
        "reward": _mean([row.reward for row in kept]),
        "accuracy": _mean([row.correct for row in kept]),
        "response_tokens": _mean([len(row.trajectory.response_ids) for row in kept]),
        "sampled_tokens": _mean([row.trajectory.num_sampled for row in kept]),
        "code_ratio": _mean([row.trajectory.has_code for row in kept]),
        "executed_code_ratio": _mean([row.trajectory.has_run_code for row in kept]),
        "accuracy_with_code": _mean([row.correct for row in kept if row.trajectory.has_run_code]),
        "pass_ratio": _mean([call.ran for call in calls]),
        "calls": _mean([len(row.trajectory.calls) for row in kept]),
        "unrecognised_blocks": sum(row.trajectory.unrecognised for row in kept),
        "self_written_feedback": sum(row.trajectory.self_written for row in kept),
        "notices": sum(not call.executed for row in kept for call in row.trajectory.calls),
        "truncated_ratio": _mean([row.trajectory.finish is FinishReason.LENGTH for row in kept]),
        "void_ratio": _mean(experience.void_turn[~experience.outage].tolist()),
        "solved_all": _groups(experience, all),
        "solved_none": _groups(experience, lambda marks: not any(marks)),
        **named_sums(result.sums),
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "updates": result.num_updates,
        "skipped_updates": result.num_skipped,
        "probe_mean": gap.mean if gap else None,
        "probe_gap": gap.largest if gap else None,
    }


def _mean(values: Sequence[float]) -> float | None:
    """The mean; None, not 0, of no values."""
    return float(np.mean(values)) if len(values) else None


def _groups(experience: Experience, test: Callable[[list[bool]], bool]) -> float | None:
    """Share of the groups whose marks, correct or not, pass the test."""
    marks: dict[int, list[bool]] = {}
    for row, outage in zip(experience.graded, experience.outage, strict=True):
        if not outage:
            marks.setdefault(row.group, []).append(row.correct)
    return _mean([test(group) for group in marks.values()])


@dataclass(slots=True)
class PhaseClock:
    """Seconds spent in each named phase of a step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time the block as `phase`."""
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started


def timing_metrics(clock: PhaseClock, experience: Experience, result: UpdateResult) -> dict[str, Value]:
    """Seconds a phase, sampled tokens per second of sampling, trained tokens per second of updating."""
    sampled = sum(row.trajectory.num_sampled for row in experience.graded)
    seconds = clock.seconds
    return {
        **{f"seconds/{phase}": round(value, 4) for phase, value in seconds.items()},
        "seconds/step": round(sum(seconds.values()), 4),
        "sampling_tokens_per_s": round(sampled / seconds["sample"], 1),
        "training_tokens_per_s": round(result.tokens / seconds["update"], 1),
    }
