"""The step of stage `sft`, packing included, as laps. benchmarks/sft.py and benchmarks/lora.py start it.

python -m benchmarks.trl.sft_ours <checkpoint> <sequences.parquet> <seed> [tokens a step] [lora]
"""

import sys
from pathlib import Path

from benchmarks.taught import MODEL
from benchmarks.trl import settings
from benchmarks.trl.laps import Track
from benchmarks.trl.world import read_sequences, sft_optimizer, sft_steps
from tasks.sft.training import train_step
from tasks.shared.learning.checkpoints import load_model
from tasks.shared.learning.engine import TrainingEngine


def main() -> None:
    """Train until no turn comes."""
    track = Track()
    checkpoint, sequences, seed, *more = sys.argv[1:]
    tokens = int(more[0]) if more else settings.TOKENS_PER_STEP
    optimizer = sft_optimizer(lora="lora" in more)
    engine = TrainingEngine(load_model(Path(checkpoint), MODEL), optimizer, total_steps=settings.SFT_STEPS)
    for step in sft_steps(read_sequences(Path(sequences)), settings.SFT_STEPS, int(seed), tokens):
        record = train_step(engine, step, tokens)
        track.lap(tokens=record.tokens, loss=record.loss)


if __name__ == "__main__":
    main()
