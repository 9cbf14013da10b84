"""Finds where each token ends in the decoded text, so that a viewer can show token and log-prob together."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from tasks.shared.traces.text_ids import ids_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # a decoder's mark for an incomplete character


def token_ends(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], text: str) -> list[int]:
    """The length of `text` in characters after each id, (len(ids),), ascending.

    `text` is the decoded response; an id after it (the end of turn) ends at its end. A token with a part of a character
    ends where the last whole character does.
    """
    decoded = {token: ids_text(tokenizer, [token]) for token in set(ids)}
    pieces = [decoded[token] for token in ids]
    if "".join(pieces).startswith(text):
        ends = list(accumulate(len(piece) for piece in pieces))
    else:
        ends = _incremental(tokenizer, ids)
    ends = [min(end, len(text)) for end in ends]
    ends[-1:] = [len(text)] if ends else []  # the last token may hold a part of a character
    return ends


def _incremental(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[int]:
    """Decode in a short window that advances whenever a character is complete."""
    ends: list[int] = []
    start = read = total = 0  # ids[start:read] are already decoded and give the context of the next ones
    for position in range(1, len(ids) + 1):
        before = ids_text(tokenizer, ids[start:read])
        after = ids_text(tokenizer, ids[start:position])
        if len(after) > len(before) and not after.endswith(UNFINISHED):
            total += len(after) - len(before)
            start, read = read, position
        ends.append(total)
    return ends
