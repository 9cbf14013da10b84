"""Trains the tiny world's tokenizer: byte-level BPE with Qwen2's pre-tokenizer, with one token for each digit.

It is a `Qwen2Tokenizer`, because `AutoTokenizer` rebuilds that class's pre-tokenizer for every Qwen2 model, whatever
the saved file says. Each tag of a dialect is one token, an ordinary one like Qwen's `<tool_call>`, so that decoding
keeps it. Single digits let the tiny model learn to copy a number digit by digit.
"""

import json
import random
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data.families import ALL_FAMILIES, Family
from data.wording import (
    CHECK_OPENINGS,
    CODE_CLOSINGS,
    CODE_OPENINGS,
    CORRECTION_OPENINGS,
    TEXT_CLOSINGS,
    TEXT_OPENINGS,
    restate,
)
from tasks.shared.traces.dialect import DIALECTS

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# the marks of these dialects, tags first; a bare fence and the box consist of smaller tokens
MARKS = dict.fromkeys((*DIALECTS["retool"].marks, *DIALECTS["torl"].marks))
TAGS = sorted(
    (mark for mark in MARKS if mark.strip("`") and "\\" not in mark), key=lambda mark: mark.startswith("`")
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS_ROUNDS = 80
COMMON_SHARE = 0.8
RARE_OPENINGS = (*CHECK_OPENINGS, *CORRECTION_OPENINGS)
ERRORS = (
    "NameError: name 'prnt' is not defined. Did you mean: 'print'?",
    "SyntaxError: invalid syntax",
    "SyntaxError: '(' was never closed",
    "TimeoutError: the program ran longer than it may",
)


def train_tokenizer(vocabulary: int, seed: int, max_positions: int) -> "Qwen2Tokenizer":
    """Train the tokenizer on wordings, programs and traces of every family; the same seed gives the same files.

    `vocabulary`: tokens, with the 256 bytes, special tokens and tags; ValueError if it has no room for these. `seed`
    draws the parameters in the corpus. `max_positions`: the tokenizer's `model_max_length`.
    """
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import Qwen2Tokenizer

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    reserved = [END_OF_TEXT, TURN_START, TURN_END, *TAGS]
    if vocabulary < len(alphabet) + len(reserved):
        raise ValueError(
            f"model.tiny.vocabulary = {vocabulary} is too small; "
            f"{len(alphabet) + len(reserved)} bytes, special tokens and tags come first, use 512 or more"
        )
    trained = _train_bpe(vocabulary, reserved, seed)
    merges: Any = [tuple(merge) for merge in trained["merges"]]  # pairs, though annotated as strings
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=merges,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_positions,
    )
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return tokenizer


def _train_bpe(vocabulary: int, reserved: list[str], seed: int) -> dict[str, Any]:
    """`vocab` and `merges` of a BPE model trained on the corpus; `reserved` tokens come first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=reserved,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    rng = random.Random(seed)
    corpus = (
        text for _ in range(CORPUS_ROUNDS) for family in ALL_FAMILIES for text in _family_texts(family, rng)
    )
    bpe.train_from_iterator(_pieces(corpus), trainer)
    model: dict[str, Any] = json.loads(bpe.to_str())["model"]
    return model


def _pieces(texts: Iterator[str]) -> Iterator[str]:
    """Texts cut at the tags, which become tokens before BPE."""
    tags = re.compile("|".join(map(re.escape, TAGS)))
    for text in texts:
        yield from (piece for piece in tags.split(text) if piece)


def _family_texts(family: Family, rng: random.Random) -> Iterator[str]:
    """A trace with code and one without, as the stages tokenise them: turn by turn, between special tokens."""
    retool = DIALECTS["retool"]
    params = family.sample(rng)
    answer = str(family.solve(params))
    problem = rng.choice(family.phrasings).format(**params)
    given = restate(problem)
    yield f"user\n{problem}"
    yield "assistant\n"
    opening = rng.choice(CODE_OPENINGS if rng.random() < COMMON_SHARE else RARE_OPENINGS)
    yield f"{opening} {given}\n{retool.write_call(rng.choice(family.programs).format(**params))}"
    yield retool.feedback(answer if rng.random() < COMMON_SHARE else rng.choice(ERRORS))
    yield f"{rng.choice(CODE_CLOSINGS)}\n{retool.write_answer(answer)}"
    yield f"{rng.choice(TEXT_OPENINGS)} {given} {rng.choice(TEXT_CLOSINGS)}\n{retool.write_answer(answer)}"
