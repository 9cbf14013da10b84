"""A conversation as prompt ids: of one question the very ids that evaluation gives, of several the template's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jinja2 import TemplateError

from tasks.shared.config import EvaluateStage
from tasks.shared.traces.dialect import Dialect, TraceFormatError, dialect_of
from tasks.shared.traces.encoding import encode_feedback, encode_prompt, encode_words
from tasks.shared.traces.text_ids import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Prompts:
    """Makes prompts as the recipe says."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", config: EvaluateStage) -> None:
        self._tokenizer = tokenizer
        self._dialect = dialect_of(config.traces, config.sandbox.preload)
        self._prompt = config.traces.prompt
        self._most = config.generation.max_prompt_tokens

    @property
    def converses(self) -> bool:
        """Whether a second question can follow an answer."""
        return self._prompt != "plain" and not self._dialect.speaks_tools

    def of(
        self, messages: Sequence[Message], as_given: bool = False, continued: bool = False
    ) -> tuple[int, ...]:
        """The ids of a conversation that ends with a question, (P,).

        `as_given`: no instruction is put around the question; `continued`: the last message is the assistant's own
        beginning, which goes on. ValueError: no question, roles out of order, or more tokens than the recipe allows.
        """
        messages, beginning = (messages[:-1], messages[-1]) if continued else (messages, None)
        if beginning is not None and beginning.role != "assistant":
            raise ValueError(
                "continue_final_message goes on with an assistant's message, and the last is none"
            )
        system, turns = _checked(messages)
        instructed = self._prompt == "instructed" and not as_given
        if len(turns) == 1:
            plain = self._prompt == "plain"
            ids = encode_prompt(self._tokenizer, self._dialect, turns[0].content, instructed, system, plain)
        else:
            ids = self._conversation(system, turns, instructed)
        if beginning is not None:
            ids += self._begun(beginning.content)
        if len(ids) > self._most:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, more than generation.max_prompt_tokens = {self._most}; shorten it, "
                "or serve with a larger one"
            )
        return ids

    def of_text(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        """The ids of a prompt that is given whole, in text or ids.

        ValueError: none, ids that are no tokens, or more than the recipe allows.
        """
        ids = tuple(text_ids(self._tokenizer, prompt) if isinstance(prompt, str) else prompt)
        if not all(0 <= i < len(self._tokenizer) for i in ids):
            raise ValueError(f"the prompt has ids that are no tokens: 0 to {len(self._tokenizer) - 1} are")
        if not 0 < len(ids) <= self._most:
            raise ValueError(f"the prompt has {len(ids)} tokens; 1 to {self._most} are possible")
        return ids

    def _conversation(self, system: str, turns: Sequence[Message], instructed: bool) -> tuple[int, ...]:
        """Of several turns: the first question as in training, the others bare."""
        if not self.converses:
            how = "traces.prompt = 'plain'" if self._prompt == "plain" else "traces.dialect = 'hermes'"
            raise ValueError(
                f"this checkpoint answers one question at a time ({how}): begin a new conversation"
            )
        first = Message("user", self._dialect.prompt(turns[0].content, instructed))
        told = [Message("system", system)] if system else []
        written = [{"role": m.role, "content": m.content} for m in (*told, first, *turns[1:])]
        try:
            text = self._tokenizer.apply_chat_template(written, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ValueError(f"the chat template cannot write this conversation ({error})") from None
        assert isinstance(text, str)
        return tuple(text_ids(self._tokenizer, text))

    def _begun(self, text: str) -> tuple[int, ...]:
        """The ids of what the assistant has said, and of outputs in it, as a rollout appends them."""
        ids: list[int] = []
        try:
            segments = self._dialect.split(text)
        except TraceFormatError:
            return tuple(encode_words(self._tokenizer, text))
        for segment in segments:
            ids += _encode(self._tokenizer, self._dialect, segment.text, segment.is_feedback)
        return tuple(ids)


def _encode(
    tokenizer: "PreTrainedTokenizerBase", dialect: Dialect, text: str, is_feedback: bool
) -> list[int]:
    return encode_feedback(tokenizer, dialect, text) if is_feedback else encode_words(tokenizer, text)


def _checked(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The system message, "" without one, and the turns. ValueError unless user and assistant take turns."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    turns = [message for message in messages if message.role != "system"]
    wanted = [("user", "assistant")[place % 2] for place in range(len(turns))]
    if len(turns) % 2 == 0 or [turn.role for turn in turns] != wanted:
        raise ValueError("messages: user and assistant take turns, and the last message is the user's")
    return system, turns
