"""The step of stage `sft`, packing included, a lap each; started by benchmarks/sft.py.

python -m benchmarks.trl.sft_ours <checkpoint> <sequences.parquet> <seed>
"""

import sys
from pathlib import Path

from benchmarks.trl import settings
from benchmarks.trl.laps import Track
from benchmarks.trl.world import MODEL, read_sequences, sft_optimizer, sft_steps
from tasks.sft.training import train_step
from tasks.shared.checkpoints import load_model
from tasks.shared.learning.engine import TrainingEngine


def main() -> None:
    """Train for as long as turns come."""
    track = Track()
    checkpoint, sequences, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    engine = TrainingEngine(load_model(checkpoint, MODEL), sft_optimizer(), total_steps=settings.SFT_STEPS)
    for step in sft_steps(read_sequences(sequences), settings.SFT_STEPS, seed):
        record = train_step(engine, step, settings.TOKENS_PER_STEP)
        track.lap(tokens=record.tokens, loss=record.loss)


if __name__ == "__main__":
    main()
