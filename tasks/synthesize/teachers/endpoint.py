"""A model behind an endpoint as teacher: rewrites a text, or solves the problem with live code.

Conversations run concurrently in one event loop: a turn of the model, its code in the sandbox, the output sent back,
the next turn, as in `tasks/shared/generation/interleave.py`, but in text. A turn that was answered before comes from
the response log, so a stage that was killed continues.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count, cycle, groupby, islice
from typing import Any

from tasks.shared.generation.endpoint.client import AttemptFailed, EndpointClient, answers
from tasks.shared.generation.endpoint.completion import Choice, Completion
from tasks.shared.generation.endpoint.limits import FailureShare
from tasks.shared.generation.endpoint.responses import ResponseLog
from tasks.shared.sandbox import Status
from tasks.shared.tools.protocol import Tool
from tasks.shared.traces.call_forms import Block
from tasks.shared.traces.dialect import Dialect
from tasks.shared.traces.tool_form import TOOLS
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.teachers.prompting import Prompting, TraceRequest, derived_seed
from tasks.synthesize.teachers.tool_turns import ToolTurn, require_usable
from tasks.synthesize.traces import Reason, Verdict, WrittenTrace
from tasks.synthesize.verify import Rules

CHARS_PER_TOKEN = 16  # at most; a longer message cannot come from its tokens
BYTES_PER_TOKEN = 3  # of interpreter output, which is mostly digits; the model's tokenizer is not available
CONTINUE = {"add_generation_prompt": False, "continue_final_message": True}  # vLLM's and SGLang's fields
Message = dict[str, Any]


class SandboxFailed(Exception):
    """The interpreter service failed during a conversation, which is no error of the model."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the model."""

    choice: Choice
    tokens: int  # sampled tokens


class EndpointTeacher:
    """Writes traces by asking an endpoint."""

    def __init__(
        self, config: SynthesizeStage, rules: Rules, runner: Tool, log: ResponseLog, seed: int
    ) -> None:
        self._config = config.synthesize.teacher
        self._rules = rules
        self._runner = runner
        self._client = EndpointClient(self._config, "synthesize.teacher", log)
        self._seed = seed
        self._prompting = Prompting(config, rules)
        self.metrics: dict[str, float | int] = {}

    def write(self, requests: Sequence[TraceRequest]) -> Iterator[WrittenTrace]:
        """The traces as they finish, without those that exceed the budget.

        Raises ValueError, with the endpoint's message: it refuses the recipe, or fails for too many traces.
        """
        share = FailureShare(self._config, "teacher", len(requests))
        groups = _groups(requests, self._config.samples_per_request)
        for written in answers(self._client, self._config.concurrency, groups, self._write_group):
            loss = written.loss
            share.count(loss.detail if loss and loss.reason is Reason.NO_RESPONSE else "")
            yield written
        spent, failed = self._client.budget.spent, self._client.failed_attempts
        self.metrics |= {
            "teacher_asked": self._client.num_asked,  # now, and not in an earlier process
            "teacher_prompt_tokens": spent.prompt_tokens,
            "teacher_completion_tokens": spent.completion_tokens,
            "teacher_money": round(self._client.budget.money, 6),
            "teacher_unasked": len(requests) - share.num_finished,
        }
        self.metrics |= {f"teacher_failed/{kind}": failed[kind] for kind in sorted(failed)}

    async def _write_group(self, group: Sequence[TraceRequest], put: Callable[[WrittenTrace], None]) -> None:
        """Write the traces of one opening request, and hand each out as it is finished."""
        for request, opening in zip(group, await self._open(group), strict=True):
            put(await self._finish(request, opening))

    async def _open(self, group: Sequence[TraceRequest]) -> "list[Turn | AttemptFailed]":
        """The first turn of each trace of a group: from one request, or from more if the endpoint ignores `n`."""
        turns: list[Turn | AttemptFailed] = []
        while missing := group[len(turns) :]:
            first, left = missing[0], self._config.max_response_tokens
            payload = self._payload(self._opening(first), first, turn=0, left=left)
            if len(missing) > 1:
                payload["n"] = len(missing)
            try:
                completion = await self._client.ask(first.problem.id, first.index, 0, payload)
                turns += _turns(completion)[: len(missing)]
            except AttemptFailed as failed:
                turns += [failed] * len(missing)
        return turns

    async def _finish(self, request: TraceRequest, opening: "Turn | AttemptFailed") -> WrittenTrace:
        """Write a trace from its first turn to its end, or record why there is none."""
        trace, loss = "", None
        try:
            if isinstance(opening, AttemptFailed):
                raise opening
            async with self._session() as session:
                converse = self._call_tools if self._by_tools else self._converse
                trace = await converse(request, opening, session)
        except AttemptFailed as failed:
            loss = Verdict(Reason.NO_RESPONSE, str(failed), (), ())
        except SandboxFailed as failed:
            loss = Verdict(Reason.SANDBOX_FAILURE, str(failed), (), ())
        return self._prompting.written(request, trace, self._config.model, loss)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[str | None]:
        """An interpreter session for one trace, if the recipe keeps variables between blocks."""
        if not (self._rules.stateful and self._prompting.runs_code):
            yield None
            return
        session = await asyncio.to_thread(self._runner.open_session)
        try:
            yield session
        finally:
            await asyncio.to_thread(self._runner.close_session, session)

    async def _converse(self, request: TraceRequest, turn: "Turn", session: str | None) -> str:
        """The turns of model and interpreter as one trace in the dialect."""
        dialect, parts = self._rules.dialect, list[str]()
        left = self._config.max_response_tokens
        for calls in range(self._rules.max_calls + 1):
            words = read_words(turn.choice, dialect, self._stop(calls), left * CHARS_PER_TOKEN)
            parts.append(words)
            left -= turn.tokens
            block = dialect.read(words) if self._stop(calls) else None
            if block is None or (block.fault and not self._rules.block_notices):
                break
            parts.append(await self._feedback(calls, block, session))
            left -= len(parts[-1].encode()) // BYTES_PER_TOKEN
            if left < 1:
                break
            messages = self._continued(request, parts)
            payload = self._payload(messages, request, turn=calls + 1, left=left)
            turn = _turns(await self._client.ask(request.problem.id, request.index, calls + 1, payload))[0]
        return "".join(parts)

    async def _call_tools(self, request: TraceRequest, turn: "Turn", session: str | None) -> str:
        """As `_converse`, with calls and results in the form of the endpoint's API; calls of one turn run in order."""
        parts, messages, calls = list[str](), self._opening(request), 0
        left = self._config.max_response_tokens
        for number in count(1):
            tool_turn = ToolTurn.of(turn.choice, left * CHARS_PER_TOKEN)
            parts.append(tool_turn.words)
            left -= turn.tokens
            answered = tool_turn.calls[: self._rules.max_calls - calls]
            messages.append(tool_turn.message(answered))
            for call in answered:
                block = self._rules.dialect.read(call.text)
                assert block is not None
                feedback = await self._feedback(calls, block, session)
                parts += [call.text, feedback]
                messages.append(call.result(self._rules.dialect.content_of(feedback)))
                left -= len(feedback.encode()) // BYTES_PER_TOKEN
                calls += 1
            if not answered or left < 1:
                break
            payload = self._payload(messages, request, turn=calls, left=left)
            turn = _turns(await self._client.ask(request.problem.id, request.index, number, payload))[0]
        return "".join(parts)

    @property
    def _by_tools(self) -> bool:
        """Whether calls go through the endpoint's `tools`."""
        return self._rules.dialect.speaks_tools and self._prompting.runs_code

    async def _feedback(self, call: int, block: Block, session: str | None) -> str:
        """The feedback after a block: its output, or a notice if it is incomplete."""
        if block.fault:
            return self._rules.notice(call, block)
        result = await asyncio.wrap_future(self._runner.submit(block.code, session=session))
        if result.status is Status.SANDBOX_FAILURE:
            raise SandboxFailed(result.error_line)
        return self._rules.feedback(call, result)

    def _stop(self, calls: int) -> str | None:
        """The stop string while calls are left; after the last call a block is text, as in RL."""
        has_calls = self._prompting.runs_code and calls < self._rules.max_calls
        return self._rules.dialect.stop if has_calls else None

    def _opening(self, request: TraceRequest) -> list[Message]:
        """The messages before the model's first turn."""
        prompt = _message("user", self._prompting.message(request.problem.problem, request.reasoning))
        system = request.problem.system
        return [_message("system", system), prompt] if system else [prompt]

    def _continued(self, request: TraceRequest, parts: Sequence[str]) -> list[Message]:
        """The conversation so far: outputs as messages of the user, or all text as one message to continue."""
        turns = [
            _message(role, part) for role, part in zip(cycle(("assistant", "user")), parts, strict=False)
        ]
        if self._config.continuation == "prefill":
            turns = [_message("assistant", "".join(parts))]
        return [*self._opening(request), *turns]

    def _payload(
        self, messages: list[Message], request: TraceRequest, turn: int, left: int
    ) -> dict[str, Any]:
        """The body of one request."""
        payload = self._config.payload(messages, left, derived_seed(self._seed, request, turn))
        stop = self._stop(turn)
        if self._by_tools:
            payload["tools"] = TOOLS
            payload["tool_choice"] = "none" if stop is None else "auto"
        elif stop is not None and self._config.send_stop:
            payload["stop"] = [stop]
        if messages[-1]["role"] == "assistant":
            payload["extra_body"] = CONTINUE
        return payload


def read_words(choice: Choice, dialect: Dialect, stop: str | None, most_chars: int) -> str:
    """The model's text in a turn up to the stop string, which endpoints leave out and this adds.

    Text after a stop string is dropped, so that an output that the model invents never reaches the trace. Raises
    AttemptFailed for a turn that is empty, was withheld, or is longer than its tokens can be.
    """
    words = choice.message.content or ""
    require_usable(choice, words, most_chars)
    if stop is None:
        return words
    if (block := dialect.read(words)) is not None:
        return words[: block.end]
    if choice.is_cut_short:
        return words
    gaps = ("",) if words.endswith("\n") else ("\n", "")  # some endpoints strip the text
    whole = (words + gap + stop for gap in gaps)
    return next((text for text in whole if dialect.find_call(text) is not None), words)


def _groups(requests: Sequence[TraceRequest], size: int) -> Iterator[list[TraceRequest]]:
    """The requests of one problem in groups of at most `size`."""
    for _, of_problem in groupby(requests, key=lambda request: request.problem.id):
        while group := list(islice(of_problem, size)):
            yield group


def _turns(completion: Completion) -> list[Turn]:
    """Every sample of a response, with its share of the tokens."""
    tokens = completion.usage.completion_tokens if completion.usage else 0
    return [Turn(choice, max(1, tokens // len(completion.choices))) for choice in completion.choices]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
