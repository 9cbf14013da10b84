"""Send a recorded sample through the loop of an evaluation again: the model's tokens as recorded, its programs run.

`rollout`, the loop behind evaluation, runs with a `Recorded` generator that repeats the model's tokens. The result must
equal the recorded sample: ids, mask, calls, text, finish. This reveals a changed output, a removed call, and ids that
are not its text.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
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

BATCH = 64  # samples whose programs run side by side


@dataclass(slots=True)
class _Turn:
    """A request between two pieces."""

    left: list[int]  # tokens that are still to come
    stop: str | None
    budget: int
    running: bool = True


class Recorded:
    """Repeats the tokens of recorded samples (`Decodes`), up to each stop string and each end of turn."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", ends: frozenset[int]) -> None:
        """`ends` are the ids that end a turn."""
        self._ends = ends
        self._finder = functools.cache(functools.partial(StopFinder, tokenizer))
        self._tokens: dict[str, list[int]] = {}
        self._turns: dict[str, _Turn] = {}
        self.unfinished: set[str] = set()  # samples whose record stops where no engine would

    def set_samples(self, samples: Iterable[Sample]) -> None:
        """Repeat these samples from now on, and no others."""
        self._tokens = {
            sample_name(sample): list(compress(sample.response_ids, sample.sampled)) for sample in samples
        }

    def add(self, request_id: str, ids: Sequence[int], **options: Unpack[RequestOptions]) -> None:
        """Begin a sample. Prompt and seed have no effect."""
        tokens = list(self._tokens[request_id])
        self._turns[request_id] = _Turn(tokens, options["stop"], options["max_new_tokens"])

    def extend(self, request_id: str, ids: Sequence[int], **bounds: Unpack[Bounds]) -> None:
        """Continue after a piece."""
        turn = self._turns[request_id]
        turn.stop, turn.budget, turn.running = bounds["stop"], bounds["max_new_tokens"], True

    def release(self, request_id: str) -> None:
        """Forget a sample."""
        del self._turns[request_id]

    @property
    def num_running(self) -> int:
        """Number of samples that have more tokens."""
        return sum(turn.running for turn in self._turns.values())

    def step(self) -> list[Piece]:
        """Return the next piece of each running sample."""
        return [self._piece(name, turn) for name, turn in self._turns.items() if turn.running]

    def _piece(self, name: str, turn: _Turn) -> Piece:
        """End a piece as an engine does: at the end of turn, at a complete stop string, or at the budget.

        A record that stops before any of these is noted as unfinished.
        """
        finder = self._finder(turn.stop) if turn.stop else None
        ids: list[int] = []
        reason = "length"
        while turn.left and len(ids) < turn.budget:
            ids.append(turn.left.pop(0))
            if ids[-1] in self._ends:
                reason = "eos"
                break
            if finder is not None and finder.found(ids):
                reason = "stop"
                break
        if reason == "length" and len(ids) < turn.budget:
            self.unfinished.add(name)
        turn.running = False
        return Piece(name, tuple(ids), (0.0,) * len(ids), reason)  # type: ignore[arg-type]


def sample_name(sample: Sample) -> str:
    """Return the name of a sample, which is also the id of its request in `rollout`."""
    return f"{sample.set}/{sample.problem_id}/{sample.sample}"


def replay(
    samples: Sequence[Sample],
    config: EvaluateStage,
    tool: Tool | None,
    tokenizer: "PreTrainedTokenizerBase",
    ends: frozenset[int],
) -> Iterator[tuple[Sample, Trajectory, bool]]:
    """Yield every sample except outages, in the order in which they finish.

    With it come its new trajectory, and whether its record ends where an engine would end it.
    """
    generator = Recorded(tokenizer, ends)
    sampling = Sampling(config.evaluate.temperature, config.evaluate.top_p)
    policy = RolloutPolicy.of(config.traces, config.sandbox, config.generation, sampling)
    policy = replace(policy, schedule_steps=None)  # nothing is sampled, so nothing depends on a schedule
    valid = [sample for sample in samples if not sample.outage]
    for start in range(0, len(valid), BATCH):
        batch = {sample_name(sample): sample for sample in valid[start : start + BATCH]}
        generator.set_samples(batch.values())
        requests = (RolloutRequest(f"{s.set}/{s.problem_id}", s.sample, (), 0) for s in batch.values())
        for trajectory in rollout(requests, generator, tool, tokenizer, policy):
            name = f"{trajectory.problem_id}/{trajectory.sample}"
            yield batch[name], trajectory, name not in generator.unfinished


def not_as_recorded(
    sample: Sample, trajectory: Trajectory, tokenizer: "PreTrainedTokenizerBase"
) -> list[str]:
    """Name the parts of a response that are not as recorded, apart from outputs of programs."""
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
    found = [name for name, (recorded, replayed) in pairs.items() if recorded != replayed]
    if not found and list(sample.token_ends) != token_ends(tokenizer, sample.response_ids, sample.text):
        found.append("ends of tokens")
    pairs_of_tokens = zip(sample.logprobs, sample.sampled, strict=True)
    if any(logprob > 0 or (logprob and not is_sampled) for logprob, is_sampled in pairs_of_tokens):
        found.append("log-probs")
    return found


def _spans(shown: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    return [(start, end) for start, end in shown]
