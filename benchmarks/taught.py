"""A tiny model that knows by heart how to answer with one to three programs and then goes on to its token budget.

What it samples is known beforehand: how many calls, how long they take, how many tokens lie before each. Taught in two
minutes; the tiny world's shape and tokenizer.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch

from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.shared.config import ModelConfig, TinyModel
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tasks.shared.learning.logprobs import token_logprobs, use_packed_attention
from tasks.shared.learning.packing import TrainSequence, pack
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_trace

MODEL = ModelConfig(source="tiny", dtype="float32")
DIALECT = DIALECTS["retool"]
MOST_CALLS = 3
LEADS = (0, 1, 2)  # sentences more before each program: responses of a real policy are not in step either
PROGRAMS = {"quick": "print(7)", "slow": "import time\ntime.sleep(0.03)\nprint(7)"}  # slow: 30 ms
FILLER = "Then the number is checked again, and it is right. "
STEPS, TAUGHT_AT_ONCE = 360, 6
LEARNED = 0.02  # mean loss a token at which it counts as known by heart


def problem(num_calls: int, program: str, lead: int) -> str:
    """What the model is asked."""
    return f"{num_calls} {program} {lead}"


def trace(num_calls: int, program: str, lead: int, num_tokens: int) -> str:
    """The answer it learns, longer than `num_tokens` tokens."""
    parts = [
        f"Number {call} of {num_calls}. {FILLER * lead}\n<code>\n```python\n{PROGRAMS[program]}\n```\n</code>"
        "\n<interpreter>\n7\n</interpreter>\n"
        for call in range(1, num_calls + 1)
    ]
    return "".join(parts) + FILLER * (num_tokens // 8)


def teach(directory: Path, num_tokens: int) -> None:
    """Write a checkpoint that answers with the traces, cut at `num_tokens` tokens: it never ends its turn."""
    make_tiny_checkpoint(TinyModel(), 0, directory)
    tokenizer, model = load_tokenizer(directory), load_model(directory, MODEL)
    sequences = []
    for num_calls, program, lead in product(range(1, MOST_CALLS + 1), PROGRAMS, LEADS):
        text = trace(num_calls, program, lead, num_tokens)
        asked = problem(num_calls, program, lead)
        known = encode_trace(tokenizer, DIALECT, asked, text, instructed=False)
        assert len(known.response_ids) > num_tokens, "the trace is shorter than the budget"
        ids = (known.prompt_ids + known.response_ids)[: len(known.prompt_ids) + num_tokens]
        loss_mask = ((False,) * len(known.prompt_ids) + known.loss_mask)[: len(ids)]
        sequences.append(TrainSequence(np.array(ids), np.array(loss_mask)))
    use_packed_attention(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = [torch.inf] * (len(sequences) // TAUGHT_AT_ONCE)
    for step in range(STEPS):
        part = step % len(losses)
        taught = sequences[part :: len(losses)]
        [row] = pack(taught, sum(len(sequence.ids) for sequence in taught))
        loss = -token_logprobs(model, row).sum() / row.num_loss_tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses[part] = loss.item()
    assert max(losses) < LEARNED, f"not known by heart: losses {losses} after {STEPS} steps"
    save_checkpoint(model, tokenizer, directory)
