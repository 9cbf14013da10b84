"""Text to ids and back, the only place for both. Encoding takes a lock, because a call changes the tokenizer.

Transformers writes `split_special_tokens` of a call into the tokenizer itself. Without the lock, a thread that encodes
program output could change the setting of another: its prompt would lose control tokens, or an output gain some.
"""

from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENCODING = Lock()


def text_ids(
    tokenizer: "PreTrainedTokenizerBase", text: str, *, spelled_out: bool = False, opened: bool = False
) -> list[int]:
    """Ids of a text, from any thread. `spelled_out`: control tokens are text; `opened`: with opening ids."""
    options = {"split_special_tokens": True} if spelled_out else {}
    with _ENCODING:
        return list(tokenizer.encode(text, add_special_tokens=opened, **options))


def ids_text(tokenizer: "PreTrainedTokenizerBase", ids: Iterable[int]) -> str:
    """The text of ids, control tokens included."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
