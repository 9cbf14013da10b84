"""A trajectory as a server sends it to an evaluation: sampled ids and calls. The rest is derived from them."""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel

from tasks.shared.traces.trajectory import CodeCall, FinishReason, Trajectory, TrajectoryBuilder


class ServedTrajectory(BaseModel):
    """Lengths: P prompt tokens, R response tokens."""

    prompt_ids: list[int]  # (P,)
    response_ids: list[int]  # (R,)
    logprobs: list[float]  # (R,) 0.0 on outputs
    calls: list[CodeCall]
    finish: FinishReason

    @classmethod
    def of(cls, trajectory: Trajectory) -> Self:
        """The message of a server."""
        return cls(
            prompt_ids=list(trajectory.prompt_ids),
            response_ids=list(trajectory.response_ids),
            logprobs=list(trajectory.logprobs),
            calls=list(trajectory.calls),
            finish=trajectory.finish,
        )

    def builder(self, problem_id: str, sample: int, vocabulary: int) -> TrajectoryBuilder:
        """Rebuild the trajectory token by token. ValueError if its parts do not fit together."""
        ids, spans = self.response_ids, [(call.turn_end, call.feedback_end) for call in self.calls]
        ends: Sequence[int] = [0, *(end for span in spans for end in span), len(ids)]
        if not ids or len(self.logprobs) != len(ids) or list(ends) != sorted(ends):
            raise ValueError("tokens, log-probs and calls of a trajectory do not fit together")
        if not all(0 <= i < vocabulary for i in ids):
            raise ValueError("a trajectory has ids that are no tokens of this checkpoint")
        built = TrajectoryBuilder(problem_id, sample, tuple(self.prompt_ids))
        place = 0
        for call in self.calls:
            built.append_sampled(ids[place : call.turn_end], self.logprobs[place : call.turn_end])
            built.append_feedback(ids[call.turn_end : call.feedback_end], call)
            place = call.feedback_end
        built.append_sampled(ids[place:], self.logprobs[place:])
        return built
