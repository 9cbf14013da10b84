"""Sampled tokens per second of the embedded engine against `model.generate`: same model, prompts and length.

    OMP_NUM_THREADS=1 python -m benchmarks.generation --rounds 5

Every round runs each system once, so that noise of the machine falls on all alike; figures are medians over rounds, by
the wall clock and by this process's CPU time, which a busy machine disturbs less. The tiny world's model with random
weights, one thread, prompts of 60 tokens, 150 sampled tokens a row, temperature 1. Writes
benchmarks/results/generation.json; about 1 minute.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.shared.checkpoints import load_model, load_tokenizer
from tasks.shared.config import ModelConfig, TinyModel
from tasks.shared.generation.protocol import Sampling
from tasks.shared.generation.transformers_engine import TransformersGenerator

RESULTS = Path(__file__).parent / "results"
PROMPT_TOKENS, NEW_TOKENS = 60, 150
MODEL = ModelConfig(source="tiny", dtype="float32")


def load(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, its end of turn switched off so that every row has its full length."""
    model, tokenizer = load_model(directory, MODEL), load_tokenizer(directory)
    assert tokenizer.eos_token_id is not None
    model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    model.get_output_embeddings().weight.requires_grad_(False)
    return model, tokenizer


def prompts(rows: int) -> list[list[int]]:
    """Random ids, without the special tokens at the start of the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(20, 600, (rows, PROMPT_TOKENS), generator=generator).tolist()


def run_engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int) -> int:
    """All rows through the slots; the number of tokens sampled, rows that drew an end of turn counted as they are."""
    engine = TransformersGenerator(model, tokenizer, rows)
    for row, ids in enumerate(prompts(rows)):
        engine.add(str(row), ids, sampling=Sampling(), seed=row, stop="</code>", max_new_tokens=NEW_TOKENS)
    tokens = 0
    while engine.num_running:
        for piece in engine.step():
            tokens += len(piece.ids)
            engine.release(piece.request_id)
    return tokens


def run_generate(model: PreTrainedModel, rows: int) -> int:
    """`model.generate` on the same prompts."""
    ids = torch.tensor(prompts(rows))
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=NEW_TOKENS
        )
    return (output.shape[1] - PROMPT_TOKENS) * rows


def measure(run: Callable[[], int]) -> tuple[float, float]:
    """Tokens per second: wall, CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = run()
    return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        make_tiny_checkpoint(TinyModel(), 0, Path(name))
        ours, tokenizer = load(Path(name))
        theirs, _ = load(Path(name))
    figures = {}
    for rows in (64, 128):
        systems: dict[str, Callable[[], int]] = {
            "engine": lambda rows=rows: run_engine(ours, tokenizer, rows),
            "generate": lambda rows=rows: run_generate(theirs, rows),
        }
        taken: dict[str, list[tuple[float, float]]] = {system: [] for system in systems}
        for _ in range(rounds):
            for system, run in systems.items():
                taken[system].append(measure(run))
        for system, rates in taken.items():
            wall, cpu = (round(statistics.median(column)) for column in zip(*rates, strict=True))
            figures[f"{system}_{rows}"] = {"tokens_per_s": wall, "tokens_per_cpu_s": cpu}
            print(f"{system:9} {rows:4} rows: {wall:6} tokens/s, {cpu:6} tokens/CPU-s")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    record = {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "hardware": f"{platform.machine()}, one thread, float32, torch {torch.__version__}",
        "rounds": rounds,
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "generation.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
