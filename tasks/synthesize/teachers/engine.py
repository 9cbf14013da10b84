"""A model in this process as teacher: our own checkpoint (bootstrap), or a teacher's weights on this machine.

Writes through the one interleaving loop behind RL and evaluation. Finished responses are logged as those of an
endpoint are, so a stage that was killed samples only what is missing.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.shared.contract.stage import Rendezvous
from tasks.shared.generation.endpoint.completion import Choice, Completion, Message, TokenCounts, Usage
from tasks.shared.generation.endpoint.responses import ResponseKey, ResponseLog
from tasks.shared.generation.engines import open_generator
from tasks.shared.generation.interleave import RolloutPolicy, RolloutRequest, delivery_of, rollout
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
    """The model that writes."""

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
        meeting: Rendezvous | None = None,
    ) -> None:
        assert config.generation is not None
        assert config.model is not None
        self._generation, self._model = config.generation, config.model
        self._teacher = config.synthesize.teacher
        self._rules = rules
        self._interpreter = interpreter
        self._log = log
        self._seed = seed
        self._meeting = meeting
        self._weights = weights
        self._prompting = Prompting(config, rules)
        self.metrics: dict[str, float | int] = {}

    def write(self, wanted: Sequence[TraceRequest]) -> Iterator[WrittenTrace]:
        """The traces as they finish, those of the log first."""
        missing = []
        for want in wanted:
            kept = self._log.find(self._key(want))
            if kept is None:
                missing.append(want)
            else:
                text = Completion.model_validate_json(kept).choices[0].message.content
                yield self._written(want, text or "")
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
        requests, by_request = [], {}
        for want in missing:
            ids = self._prompt_ids(tokenizer, want)
            if len(ids) > self._generation.max_prompt_tokens:
                said = f"its prompt has {len(ids)} tokens, more than generation.max_prompt_tokens"
                yield self._written(want, "", Verdict(Reason.NO_RESPONSE, said, (), ()))
                continue
            by_request[want.problem.id, want.index] = want
            seed = derived_seed(self._seed, want, 0)
            requests.append(RolloutRequest(want.problem.id, want.index, ids, seed))
        checkpoint = self._weights.checkpoint
        with open_generator(
            self._generation,
            self._model,
            checkpoint,
            tokenizer,
            scratch=self._log.directory.parent,
            meeting=self._meeting,
        ) as generator:
            for trajectory in rollout(requests, generator, self._interpreter, tokenizer, self._policy()):
                text = written_trace(tokenizer, self._rules.dialect, trajectory.text, trajectory.shown)
                yield self._taken(trajectory, text, by_request[trajectory.problem_id, trajectory.sample])

    def _taken(self, trajectory: Trajectory, text: str, want: TraceRequest) -> WrittenTrace:
        """A response that was sampled; kept in the log unless it is to be sampled again."""
        if trajectory.finish is FinishReason.SANDBOX_FAILURE:
            loss = Verdict(Reason.SANDBOX_FAILURE, "while the model waited for output", (), ())
            return self._written(want, "", loss)
        usage = Usage(len(trajectory.prompt_ids), trajectory.num_sampled)
        self._log.append(self._key(want), self._body(trajectory, text, usage), usage)
        return self._written(want, text)

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
            delivery=delivery_of(self._generation),
        )

    def _prompt_ids(self, tokenizer: "PreTrainedTokenizerBase", want: TraceRequest) -> tuple[int, ...]:
        if self._prompting.plain:
            return encode_prompt(
                tokenizer, self._rules.dialect, want.problem.problem, False, want.problem.system, plain=True
            )
        message = self._prompting.message(want.problem.problem, want.reasoning)
        return encode_message(tokenizer, self._rules.dialect, message, want.problem.system)

    def _key(self, want: TraceRequest) -> ResponseKey:
        """What the response depends on."""
        teacher, rules = self._teacher, self._rules
        said = self._prompting.message(want.problem.problem, want.reasoning)
        sampling = (teacher.temperature, teacher.top_p, teacher.max_response_tokens, self._seed)
        calls = (rules.max_calls, rules.announce_remaining_calls, rules.error_feedback, rules.stateful)
        engine = (self._generation.engine, self._model.dtype)
        asked = (self._weights.digest, self._prompting.plain, want.problem.system, said)
        request = json.dumps([*asked, *sampling, *calls, asdict(rules.limits), *engine])
        return ResponseKey(
            "teacher", want.problem.id, want.index, 0, hashlib.sha256(request.encode()).hexdigest()[:32]
        )

    def _body(self, trajectory: Trajectory, text: str, usage: Usage) -> str:
        """The response in the form of an endpoint's, so that one reader does for both."""
        choice = Choice(message=Message(content=text), finish_reason=trajectory.finish.value)
        counts = TokenCounts(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        return Completion(model=self._weights.name, choices=[choice], usage=counts).model_dump_json()

    def _written(self, want: TraceRequest, text: str, loss: Verdict | None = None) -> WrittenTrace:
        return WrittenTrace(
            want.id,
            want.problem,
            text,
            teacher=self._weights.name,
            prompt_digest=self._prompting.digest,
            loss=loss,
        )
