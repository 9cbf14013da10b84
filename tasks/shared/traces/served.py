"""A trajectory as a server sends it to an evaluation: sampled ids and calls. The rest is derived from them."""

from itertools import chain

from pydantic import BaseModel

from tasks.shared.traces.trajectory import CodeCall, FinishReason, TrajectoryBuilder


class ServedTrajectory(BaseModel):
    """Fields of a `Trajectory` under their own names. Lengths: P prompt tokens, R response tokens."""

    prompt_ids: list[int]  # (P,)
    response_ids: list[int]  # (R,)
    logprobs: list[float]  # (R,) 0.0 on outputs
    calls: list[CodeCall]
    finish: FinishReason

    def builder(self, problem_id: str, sample: int, vocabulary: int) -> TrajectoryBuilder:
        """Rebuild the trajectory token by token. ValueError if its parts do not fit together."""
        ids, spans = self.response_ids, [(call.turn_end, call.feedback_end) for call in self.calls]
        ends = [0, *chain(*spans), len(ids)]
        if not ids or len(self.logprobs) != len(ids) or ends != sorted(ends):
            raise ValueError("tokens, log-probs and calls of a trajectory do not fit together")
        if not all(0 <= i < vocabulary for i in ids):
            raise ValueError("a trajectory has ids that are no tokens of this checkpoint")
        builder = TrajectoryBuilder(problem_id, sample, tuple(self.prompt_ids))
        place = 0
        for call in self.calls:
            builder.append_sampled(ids[place : call.turn_end], self.logprobs[place : call.turn_end])
            builder.append_feedback(ids[call.turn_end : call.feedback_end], call)
            place = call.feedback_end
        builder.append_sampled(ids[place:], self.logprobs[place:])
        return builder
