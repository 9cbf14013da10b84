"""An RL step with live code against TRL's GRPOTrainer with tools: seconds a step, sampled tokens per second.

    make bench-rl

Both train the same taught tiny model, step by step in turn: the same problems, group size, token and call limits, loss,
sandbox and grader, Transformers generation, one thread. Writes benchmarks/results/rl.md, which says what differs; about
6 minutes. Exit code 1 below the bar.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import benchmark_options, markdown_table, write_page
from benchmarks.rl_request import make_request
from benchmarks.taught import MODEL
from benchmarks.trl import settings
from benchmarks.trl.laps import TRL_PYTHON, Racer, median, race, start_racer, trl_version
from tasks.rl.config import RlConfig
from tasks.rl.spec import RlStage
from tasks.shared.config import GenerationConfig, OptimizerConfig, SandboxConfig, TracesConfig

BAR = 2.0
TRL_MICRO_BATCH = 32  # trajectories of one forward pass; all 128 at once were no faster
DIFFERENCES = """\
Alike: model, problems, 16 prompts x 8 samples, 224 response tokens, 3 calls, temperature 1, GRPO with token-level loss,
clip 0.2 / 0.28, no KL, one AdamW step a batch in float32, learning rate 1e-6 (so that both go on sampling from nearly
the same policy), every trajectory in the loss, one thread of torch, the sandbox with 2 workers, the grader.

Not alike, by what the two are:

- TRL samples a batch turn by turn: `generate` until every row has ended its turn, then the rows' programs one after
  another, then prompt and response anew through `generate`, with a fresh KV cache and the full token limit again; what
  is too long is cut off afterwards. tirflow keeps the cache and forces the feedback in, while the other rows go on.
- TRL trains on padded batches, tirflow on packed rows of 4,096 tokens under DeepSpeed (ZeRO 0).
- Both draw prompts in an order of their own. After the third call, and where `</code>` ends no whole block, tirflow
  goes on in plain text and TRL ends the response.
- A step of tirflow also grades, filters, syncs weights into a second model, probes them and writes its rollouts;
  TRL samples from the model that it trains, and writes its log alone. Neither saves a checkpoint in a measured step.
"""


def configuration() -> RlStage:
    """The tiny recipe with every trajectory in the loss."""
    rl = RlConfig(
        rounds=1,
        steps_per_round=10_000,
        prompts_per_step=settings.PROMPTS_PER_STEP,
        samples_per_prompt=settings.SAMPLES_PER_PROMPT,
        clip_low=settings.CLIP_LOW,
        clip_high=settings.CLIP_HIGH,
        filter_void_turns=False,
        drop_equal_rewards=False,
        tokens_per_micro_batch=4096,
        checkpoint_every_steps=10_000,
        optimizer=OptimizerConfig(learning_rate=settings.RL_LEARNING_RATE, zero_stage=0),
    )
    return RlStage(
        model=MODEL,
        traces=TracesConfig(prompt="bare", max_calls=settings.MAX_CALLS, error_feedback="last_line"),
        sandbox=SandboxConfig(
            workers=settings.SANDBOX_WORKERS,
            wall_s=settings.WALL_S,
            cpu_s=settings.WALL_S,
            memory_mb=settings.MEMORY_MB,
            output_chars=settings.OUTPUT_CHARS,
            preload=settings.PRELOAD,
        ),
        generation=GenerationConfig(
            engine="transformers",
            max_sequences=settings.PROMPTS_PER_STEP * settings.SAMPLES_PER_PROMPT,
            max_prompt_tokens=256,
            max_response_tokens=settings.MAX_RESPONSE_TOKENS,
        ),
        rl=rl,
    )


def make_racers(root: Path) -> list[Racer]:
    """Teach the model and start both sides on it."""
    subprocess.run([sys.executable, "-m", "benchmarks.trl.world", str(root)], check=True)
    checkpoint, problems, request = root / "checkpoint", root / "problems", root / "request.json"
    request.write_text(make_request(root, configuration(), checkpoint, problems).model_dump_json())
    return [
        start_racer("tirflow", "rl_ours", request),
        start_racer("TRL", "rl_trl", checkpoint, problems / "train.parquet", TRL_MICRO_BATCH),
    ]


def write(racers: list[Racer], version: str, dry: bool) -> float:
    """Write benchmarks/results/rl.md; how many times as fast a step is as TRL's."""
    ours, theirs = racers
    speed_up = median(theirs, "wall_s") / median(ours, "wall_s")
    rates = [median(racer, "sampled_tokens", per="sampling_s") for racer in racers]
    rows = [
        [
            racer.name,
            f"{median(racer, 'wall_s'):.2f}",
            f"{median(racer, 'cpu_s'):.2f}",
            f"{median(racer, 'sampling_s'):.2f}",
            f"{rate:,.0f}",
            f"{median(racer, 'sampled_tokens'):,.0f}",
            f"{median(racer, 'calls'):.2f}",
            f"{median(racer, 'response_tokens'):.0f}",
        ]
        for racer, rate in zip(racers, rates, strict=True)
    ]
    header = ["system", "s a step", "CPU-s a step", "s of sampling", "sampled tokens/s"]
    header += ["sampled tokens a step", "calls a response", "tokens a response"]
    lines = [
        f"`make bench-rl`. A step is {speed_up:.2f} times as fast as TRL's (bar: {BAR:g}), sampling "
        f"{rates[0] / rates[1]:.2f} times.",
        "",
        *markdown_table(header, rows),
        "",
        DIFFERENCES.rstrip(),
    ]
    about = (f"TRL {version}", f"medians of {len(ours.laps)} steps of each, taken in turn")
    write_page("rl", "An RL step with live code against TRL", about, lines, dry)
    return speed_up


def main() -> int:
    """Measure, write, and fail below the bar."""
    options = benchmark_options(__doc__, rounds=12).parse_args()
    version = trl_version(TRL_PYTHON)
    with tempfile.TemporaryDirectory() as root:
        racers = make_racers(Path(root))
        race(racers, options.rounds, warm_up=2)
    return 0 if write(racers, version, options.dry) >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
