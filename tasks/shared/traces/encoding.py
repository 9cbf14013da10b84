"""Text to token ids, once: the prompt of a rollout and the written traces of SFT.

A trace is tokenised segment by segment, cut where a rollout appends ids, so that SFT trains on the id sequences that
RL will see. The mask marks the tokens that the model learns: its own words and the end of its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from tasks.shared.traces.chat_turns import chat_turns, conversation, render
from tasks.shared.traces.dialect import Dialect
from tasks.shared.traces.instructions import PLAIN_FRAME, TORL_PLAIN_FRAME
from tasks.shared.traces.text_ids import text_ids
from tasks.shared.traces.trajectory import turns_between
from tasks.shared.traces.turns import turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedTrace:
    """Prompt and response ids of one written trace. Lengths: P prompt, R response."""

    prompt_ids: tuple[int, ...]  # (P,)
    response_ids: tuple[int, ...]  # (R,) ends with the template's end of turn, or the end of the sequence
    loss_mask: tuple[bool, ...]  # (R,) False on interpreter output and on headers of turns


def encode_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    dialect: Dialect,
    problem: str,
    instructed: bool,
    system: str = "",
    plain: bool = False,
) -> tuple[int, ...]:
    """The prompt's ids, (P,), including the header of the assistant's turn.

    `system`: the problem's own system message. `plain`: text without a chat template. Raises ValueError if the
    tokenizer has no chat template, or its template does not support the system message.
    """
    if plain:
        is_torl = dialect.name == "torl"
        frame = TORL_PLAIN_FRAME if is_torl else PLAIN_FRAME
        message = problem if is_torl else dialect.prompt(problem, instructed=True)
        text = frame.format(system=f" {system}" if system else "", message=message)
        return tuple(text_ids(tokenizer, text, opened=True))
    return encode_message(tokenizer, dialect, dialect.prompt(problem, instructed), system)


def encode_message(
    tokenizer: "PreTrainedTokenizerBase", dialect: Dialect, message: str, system: str = ""
) -> tuple[int, ...]:
    """Encode a complete user message, see `encode_prompt`."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path}: no chat template; save one with the checkpoint"
        )
    if dialect.speaks_tools:
        messages, tools = chat_turns(tokenizer).conversation(message, system)
    else:
        messages, tools = conversation(message, system), None
    try:
        return tuple(text_ids(tokenizer, render(tokenizer, messages, tools, open_turn=True)))
    except TemplateError as error:
        if not system:
            raise
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path}: its chat template takes no system message ({error}); "
            "remove the problems' system messages, or move them into the problems' text"
        ) from None


def encode_words(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Ids of program output or a teacher's text. Control tokens in it are encoded as plain text and end no turn."""
    return text_ids(tokenizer, text, spelled_out=True)


def encode_feedback(tokenizer: "PreTrainedTokenizerBase", dialect: Dialect, feedback: str) -> list[int]:
    """Ids of the feedback after a block: as written or, for tool calls, within the chat template's turns."""
    if not dialect.speaks_tools:
        return encode_words(tokenizer, feedback)
    return chat_turns(tokenizer).encode_result(tokenizer, dialect.content_of(feedback))


def written_trace(
    tokenizer: "PreTrainedTokenizerBase", dialect: Dialect, text: str, shown: Sequence[Sequence[int]]
) -> str:
    """A rollout's text as a written trace; for tool calls, without this chat template's turns."""
    if not dialect.speaks_tools:
        return text
    turns, around = turns_between(text, shown), chat_turns(tokenizer)
    pieces = [turns[0]]
    for (start, end), turn in zip(shown, turns[1:], strict=True):
        content = text[start:end].removeprefix(around.before).removesuffix(around.after)
        feedback = f"{dialect.feedback_open}{content}{dialect.feedback_close}" if end > start else ""
        pieces += [feedback, turn]
    return "".join(pieces)


def encode_trace(
    tokenizer: "PreTrainedTokenizerBase",
    dialect: Dialect,
    problem: str,
    trace: str,
    instructed: bool,
    system: str = "",
    plain: bool = False,
) -> EncodedTrace:
    """Ids and loss mask of a written trace. Raises TraceFormatError if it does not follow the dialect."""
    response_ids: list[int] = []
    loss_mask: list[bool] = []
    for segment in dialect.split(trace):
        if segment.is_feedback:
            ids = encode_feedback(tokenizer, dialect, segment.text)
            # the first token of a template's turns ends the assistant's turn: a rollout forces it, SFT teaches it
            ends_turn = dialect.speaks_tools and ids[0] in tokenizer.all_special_ids
            loss_mask += [ends_turn] + [False] * (len(ids) - 1)
        else:
            ids = encode_words(tokenizer, segment.text)
            loss_mask += [True] * len(ids)
        response_ids += ids
    # Plain text ends with the end of the sequence: no template surrounds it.
    closed_by_template = not plain or tokenizer.eos_token_id is None
    end = turn_end(tokenizer) if closed_by_template else (tokenizer.eos_token_id,)
    response_ids += end
    loss_mask += [True] * len(end)
    prompt_ids = encode_prompt(tokenizer, dialect, problem, instructed, system, plain)
    return EncodedTrace(prompt_ids, tuple(response_ids), tuple(loss_mask))
