"""The only place where text becomes ids. One lock per call, because a tokenizer stores how it reads control tokens.

Transformers writes `split_special_tokens` of a call into the tokenizer itself. Without the lock, a thread that encodes
program output could change the setting of another: its prompt would lose control tokens, or an output gain some.
"""

from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENCODING = Lock()


def text_ids(
    tokenizer: "PreTrainedTokenizerBase", text: str, *, spelled_out: bool = False, opened: bool = False
) -> list[int]:
    """Ids of a text, from any thread. `spelled_out`: control tokens are text; `opened`: with opening ids."""
    how = {"split_special_tokens": True} if spelled_out else {}
    with _ENCODING:
        return list(tokenizer.encode(text, add_special_tokens=opened, **how))
