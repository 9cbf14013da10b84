"""LoRA against training every weight, and against TRL's LoRA on the same steps: tokens per second, memory, loss.

    make bench-lora

SmolLM2-135M-Instruct on traces of the tiny world, step by step in turn, one thread each. TRL gets the adapter that
tirflow starts with, the same traces at each step, and its rate. Memory is the most that each process held, libraries
included. Writes benchmarks/results/lora.md; 2 to 5 minutes. Exit code 1 if the losses lie apart, or if LoRA saves no
memory.
"""

import tempfile
from pathlib import Path

from benchmarks.record import benchmark_options, load_average, markdown_table, write_page
from benchmarks.taught import MODEL
from benchmarks.trl import settings
from benchmarks.trl.laps import TRL_PYTHON, Racer, median, race, start_racer, trl_version
from benchmarks.trl.world import make_sequences, sft_optimizer, write_rows, write_sequences
from data.problems import Split, generate
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.environment import home
from tasks.shared.learning.adapter import adapter_weights, add_adapters, save_adapter
from tasks.shared.learning.checkpoints import load_model, load_tokenizer

MODEL_DIR = home() / "models" / "smollm2-135m-instruct"
NUM_TRACES = 400
TOKENS = 384  # a step: one row
WARM_UP = 1
SAME = 1e-4  # losses of one step, in nats

ALIKE = """\
Alike: weights, adapter and its first factors (rank {rank}, alpha {alpha}, every linear layer of the body), traces of
each step, loss on the assistant's own tokens, AdamW with the same rate, decay and clipping, float32. Not alike: tirflow
attends sequence by sequence and computes the head where there is a target; TRL attends through a block mask, computes
the head everywhere, and entropy and accuracy beside it.
"""


def make_racers(root: Path, tokens: int) -> list[Racer]:
    """Write traces and the adapter; start every weight, adapters, and TRL's adapters."""
    sequences, rows, adapter = root / "train.parquet", root / "rows.parquet", root / "adapter"
    written = make_sequences(load_tokenizer(MODEL_DIR), generate(Split.TRAIN, NUM_TRACES, seed=0), NUM_TRACES)
    traces = [trace for trace in written if len(trace.ids) <= tokens]
    if not traces:
        raise SystemExit(f"--tokens {tokens}: the shortest trace has {min(len(t.ids) for t in written)}")
    write_sequences(traces, sequences)
    write_rows(traces, rows, seed=0, tokens=tokens)
    lora, model = sft_optimizer(lora=True).lora, load_model(MODEL_DIR, MODEL)
    assert lora is not None
    add_adapters(model, lora)
    adapter.mkdir()
    base = ArtifactRef(kind="checkpoint", location=str(MODEL_DIR), digest="0" * 64)
    save_adapter({name: factor.detach() for name, factor in adapter_weights(model)}, lora, base, adapter)

    ours = (MODEL_DIR, sequences, 0, tokens)
    return [
        start_racer("tirflow, every weight", "sft_ours", *ours),
        start_racer("tirflow, LoRA", "sft_ours", *ours, "lora"),
        start_racer("TRL, LoRA", "sft_trl", MODEL_DIR, rows, adapter),
    ]


def write(racers: list[Racer], version: str, tokens: int, dry: bool) -> bool:
    """Write benchmarks/results/lora.md; whether the losses agree and LoRA takes less memory."""
    full, ours, theirs = racers
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(ours.laps, theirs.laps, strict=True))
    speed = {racer.name: median(racer, "tokens", per="cpu_s") for racer in racers}
    memory = {racer.name: max(lap["peak_mib"] for lap in racer.laps) for racer in racers}
    shown = range(0, len(ours.laps), max(1, len(ours.laps) // 4))
    rows = [
        [
            racer.name,
            f"{median(racer, 'tokens', per='wall_s'):.1f}",
            f"{speed[racer.name]:.1f}",
            f"{memory[racer.name]:,.0f}",
            *(f"{racer.laps[step]['loss']:.4f}" for step in shown),
        ]
        for racer in racers
    ]
    header = ["system", "tokens/s", "tokens/CPU-s", "peak MiB"]
    header += [f"loss, step {WARM_UP + step + 1}" for step in shown]
    lines = [
        f"`make bench-lora`. SmolLM2-135M-Instruct, steps of at most {tokens} tokens. Per second of processor time "
        f"LoRA trains {speed[ours.name] / speed[full.name]:.2f} times the tokens of training every weight, and "
        f"{speed[ours.name] / speed[theirs.name]:.2f} times those of TRL's LoRA; at its peak it takes "
        f"{memory[full.name] - memory[ours.name]:,.0f} MiB less than every weight. On the same steps its loss differs "
        f"from TRL's by {apart:.1e} at most.",
        "",
        *markdown_table(header, rows),
        "",
        ALIKE.format(rank=settings.LORA_RANK, alpha=settings.LORA_ALPHA).rstrip(),
    ]
    about = (f"TRL {version}", f"medians of {len(ours.laps)} steps of each, taken in turn", load_average())
    write_page("lora", "LoRA: against every weight, and against TRL's", about, lines, dry)
    return apart < SAME and memory[ours.name] < memory[full.name]


def main() -> int:
    """Measure, write, and fail where it falls short."""
    parser = benchmark_options(__doc__, rounds=8)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a step, at most")
    options = parser.parse_args()
    version = trl_version(TRL_PYTHON)
    if not MODEL_DIR.is_dir():
        raise SystemExit(f"{MODEL_DIR} is missing: make smol-base")
    with tempfile.TemporaryDirectory() as root:
        racers = make_racers(Path(root), options.tokens)
        race(racers, options.rounds, WARM_UP)
    return 0 if write(racers, version, options.tokens, options.dry) else 1


if __name__ == "__main__":
    raise SystemExit(main())
