"""Requests of the API: OpenAI's fields, validated. Fields that would change the answer are refused if not offered."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.serve.conversation import Message

# Fields that would change the answer, with the values that have no effect.
NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "best_of": (None, 1),
    "top_k": (None, 0, -1),  # from here to min_tokens: vLLM's
    "min_p": (None, 0),
    "repetition_penalty": (None, 1),
    "ignore_eos": (None, False),
    "stop_token_ids": (None, []),
    "min_tokens": (None, 0),
    "echo": (None, False),
    "suffix": (None, ""),
    "audio": (None,),
}


class ApiError(Exception):
    """A response other than 200, in the API's own form."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        kind = "server_error" if status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if status == 429 else kind
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class TextPart(BaseModel):
    """A part of a message's content. Only text is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def message(self) -> Message:
        """The message as `Prompts` takes it."""
        texts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        return Message("system" if self.role == "developer" else self.role, "".join(texts))


class StreamOptions(BaseModel):
    """`stream_options`."""

    include_usage: bool = False


class CommonRequest(BaseModel):
    """The fields that both kinds of request have."""

    model_config = ConfigDict(extra="allow")

    model: str
    n: int = Field(1, ge=1)
    seed: int | None = None
    stop: list[str] = Field(default=[], max_length=16)
    max_tokens: int | None = Field(None, ge=1)  # of a whole response, including outputs of programs
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    # instead of the recipe's serve.interpreter; "none" does not run code blocks
    interpreter: Literal["text", "field", "none"] | None = None
    return_trajectory: bool = False  # every token with its log-prob, and every call; for evaluations

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, stop: Any) -> Any:
        return [] if stop is None else [stop] if isinstance(stop, str) else stop

    @field_validator("n", "stream", "stream_options", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @model_validator(mode="after")
    def _has_no_unsupported_field(self) -> Self:
        for name, neutral in NOT_OFFERED.items():
            if (value := (self.model_extra or {}).get(name)) not in neutral:
                raise ValueError(f"{name} = {value!r} is not offered by this server; leave it out")
        if self.return_trajectory and (self.stream or self.stop):
            raise ValueError("return_trajectory needs whole replies: leave out stream and stop")
        if "" in self.stop:
            raise ValueError("stop: an empty string would end every answer at once; leave it out")
        return self


class ChatRequest(CommonRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    continue_final_message: bool = False  # as in vLLM: continue the last message, which is the assistant's
    add_generation_prompt: bool = True

    @model_validator(mode="after")
    def _one_way_to_limit_tokens(self) -> Self:
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self


class CompletionRequest(CommonRequest):
    """POST /v1/completions: complete prompts, as text or ids."""

    prompt: str | list[str] | list[int] | list[list[int]]

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """The prompts one by one."""
        is_single = isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
        prompts = [self.prompt] if is_single else self.prompt
        return [one if isinstance(one, str) else tuple(one) for one in prompts]  # type: ignore[arg-type]
