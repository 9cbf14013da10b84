"""A turn that came through an endpoint's `tools`: read into words and calls of the dialect, sent back as it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tasks.shared.generation.endpoint.client import AttemptFailed
from tasks.shared.generation.endpoint.completion import Choice, ToolCall
from tasks.shared.traces.tool_form import BrokenCallError, ToolForm, read_arguments

FORM = ToolForm()
Message = dict[str, Any]


def require_usable(choice: Choice, said: str, most_chars: int) -> None:
    """AttemptFailed for a turn that holds nothing, was withheld, or is longer than any honest one."""
    if choice.finish_reason == "content_filter" or (choice.message.refusal and not said):
        raise AttemptFailed("withheld", choice.message.refusal or "the endpoint's content filter", False)
    if not said.strip():
        raise AttemptFailed("empty", "a message without content", False)
    if len(said) > most_chars:
        raise AttemptFailed("too_long", f"{len(said)} characters where {most_chars} are the most", False)


@dataclass(frozen=True, slots=True)
class AskedCall:
    """One call of a turn."""

    sent: ToolCall  # as the endpoint sent it
    text: str  # as the dialect writes it

    @classmethod
    def of(cls, sent: ToolCall) -> Self:
        """A call in the dialect's one form; one that is not valid as it came, so that it is read as what it is."""
        name, arguments = sent.function.name, sent.function.arguments
        try:
            return cls(sent, FORM.write(read_arguments(name, arguments)))
        except BrokenCallError:
            return cls(sent, FORM.write_raw(name or "", arguments or "null"))

    def result(self, content: str) -> Message:
        """The message that answers it."""
        return {"role": "tool", "tool_call_id": self.sent.id, "content": content}


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """What a model said in one turn."""

    words: str  # thoughts, words, and the line break that sets a call off, as a chat template writes them
    calls: tuple[AskedCall, ...]
    content: str
    thoughts: str

    @classmethod
    def of(cls, choice: Choice, most_chars: int) -> Self:
        """Read a turn. AttemptFailed, see `require_usable`."""
        said = choice.message
        content, thoughts = said.content or "", said.reasoning_content or ""
        calls = tuple(map(AskedCall.of, said.tool_calls or ()))
        require_usable(choice, "".join((thoughts, content, *(call.text for call in calls))), most_chars)
        words = f"<think>\n{thoughts.strip()}\n</think>\n\n{content}" if thoughts else content
        return cls(f"{words}\n" if content and calls else words, calls, content, thoughts)

    def message(self, asked: Sequence[AskedCall]) -> Message:
        """The turn as it goes back to the endpoint, with the calls that are answered."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.thoughts:
            message["reasoning_content"] = self.thoughts
        if asked:
            message["tool_calls"] = [{"type": "function"} | call.sent.model_dump() for call in asked]
        return message
