"""Every dialect with small tokenizers whose tokens join tags and line breaks as those of real models do.

The same cases with the tokenizers of Qwen3 and SmolLM2: tests/tokenizers (`make test-tokenizers`).
"""

import pytest
from transformers import PreTrainedTokenizerBase

from tests.unit.generation.tiny import joining_tokenizer, tiny_tokenizer
from tests.unit.traces.token_cases import *  # noqa: F403 - its tests, with the tokenizer below


@pytest.fixture(scope="module", params=["joining", "separate"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """One with a token for `>` and a line break, as Qwen's; one without, as SmolLM2's."""
    return joining_tokenizer() if request.param == "joining" else tiny_tokenizer()


def test_the_joining_tokenizer_joins() -> None:
    """Otherwise the cases above would show nothing."""
    tokenizer = joining_tokenizer()
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("</code>\nSo")]
    assert ">\n" in pieces
