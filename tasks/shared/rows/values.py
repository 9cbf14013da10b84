"""Values of a raw row as text: a problem, an answer, a name. Refuses any value that is neither text nor number.

Public datasets differ in form. A prompt may be a list of chat messages: the last user message is the problem. An answer
may be a list, a whole solution with a box, GSM8K's `#### 21`, or stand between dollars.
"""

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tasks.shared.grading.box import last_box

# of one text; a longer one comes from a file without line ends, and no model could read it
MAX_CHARS = 1_000_000
FINAL = re.compile(r"^####[ \t]*(.+)$", re.MULTILINE)  # GSM8K's last line
MATH = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:(?!\\\)).)+)\\\)|\\\[((?:(?!\\\]).)+)\\\]", re.DOTALL)
# `\boxed 2`, `\fbox{2}` in MATH's solutions
BARE_BOX = re.compile(r"\\(?:boxed +([A-Za-z0-9]+)|fbox\{([^{}]+)\})")
WHOLE_POINT = re.compile(r"(?<=[0-9])\.$")
MAX_LISTED = 10_000  # characters of a list that is written as text
BYTE = re.compile("[\udc80-\udcff]")  # a byte that is not UTF-8, as `surrogateescape` keeps it
LONE = re.compile("[\ud800-\udfff]")
# cp1250, latin-1 and the like differ in few letters, and short texts do not tell them apart
WESTERN = re.compile(
    r"cp125[02478]|latin_1|iso8859_(1|2|4|9|10|13|14|15|16)$|mac_(roman|latin2|iceland|turkish)"
)
NO_VALUES = frozenset({"nan", "null"})  # how other programs write a missing answer


@dataclass(frozen=True, slots=True)
class ValueLocation:
    """The place of a value, for messages."""

    row: str  # "/data/mine.jsonl: row 3"
    column: str
    setting: str  # the recipe's key that names the column

    def refuse(self, why: str) -> ValueError:
        """The error, in one line, for a value that cannot be used."""
        return ValueError(f"{self.row}: key '{self.column}' {why}")


def text_at(raw: Mapping[str, Any], column: str, place: str, setting: str) -> str:
    """The text or number in a column as text, stripped; a dot steps into nested values."""
    return _text(value_at(raw, column, place, setting), ValueLocation(place, column, setting))


def problem_at(raw: Mapping[str, Any], column: str, place: str, setting: str) -> tuple[str, str]:
    """Problem and system message ("" where there is none): of chat messages the last of the user is the problem."""
    where = ValueLocation(place, column, setting)
    value = value_at(raw, column, place, setting)
    messages = _messages(value)
    if messages is None:
        return _text(_only(value, where), where), ""
    contents = {str(message["role"]).lower(): message["content"] for message in messages}
    roles = [role for role in ("user", "human") if role in contents]
    if not roles:
        raise where.refuse(f"holds messages of {', '.join(contents)} and none of the user; set {setting}")
    problem, system = contents[roles[0]], contents.get("system")
    return _text(_joined(problem, where), where), _text(_joined(system, where), where) if system else ""


def answer_at(raw: Mapping[str, Any], column: str, place: str, setting: str, several: str = "refuse") -> str:
    r"""The answer in a column. A list of several answers is a set (`\{1, 2\}`) if `several` is "set"."""
    where = ValueLocation(place, column, setting)
    value = _listed(value_at(raw, column, place, setting))
    if not isinstance(value, list) or len(value) < 2:
        return _final(_text(_only(value, where), where), where)
    if several != "set":
        raise where.refuse(
            f"holds {len(value)} answers; if an answer must name all of them set several_answers = 'set', "
            "else keep one"
        )
    return "\\{" + ", ".join(_final(_text(_only(_listed(one), where), where), where) for one in value) + "\\}"


def id_at(raw: Mapping[str, Any], place: str) -> str:
    """The row's own `id`, "" where it has none."""
    key = _key(raw, "id")
    if key is None or raw[key] is None or raw[key] == "":
        return ""
    return _text(raw[key], ValueLocation(place, key, "another name for that column"))


def name_at(raw: Mapping[str, Any], column: str) -> str:
    """A text in an optional column that some datasets use differently; "" if it holds no text."""
    value = raw.get(_key(raw, column) or column)
    return value.strip() if isinstance(value, str) and not LONE.search(value) else ""


def value_at(raw: Mapping[str, Any], column: str, place: str, setting: str) -> Any:
    """The value in a column; a dot steps into nested values, and case does not matter."""
    value: Any = raw
    for part in column.split("."):
        if isinstance(value, Mapping):
            key = _key(value, part)
            found = key is not None
            value = value[key] if key is not None else None
        else:
            found = isinstance(value, list) and part.isdigit() and int(part) < len(value)
            value = value[int(part)] if found else None
        if not found:
            has = ", ".join(sorted(str(key) for key in raw)) or "no keys"
            raise ValueError(
                f"{place}: key '{column}' is missing (the row has {has}); add it or set {setting}"
            )
    return value


def encoding_hint(text: str) -> str:
    """A hint such as `, byte 0xe9; it looks like cp1252` for a text with zero bytes or bytes that are not UTF-8."""
    if "\x00" in text:
        return ", zero bytes; it looks like utf-16"
    odd = BYTE.search(text)
    if odd is None:
        return ""
    from charset_normalizer import from_bytes

    best = from_bytes(text.encode("utf-8", "surrogateescape")).best()
    guess = best.encoding if best else ""
    looks = f"; it looks like {'cp1252' if WESTERN.match(guess) else guess}" if guess else ""
    return f", byte 0x{ord(odd.group()) & 0xFF:02x}{looks}"


def _key(raw: Mapping[str, Any], name: str) -> str | None:
    """The key of that name, or the only one that differs from it just in case or surrounding blanks."""
    if name in raw:
        return name
    alike = [key for key in raw if isinstance(key, str) and key.strip().casefold() == name.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def _messages(value: Any) -> list[dict[str, Any]] | None:
    """Chat messages with `role` and `content`, also from JSON in a text; None if the value holds none."""
    if isinstance(value, str) and value.lstrip().startswith(("[{", "{")) and len(value) <= MAX_CHARS:
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return None
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, list) or not messages:
        return None
    read = []
    for message in messages:
        role = _either(message, "role", "from")
        if not isinstance(role, str):
            return None
        read.append({"role": role, "content": _either(message, "content", "value")})
    return read


def _either(message: Any, *keys: str) -> Any:
    """The value of the first key that the message has, of OpenAI's and ShareGPT's names."""
    return next((message[key] for key in keys if isinstance(message, Mapping) and key in message), None)


def _joined(content: Any, where: ValueLocation) -> Any:
    """The text of a message, joined if its content comes in parts."""
    if not isinstance(content, list):
        return content
    texts = [part if isinstance(part, str) else _either(part, "text") for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise where.refuse("holds a message with an image or other part that is no text; take the row out")
    return "".join(texts)


def _only(value: Any, where: ValueLocation) -> Any:
    """The single element of a list; any other value unchanged."""
    while isinstance(value, list):
        if len(value) > 1:
            raise where.refuse(
                f"is a list of {len(value)}; set {where.setting} to one of them, like '{where.column}.0'"
            )
        value = value[0] if value else None
    return value


def _listed(value: Any) -> Any:
    """A list written as text, as in a CSV file: `['21']`. An interval `[1, 2]` is not a list."""
    if not isinstance(value, str) or len(value) > MAX_LISTED or not value.strip().startswith("["):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and (len(found) == 1 or all(isinstance(one, str) for one in found)):
            return found
    return value


def _text(value: Any, where: ValueLocation) -> str:
    """A text or number as text."""
    if value is None:
        raise where.refuse("is empty; fill it in or take the row out")
    if isinstance(value, Mapping):
        inner = ", ".join(str(key) for key in value)
        first = next(iter(value), "key")
        raise where.refuse(
            f"is an object with {inner or 'no keys'}; set {where.setting}, like '{where.column}.{first}'"
        )
    if isinstance(value, str):
        return _checked(value, where)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        kind = "a boolean" if isinstance(value, bool) else f"of type {type(value).__name__}"
        raise where.refuse(f"is {kind}; write it as text or set {where.setting}")
    if not math.isfinite(value):
        raise where.refuse(f"is {value} and no number; fill it in or take the row out")
    # parquet written by pandas turns a column of integers with a gap into floats
    return str(int(value)) if value == int(value) else format(Decimal(str(value)), "f")


def _checked(text: str, where: ValueLocation) -> str:
    if not text.strip():
        raise where.refuse("is empty; fill it in or take the row out")
    if len(text) > MAX_CHARS:
        raise where.refuse(
            f"has {len(text)} characters, over {MAX_CHARS}; take the row out or set {where.setting}"
        )
    if BYTE.search(text):
        raise where.refuse(f"is not UTF-8{encoding_hint(text)}; save the file as UTF-8")
    if LONE.search(text):
        raise where.refuse("holds half of a surrogate pair; write the character itself")
    return text.strip()


def _final(text: str, where: ValueLocation) -> str:
    """The answer within a text that may be a whole solution: its last box, GSM8K's last line, or a formula."""
    text = BARE_BOX.sub(lambda found: "\\boxed{" + (found[1] or found[2]) + "}", text)
    box = last_box(text)
    if box == "":
        raise where.refuse("ends in a \\boxed that is empty or not closed; complete it")
    if box is not None:
        text = box
    elif found := FINAL.findall(text):
        text = found[-1].strip()
    inner = MATH.fullmatch(text.strip().removesuffix("."))
    if inner is not None:
        text = next(group for group in inner.groups() if group is not None).strip()
    text = WHOLE_POINT.sub("", text)
    if text.casefold() in NO_VALUES:
        raise where.refuse(f"is '{text}', no answer; fill it in or take the row out")
    return text
