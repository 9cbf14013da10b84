"""Replies in the API's form: whole ones and chunks, chat and plain, with what programs did beside the text."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.serve.parts import Output, Part, Parts, Words
from tasks.shared.grading import last_box
from tasks.shared.traces.served import ServedTrajectory
from tasks.shared.traces.trajectory import CodeCall, FinishReason, Trajectory


@dataclass(slots=True)
class Reply:
    """One sample on its way to the client."""

    parts: Parts
    in_text: bool  # outputs are part of the text, else in the field alone
    trajectory: Trajectory | None = None
    tells_all: bool = False  # the trajectory itself goes with it

    @property
    def ended(self) -> bool:
        """By itself, at a stop string, or at its budget."""
        return self.trajectory is not None or self.parts.stopped

    @property
    def finish(self) -> str:
        """OpenAI's reason."""
        cut = self.trajectory is not None and self.trajectory.finish is FinishReason.LENGTH
        return "length" if cut and not self.parts.stopped else "stop"

    @property
    def content(self) -> str:
        """The text of the reply."""
        return self.parts.text if self.in_text else "".join(self._between())

    @property
    def answer(self) -> str | None:
        """What stands in the last whole box of the model's own words."""
        if self.trajectory is None or self.parts.stopped:
            return None
        box = last_box(self.trajectory.own_words)
        return box.content or None if box is not None else None

    def interpreter(self) -> list[dict[str, Any]]:
        """Every call: what ran, how it ended, what the model was shown, and where that stands in the content."""
        calls, gone = [], 0
        for call, (start, end) in zip(self.parts.calls, self.parts.spans, strict=True):
            start, end = start - gone, end - gone
            if not self.in_text:
                gone, end = gone + end - start, start
            calls.append(_told(call) | {"start": start, "end": end})
        return calls

    def delta(self, part: Part) -> dict[str, Any]:
        """What one part adds to a streamed message."""
        if isinstance(part, Words):
            return {"content": part.text}
        number = len(self.parts.calls)
        if not isinstance(part, Output):
            return {"interpreter": [{"index": number, "code": part.code, "status": "running"}]}
        told = {"index": number - 1} | _told(part.call)
        return ({"content": part.text} if self.in_text else {}) | {"interpreter": [told]}

    def _between(self) -> list[str]:
        text, place, kept = self.parts.text, 0, []
        for start, end in self.parts.spans:
            kept.append(text[place:start])
            place = end
        return [*kept, text[place:]]


class Form:
    """How the replies of one request look: `chat` or plain completions."""

    def __init__(self, chat: bool, name: str, model: str) -> None:
        """`name`: the request's id, `model`: as it was asked for."""
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{name}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
        """The body of a reply that is not streamed."""
        kind = "chat.completion" if self._chat else "text_completion"
        choices = [self._choice(number, reply) for number, reply in enumerate(replies)]
        return self._head | {"object": kind, "choices": choices, "usage": usage(replies, prompt_tokens)}

    def chunk(self, number: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """One streamed piece of choice `number`."""
        choice: dict[str, Any] = {"index": number, "finish_reason": finish, "logprobs": None}
        if self._chat:
            choice["delta"] = delta
        else:
            choice |= {"text": delta.get("content", "")} | {k: v for k, v in delta.items() if k != "content"}
        return self._head | {"object": self._kind_of_chunk, "choices": [choice]}

    def last(self, replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
        """The chunk with the usage."""
        return self._head | {
            "object": self._kind_of_chunk,
            "choices": [],
            "usage": usage(replies, prompt_tokens),
        }

    @property
    def _kind_of_chunk(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _choice(self, number: int, reply: Reply) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": number, "finish_reason": reply.finish, "logprobs": None}
        beside: dict[str, Any] = {"interpreter": reply.interpreter(), "answer": reply.answer}
        if reply.tells_all and reply.trajectory is not None:
            beside["trajectory"] = ServedTrajectory.of(reply.trajectory).model_dump(mode="json")
        if self._chat:
            return choice | {"message": {"role": "assistant", "content": reply.content} | beside}
        return choice | {"text": reply.content} | beside


def usage(replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
    """Tokens of prompts and responses; those of outputs are in the responses, and told apart."""
    completion = sum(reply.parts.num_ids for reply in replies)
    shown = sum(reply.parts.num_shown for reply in replies)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "completion_tokens_details": {"interpreter_tokens": shown},
    }


def _told(call: CodeCall) -> dict[str, Any]:
    """A call as clients see it."""
    return {
        "code": call.code,
        "status": call.status,
        "output": call.observation,
        "seconds": round(call.seconds, 6),
    }
