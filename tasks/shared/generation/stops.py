"""Finds a stop string in sampled tokens, at the cost of a set lookup for nearly every token.

A token can contain characters before and after the stop string, so the text decides and not the ids. Tokens whose own
text could complete the stop string are found once. Only after such a token is the tail of the turn decoded.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tasks.shared.traces.text_ids import ids_text

SLACK = 4  # tokens decoded beyond one per character of the stop string


class StopFinder:
    """Checks after each token whether a turn contains its stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: str) -> None:
        assert stop, "an empty stop string ends every turn at its first token; None is no stop"
        self._tokenizer = tokenizer
        self._stop = stop
        texts = [ids_text(tokenizer, [i]) for i in range(len(tokenizer))]
        tails = tuple(stop[i:] for i in range(1, len(stop)))
        self.completing = frozenset(
            i for i, text in enumerate(texts) if stop in text or text.startswith(tails)
        )

    def found(self, turn: Sequence[int]) -> bool:
        """True if the last token of `turn` (ids sampled since the last feedback) completes the stop string."""
        if turn[-1] not in self.completing:
            return False
        tail = turn[-(len(self._stop) + SLACK) :]
        return self._stop in ids_text(self._tokenizer, tail)
