"""Learns what a chat template writes around a tool's result, by rendering a conversation with marks in it.

A rollout appends ids and renders nothing again. So it needs two strings of the template: the text between a call and
its result (the end of the assistant's turn, the header of the next), and between the result and the assistant's next
words. Some templates render earlier turns differently once a result follows. Nothing can be appended to those, so they
are refused with the reason. No table of models is needed.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from tasks.shared.traces.text_ids import text_ids
from tasks.shared.traces.tool_form import ARGUMENT, TOOL, TOOLS, ToolForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORM = ToolForm()
# the system message where a template knows no tools, in Hermes's form
SYSTEM = """\
You may call a tool while you answer. Its description in JSON:
{schema}

To call it, end your turn with a JSON object between {opening} and {stop}:
{call}
Its output is then given to you."""
THOUGHTS, WORDS = "Thoughts before words.", "Words before a call."
CONTENT = f"<think>\n{THOUGHTS}\n</think>\n\n{WORDS}"
CODE, RESULT = "print('a mark in a call')", "a mark in a result"
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatTurns:
    """The strings around a result between two turns of the assistant.

    Example, Qwen3: before "<|im_end|>\\n<|im_start|>user\\n<tool_response>\\n", after
    "\\n</tool_response><|im_end|>\\n<|im_start|>assistant\\n".
    """

    before: str
    after: str
    lists_tools: bool  # whether the template itself describes the tools; otherwise the system message does

    def conversation(self, message: str, system: str) -> tuple[list[Message], list[Message] | None]:
        """The messages of a prompt and the tools that the template is given."""
        if not self.lists_tools:
            schema = "\n".join(json.dumps(tool["function"]) for tool in TOOLS)
            tools = SYSTEM.format(schema=schema, opening=FORM.opening, stop=FORM.stop, call=FORM.write("..."))
            system = f"{system}\n\n{tools}" if system else tools
        return conversation(message, system), TOOLS if self.lists_tools else None

    def encode_result(self, tokenizer: "PreTrainedTokenizerBase", content: str) -> list[int]:
        """Ids from the end of the call to where the assistant continues; only the template writes control tokens."""
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
        cut = re.compile(f"({'|'.join(map(re.escape, special))})")
        *head, opening = cut.split(self.before)
        closing, *tail = cut.split(self.after)
        ids: list[int] = []
        for piece in (*head, opening + content + closing, *tail):
            if cut.fullmatch(piece):
                token = tokenizer.convert_tokens_to_ids(piece)
                assert isinstance(token, int)
                ids.append(token)
            elif piece:
                ids += text_ids(tokenizer, piece, spelled_out=True)
        return ids


def conversation(message: str, system: str = "") -> list[Message]:
    """The messages of a prompt."""
    return [{"role": "system", "content": system}, _user(message)] if system else [_user(message)]


@lru_cache(maxsize=8)
def chat_turns(tokenizer: "PreTrainedTokenizerBase") -> ChatTurns:
    """What `tokenizer`'s chat template writes. ValueError, with the reason, if it cannot be appended to."""
    try:
        return _learn(tokenizer)
    except _Refused as refused:
        reason = str(refused)
    except (TemplateError, TypeError, KeyError, AttributeError, ValueError) as error:  # foreign code
        reason = f"it fails on a conversation with a tool: {' '.join(str(error).split())}"
    raise ValueError(
        f"tokenizer {tokenizer.name_or_path}: its chat template cannot be used with traces.dialect = 'hermes': "
        f"{reason}; use 'retool' or 'torl', or save another template with the checkpoint"
    )


class _Refused(Exception):
    """Why a template cannot be appended to."""


def _learn(tokenizer: "PreTrainedTokenizerBase") -> ChatTurns:
    if not tokenizer.chat_template:
        raise _Refused("there is none")
    bare, prompt = (render(tokenizer, [_user("Q")], tools, open_turn=True) for tools in (None, TOOLS))
    lists_tools = bare != prompt
    tools = TOOLS if lists_tools else None
    exchange = [_calling(lists_tools), _result()]
    called = render(tokenizer, [_user("Q"), exchange[0]], tools, open_turn=False)
    end = _end_of_call(prompt, called)
    answered = render(tokenizer, [_user("Q"), *exchange], tools, open_turn=True)
    if not answered.startswith(called[:end]):
        raise _Refused(
            "it renders the assistant's turn differently once a result follows (it may drop thoughts)"
        )
    before, mark, after = answered[end:].partition(RESULT)
    if not mark:
        raise _Refused("it does not show a tool's result")
    again = render(tokenizer, [_user("Q"), *exchange, *exchange], tools, open_turn=True)
    if not (again.startswith(answered) and again.endswith(f"{FORM.stop}{before}{RESULT}{after}")):
        raise _Refused("it renders earlier turns differently once another follows")
    return ChatTurns(before, after, lists_tools)


def _end_of_call(prompt: str, called: str) -> int:
    """Where the call of a rendered conversation ends; the turn must continue the prompt and keep its text."""
    if not called.startswith(prompt):
        raise _Refused("an assistant's turn does not begin as a prompt for one ends")
    if THOUGHTS not in called:
        raise _Refused("it drops the thoughts of a turn that calls a tool")
    start = called.find(CONTENT)
    if not 0 <= start <= len(prompt):
        raise _Refused("it changes the assistant's text")
    end = called.find(FORM.stop, len(prompt)) + len(FORM.stop)
    block = FORM.read(called[start + len(CONTENT) : end]) if end >= len(FORM.stop) else None
    if block is None or block.code != CODE:
        raise _Refused(f"it does not write calls as JSON between {FORM.opening} and {FORM.stop}")
    return end


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: list[Message],
    tools: list[Message] | None,
    open_turn: bool,
) -> str:
    """The messages as the chat template writes them; `open_turn`: up to where the assistant begins."""
    text = tokenizer.apply_chat_template(
        messages,
        tools=tools,  # type: ignore[arg-type]
        tokenize=False,
        add_generation_prompt=open_turn,
    )
    assert isinstance(text, str)
    return text


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _calling(lists_tools: bool) -> Message:
    """An assistant's turn with thoughts, words and a call."""
    if not lists_tools:
        return {"role": "assistant", "content": f"{CONTENT}\n{FORM.write(CODE)}"}
    function = {"name": TOOL, "arguments": {ARGUMENT: CODE}}
    call = {"type": "function", "id": "call00001", "function": function}
    return {"role": "assistant", "content": CONTENT, "tool_calls": [call]}


def _result() -> Message:
    return {"role": "tool", "name": TOOL, "tool_call_id": "call00001", "content": RESULT}
