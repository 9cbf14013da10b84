"""Where each token's characters end in the decoded text, so that a viewer can show token and log-prob together."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from tasks.shared.traces.text_ids import ids_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a decoder shows for a character of which bytes are missing


def token_ends(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], text: str) -> list[int]:
    """For every id the number of characters of `text` that are there after it, (len(ids),), ascending.

    `text` is the decoded response; ids behind it (the end of turn) end at its end. Tokens that hold a part of a
    character end where the last whole character does.
    """
    pieces = _pieces(tokenizer, ids)
    if "".join(pieces).startswith(text):
        ends = list(accumulate(len(piece) for piece in pieces))
    else:
        ends = _incremental(tokenizer, ids)
    ends = [min(end, len(text)) for end in ends]
    ends[-1:] = [len(text)] if ends else []  # a text cut within a character shows what there is of it
    return ends


def _pieces(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[str]:
    """Each id decoded by itself; equal ids once."""
    known = {token: ids_text(tokenizer, [token]) for token in set(ids)}
    return [known[token] for token in ids]


def _incremental(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[int]:
    """Decode in a short window that moves on whenever a character is whole."""
    ends: list[int] = []
    start = read = total = 0  # ids[start:read] were decoded before and give the context of what follows
    for position in range(1, len(ids) + 1):
        before = ids_text(tokenizer, ids[start:read])
        after = ids_text(tokenizer, ids[start:position])
        if len(after) > len(before) and not after.endswith(UNFINISHED):
            total += len(after) - len(before)
            start, read = read, position
        ends.append(total)
    return ends
