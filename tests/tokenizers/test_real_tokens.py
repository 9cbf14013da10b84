"""Every dialect with the tokenizers of Qwen3 and SmolLM2 (`make test-tokenizers` fetches them)."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tasks.shared.contract.environment import home
from tasks.shared.traces.turns import stop_ids, turn_end
from tests.unit.traces.token_cases import *  # noqa: F403 - its tests, with the tokenizers below


def load(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer. Without it the tests fail rather than pass unseen."""
    directory: Path = home() / "tokenizers" / name
    if not (directory / "tokenizer.json").is_file():
        pytest.fail(f"{directory} is missing: make tokenizers")
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module", params=["qwen3", "smollm2"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """One per module, so its vocabulary is searched for stop strings once."""
    return load(request.param)


def test_a_base_model_ends_at_both_of_its_tokens() -> None:
    """A base Qwen's tokenizer differs from its chat models' in `eos_token`; the template is the same."""
    base = load("qwen3")
    assert base.eos_token == "<|im_end|>"
    base.eos_token = "<|endoftext|>"
    of_text, of_turn = base.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert stop_ids(base) == {of_text, of_turn}
    assert turn_end(base) == (of_turn,)  # what SFT teaches
