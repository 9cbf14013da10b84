"""Replies in the API's form: whole and streamed, chat and plain, with the code calls beside the text."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.serve.parts import Output, Part, Parts, Words, answer_of
from tasks.shared.traces.served import ServedTrajectory
from tasks.shared.traces.trajectory import CodeCall, FinishReason, Trajectory


@dataclass(slots=True)
class Reply:
    """One sample on its way to the client."""

    parts: Parts
    in_text: bool  # outputs are part of the text, not only of the field `interpreter`
    trajectory: Trajectory | None = None
    with_trajectory: bool = False  # the reply includes the trajectory

    @property
    def ended(self) -> bool:
        """Whether sampling has ended, for any reason."""
        return self.trajectory is not None or self.parts.stopped

    @property
    def finish(self) -> str:
        """OpenAI's `finish_reason`."""
        cut = self.trajectory is not None and self.trajectory.finish is FinishReason.LENGTH
        return "length" if cut and not self.parts.stopped else "stop"

    @property
    def content(self) -> str:
        """The text of the reply."""
        text = self.parts.text
        for start, end in () if self.in_text else reversed(self.parts.spans):
            text = text[:start] + text[end:]
        return text

    @property
    def answer(self) -> str | None:
        """The content of the last complete box in the model's own words."""
        if self.trajectory is None or self.parts.stopped:
            return None
        return answer_of(self.trajectory) or None

    def interpreter(self) -> list[dict[str, Any]]:
        """Return every call: the code, its status, what the model was shown, and its span in the content."""
        calls, removed = [], 0
        for call, (start, end) in zip(self.parts.calls, self.parts.spans, strict=True):
            start, end = start - removed, end - removed
            if not self.in_text:
                removed, end = removed + end - start, start
            calls.append(_call_fields(call) | {"start": start, "end": end})
        return calls

    def delta(self, part: Part) -> dict[str, Any]:
        """Return what one part adds to a streamed message."""
        if isinstance(part, Words):
            return {"content": part.text}
        number = len(self.parts.calls)
        if not isinstance(part, Output):
            return {"interpreter": [{"index": number, "code": part.code, "status": "running"}]}
        call = {"index": number - 1} | _call_fields(part.call)
        return ({"content": part.text} if self.in_text else {}) | {"interpreter": [call]}


class Form:
    """The JSON form of one request's replies: chat or plain completions."""

    def __init__(self, chat: bool, model: str) -> None:
        """`model` is the name in the request."""
        self._chat = chat
        self._kind_of_chunk = "chat.completion.chunk" if chat else "text_completion"
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._head = {"id": name, "created": int(time.time()), "model": model}

    def whole(self, replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
        """Return the body of a reply that is not streamed."""
        kind = "chat.completion" if self._chat else "text_completion"
        choices = [self._choice(number, reply) for number, reply in enumerate(replies)]
        return self._head | {"object": kind, "choices": choices, "usage": usage(replies, prompt_tokens)}

    def chunk(self, number: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """Return one streamed chunk of choice `number`."""
        choice: dict[str, Any] = {"index": number, "finish_reason": finish, "logprobs": None}
        if self._chat:
            choice["delta"] = delta
        else:
            choice |= {"text": delta.get("content", "")} | {k: v for k, v in delta.items() if k != "content"}
        return self._head | {"object": self._kind_of_chunk, "choices": [choice]}

    def last(self, replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
        """Return the chunk with the usage."""
        tokens = usage(replies, prompt_tokens)
        return self._head | {"object": self._kind_of_chunk, "choices": [], "usage": tokens}

    def _choice(self, number: int, reply: Reply) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": number, "finish_reason": reply.finish, "logprobs": None}
        extra: dict[str, Any] = {"interpreter": reply.interpreter(), "answer": reply.answer}
        if reply.with_trajectory and reply.trajectory is not None:
            served = ServedTrajectory.model_validate(reply.trajectory, from_attributes=True)
            extra["trajectory"] = served.model_dump(mode="json")
        if self._chat:
            return choice | {"message": {"role": "assistant", "content": reply.content} | extra}
        return choice | {"text": reply.content} | extra


def usage(replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
    """Count the tokens of prompts and responses. Responses include outputs, which are also counted apart."""
    completion = sum(reply.parts.num_ids for reply in replies)
    shown = sum(reply.parts.num_shown for reply in replies)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "completion_tokens_details": {"interpreter_tokens": shown},
    }


def _call_fields(call: CodeCall) -> dict[str, Any]:
    """Return a call as clients see it."""
    return {
        "code": call.code,
        "status": call.status,
        "output": call.observation,
        "seconds": round(call.seconds, 6),
    }
