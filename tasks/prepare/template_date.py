"""Fixes the date in chat templates that write today's date, which would give other ids every day.

Such templates call `strftime_now` with a format (Llama, Mistral, SmolLM). Each call becomes the text that it gives on
one day, in the artifact, so that every stage and everyone who serves the model gets the same ids.
"""

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path

CALL = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<format>[^"'\\]*)(?P=quote)\s*\)""")


def fix_date(directory: Path, day: str) -> None:
    """Write `day` (YYYY-MM-DD, else today) into the templates of a tokenizer in `directory` that write today's date.

    Raises ValueError for a template that does not pass a literal format.
    """
    chosen = date.fromisoformat(day) if day else datetime.now(UTC).date()
    for path in sorted([*directory.glob("*.jinja"), *directory.glob("*.json")]):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if "strftime_now" not in text:
            continue
        if path.suffix == ".jinja":
            path.write_text(_fixed(text, chosen, path), encoding="utf-8", errors="surrogateescape")
        elif path.name == "tokenizer_config.json":
            content = json.loads(text)
            content["chat_template"] = _fixed_in(content.get("chat_template"), chosen, path)
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _fixed_in(template: object, day: date, path: Path) -> object:
    """A chat template, or a list of named ones, as tokenizer_config.json has them."""
    if isinstance(template, str):
        return _fixed(template, day, path)
    if isinstance(template, list):
        return [
            {**entry, "template": _fixed(entry["template"], day, path)} if "template" in entry else entry
            for entry in template
        ]
    return template


def _fixed(template: str, day: date, path: Path) -> str:
    fixed = CALL.sub(lambda call: json.dumps(day.strftime(call["format"]), ensure_ascii=False), template)
    if "strftime_now(" in fixed.replace(" ", ""):
        raise ValueError(
            f"{path}: the chat template writes today's date in a way that cannot be fixed; write a date in its place"
        )
    return fixed
