"""A world in which RL has one thing to learn: to run code instead of guessing.

A small model is taught two answers to every prompt with equal probability: a block that prints the right answer, 1,
which it copies, and the bare guess 2. This takes a few seconds; the artifacts are those that `prepare` and `sft` would
hand to `rl`.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.rl.config import RlConfig
from tasks.rl.spec import RlStage
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.config import GenerationConfig, ModelConfig, OptimizerConfig, SandboxConfig, TracesConfig
from tasks.shared.contract.stage import StageRequest
from tasks.shared.learning.checkpoints import save_checkpoint
from tasks.shared.learning.logprobs import token_logprobs, use_packed_attention
from tasks.shared.learning.packing import TrainSequence, pack
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_trace
from tests.artifacts import publish
from tests.integration.stages import stage_request
from tests.unit.generation.tiny import tiny_model, tiny_tokenizer

GUESS = "<answer>\n\\boxed{2}\n</answer>"
CODE = (
    "Let us compute it.\n<code>\n```python\nprint(1)\n```\n</code>"
    "\n<interpreter>\n1\n</interpreter>\n<answer>\n\\boxed{1}\n</answer>"
)
NUM_PROBLEMS = 12
PROBLEMS = [f"What is {number}?" for number in range(NUM_PROBLEMS)]
OPTIMIZER = OptimizerConfig(learning_rate=3e-4, zero_stage=0, weight_decay=0.0)
MODEL = ModelConfig(source="tiny", dtype="float32")


@cache
def _taught(hidden: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A taught model, once per process, and its tokenizer."""
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    model = tiny_model(len(tokenizer), hidden=hidden, spread=0.05)
    use_packed_attention(model)
    traces = [
        encode_trace(tokenizer, DIALECTS["retool"], problem, trace, instructed=False)
        for problem in PROBLEMS
        for trace in (CODE, GUESS)
    ]
    sequences = [
        TrainSequence(
            np.array(t.prompt_ids + t.response_ids), np.array((False,) * len(t.prompt_ids) + t.loss_mask)
        )
        for t in traces
    ]
    [row] = pack(sequences, 100_000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(120):
        loss = -token_logprobs(model, row).sum() / row.num_loss_tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.set_attn_implementation("sdpa")
    return model, tokenizer


def make_store(root: Path, hidden: int = 64) -> dict[str, ArtifactRef]:
    """Publish a taught checkpoint, `hidden` wide, and the problems into `root`/store."""
    model, tokenizer = _taught(hidden)
    rows = [
        {"id": f"world/{i}", "problem": problem, "answer": "1", "source": "world", "family": "one"}
        for i, problem in enumerate(PROBLEMS)
    ]
    store = Store(str(root / "store"))
    return {
        "checkpoint": publish(store, "checkpoint", lambda path: save_checkpoint(model, tokenizer, path)),
        "problems": publish(
            store, "problems", lambda path: pd.DataFrame(rows).to_parquet(path / "train.parquet")
        ),
    }


def make_request(
    root: Path, inputs: dict[str, ArtifactRef], scratch: str = "scratch", **rl: Any
) -> StageRequest:
    """A request for a round of a few small steps."""
    settings: dict[str, Any] = {
        "rounds": 2,
        "steps_per_round": 8,
        "prompts_per_step": 4,
        "samples_per_prompt": 8,
        "tokens_per_micro_batch": 1024,
        "checkpoint_every_steps": 1,
        "optimizer": OPTIMIZER,
    }
    config = RlStage(
        model=MODEL,
        traces=TracesConfig(dialect="retool", prompt="bare", max_calls=2),
        sandbox=SandboxConfig(workers=1, memory_mb=512, preload=("math",)),
        generation=GenerationConfig(
            engine="transformers", max_sequences=32, max_prompt_tokens=64, max_response_tokens=96
        ),
        rl=RlConfig(**{**settings, **rl}),
    )
    return stage_request(root, "rl", config, inputs, seed=11, scratch=scratch)
