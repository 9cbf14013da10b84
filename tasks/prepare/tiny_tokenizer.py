"""Train the tiny world's tokenizer: byte-level BPE, every digit a token, whole words and code idioms one token.

A pre-token is a run of non-spaces with the spaces before it, so `print(sum(` or `\\n</code>` can become one token and
traces stay short; digits always stand alone, because copying a number digit by digit is what the tiny model learns.
Chat template and special tokens are Qwen's.
"""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from data.families import ALL_FAMILIES, Family
from data.wording import (
    CHECK_OPENINGS,
    CODE_CLOSINGS,
    CODE_OPENINGS,
    CORRECTION_OPENINGS,
    TEXT_CLOSINGS,
    TEXT_OPENINGS,
)
from tasks.shared.traces.dialect import DIALECTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PRE_TOKEN = r"[0-9]|\s*[^\s0-9]+(?: (?=[0-9]))?|\s+"
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS_ROUNDS = 12
ERRORS = (
    "NameError: name 'x' is not defined",
    "SyntaxError: invalid syntax",
    "SyntaxError: '(' was never closed",
    "TimeoutError: the program ran longer than it may",
)


def train_tokenizer(vocabulary: int, seed: int, max_positions: int) -> "PreTrainedTokenizerFast":
    """Train the tokenizer on wordings, programs and traces of every family; the same seed gives the same files.

    Args:
        vocabulary: tokens, the 256 bytes and three special tokens included.
        seed: draws the parameters in the corpus.
        max_positions: what the tokenizer reports as `model_max_length`.

    Raises:
        ValueError: the vocabulary has no room for bytes and special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = [END_OF_TEXT, TURN_START, TURN_END]
    if vocabulary < len(alphabet) + len(specials):
        raise ValueError(
            f"model.tiny.vocabulary = {vocabulary} is too small; "
            f"{len(alphabet) + len(specials)} bytes and special tokens come first, use 512 or more"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
        min_frequency=2,
    )
    bpe.train_from_iterator(_corpus(random.Random(seed)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )


def _corpus(rng: random.Random) -> Iterator[str]:
    """Texts as the stages will tokenise them: prompts, turns of a trace, interpreter output, answers."""
    for _ in range(CORPUS_ROUNDS):
        for family in ALL_FAMILIES:
            yield from _family_texts(family, rng)


def _family_texts(family: Family, rng: random.Random) -> Iterator[str]:
    retool = DIALECTS["retool"]
    for phrasing in family.phrasings:
        yield f"{TURN_START}user\n{phrasing.format(**family.sample(rng))}{TURN_END}\n{TURN_START}assistant\n"
    for program in family.programs:
        params = family.sample(rng)
        opening = rng.choice((*CODE_OPENINGS, *CHECK_OPENINGS, *CORRECTION_OPENINGS))
        yield f"{opening}\n{retool.write_call(program.format(**params))}"
        yield retool.feedback(str(family.solve(params)))
        yield f"{rng.choice(CODE_CLOSINGS)}\n{retool.write_answer(str(family.solve(params)))}"
        text = f"{rng.choice(TEXT_OPENINGS)} {rng.choice(TEXT_CLOSINGS)}"
        yield f"{text}\n{retool.write_answer(str(rng.randrange(1000)))}"
    yield retool.feedback(rng.choice(ERRORS))
