"""A model behind an OpenAI-compatible endpoint: its address, the rate of requests, and their budget."""

import math
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from tasks.shared.config.section import Section


class EndpointAccess(Section):
    """The address of an endpoint, limits on the rate of requests, and a budget."""

    model: str = ""  # its name there
    # other names under which the same model may answer
    aliases: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    base_url: str = ""  # with its /v1
    # name of the environment variable that holds the endpoint's key; "" if it needs none
    key_variable: str = Field("", pattern=r"^([A-Z][A-Z0-9_]*)?$")
    concurrency: int = Field(32, ge=1)  # conversations side by side
    requests_per_minute: float = Field(0, ge=0)  # 0 is off
    tokens_per_minute: float = Field(0, ge=0)  # prompt and completion; 0 is off
    timeout_s: float = Field(600.0, gt=0)  # of one attempt, from sending to the last byte
    max_attempts: int = Field(6, ge=1)  # on 408, 409, 425, 429, 5xx, time-outs, broken or invalid answers
    max_wait_s: float = Field(120.0, gt=0)  # between attempts; a longer Retry-After is cut to it
    budget_tokens: int = Field(0, ge=0)  # prompt and completion together; 0 is off
    budget_money: float = Field(0, ge=0)  # in the currency of the prices; 0 is off
    prompt_price: float = Field(0, ge=0)  # of a million tokens
    completion_price: float = Field(0, ge=0)

    @model_validator(mode="after")
    def _budget_has_prices(self) -> Self:
        if self.budget_money and not (self.prompt_price or self.completion_price):
            raise ValueError("budget_money needs prompt_price and completion_price (of a million tokens)")
        return self

    @property
    def most_tokens(self) -> float:
        """The budget in tokens; infinite without one."""
        return self.budget_tokens or math.inf

    @property
    def most_money(self) -> float:
        """The budget in money; infinite without one."""
        return self.budget_money or math.inf

    def require_address(self, section: str) -> None:
        """ValueError, with the remedy in `section`, without a valid address and a model name."""
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(
                f"{section}.base_url = '{self.base_url}': write the endpoint's address with its /v1, "
                "like https://host/v1"
            )
        if url.username or url.password:
            raise ValueError(f"{section}.base_url holds a user or password; use {section}.key_variable")
        if not self.model:
            raise ValueError(f"{section}.model is empty: name the model that the endpoint serves")


class EndpointConfig(EndpointAccess):
    """An endpoint that is asked turn by turn, and the sampling of its responses."""

    # the endpoint's name for the limit on a response; OpenAI's reasoning models accept only the second
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    max_response_tokens: int = Field(16384, ge=1)  # of a whole trace, over all its turns
    send_seed: bool = True  # some endpoints refuse the field
    # false for an endpoint that refuses the field: text after a stop string is then cut off here
    send_stop: bool = True
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    # of the traces so far (at least 20): a larger share without a usable response stops the stage
    max_failure_share: float = Field(0.1, ge=0, le=1)

    def payload(self, messages: list[dict[str, Any]], max_tokens: int, seed: int) -> dict[str, Any]:
        """The body of a request for one sample."""
        return {
            "model": self.model,
            "messages": messages,
            self.token_limit_field: max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            **({"seed": seed} if self.send_seed else {}),
        }


class ServedModel(EndpointAccess):
    """A server of `tirflow serve` that an evaluation asks in place of an engine; off while `model` is empty."""

    @property
    def is_asked(self) -> bool:
        """Whether samples come from it."""
        return bool(self.model or self.base_url)

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if self.is_asked:
            self.require_address("evaluate.endpoint")
        return self
