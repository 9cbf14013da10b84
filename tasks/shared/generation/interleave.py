"""Generation interleaved with live code: the one loop behind RL and evaluation, for any engine that `Decodes`.

A row samples until its stop string. Its block goes to the tool as a future while the other rows continue. The feedback
is appended as ids, and the row continues until its turn ends or the token budget is used up. The budget counts the
whole response with its feedback. After the call cap a block is plain text. Ids are only appended (`TrajectoryBuilder`).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, compress, islice
from typing import Literal

from transformers import PreTrainedTokenizerBase

from tasks.shared.config import GenerationConfig, SandboxConfig, TracesConfig
from tasks.shared.generation.admission import Admission
from tasks.shared.generation.protocol import Aborts, Decodes, Follows, HasRoom, Piece, Sampling
from tasks.shared.sandbox import ExecutionResult, Status
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.dialect import Dialect, dialect_of
from tasks.shared.traces.encoding import encode_feedback
from tasks.shared.traces.finished import finished
from tasks.shared.traces.observation import observe
from tasks.shared.traces.text_ids import ids_text
from tasks.shared.traces.trajectory import NOTICE, CodeCall, FinishReason, Trajectory, TrajectoryBuilder

SCHEDULE_STEPS = 12


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One trajectory to sample."""

    problem_id: str
    sample: int  # index among the samples of this problem
    prompt_ids: tuple[int, ...]  # (P,)
    seed: int
    # this request's own sampling, smaller budget and fewer calls, if they differ from the policy's
    sampling: Sampling | None = None
    max_response_tokens: int | None = None
    max_calls: int | None = None

    @property
    def id(self) -> str:
        """Its id in the engine."""
        return f"{self.problem_id}/{self.sample}"


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """How trajectories are sampled and their code is run."""

    dialect: Dialect
    max_calls: int  # C; 0: code is text like any other
    announce_remaining_calls: bool
    error_feedback: Literal["full", "last_line"]
    stateful: bool  # one interpreter session a trajectory
    sampling: Sampling
    max_response_tokens: int  # of the whole response, feedback included
    block_notices: bool = True  # answer an incomplete block with a notice, and count it as a call
    # engine steps from a block to its feedback, waiting for the code if necessary, so that equal seeds give equal
    # batches and equal bits; None: feedback is appended as soon as the code has run
    schedule_steps: int | None = None

    @classmethod
    def of(
        cls, traces: TracesConfig, sandbox: SandboxConfig, generation: GenerationConfig, sampling: Sampling
    ) -> "RolloutPolicy":
        """The policy of a recipe."""
        return cls(
            dialect=dialect_of(traces),
            max_calls=traces.max_calls,
            announce_remaining_calls=traces.announce_remaining_calls,
            error_feedback=traces.error_feedback,
            stateful=sandbox.stateful,
            sampling=sampling,
            max_response_tokens=generation.max_response_tokens,
            block_notices=traces.block_notices,
            schedule_steps=schedule_of(generation),
        )


def schedule_of(generation: GenerationConfig) -> int | None:
    """Steps from a block to its feedback, for the Transformers engine in this process alone.

    A schedule does not help vLLM or an engine outside the process, whose batches differ between runs anyway.
    """
    return SCHEDULE_STEPS if (generation.engine, generation.placement) == ("transformers", "inside") else None


@dataclass(slots=True)
class _Live:
    """A trajectory that is not finished."""

    builder: TrajectoryBuilder
    sampling: Sampling
    budget: int  # tokens of the whole response
    calls_left: int
    dropped: bool = False  # ends as soon as possible
    session: str | None = None
    carried: str = ""  # text after the stop string, within the last token


@dataclass(frozen=True, slots=True)
class _Running:
    """A block that the tool runs."""

    request_id: str
    code: str
    future: Future[ExecutionResult]
    due: int  # engine step from which its feedback is appended


def rollout(
    requests: Iterable[RolloutRequest],
    generator: Decodes,
    tool: Tool | None,
    tokenizer: PreTrainedTokenizerBase,
    policy: RolloutPolicy,
    most_alive: int | None = None,
) -> Iterator[Trajectory]:
    """Sample every request, at most `most_alive` at once; yield trajectories as they finish.

    ValueError: the policy runs code and there is no tool, or a prompt does not fit the engine. If the sandbox could not
    run a block, its trajectory ends as SANDBOX_FAILURE and the model sees nothing of it.
    """
    interleaver = Interleaver(generator, tool, tokenizer, policy)
    waiting = iter(requests)
    while True:
        room = None if most_alive is None else most_alive - interleaver.num_alive
        for request in islice(waiting, room):
            interleaver.add(request)
        if not interleaver.num_alive:
            return
        yield from interleaver.step()


class Interleaver:
    """The live trajectories. Requests may be added at any time; each step advances all."""

    def __init__(
        self,
        generator: Decodes,
        tool: Tool | None,
        tokenizer: PreTrainedTokenizerBase,
        policy: RolloutPolicy,
        patience_s: float | None = None,
    ) -> None:
        """`patience_s`: how long an idle step waits for code; None: until some code has run.

        ValueError: the policy runs code and there is no tool.
        """
        if policy.max_calls and policy.dialect.runs_code and tool is None:
            raise ValueError(
                f"dialect '{policy.dialect.name}' runs code: start an Interpreter, or set traces.max_calls = 0"
            )
        self._patience_s = patience_s
        self._waiting: deque[RolloutRequest] = deque()
        self._admission = None
        if isinstance(generator, HasRoom):
            self._admission = Admission(generator.room, policy.max_response_tokens)
        self._generator = generator
        self._tool = tool
        self._tokenizer = tokenizer
        self._policy = policy
        self._live: dict[str, _Live] = {}
        self._running: list[_Running] = []  # in the order of their submission
        self._step = 0

    @property
    def num_alive(self) -> int:
        """Requests that are not finished."""
        return len(self._waiting) + len(self._live)

    def add(self, request: RolloutRequest) -> None:
        """Take a request; it starts with the next step, or when the engine has room."""
        self._waiting.append(request)

    def step(self) -> Iterator[Trajectory]:
        """Step the engine once and deliver feedback; yield trajectories as they finish."""
        self._admit()
        yield from filter(None, map(self._take, self._generator.step()))
        self._step += 1
        yield from filter(None, map(self._deliver, self._deliverable()))

    def so_far(self, request_id: str) -> tuple[list[int], list[CodeCall]]:
        """Response ids and calls so far; empty before the request has started.

        Includes the ids of the unfinished piece if the engine shows them.
        """
        live = self._live.get(request_id)
        if live is None:
            return [], []
        sampled = self._generator.sampled(request_id) if isinstance(self._generator, Follows) else ()
        return [*live.builder.response_ids, *sampled], live.builder.calls

    def running_code(self, request_id: str) -> str | None:
        """The block that runs for a request, if one does."""
        return next((running.code for running in self._running if running.request_id == request_id), None)

    def drop(self, request_id: str) -> None:
        """Drop a request: at once, or after its piece or block if that cannot be stopped."""
        self._waiting = deque(request for request in self._waiting if request.id != request_id)
        live = self._live.get(request_id)
        if live is None:
            return
        live.dropped = True
        if self.running_code(request_id) is None and isinstance(self._generator, Aborts):
            self._generator.abort(request_id)
            self._forget(request_id)

    def _admit(self) -> None:
        """Start the requests that the engine has room for, and at least one if none is live."""
        while self._waiting and (not self._live or self._has_room()):
            self._start(self._waiting.popleft())

    def _has_room(self) -> bool:
        if self._admission is None:
            return True
        new = (len(self._waiting[0].prompt_ids), 0)
        live = ((len(row.builder.prompt_ids), len(row.builder.response_ids)) for row in self._live.values())
        return self._admission.allows(self._generator.num_running, chain([new], live))

    def _start(self, request: RolloutRequest) -> None:
        """Add a request to the engine."""
        assert request.id not in self._live, f"two requests for sample {request.id}"
        policy = self._policy
        builder = TrajectoryBuilder(request.problem_id, request.sample, tuple(request.prompt_ids))
        budget = min(policy.max_response_tokens, request.max_response_tokens or policy.max_response_tokens)
        calls = policy.max_calls if request.max_calls is None else min(policy.max_calls, request.max_calls)
        live = _Live(builder, request.sampling or policy.sampling, budget, calls)
        self._generator.add(
            request.id,
            request.prompt_ids,
            sampling=live.sampling,
            seed=request.seed,
            stop=self._stop(live),
            max_new_tokens=budget,
        )
        self._live[request.id] = live

    def _stop(self, live: _Live) -> str | None:
        """The stop string while calls are left; later a block is text."""
        return self._policy.dialect.stop if live.calls_left else None

    def _take(self, piece: Piece) -> Trajectory | None:
        """Append the sampled tokens; run the block that they end with, or finish."""
        live = self._live[piece.request_id]
        if live.dropped:
            self._release(piece.request_id)
            return None
        live.builder.append_sampled(piece.ids, piece.logprobs, piece.versions)
        if piece.reason != "stop":
            return self._finish(piece.request_id, FinishReason(piece.reason))
        turn = ids_text(self._tokenizer, live.builder.turn_ids)
        block = self._policy.dialect.read(turn)
        if block is None or (block.fault and not self._policy.block_notices):  # text like any other
            left = live.budget - len(live.builder.response_ids)
            if left == 0:
                return self._finish(piece.request_id, FinishReason.LENGTH)
            self._generator.extend(piece.request_id, (), stop=self._stop(live), max_new_tokens=left)
            return None
        live.carried = turn[block.end :]
        if block.fault:
            return self._answer(piece.request_id, "", NOTICE, self._policy.dialect.notice(block), 0.0)
        assert self._tool is not None
        if self._policy.stateful and live.session is None:
            live.session = self._tool.open_session()
        future = self._tool.submit(block.code, session=live.session)
        due = self._step + (self._policy.schedule_steps or 0)
        self._running.append(_Running(piece.request_id, block.code, future, due))
        return None

    def _deliverable(self) -> list[_Running]:
        """Remove the blocks whose feedback is due from those running; in the order of their submission."""
        if not self._running:
            return []
        idle = self._generator.num_running == 0
        if self._policy.schedule_steps is not None:
            if idle:
                self._step = max(self._step, self._running[0].due)
            is_due = [running.due <= self._step for running in self._running]
        else:
            if idle:
                futures = [running.future for running in self._running]
                wait(futures, self._patience_s, return_when=FIRST_COMPLETED)
            is_due = [running.future.done() for running in self._running]
        chosen = list(compress(self._running, is_due))
        self._running = [running for running, due in zip(self._running, is_due, strict=True) if not due]
        return chosen

    def _deliver(self, running: _Running) -> Trajectory | None:
        """Answer a block that has run; finish if the sandbox failed."""
        request_id, code, result = running.request_id, running.code, running.future.result()
        live = self._live[request_id]
        if live.dropped:
            self._release(request_id)
            return None
        if result.status is Status.SANDBOX_FAILURE:
            turn_end = len(live.builder.response_ids)
            call = CodeCall(code, result.status.value, "", result.seconds, turn_end, turn_end)
            live.builder.append_feedback((), call)
            return self._finish(request_id, FinishReason.SANDBOX_FAILURE)
        observation = observe(result, self._policy.error_feedback)
        return self._answer(request_id, code, result.status.value, observation, result.seconds)

    def _answer(
        self, request_id: str, code: str, status: str, observation: str, seconds: float
    ) -> Trajectory | None:
        """Append the feedback of a call and continue; finish if the budget does not hold it."""
        live = self._live[request_id]
        live.calls_left -= 1
        turn_end = len(live.builder.response_ids)
        remaining = live.calls_left if self._policy.announce_remaining_calls else None
        feedback = self._policy.dialect.feedback(observation, remaining, live.carried)
        ids = encode_feedback(self._tokenizer, self._policy.dialect, feedback)
        left = live.budget - turn_end - len(ids)
        call = CodeCall(code, status, observation, seconds, turn_end, turn_end)
        if left < 1:  # no room for a token after the feedback
            live.builder.append_feedback((), call)
            return self._finish(request_id, FinishReason.LENGTH)
        live.builder.append_feedback(ids, replace(call, feedback_end=turn_end + len(ids)))
        self._generator.extend(request_id, ids, stop=self._stop(live), max_new_tokens=left)
        return None

    def _release(self, request_id: str) -> _Live:
        """Forget a request whose piece was returned, in the engine and here."""
        self._generator.release(request_id)
        return self._forget(request_id)

    def _forget(self, request_id: str) -> _Live:
        live = self._live.pop(request_id)
        if live.session is not None:
            assert self._tool is not None
            self._tool.close_session(live.session)
        return live

    def _finish(self, request_id: str, reason: FinishReason) -> Trajectory:
        live = self._release(request_id)
        ids = live.builder.response_ids
        if self._admission is not None:
            self._admission.ended(len(ids))
        assert len(ids) <= live.budget, "the response outgrew its budget"
        return finished(live.builder, reason, partial(ids_text, self._tokenizer), self._policy.dialect)
