"""Prompt ids of a conversation. One question has the ids that evaluation gives it; several follow the chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jinja2 import TemplateError

from tasks.shared.config import EvaluateStage
from tasks.shared.traces.dialect import TraceFormatError, dialect_of
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
    """Encodes prompts as the recipe says."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", config: EvaluateStage) -> None:
        self._tokenizer = tokenizer
        self._dialect = dialect_of(config.traces, config.sandbox.preload)
        self._prompt = config.traces.prompt
        self._max_tokens = config.generation.max_prompt_tokens

    @property
    def converses(self) -> bool:
        """Whether a second question can follow an answer."""
        return self._prompt != "plain" and not self._dialect.speaks_tools

    def of(
        self, messages: Sequence[Message], as_given: bool = False, continued: bool = False
    ) -> tuple[int, ...]:
        """Return the ids of a conversation that ends with a question, (P,).

        `as_given` adds no instruction to the question. `continued` means that the last message is the beginning of the
        assistant's answer. Raises ValueError without a question, for roles out of order, for half of a surrogate pair,
        or for too many tokens.
        """
        "".join(message.content for message in messages).encode()  # the tokenizer would raise TypeError
        messages, beginning = (messages[:-1], messages[-1]) if continued else (messages, None)
        if beginning is not None and beginning.role != "assistant":
            raise ValueError("continue_final_message needs a last message of the role assistant")
        system, turns = _system_and_turns(messages)
        instructed = self._prompt == "instructed" and not as_given
        if len(turns) == 1:
            plain = self._prompt == "plain"
            ids = encode_prompt(self._tokenizer, self._dialect, turns[0].content, instructed, system, plain)
        else:
            ids = self._conversation(system, turns, instructed)
        if beginning is not None:
            ids += self._response_ids(beginning.content)
        if len(ids) > self._max_tokens:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, more than generation.max_prompt_tokens = {self._max_tokens}; "
                "shorten it, or serve with a larger limit"
            )
        return ids

    def of_text(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids of a complete prompt, given as text or ids.

        Raises ValueError for no tokens, half of a surrogate pair, ids outside the vocabulary, or more tokens than the
        recipe allows.
        """
        if isinstance(prompt, str):
            prompt.encode()  # the tokenizer would raise TypeError
        ids = tuple(text_ids(self._tokenizer, prompt) if isinstance(prompt, str) else prompt)
        if not all(0 <= i < len(self._tokenizer) for i in ids):
            raise ValueError(f"the prompt has ids outside the vocabulary of 0 to {len(self._tokenizer) - 1}")
        if not 0 < len(ids) <= self._max_tokens:
            raise ValueError(f"the prompt has {len(ids)} tokens; 1 to {self._max_tokens} are possible")
        return ids

    def _conversation(self, system: str, turns: Sequence[Message], instructed: bool) -> tuple[int, ...]:
        """Encode several turns: the first question as in training, the others as they are."""
        if not self.converses:
            cause = "traces.prompt = 'plain'" if self._prompt == "plain" else "traces.dialect = 'hermes'"
            raise ValueError(
                f"this checkpoint answers one question at a time ({cause}): start a new conversation"
            )
        first = Message("user", self._dialect.prompt(turns[0].content, instructed))
        head = [Message("system", system)] if system else []
        messages = [{"role": m.role, "content": m.content} for m in (*head, first, *turns[1:])]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ValueError(f"the chat template cannot write this conversation ({error})") from None
        assert isinstance(text, str)
        return tuple(text_ids(self._tokenizer, text))

    def _response_ids(self, text: str) -> tuple[int, ...]:
        """Encode what the assistant has written, and the outputs in it, as a rollout appends them."""
        ids: list[int] = []
        try:
            segments = self._dialect.split(text)
        except TraceFormatError:
            return tuple(encode_words(self._tokenizer, text))
        for segment in segments:
            if segment.is_feedback:
                ids += encode_feedback(self._tokenizer, self._dialect, segment.text)
            else:
                ids += encode_words(self._tokenizer, segment.text)
        return tuple(ids)


def _system_and_turns(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """Return the system message ("" without one) and the turns. Raises ValueError unless the turns alternate."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    turns = [message for message in messages if message.role != "system"]
    if len(turns) % 2 == 0 or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise ValueError("messages: user and assistant take turns, and the last message is the user's")
    return system, turns
