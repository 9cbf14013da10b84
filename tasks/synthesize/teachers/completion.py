"""What is read of a chat completion, and what a response cost. Endpoints differ; unknown fields are left alone."""

from dataclasses import dataclass

from pydantic import BaseModel, Field


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a response, or of many."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens
        )

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.prompt_tokens + self.completion_tokens

    def money(self, prompt_price: float, completion_price: float) -> float:
        """What they cost at these prices of a million."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6


class Message(BaseModel):
    """What the model said."""

    content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    """One of the samples of a request."""

    message: Message
    finish_reason: str | None = None


class TokenCounts(BaseModel):
    """`usage` as the endpoint reports it."""

    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)


class Completion(BaseModel):
    """The body of a chat completion."""

    model: str = ""
    choices: list[Choice]
    usage: TokenCounts | None = None

    def counted(self, most: Usage) -> Usage:
        """What it cost; an endpoint that does not say is charged the most that it could have been."""
        return Usage(self.usage.prompt_tokens, self.usage.completion_tokens) if self.usage else most
