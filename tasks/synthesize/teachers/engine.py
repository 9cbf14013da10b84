"""A model in this process as teacher: the run's own checkpoint (bootstrap), or a teacher's weights on this machine.

Samples with the interleaving loop of RL and evaluation. Finished responses are logged like those of an endpoint, so a
stage that was killed samples only the missing ones.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.shared.contract.stage import Rendezvous
from tasks.shared.generation.endpoint.completion import Choice, Completion, Message, Usage
from tasks.shared.generation.endpoint.responses import ResponseKey, ResponseLog
from tasks.shared.generation.engines import open_generator
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, rollout, schedule_of
from tasks.shared.generation.protocol import Sampling
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.traces.encoding import encode_message, encode_prompt, written_trace
from tasks.shared.traces.trajectory import FinishReason, Trajectory
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.teachers.prompting import Prompting, TraceRequest, derived_seed
from tasks.synthesize.traces import Reason, Verdict, WrittenTrace
from tasks.synthesize.verify import Rules

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.shared.tools.protocol import Tool


@dataclass(frozen=True, slots=True)
class Weights:
    """The teacher's model."""

    checkpoint: Path
    name: str  # its name in the dataset: artifact digest or directory
    digest: str  # digest of its files


class EngineTeacher:
    """Writes traces with an engine of this process, or a pool of servers."""

    def __init__(
        self,
        config: SynthesizeStage,
        rules: Rules,
        interpreter: "Tool",
        log: ResponseLog,
        seed: int,
        weights: Weights,
        rendezvous: Rendezvous | None = None,
    ) -> None:
        assert config.generation is not None
        assert config.model is not None
        self._generation, self._model = config.generation, config.model
        self._teacher = config.synthesize.teacher
        self._rules = rules
        self._interpreter = interpreter
        self._log = log
        self._seed = seed
        self._rendezvous = rendezvous
        self._weights = weights
        self._prompting = Prompting(config, rules)
        self.metrics: dict[str, float | int] = {}

    def write(self, requests: Sequence[TraceRequest]) -> Iterator[WrittenTrace]:
        """The traces as they finish, those of the log first."""
        missing = []
        for request in requests:
            logged = self._log.find(self._key(request))
            if logged is None:
                missing.append(request)
            else:
                text = Completion.model_validate_json(logged).choices[0].message.content
                yield self._written(request, text or "")
        yield from self._sample(missing)
        spent = self._log.spent("teacher")
        self.metrics = {
            "teacher_asked": len(missing),
            "teacher_prompt_tokens": spent.prompt_tokens,
            "teacher_completion_tokens": spent.completion_tokens,
        }

    def _sample(self, missing: Sequence[TraceRequest]) -> Iterator[WrittenTrace]:
        if not missing:
            return
        tokenizer = load_tokenizer(self._weights.checkpoint)
        rollouts, by_key = [], {}
        for request in missing:
            ids = self._prompt_ids(tokenizer, request)
            if len(ids) > self._generation.max_prompt_tokens:
                detail = f"its prompt has {len(ids)} tokens, more than generation.max_prompt_tokens"
                yield self._written(request, "", Verdict(Reason.NO_RESPONSE, detail, (), ()))
                continue
            by_key[request.problem.id, request.index] = request
            seed = derived_seed(self._seed, request, 0)
            rollouts.append(RolloutRequest(request.problem.id, request.index, ids, seed))
        checkpoint = self._weights.checkpoint
        with open_generator(
            self._generation,
            self._model,
            checkpoint,
            tokenizer,
            scratch=self._log.directory.parent,
            rendezvous=self._rendezvous,
        ) as generator:
            for trajectory in rollout(rollouts, generator, self._interpreter, tokenizer, self._policy()):
                text = written_trace(tokenizer, self._rules.dialect, trajectory.text, trajectory.shown)
                yield self._sampled(trajectory, text, by_key[trajectory.problem_id, trajectory.sample])

    def _sampled(self, trajectory: Trajectory, text: str, request: TraceRequest) -> WrittenTrace:
        """The trace of a sampled response, which is logged except after a sandbox failure."""
        if trajectory.finish is FinishReason.SANDBOX_FAILURE:
            loss = Verdict(Reason.SANDBOX_FAILURE, "while the model waited for output", (), ())
            return self._written(request, "", loss)
        usage = Usage(len(trajectory.prompt_ids), trajectory.num_sampled)
        # in the form of an endpoint's response, so that one reader serves both
        choice = Choice(message=Message(content=text), finish_reason=trajectory.finish.value)
        body = Completion(model=self._weights.name, choices=[choice], usage=usage).model_dump_json()
        self._log.append(self._key(request), body, usage)
        return self._written(request, text)

    def _policy(self) -> RolloutPolicy:
        rules, teacher = self._rules, self._teacher
        return RolloutPolicy(
            dialect=rules.dialect,
            max_calls=rules.max_calls if self._prompting.runs_code else 0,
            announce_remaining_calls=rules.announce_remaining_calls,
            error_feedback=rules.error_feedback,
            stateful=rules.stateful,
            sampling=Sampling(teacher.temperature, teacher.top_p),
            max_response_tokens=teacher.max_response_tokens,
            block_notices=rules.block_notices,
            schedule_steps=schedule_of(self._generation),
        )

    def _prompt_ids(self, tokenizer: "PreTrainedTokenizerBase", request: TraceRequest) -> tuple[int, ...]:
        dialect, problem = self._rules.dialect, request.problem
        if self._prompting.plain:
            return encode_prompt(tokenizer, dialect, problem.problem, False, problem.system, plain=True)
        message = self._prompting.message(problem.problem, request.reasoning)
        return encode_message(tokenizer, dialect, message, problem.system)

    def _key(self, request: TraceRequest) -> ResponseKey:
        """The key of a response: a digest of everything it depends on."""
        teacher, rules = self._teacher, self._rules
        message = self._prompting.message(request.problem.problem, request.reasoning)
        sampling = (teacher.temperature, teacher.top_p, teacher.max_response_tokens, self._seed)
        calls = (rules.dialect.name, self._prompting.runs_code, rules.max_calls, rules.block_notices)
        feedback = (rules.announce_remaining_calls, rules.error_feedback, rules.stateful)
        engine = (self._generation.engine, self._model.dtype)
        prompt = (self._weights.digest, self._prompting.plain, request.problem.system, message)
        content = json.dumps([*prompt, *sampling, *calls, *feedback, asdict(rules.limits), *engine])
        digest = hashlib.sha256(content.encode()).hexdigest()[:32]
        return ResponseKey("teacher", request.problem.id, request.index, 0, digest)

    def _written(self, request: TraceRequest, text: str, loss: Verdict | None = None) -> WrittenTrace:
        return self._prompting.written(request, text, self._weights.name, loss)
