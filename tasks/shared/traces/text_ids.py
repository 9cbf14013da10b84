"""The one place where text becomes ids: whole calls only, since a tokenizer keeps how it reads control tokens.

Transformers writes `split_special_tokens` of a call into the tokenizer itself. Were one thread to encode a program's
output, spelled out, between the setting and the reading of another thread, a prompt would lose its control tokens, or
an output would gain some.
"""

from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENCODING = Lock()


def text_ids(
    tokenizer: "PreTrainedTokenizerBase", text: str, *, spelled_out: bool = False, opened: bool = False
) -> list[int]:
    """Ids of a text, from any thread. `spelled_out`: control tokens in it are text; `opened`: as a sequence begins."""
    how = {"split_special_tokens": True} if spelled_out else {}
    with _ENCODING:
        return list(tokenizer.encode(text, add_special_tokens=opened, **how))
