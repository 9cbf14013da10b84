"""A small SFT request with real parts: a tiny Qwen2 checkpoint, a few dozen traces of the tiny world, a store."""

import random
from pathlib import Path

import pandas as pd

from data.families import ALL_FAMILIES
from tasks.sft.spec import SftConfig, SftStage
from tasks.shared.artifacts import Store
from tasks.shared.config import ModelConfig, OptimizerConfig, TracesConfig
from tasks.shared.contract.stage import StageRequest
from tasks.shared.traces.dialect import DIALECTS
from tests.artifacts import publish
from tests.integration.evaluation_world import SHAPE, tiny_checkpoint
from tests.integration.stages import stage_request


def make_traces(num_traces: int, seed: int = 0) -> pd.DataFrame:
    """Traces with one code block each that `synthesize` would accept."""
    rng, rows = random.Random(seed), []
    for index in range(num_traces):
        family = ALL_FAMILIES[index % len(ALL_FAMILIES)]
        params = family.sample(rng)
        answer = family.solve(params)
        program = rng.choice(family.programs).format(**params)
        trace = f"Let us count.\n<code>\n```python\n{program}\n```\n</code>"
        trace += DIALECTS["retool"].feedback(str(answer)) + f"<answer>\n\\boxed{{{answer}}}\n</answer>"
        problem = rng.choice(family.phrasings).format(**params)
        rows.append({"id": f"trace-{index}", "problem": problem, "answer": str(answer), "trace": trace})
    return pd.DataFrame(rows)


def make_request(
    root: Path,
    *,
    traces: pd.DataFrame | None = None,
    zero_stage: int = 0,
    ranks: int = 1,
    dtype: str = "float32",
    epochs: float = 1.0,
    checkpoint_every_steps: int = 3,
    store_dir: Path | None = None,
) -> StageRequest:
    """A request over 48 traces in steps of about ten; inputs are published into `root`/store or `store_dir`."""
    store = Store(str(store_dir or root / "store"))
    rows = make_traces(48) if traces is None else traces
    config = SftStage(
        model=ModelConfig(source="tiny", dtype=dtype, tiny=SHAPE),
        traces=TracesConfig(prompt="bare"),
        sft=SftConfig(
            optimizer=OptimizerConfig(
                learning_rate=3e-3, warmup_steps=2, schedule="cosine", zero_stage=zero_stage, ranks=ranks
            ),
            epochs=epochs,
            tokens_per_step=1600,
            tokens_per_micro_batch=600,
            checkpoint_every_steps=checkpoint_every_steps,
        ),
    )
    return stage_request(
        root,
        "sft",
        config,
        {
            "checkpoint": publish(store, "checkpoint", tiny_checkpoint(0)),
            "traces": publish(store, "traces", lambda path: rows.to_parquet(path / "train.parquet")),
        },
        seed=7,
        store=store_dir,
    )
