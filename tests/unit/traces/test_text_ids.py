"""Encoding is one locked call: a thread's reading of control tokens never affects another's."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tasks.shared.traces.text_ids import text_ids


class Shared:
    """As Transformers' tokenizers, it stores how control tokens are read while it encodes."""

    splits = False

    def encode(self, text: str, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]:
        """1 for a control token that is read as one, 0 for one that is spelled out."""
        self.splits = split_special_tokens
        time.sleep(0.001)  # another thread's turn
        return [0 if self.splits else 1]


def test_threads_do_not_change_how_each_other_reads_control_tokens() -> None:
    tokenizer: Any = Shared()

    def encode(number: int) -> bool:
        spelled_out = number % 2 == 0
        return text_ids(tokenizer, "<|end|>", spelled_out=spelled_out) == [0 if spelled_out else 1]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(encode, range(100)))
