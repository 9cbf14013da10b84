"""Fixes the date in chat templates that write today's date, which would give other ids every day.

Such templates call `strftime_now` with a format (Llama, Mistral, SmolLM). Each call becomes the text that it gives on
one day, in the artifact, so that every stage and everyone who serves the model gets the same ids.
"""

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path

from tasks.shared.learning.checkpoint_files import read_object

CALL = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<format>[^"'\\]*)(?P=quote)\s*\)""")


def fix_date(directory: Path, day: str) -> None:
    """Write `day` (YYYY-MM-DD, else today) into the templates of a tokenizer in `directory` that write today's date.

    Raises ValueError for a template that does not pass a literal format.
    """
    chosen = date.fromisoformat(day) if day else datetime.now(UTC).date()
    for path in sorted([*directory.glob("*.jinja"), *directory.glob("tokenizer_config.json")]):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if "strftime_now" not in text:
            continue
        if path.suffix == ".jinja":
            text = _fixed(text, chosen, path)
        else:
            content = read_object(path)
            template = content.get("chat_template")
            if isinstance(template, str):
                content["chat_template"] = _fixed(template, chosen, path)
            for entry in template if isinstance(template, list) else ():  # of named templates
                if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                    entry["template"] = _fixed(entry["template"], chosen, path)
            text = json.dumps(content, indent=2, ensure_ascii=False)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")


def _fixed(template: str, day: date, path: Path) -> str:
    fixed = CALL.sub(lambda call: json.dumps(day.strftime(call["format"]), ensure_ascii=False), template)
    if "strftime_now(" in fixed.replace(" ", ""):
        raise ValueError(
            f"{path}: the chat template writes today's date in a way that cannot be fixed; write a date in its place"
        )
    return fixed
