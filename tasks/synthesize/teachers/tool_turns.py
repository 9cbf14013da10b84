"""Turns of an endpoint with `tools`: read as words and calls of the dialect, and sent back unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tasks.shared.generation.endpoint.client import AttemptFailed
from tasks.shared.generation.endpoint.completion import Choice, ToolCall
from tasks.shared.traces.tool_form import BrokenCallError, ToolForm, read_arguments

FORM = ToolForm()
Message = dict[str, Any]


def require_usable(choice: Choice, text: str, most_chars: int) -> None:
    """AttemptFailed for a turn that is empty, was withheld, or is longer than its tokens can be."""
    if choice.finish_reason == "content_filter" or (choice.message.refusal and not text):
        raise AttemptFailed("withheld", choice.message.refusal or "the endpoint's content filter", False)
    if not text.strip():
        raise AttemptFailed("empty", "a message without content", False)
    if len(text) > most_chars:
        raise AttemptFailed("too_long", f"{len(text)} characters where {most_chars} are the most", False)


@dataclass(frozen=True, slots=True)
class TurnCall:
    """One call of a turn."""

    sent: ToolCall  # as the endpoint sent it
    text: str  # as the dialect writes it

    @classmethod
    def of(cls, sent: ToolCall) -> Self:
        """A call in the dialect's one form; an invalid one unchanged, so that it is read as invalid."""
        name, arguments = sent.function.name, sent.function.arguments
        try:
            return cls(sent, FORM.write(read_arguments(name, arguments)))
        except BrokenCallError:
            return cls(sent, FORM.write_raw(name or "", arguments or "null"))

    def result(self, content: str) -> Message:
        """The message with its result."""
        return {"role": "tool", "tool_call_id": self.sent.id, "content": content}


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """One turn of the model."""

    words: str  # thoughts, words, and the line break that sets a call off, as a chat template writes them
    calls: tuple[TurnCall, ...]
    content: str
    thoughts: str

    @classmethod
    def of(cls, choice: Choice, most_chars: int) -> Self:
        """Read a turn. AttemptFailed, see `require_usable`."""
        message = choice.message
        content, thoughts = message.content or "", message.reasoning_content or ""
        calls = tuple(map(TurnCall.of, message.tool_calls or ()))
        require_usable(choice, "".join((thoughts, content, *(call.text for call in calls))), most_chars)
        words = f"<think>\n{thoughts.strip()}\n</think>\n\n{content}" if thoughts else content
        return cls(f"{words}\n" if content and calls else words, calls, content, thoughts)

    def message(self, calls: Sequence[TurnCall]) -> Message:
        """The message that sends the turn back to the endpoint, with the calls that are answered."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.thoughts:
            message["reasoning_content"] = self.thoughts
        if calls:
            message["tool_calls"] = [{"type": "function"} | call.sent.model_dump() for call in calls]
        return message
