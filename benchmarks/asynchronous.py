"""Steps an hour with a sampler beside the trainer, at staleness 0, 1 and 2, and of the colocated step.

    make bench-asynchronous

A tiny model is taught to answer with one to three programs that take 30 ms to 1 s, and then to write a random number of
sentences: lengths with a long tail. Each side is the stage `rl` as it is, several rounds in turn; the first and last
steps of a round are not counted. Each process has one thread of torch. The colocated step answers programs on a
schedule, for equal bits from equal seeds, and so waits for slow ones.

Writes benchmarks/results/asynchronous.md; 25 minutes. Exit code 1 below the bar.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from benchmarks.record import benchmark_options, markdown_table, write_page
from benchmarks.rl_request import make_request
from benchmarks.rounds import quartiles, ratios, turns
from benchmarks.taught import MODEL, encode, train_step
from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.rl.config import RlConfig
from tasks.rl.spec import RlStage
from tasks.shared.artifacts import Store
from tasks.shared.config import GenerationConfig, OptimizerConfig, SandboxConfig, TinyModel, TracesConfig
from tasks.shared.contract.stage import StageRequest, StageResult
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tasks.shared.learning.logprobs import use_packed_attention

BAR = 1.6  # staleness 1 and 2 over 0, same placement
TAIL = 5.0  # p99 over median of the response lengths
SECONDS = (0.03, 0.1, 0.3, 1.0)  # that a program takes
NUM_PROBLEMS, NUM_TRACES = 48, 1500
TEACHING_STEPS, TRACES_PER_STEP = 300, 8
MOST_CALLS, MOST_TOKENS = 3, 700
# One answer of a dozen has many more sentences than the others: sentence and mean number of each kind.
SHORT, LONG, LONG_SHARE = ("It is so. ", 6), ("And more. ", 100), 0.08
PROMPTS, SAMPLES, ROWS = 8, 8, 16  # a quarter of a step's trajectories is sampled side by side
WARM, COOL = 3, 3  # steps at the ends of a round that are not counted


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run a round."""

    name: str
    placement: Literal["inside", "beside"]
    staleness: int


SIDES = (
    Side("colocated", "inside", 0),
    Side("staleness 0", "beside", 0),
    Side("staleness 1", "beside", 1),
    Side("staleness 2", "beside", 2),
)


def problem(number: int) -> str:
    """The problem as the model reads it: it names the calls and the time that each takes."""
    return f"Number {number}: {1 + number % MOST_CALLS} times {SECONDS[number % len(SECONDS)]} s"


def trace(number: int, rng: np.random.Generator) -> str:
    """An answer: programs, then a random number of sentences; right or wrong at random."""
    program = f"import time\ntime.sleep({SECONDS[number % len(SECONDS)]})\nprint(1)"
    call = f"<code>\n```python\n{program}\n```\n</code>\n<interpreter>\n1\n</interpreter>\n"
    sentence, mean = LONG if rng.random() < LONG_SHARE else SHORT
    sentences = sentence * int(rng.geometric(1 / mean))
    return (
        call * (1 + number % MOST_CALLS) + sentences + f"<answer>\n\\boxed{{{rng.integers(1, 3)}}}\n</answer>"
    )


def teach(checkpoint: Path) -> None:
    """Write a checkpoint that answers so."""
    make_tiny_checkpoint(TinyModel(), 0, checkpoint)
    tokenizer, model = load_tokenizer(checkpoint), load_model(checkpoint, MODEL)
    rng = np.random.default_rng(0)
    numbers = [index % NUM_PROBLEMS for index in range(NUM_TRACES)]
    sequences = [encode(tokenizer, problem(n), trace(n, rng), MOST_TOKENS) for n in numbers]
    use_packed_attention(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(TEACHING_STEPS):
        chosen = rng.choice(NUM_TRACES, TRACES_PER_STEP, replace=False)
        train_step(model, optimizer, [sequences[index] for index in chosen])
    save_checkpoint(model, tokenizer, checkpoint)


def write_problems(directory: Path) -> None:
    """The problems as stage `rl` reads them."""
    directory.mkdir()
    rows = [
        {"id": f"p/{i}", "problem": problem(i), "answer": "1", "source": "benchmark", "family": ""}
        for i in range(NUM_PROBLEMS)
    ]
    pd.DataFrame(rows).to_parquet(directory / "train.parquet")


def configuration(side: Side, steps: int) -> RlStage:
    """A round of one side."""
    return RlStage(
        model=MODEL,
        traces=TracesConfig(prompt="bare", max_calls=MOST_CALLS),
        sandbox=SandboxConfig(workers=16, memory_mb=512, preload=("time",)),
        generation=GenerationConfig(
            engine="transformers",
            placement=side.placement,
            max_sequences=ROWS,
            max_prompt_tokens=64,
            max_response_tokens=MOST_TOKENS,
        ),
        rl=RlConfig(
            algorithm="ppo",  # as ReTool trains: a critic learns beside the policy
            rounds=1,
            steps_per_round=steps,
            prompts_per_step=PROMPTS,
            samples_per_prompt=SAMPLES,
            staleness=side.staleness,
            update_in_flight=side.staleness > 0,
            filter_void_turns=False,
            drop_equal_rewards=False,
            tokens_per_micro_batch=4096,
            checkpoint_every_steps=steps,
            # so small that every side goes on sampling from nearly the same policy
            optimizer=OptimizerConfig(learning_rate=1e-6, zero_stage=0),
        ),
    )


@dataclass(frozen=True, slots=True)
class Lap:
    """One round."""

    seconds: list[float]  # of each counted step
    timing: list[dict[str, Any]]  # of the counted steps
    lengths: list[int]  # response tokens of all trajectories


def run(request: StageRequest) -> Lap:
    """Run a round in a process of its own."""
    directory = Path(request.scratch)
    directory.mkdir()
    (directory / "request.json").write_text(request.model_dump_json())
    stage = subprocess.run(
        [sys.executable, "-m", "tasks.rl.main", str(directory / "request.json")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    events = [json.loads(line) for line in stage.stdout.splitlines()]
    ends = [event["time"] for event in events if event["event"] == "progress"]
    seconds = [after - before for before, after in pairwise(ends)]
    outputs = StageResult.model_validate_json((directory / "result.json").read_text()).outputs
    rollouts = Store(request.store).fetch(outputs["rollouts"])
    timing = [json.loads(line) for line in (rollouts / "circumstances/timing.jsonl").read_text().splitlines()]
    rows = pd.read_parquet(rollouts / "train.parquet", columns=["response_ids"])
    return Lap(seconds[WARM - 1 : -COOL], timing[WARM:-COOL], [len(ids) for ids in rows.response_ids])


def write(laps: dict[str, list[Lap]], loads: list[float], dry: bool) -> bool:
    """Write benchmarks/results/asynchronous.md; whether every bar is held."""
    rows = []
    for name, own in laps.items():
        timing = [step for lap in own for step in lap.timing]
        num_groups = PROMPTS * len(timing)
        num_dropped = sum(step.get("dropped_groups", 0) for step in timing)
        rows.append(
            [
                name,
                quartiles([3600 / seconds for lap in own for seconds in lap.seconds], digits=0),
                *(_mean(timing, key, share) for key, share in MEASURED),
                f"{100 * num_dropped / (num_groups + num_dropped):.1f} %",
            ]
        )
    rates = {name: [3600 / statistics.median(lap.seconds) for lap in own] for name, own in laps.items()}
    gains = {
        (name, other): ratios(rates[name], rates[other])
        for name in ("staleness 1", "staleness 2")
        for other in ("staleness 0", "colocated")
    }
    lengths = [length for own in laps.values() for lap in own for length in lap.lengths]
    median, p99 = np.percentile(lengths, [50, 99])
    header = [
        "",
        "steps an hour [quartiles]",
        "trainer idle",
        "sampler idle",
        "sampled/s",
        "trained/s",
        "dropped",
    ]
    lines = ["", *__doc__.split("\n\n")[2].splitlines(), "", *markdown_table(header, rows), ""]
    lines += markdown_table(
        ["ratio of a turn's medians", "median [quartiles]"],
        [(f"{name} over {other}", quartiles(gain)) for (name, other), gain in gains.items()],
    )
    lines += [
        "",
        f"Response tokens: median {median:.0f}, p99 {p99:.0f}, {p99 / median:.1f} times that (at least {TAIL:.0f}). "
        f"PPO; {PROMPTS} x {SAMPLES} trajectories a step, {ROWS} side by side; sampled and trained are tokens. "
        f"Weights go to running requests. Bar: {BAR} over staleness 0.",
    ]
    about = (f"{torch.__version__} of torch", f"load {min(loads):.1f} to {max(loads):.1f}")
    write_page("asynchronous", "Asynchronous RL", about, lines, dry)
    faster = all(
        statistics.median(gain) >= BAR for (_, other), gain in gains.items() if other == "staleness 0"
    )
    return faster and p99 / median >= TAIL


MEASURED = (
    ("trainer_idle", True),
    ("sampler_idle", True),
    ("sampling_tokens_per_s", False),
    ("training_tokens_per_s", False),
)


def _mean(timing: list[dict[str, Any]], key: str, share: bool) -> str:
    values = [line[key] for line in timing if key in line]
    if not values:
        return "-"
    mean = statistics.mean(values)
    return f"{100 * mean:.0f} %" if share else f"{mean:.0f}"


def main() -> int:
    """Run every side in turn, write, and fail below a bar."""
    parser = benchmark_options(__doc__, rounds=3)
    parser.add_argument("--steps", type=int, default=14, help="of a round")
    options = parser.parse_args()
    laps: dict[str, list[Lap]] = {side.name: [] for side in SIDES}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        checkpoint, problems = root / "taught", root / "problems"
        torch.set_num_threads(1)
        teach(checkpoint)
        write_problems(problems)
        for turn, side in turns(SIDES, options.rounds):
            config, scratch = configuration(side, options.steps), f"{side.name}-{turn}"
            request = make_request(root, config, checkpoint, problems, seed=turn, scratch=scratch)
            laps[side.name].append(run(request))
            loads.append(os.getloadavg()[0])
            print(f"turn {turn + 1}, {side.name}: {laps[side.name][-1].seconds}", file=sys.stderr)
    return 0 if write(laps, loads, options.dry) else 1


if __name__ == "__main__":
    raise SystemExit(main())
