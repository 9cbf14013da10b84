"""A tool call as chat models write it: JSON between `<tool_call>` tags (Hermes, Qwen2.5, Qwen3).

Code for the interpreter is a JSON string, which is read as leniently as JSON allows; its value is the program that
runs. A call of any other tool in `TOOLS` becomes one line (`call_text`).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.shared.tools.protocol import arguments_of, call_text
from tasks.shared.traces.call_forms import UNFINISHED, Block, find_opening, in_fences

TOOL, ARGUMENT = "python", "code"
TOOL_SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": "Runs a complete Python script in a sandbox and returns what it prints.",
        "parameters": {
            "type": "object",
            "properties": {ARGUMENT: {"type": "string", "description": "The script, with its imports."}},
            "required": [ARGUMENT],
        },
    },
}
# the tools that a model is told about and can call, the interpreter first
TOOLS = [TOOL_SCHEMA]
STRING = re.compile(r'"(?:\\.|[^"\\\n])*"?')  # of JSON; one that is not closed ends with its line
VALUE = re.compile(rf'"{ARGUMENT}"\s*:\s*"((?:\\.|[^"\\])*)"', re.DOTALL)
MAX_NAME_CHARS = 40  # of a wrong name that a notice repeats


class BrokenCallError(ValueError):
    """A call is not valid; the message tells the model why in one line."""


def read_call(text: str) -> str:
    """The code in a call's JSON. Raises BrokenCallError."""
    try:
        call = json.loads(text, strict=False)  # line breaks in strings are meant
    except (ValueError, RecursionError) as error:
        raise BrokenCallError(
            f"its JSON is not valid ({getattr(error, 'msg', 'nested too deeply')})"
        ) from None
    if not isinstance(call, dict) or "name" not in call:
        raise BrokenCallError("it is no JSON object with name and arguments")
    return read_arguments(call["name"], call.get("arguments", call.get("parameters")))


def read_arguments(name: object, arguments: object) -> str:
    """The code of a call with this name and these arguments, given as an object or as JSON."""
    names = [tool["function"]["name"] for tool in TOOLS]
    if name not in names:
        unknown, known = " ".join(str(name)[:MAX_NAME_CHARS].split()), "', '".join(names)
        raise BrokenCallError(f"there is no tool '{unknown}', only '{known}'")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            raise BrokenCallError("its arguments are not valid JSON") from None
    if name != TOOL:
        if not isinstance(arguments, dict):
            raise BrokenCallError("its arguments are no JSON object")
        return call_text(str(name), arguments)
    code = arguments.get(ARGUMENT) if isinstance(arguments, dict) else None
    if not isinstance(code, str) or not code.strip():
        raise BrokenCallError(f"its arguments have no '{ARGUMENT}'")
    return code


@dataclass(frozen=True, slots=True)
class ToolForm:
    """A call between tags (a `CallForm`)."""

    opening: str = "<tool_call>"
    stop: str = "</tool_call>"

    @property
    def usage(self) -> str:
        call = json.dumps({"name": TOOL, "arguments": {ARGUMENT: "..."}})
        return f"Write {self.opening}, {call} as one JSON object, and {self.stop}, each on a line of its own."

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.opening, self.stop)

    def write(self, code: str) -> str:
        for name in (tool["function"]["name"] for tool in TOOLS[1:]):
            if (arguments := arguments_of(code, name)) is not None:
                return self.write_raw(name, arguments)
        return self.write_raw(TOOL, json.dumps({ARGUMENT: code}, ensure_ascii=False))

    def write_raw(self, name: str, arguments: str) -> str:
        """Write a call whose arguments are JSON text, valid or not."""
        return f'{self.opening}\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n{self.stop}'

    def read(self, text: str) -> Block | None:
        before = text[: -len(self.stop)]
        start = find_opening(self.opening, before, _in_string)
        if start is None:
            return None
        first = start + len(self.opening)
        if _in_string(text[first:], len(before) - first):
            return None
        try:
            code, fault = read_call(before[first:]), ""
        except BrokenCallError as error:
            code, fault = "", str(error)
        value = VALUE.search(text, first)
        span = value.span(1) if value else (first, len(before))
        return Block(start, len(text), start, *span, code, fault)

    def unasked(self, text: str) -> Iterator[Block]:
        yield from in_fences(text, f"no {self.opening} asks for it")
        start = text.rfind(self.opening)
        if start >= 0:
            yield Block(start, len(text), start, start + len(self.opening), len(text), "", UNFINISHED)

    def stray(self, text: str) -> str:
        return self.opening if self.opening in text else ""


def _in_string(source: str, place: int) -> bool:
    """Whether `place` lies inside a string of JSON that begins where `source` does."""
    return any(string.start() < place < string.end() for string in STRING.finditer(source))
