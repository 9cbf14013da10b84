"""A recorded sample goes through the loop of an evaluation again: the model's tokens as recorded, its programs run.

`rollout`, the one loop behind evaluation, does it; a `Recorded` generator says what the model said. What comes out has
to be the sample as it was recorded: ids, mask, calls, text, finish. So a sample with a changed output, a call that was
left out, or ids that are not its text cannot stay unseen.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

from tasks.shared.config import EvaluateStage
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Bounds, Piece, RequestOptions, Sampling
from tasks.shared.generation.stops import StopFinder
from tasks.shared.reporting.offsets import token_ends
from tasks.shared.reporting.samples import Sample
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.trajectory import Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 64  # samples whose programs run side by side


@dataclass(slots=True)
class _Turn:
    """A request between two pieces."""

    left: list[int]  # tokens that the model is still to say
    stop: str | None
    budget: int
    running: bool = True


class Recorded:
    """Says what samples say, up to each stop string and to the end of turn (`Decodes`); it knows no model."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", ends: frozenset[int]) -> None:
        """`ends`: the ids that end a turn."""
        self._tokenizer = tokenizer
        self._ends = ends
        self._finders: dict[str, StopFinder] = {}
        self._words: dict[str, list[int]] = {}
        self._turns: dict[str, _Turn] = {}
        self.unfinished: set[str] = set()  # samples whose record stops where no engine would

    def know(self, samples: Iterable[Sample]) -> None:
        """Say these from now on, and no others."""
        self._words = {
            request_id(sample): [
                token for token, drawn in zip(sample.response_ids, sample.sampled, strict=True) if drawn
            ]
            for sample in samples
        }

    def add(self, request_id: str, ids: Sequence[int], **options: Unpack[RequestOptions]) -> None:
        """Begin a sample; prompt and seed do not matter."""
        words = list(self._words[request_id])
        self._turns[request_id] = _Turn(words, options["stop"], options["max_new_tokens"])

    def extend(self, request_id: str, ids: Sequence[int], **bounds: Unpack[Bounds]) -> None:
        """Go on after a piece."""
        turn = self._turns[request_id]
        turn.stop, turn.budget, turn.running = bounds["stop"], bounds["max_new_tokens"], True

    def release(self, request_id: str) -> None:
        """Forget a sample."""
        del self._turns[request_id]

    @property
    def num_running(self) -> int:
        """Samples that have something to say."""
        return sum(turn.running for turn in self._turns.values())

    def step(self) -> list[Piece]:
        """The next piece of each."""
        return [self._piece(name, turn) for name, turn in self._turns.items() if turn.running]

    def _piece(self, name: str, turn: _Turn) -> Piece:
        """As an engine ends a piece: at the end of turn, where the stop string is complete, at the budget.

        A record that stops before any of these is noted as unfinished.
        """
        finder = self._finder(turn.stop) if turn.stop else None
        said: list[int] = []
        reason = "length"
        while turn.left and len(said) < turn.budget:
            said.append(turn.left.pop(0))
            if said[-1] in self._ends:
                reason = "eos"
                break
            if finder is not None and finder.found(said):
                reason = "stop"
                break
        if reason == "length" and len(said) < turn.budget:
            self.unfinished.add(name)
        turn.running = False
        return Piece(name, tuple(said), (0.0,) * len(said), reason)  # type: ignore[arg-type]

    def _finder(self, stop: str) -> StopFinder:
        if stop not in self._finders:
            self._finders[stop] = StopFinder(self._tokenizer, stop)
        return self._finders[stop]


def request_id(sample: Sample) -> str:
    """As `rollout` names the request of a sample."""
    return f"{sample.set}/{sample.problem_id}/{sample.sample}"


def replay(
    samples: Sequence[Sample],
    config: EvaluateStage,
    interpreter: Tool | None,
    tokenizer: "PreTrainedTokenizerBase",
    ends: frozenset[int],
) -> Iterator[tuple[Sample, Trajectory, bool]]:
    """Every sample with what comes of it here, and whether its record ends where an engine would end it.

    As they finish; outages are left out.
    """
    generator = Recorded(tokenizer, ends)
    sampling = Sampling(config.evaluate.temperature, config.evaluate.top_p)
    policy = RolloutPolicy.of(config.traces, config.sandbox, config.generation, sampling)
    policy = replace(policy, delivery="ready")  # nothing is sampled, so nothing depends on a schedule
    valid = [sample for sample in samples if not sample.outage]
    for start in range(0, len(valid), AT_ONCE):
        batch = {request_id(sample): sample for sample in valid[start : start + AT_ONCE]}
        generator.know(batch.values())
        requests = (
            RolloutRequest(name.rpartition("/")[0], sample.sample, (), 0) for name, sample in batch.items()
        )
        for trajectory in rollout(requests, generator, interpreter, tokenizer, policy):
            name = f"{trajectory.problem_id}/{trajectory.sample}"
            yield batch[name], trajectory, name not in generator.unfinished


def not_as_recorded(
    sample: Sample, trajectory: Trajectory, tokenizer: "PreTrainedTokenizerBase"
) -> list[str]:
    """What of a response is not as recorded, programs' outputs aside: a name each."""
    pairs = {
        "ids": (list(sample.response_ids), list(trajectory.response_ids)),
        "mask": (list(sample.sampled), list(trajectory.loss_mask)),
        "text": (sample.text, trajectory.text),
        "finish": (sample.finish, trajectory.finish),
        "number of tokens": (sample.num_tokens, len(trajectory.response_ids)),
        "faulty blocks": (sample.unrecognised, trajectory.unrecognised),
        "output that the model wrote": (sample.self_written, trajectory.self_written),
        "places of outputs": (_spans(sample.shown or ()), _spans(trajectory.shown)),
        "places of calls": (
            [(call.turn_end, call.feedback_end) for call in sample.calls],
            [(call.turn_end, call.feedback_end) for call in trajectory.calls],
        ),
    }
    found = [name for name, (recorded, here) in pairs.items() if recorded != here]
    if not found and list(sample.token_ends) != token_ends(tokenizer, sample.response_ids, sample.text):
        found.append("ends of tokens")
    drawn = zip(sample.logprobs, sample.sampled, strict=True)
    if any(logprob > 0 or (logprob and not is_sampled) for logprob, is_sampled in drawn):
        found.append("log-probs")
    return found


def _spans(shown: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    return [(start, end) for start, end in shown]
