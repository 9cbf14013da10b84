"""The fields that are read from a chat completion, and the cost of a response. Unknown fields are ignored."""

import json
from dataclasses import dataclass, fields
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from tasks.shared.traces.served import ServedTrajectory

# Finish reasons for a turn cut short by a token limit: OpenAI's, Anthropic's, Mistral's and Google's.
CUT_SHORT = frozenset({"length", "max_tokens", "model_length", "max_output_tokens"})
TEXT_PARTS = frozenset({"text", "output_text"})
Count = Annotated[int, Field(ge=0, le=1 << 40)]  # tokens; no response has more


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one response or of several."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens
        )

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.prompt_tokens + self.completion_tokens

    def money(self, prompt_price: float, completion_price: float) -> float:
        """Their cost, at prices for a million tokens."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6


class Function(BaseModel):
    """The name and arguments of a call: JSON as the model wrote it, valid or not."""

    name: str | None = None
    arguments: str = ""

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_text(cls, arguments: Any) -> Any:
        """Some endpoints send the object itself."""
        return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


class ToolCall(BaseModel):
    """A call of a tool."""

    id: str = ""
    function: Function


class Message(BaseModel):
    """What the model said."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None  # thoughts, if the endpoint separates them
    # every token and call, from `tirflow serve` on request
    trajectory: ServedTrajectory | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, content: Any) -> Any:
        """The text of a content in parts; other parts (thinking, images) are left out."""
        parts = [content] if isinstance(content, dict) else content
        return "".join(map(_words_of, parts)) if isinstance(parts, list) else content


class Choice(BaseModel):
    """One of the samples of a request."""

    message: Message
    finish_reason: str | None = None

    @property
    def is_cut_short(self) -> bool:
        """Whether a token limit ended the turn; otherwise the model or a stop string did."""
        return (self.finish_reason or "").lower() in CUT_SHORT


class Completion(BaseModel):
    """The body of a chat completion."""

    model: str | None = None
    choices: list[Choice]
    usage: Usage | None = None  # as the endpoint reports it
    error: Any = None

    @property
    def has_failed(self) -> bool:
        """Whether the endpoint failed while answering; routers report that in a body with status 200."""
        reasons = [(choice.finish_reason or "").lower() for choice in self.choices]
        return bool(self.error and not self.choices) or "error" in reasons

    @field_validator("usage", mode="wrap")
    @classmethod
    def _need_both_counts(cls, usage: Any, read: ValidatorFunctionWrapHandler) -> Any:
        """None if the endpoint sends the field without counts, or with what cannot be counts."""
        if isinstance(usage, dict) and any(usage.get(field.name) is None for field in fields(Usage)):
            return None
        try:
            return read(usage)
        except ValidationError:
            return None


def _words_of(part: Any) -> str:
    """The text of one part of a content, maybe empty."""
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else None
    return text if isinstance(text, str) else ""
