"""Take samples with live code and grade them; a sample whose sandbox failed is an outage and taken again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    most_alive: int | None = None  # at once, where others sample beside; None: as many as the engine takes

    def take(self, wanted: Sequence[SampleRequest]) -> Iterator[Sample]:
        """Every wanted sample, graded, as it finishes; outages among them."""
        by_request = {f"{want.problem.set}/{want.problem.id}": want.problem for want in wanted}
        prompts = encoded_prompts(self.config, self.tokenizer, by_request)
        requests = (
            RolloutRequest(
                name := f"{want.problem.set}/{want.problem.id}", want.sample, prompts[name], want.seed
            )
            for want in wanted
        )
        trajectories = rollout(
            requests, self.generator, self.interpreter, self.tokenizer, self.policy(), self.most_alive
        )
        for trajectory in trajectories:
            ends = token_ends(self.tokenizer, trajectory.response_ids, trajectory.text)
            problem = by_request[trajectory.problem_id]
            yield graded(trajectory, problem, ends, self.config.traces.dialect)

    def require_prompts(self, problems: Sequence[EvaluationProblem]) -> None:
        """ValueError that names the longest prompt if it does not fit: before anything is sampled."""
        named = {f"{problem.set}/{problem.id}": problem for problem in problems}
        encoded_prompts(self.config, self.tokenizer, named)

    def policy(self) -> RolloutPolicy:
        """How this evaluation samples. With the Transformers engine equal seeds give equal samples, bit for bit."""
        config = self.config
        sampling = Sampling(config.evaluate.temperature, config.evaluate.top_p)
        return RolloutPolicy.of(config.traces, config.sandbox, config.generation, sampling)


def encoded_prompts(
    config: EvaluateStage, tokenizer: "PreTrainedTokenizerBase", problems: Mapping[str, EvaluationProblem]
) -> dict[str, tuple[int, ...]]:
    """The prompt's ids of each problem; ValueError that names the longest if it does not fit."""
    traces, most = config.traces, config.generation.max_prompt_tokens
    dialect = dialect_of(traces, config.sandbox.preload)
    instructed, plain = traces.prompt == "instructed", traces.prompt == "plain"
    prompts = {
        name: encode_prompt(tokenizer, dialect, problem.problem, instructed, problem.system, plain)
        for name, problem in problems.items()
    }
    longest = max(prompts, key=lambda name: len(prompts[name]))
    if len(prompts[longest]) > most:
        raise ValueError(
            f"problem {problems[longest].id}: its prompt has {len(prompts[longest])} tokens, more than "
            f"generation.max_prompt_tokens = {most}; raise it (this is the longest prompt)"
        )
    return prompts


class Takes(Protocol):
    """Whatever samples are taken with."""

    def take(self, wanted: Sequence[SampleRequest]) -> Iterator[Sample]:
        """Every wanted sample, graded, as it finishes; outages among them."""


def take_all(sampler: Takes, wanted: Sequence[SampleRequest], keep: Callable[[Sample], None]) -> list[Sample]:
    """Take every wanted sample and `keep` each valid one; what is still an outage after all attempts is returned."""
    missing = {want.key: want for want in wanted}
    outages: list[Sample] = []
    for _ in range(ATTEMPTS):
        outages = []
        for sample in sampler.take(list(missing.values())):
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
