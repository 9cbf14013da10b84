"""Takes samples with live code and grades them. A sample whose sandbox failed is an outage and is taken again."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tasks.shared.config import EvaluateStage
from tasks.shared.evaluation.problems import EvaluationProblem, SampleRequest
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout
from tasks.shared.generation.protocol import Decodes, Sampling
from tasks.shared.grading import grade
from tasks.shared.reporting.offsets import token_ends
from tasks.shared.reporting.samples import Sample
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.dialect import dialect_of
from tasks.shared.traces.encoding import encode_prompt
from tasks.shared.traces.trajectory import FinishReason, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ATTEMPTS = 3  # in all, for a sample that comes back as an outage


@dataclass(frozen=True, slots=True)
class Sampler:
    """Takes samples with an engine and a sandbox of this process."""

    config: EvaluateStage
    generator: Decodes
    interpreter: Tool | None
    tokenizer: "PreTrainedTokenizerBase"
    most_alive: int | None = None  # at once, if others sample beside; None: as many as the engine takes

    def take(self, requests: Sequence[SampleRequest]) -> Iterator[Sample]:
        """Every requested sample, graded, as it finishes; outages among them."""
        problems = {request.problem.name: request.problem for request in requests}
        prompts = encoded_prompts(self.config, self.tokenizer, problems.values())
        rollouts = (
            RolloutRequest(request.problem.name, request.sample, prompts[request.problem.name], request.seed)
            for request in requests
        )
        trajectories = rollout(
            rollouts, self.generator, self.interpreter, self.tokenizer, self.policy(), self.most_alive
        )
        for trajectory in trajectories:
            ends = token_ends(self.tokenizer, trajectory.response_ids, trajectory.text)
            yield graded(trajectory, problems[trajectory.problem_id], ends, self.config.traces.dialect)

    def policy(self) -> RolloutPolicy:
        """How this evaluation samples. With the Transformers engine equal seeds give equal samples, bit for bit."""
        config = self.config
        sampling = Sampling(config.evaluate.temperature, config.evaluate.top_p)
        return RolloutPolicy.of(config.traces, config.sandbox, config.generation, sampling)


def encoded_prompts(
    config: EvaluateStage, tokenizer: "PreTrainedTokenizerBase", problems: Collection[EvaluationProblem]
) -> dict[str, tuple[int, ...]]:
    """The ids of each problem's prompt, by the problem's name; ValueError that names the longest if it does not fit."""
    traces, most = config.traces, config.generation.max_prompt_tokens
    dialect = dialect_of(traces, config.sandbox.preload)
    instructed, plain = traces.prompt == "instructed", traces.prompt == "plain"
    prompts = {
        problem.name: encode_prompt(tokenizer, dialect, problem.problem, instructed, problem.system, plain)
        for problem in problems
    }
    longest = max(problems, key=lambda problem: len(prompts[problem.name]))
    num_tokens = len(prompts[longest.name])
    if num_tokens > most:
        raise ValueError(
            f"problem {longest.id}: its prompt has {num_tokens} tokens, more than "
            f"generation.max_prompt_tokens = {most}; raise it (this is the longest prompt)"
        )
    return prompts


class SampleSource(Protocol):
    """Takes samples, here or on a server."""

    def take(self, requests: Sequence[SampleRequest]) -> Iterator[Sample]:
        """Every requested sample, graded, as it finishes; outages among them."""


def take_all(
    source: SampleSource, requests: Sequence[SampleRequest], keep: Callable[[Sample], None]
) -> list[Sample]:
    """Take every requested sample and `keep` each valid one; returns those that are outages after all attempts."""
    missing = {request.key: request for request in requests}
    outages: list[Sample] = []
    for _ in range(ATTEMPTS):
        outages = []
        for sample in source.take(list(missing.values())):
            if sample.outage:
                outages.append(sample)
            else:
                keep(sample)
        missing = {sample.key: missing[sample.key] for sample in outages}
        if not missing:
            break
    return outages


def graded(
    trajectory: Trajectory, problem: EvaluationProblem, ends: list[int], dialect: str = "retool"
) -> Sample:
    """The trajectory as a sample with its grade; `ends`: where each token ends in its text."""
    outage = trajectory.finish is FinishReason.SANDBOX_FAILURE
    truncated = trajectory.finish is FinishReason.LENGTH
    verdict = None if outage else grade(trajectory.own_words, problem.answer, truncated, problem.integer)
    return Sample(
        set=problem.set,
        problem_id=problem.id,
        problem=problem.problem,
        answer=problem.answer,
        family=problem.family,
        sample=trajectory.sample,
        text=trajectory.text,
        response_ids=tuple(trajectory.response_ids),
        sampled=tuple(map(bool, trajectory.loss_mask)),
        logprobs=tuple(trajectory.logprobs),
        token_ends=ends,
        calls=trajectory.calls,
        finish=trajectory.finish,
        correct=verdict is not None and verdict.correct,
        reason="void" if verdict is None else verdict.reason.value,
        predicted=None if verdict is None else verdict.predicted,
        num_tokens=len(trajectory.response_ids),
        dialect=dialect,
        shown=trajectory.shown,
        unrecognised=trajectory.unrecognised,
        self_written=trajectory.self_written,
    )
