"""A tiny model that has learnt by heart to answer with one to three programs and then to go on to its token budget.

So what it samples is known: how many calls, how long they take, how many tokens lie before each. Teaching it takes two
minutes. Its shape and tokenizer are the tiny world's.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.shared.config import ModelConfig, TinyModel
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tasks.shared.learning.logprobs import token_logprobs, use_packed_attention
from tasks.shared.learning.packing import TrainSequence, pack
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_prompt, encode_trace

MODEL = ModelConfig(source="tiny", dtype="float32")
DIALECT = DIALECTS["retool"]
MOST_CALLS = 3
LEADS = (0, 1, 2)  # sentences more before each program: responses of a real policy are not in step either
PROGRAMS = {"quick": "print(7)", "slow": "import time\ntime.sleep(0.03)\nprint(7)"}  # slow: 30 ms
FILLER = "Then the number is checked again, and it is right. "
STEPS, NUM_PARTS = 360, 3  # a step trains on every third trace
LEARNED = 0.02  # mean loss a token at which a trace counts as learnt by heart


def problem(num_calls: int, program: str, lead: int) -> str:
    """The problem as the model reads it."""
    return f"{num_calls} {program} {lead}"


def trace(num_calls: int, program: str, lead: int, num_tokens: int) -> str:
    """The answer that it learns, longer than `num_tokens` tokens."""
    parts = [
        f"Number {call} of {num_calls}. {FILLER * lead}\n<code>\n```python\n{PROGRAMS[program]}\n```\n</code>"
        "\n<interpreter>\n7\n</interpreter>\n"
        for call in range(1, num_calls + 1)
    ]
    return "".join(parts) + FILLER * (num_tokens // 8)


def encode(
    tokenizer: PreTrainedTokenizerBase, problem: str, trace: str, response_tokens: int | None = None
) -> TrainSequence:
    """A trace, cut at so many tokens of the response, with the loss on the assistant's own tokens."""
    encoded = encode_trace(tokenizer, DIALECT, problem, trace, instructed=False)
    loss_mask = (False,) * len(encoded.prompt_ids) + encoded.loss_mask[:response_tokens]
    ids = encoded.prompt_ids + encoded.response_ids[:response_tokens]
    return TrainSequence(np.array(ids), np.array(loss_mask))


def train_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, sequences: Sequence[TrainSequence]
) -> float:
    """One step on all sequences in one row; the mean loss a token."""
    [row] = pack(sequences, sum(len(sequence.ids) for sequence in sequences))
    loss = -token_logprobs(model, row).sum() / row.num_loss_tokens
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def teach(directory: Path, num_tokens: int) -> None:
    """Write a checkpoint that answers with the traces, cut at `num_tokens` tokens: it never ends its turn."""
    make_tiny_checkpoint(TinyModel(), 0, directory)
    tokenizer, model = load_tokenizer(directory), load_model(directory, MODEL)
    sequences = []
    for parts in product(range(1, MOST_CALLS + 1), PROGRAMS, LEADS):
        prompt_ids = encode_prompt(tokenizer, DIALECT, problem(*parts), instructed=False)
        sequence = encode(tokenizer, problem(*parts), trace(*parts, num_tokens), num_tokens)
        assert len(sequence.ids) == len(prompt_ids) + num_tokens, "the trace is shorter than the budget"
        sequences.append(sequence)
    use_packed_attention(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = [torch.inf] * NUM_PARTS
    for step in range(STEPS):
        part = step % NUM_PARTS
        losses[part] = train_step(model, optimizer, sequences[part::NUM_PARTS])
    assert max(losses) < LEARNED, f"not learnt by heart: losses {losses} after {STEPS} steps"
    save_checkpoint(model, tokenizer, directory)
