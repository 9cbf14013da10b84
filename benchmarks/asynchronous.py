"""Steps an hour with a sampler beside the trainer, at staleness 0, 1 and 2, and of the colocated step.

    make bench-asynchronous

A tiny model is taught to answer with one to three programs that take 30 ms to 1 s, and then to go on for as long as
chance has it: lengths with a long tail. Each side is the stage `rl` as it is, several rounds in turn, so that noise of
the machine falls on all alike; its first and last steps are not counted. Each process has a thread of torch. The
colocated step answers programs on a schedule, for equal bits from equal seeds, and so waits for slow ones.

Writes benchmarks/results/asynchronous.md; 25 minutes. Exit code 1 below the bar.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.record import environment_versions, headline, markdown_table, write_page
from tasks.prepare.tiny_model import make_tiny_checkpoint
from tasks.rl.spec import RlStage
from tasks.shared.artifacts import ArtifactRef, Provenance, Store
from tasks.shared.config import (
    GenerationConfig,
    ModelConfig,
    OptimizerConfig,
    RlConfig,
    SandboxConfig,
    TinyModel,
    TracesConfig,
)
from tasks.shared.contract.stage import StageRequest, StageResult
from tasks.shared.learning.checkpoints import load_model, load_tokenizer, save_checkpoint
from tasks.shared.learning.logprobs import token_logprobs, use_packed_attention
from tasks.shared.learning.packing import TrainSequence, pack
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_trace

BAR = 1.6  # staleness 1 and 2 over 0, same placement
TAIL = 5.0  # p99 over median of the response lengths
MODEL = ModelConfig(source="tiny", dtype="float32")
SHAPE = TinyModel(hidden_size=128, layers=4)
SECONDS = (0.03, 0.1, 0.3, 1.0)  # that a program takes
NUM_PROBLEMS, TRACES, TEACHING, TAUGHT_AT_ONCE = 48, 1500, 300, 8
MOST_CALLS, MOST_TOKENS = 3, 700
# One answer of a dozen has many more sentences than the others: which kind it is, and of each how many, is chance.
SHORT, LONG, LONG_SHARE = ("It is so. ", 6), ("And more. ", 100), 0.08
PROMPTS, SAMPLES, ROWS = 8, 8, 16  # a quarter of a step's trajectories is sampled side by side
WARM, COOL = 3, 3  # steps at the ends of a round that are not counted


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run a round."""

    name: str
    placement: str
    staleness: int
    threads: int  # of torch, in each process


SIDES = (
    Side("colocated", "inside", 0, 1),  # no faster with two threads
    Side("staleness 0", "beside", 0, 1),
    Side("staleness 1", "beside", 1, 1),
    Side("staleness 2", "beside", 2, 1),
)


def problem(number: int) -> str:
    """What is asked: calls and the time they take are in it."""
    return f"Number {number}: {1 + number % MOST_CALLS} times {SECONDS[number % len(SECONDS)]} s"


def trace(number: int, rng: np.random.Generator) -> str:
    """An answer: programs, then sentences for as long as chance has it; right or wrong by chance."""
    program = f"import time\ntime.sleep({SECONDS[number % len(SECONDS)]})\nprint(1)"
    call = f"<code>\n```python\n{program}\n```\n</code>\n<interpreter>\n1\n</interpreter>\n"
    sentence, mean = LONG if rng.random() < LONG_SHARE else SHORT
    sentences = sentence * int(rng.geometric(1 / mean))
    return (
        call * (1 + number % MOST_CALLS) + sentences + f"<answer>\n\\boxed{{{rng.integers(1, 3)}}}\n</answer>"
    )


def teach(directory: Path) -> None:
    """Write a checkpoint that answers so."""
    make_tiny_checkpoint(SHAPE, 0, directory)
    tokenizer, model = load_tokenizer(directory), load_model(directory, MODEL)
    rng = np.random.default_rng(0)
    sequences = []
    for index in range(TRACES):
        number = index % NUM_PROBLEMS
        known = encode_trace(
            tokenizer, DIALECTS["retool"], problem(number), trace(number, rng), instructed=False
        )
        ids = (known.prompt_ids + known.response_ids)[:MOST_TOKENS]
        loss_mask = ((False,) * len(known.prompt_ids) + known.loss_mask)[: len(ids)]
        sequences.append(TrainSequence(np.array(ids), np.array(loss_mask)))
    use_packed_attention(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(TEACHING):
        taught = [sequences[i] for i in rng.choice(len(sequences), TAUGHT_AT_ONCE, replace=False)]
        [row] = pack(taught, sum(len(sequence.ids) for sequence in taught))
        loss = -token_logprobs(model, row).sum() / row.num_loss_tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    save_checkpoint(model, tokenizer, directory)


def publish(root: Path, world: Path) -> dict[str, ArtifactRef]:
    """The checkpoint in `world`, taught if it is not there, and the problems, in a store under `root`."""
    store = Store(str(root / "store"))
    provenance = Provenance(stage="benchmark", config={}, seed=0, inputs={})
    inputs = {}
    with store.staging("checkpoint") as directory:
        if not (world / "config.json").is_file():
            teach(world)
        shutil.copytree(world, directory, dirs_exist_ok=True)
        inputs["checkpoint"] = store.publish("checkpoint", directory, provenance, {})
    rows = [
        {"id": f"p/{i}", "problem": problem(i), "answer": "1", "source": "benchmark", "family": ""}
        for i in range(NUM_PROBLEMS)
    ]
    with store.staging("problems") as directory:
        pd.DataFrame(rows).to_parquet(directory / "train.parquet")
        inputs["problems"] = store.publish("problems", directory, provenance, {})
    return inputs


def make_request(
    root: Path, inputs: dict[str, ArtifactRef], side: Side, turn: int, steps: int
) -> StageRequest:
    """A round of one side; other samples in each turn, the same for every side."""
    config = RlStage(
        model=MODEL,
        traces=TracesConfig(prompt="bare", max_calls=MOST_CALLS),
        sandbox=SandboxConfig(workers=16, memory_mb=512, preload=("time",)),
        generation=GenerationConfig(
            engine="transformers",
            placement=side.placement,  # type: ignore[arg-type]
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
    return StageRequest(
        stage="rl",
        run="benchmark",
        config=config.model_dump(mode="json"),
        inputs=inputs,
        seed=turn,
        store=str(root / "store"),
        scratch=str(root / f"{side.name}-{turn}"),
    )


@dataclass(frozen=True, slots=True)
class Lap:
    """One round."""

    seconds: list[float]  # of each counted step
    timing: list[dict[str, Any]]  # of the counted steps
    lengths: list[int]  # response tokens of all trajectories


def run(root: Path, request: StageRequest, side: Side) -> Lap:
    """Run a round in a process of its own."""
    directory = Path(request.scratch)
    directory.mkdir()
    (directory / "request.json").write_text(request.model_dump_json())
    stage = subprocess.run(
        [sys.executable, "-m", "tasks.rl.main", str(directory / "request.json")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": str(side.threads), "TOKENIZERS_PARALLELISM": "false"},
    )
    events = [json.loads(line) for line in stage.stdout.splitlines()]
    ends = [event["time"] for event in events if event["event"] == "progress"]
    seconds = [after - before for before, after in pairwise(ends)]
    outputs = StageResult.model_validate_json((directory / "result.json").read_text()).outputs
    rollouts = Store(str(root / "store")).fetch(outputs["rollouts"])
    timing = [json.loads(line) for line in (rollouts / "circumstances/timing.jsonl").read_text().splitlines()]
    rows = pd.read_parquet(rollouts / "train.parquet", columns=["response_ids"])
    return Lap(seconds[WARM - 1 : -COOL], timing[WARM:-COOL], [len(ids) for ids in rows.response_ids])


def page(laps: dict[str, list[Lap]], loads: list[float]) -> tuple[list[str], bool]:
    """The lines of the results page, and whether every bar is held."""
    rates = {name: [3600 / statistics.median(lap.seconds) for lap in made] for name, made in laps.items()}
    rows = []
    for name, made in laps.items():
        seconds = [s for lap in made for s in lap.seconds]
        timing = [line for lap in made for line in lap.timing]
        low, middle, high = np.percentile(seconds, [75, 50, 25])
        groups = PROMPTS * len(timing)
        dropped = sum(line.get("dropped_groups", 0) for line in timing)
        rows.append(
            [
                name,
                f"{3600 / middle:.0f} [{3600 / low:.0f}, {3600 / high:.0f}]",
                *(_mean(timing, key, share) for key, share in MEASURED),
                f"{100 * dropped / (groups + dropped):.1f} %",
            ]
        )
    ratios, held = [], True
    for name in ("staleness 1", "staleness 2"):
        for other in ("staleness 0", "colocated"):
            found = [a / b for a, b in zip(rates[name], rates[other], strict=True)]
            low, middle, high = np.percentile(found, [25, 50, 75])
            ratios.append([f"{name} over {other}", f"{middle:.2f} [{low:.2f}, {high:.2f}]"])
            held = held and (other != "staleness 0" or middle >= BAR)
    lengths = [length for made in laps.values() for lap in made for length in lap.lengths]
    median, p99 = np.percentile(lengths, [50, 99])
    about = headline(
        environment_versions(), f"{torch.__version__} of torch", f"load {min(loads):.1f} to {max(loads):.1f}"
    )
    lines = ["# Asynchronous RL", "", about, "", *__doc__.split("\n\n")[2].splitlines(), ""]
    lines += markdown_table(
        [
            "",
            "steps an hour [quartiles]",
            "trainer idle",
            "sampler idle",
            "sampled/s",
            "trained/s",
            "dropped",
        ],
        rows,
    )
    lines += ["", *markdown_table(["ratio of a turn's medians", "median [quartiles]"], ratios), ""]
    lines += [
        f"Response tokens: median {median:.0f}, p99 {p99:.0f}, {p99 / median:.1f} times that (at least {TAIL:.0f}). "
        f"PPO; {PROMPTS} x {SAMPLES} trajectories a step, {ROWS} side by side; sampled and trained are tokens. "
        f"Weights go to running requests. Bar: {BAR} over staleness 0."
    ]
    return lines, held and p99 / median >= TAIL


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
    """Run every side in turn; the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=14, help="of a round")
    parser.add_argument("--world", type=Path, help="folder that keeps the taught model for the next time")
    arguments = parser.parse_args()
    laps: dict[str, list[Lap]] = {side.name: [] for side in SIDES}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        torch.set_num_threads(1)
        inputs = publish(root, arguments.world or root / "taught")
        for turn in range(arguments.turns):
            for side in SIDES:
                laps[side.name].append(
                    run(root, make_request(root, inputs, side, turn, arguments.steps), side)
                )
                loads.append(os.getloadavg()[0])
                print(f"turn {turn + 1}, {side.name}: {laps[side.name][-1].seconds}", file=sys.stderr)
    lines, held = page(laps, loads)
    write_page("asynchronous", lines)
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
