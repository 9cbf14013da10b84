"""Token ends add up to the text, also if a token is part of a character."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tasks.shared.reporting.offsets import token_ends


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: a character beyond ASCII is several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="Z")


def test_ascii_is_one_character_a_token() -> None:
    """The end-of-turn token, which is not in the text, ends with the text."""
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("print(1)", add_special_tokens=False)
    assert token_ends(tokenizer, [*ids, tokenizer.eos_token_id], "print(1)") == [*range(1, 9), 8]


def test_a_part_of_a_character_adds_nothing() -> None:
    """The character appears with its last byte."""
    tokenizer = byte_tokenizer()
    text = "a\u00e9\U0001f600b"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert token_ends(tokenizer, ids, text) == [1, 1, 2, 2, 2, 2, 3, 4]


def test_a_text_that_ends_within_a_character() -> None:
    """Out of tokens in the middle of one: the ends stay within the text and ascend."""
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("ab\U0001f600", add_special_tokens=False)[:-2]
    text = tokenizer.decode(ids)
    ends = token_ends(tokenizer, ids, text)
    assert ends == sorted(ends) and ends[:2] == [1, 2] and ends[-1] <= len(text)
