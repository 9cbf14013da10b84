"""The training problems with their prompts, and the order in which steps draw them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.shared.config import GenerationConfig, TracesConfig
from tasks.shared.rows.tables import read_table
from tasks.shared.traces.dialect import dialect_of
from tasks.shared.traces.encoding import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class RlProblem:
    """One training problem, ready to be sampled."""

    id: str
    answer: str  # the reference
    family: str  # of the tiny world, else ""
    prompt_ids: tuple[int, ...]  # (P,)
    text: str = ""  # as the set has it


def read_problems(
    directory: Path,
    tokenizer: "PreTrainedTokenizerBase",
    traces: TracesConfig,
    generation: GenerationConfig,
    sets: Sequence[str] = (),
    preload: Sequence[str] = (),
) -> tuple[list[RlProblem], int]:
    """The problems whose prompt fits `generation.max_prompt_tokens`, and the number of others. ValueError if none fits.

    `sets`: the problem sets that are read, all if none is named. `preload`: libraries that an instruction names.
    """
    problems, num_too_long = [], 0
    rows = read_table(directory / "train.parquet")
    chosen = [row for row in rows if not sets or row["source"] in sets]
    if not chosen:
        there = ", ".join(sorted({row["source"] for row in rows}))
        raise ValueError(f"rl.problems: no problem is of {', '.join(sets)}; {directory} has {there}")
    for row in chosen:
        dialect = dialect_of(traces, preload)
        ids = encode_prompt(
            tokenizer,
            dialect,
            row["problem"],
            traces.prompt == "instructed",
            row.get("system") or "",
            traces.prompt == "plain",
        )
        if len(ids) > generation.max_prompt_tokens:
            num_too_long += 1
        else:
            problems.append(RlProblem(row["id"], row["answer"], row["family"] or "", ids, row["problem"]))
    if not problems:
        raise ValueError(
            f"{directory}: no problem's prompt has at most generation.max_prompt_tokens = "
            f"{generation.max_prompt_tokens} tokens; raise it"
        )
    return problems, num_too_long


def require_problems(problems: Sequence[RlProblem], count: int) -> None:
    """ValueError if there are fewer problems than the `count` that a step draws."""
    if len(problems) < count:
        raise ValueError(f"rl.prompts_per_step = {count}, but there are {len(problems)} problems; lower it")


def draw_problems(problems: Sequence[RlProblem], count: int, step: int, seed: int) -> list[RlProblem]:
    """The `count` problems of step `step` (from 0, over all rounds): a new order every epoch, none twice in a step.

    Depends only on the arguments, so the step is the whole data cursor. The remainder of an epoch that does not fill a
    step is dropped; it differs between epochs. `require_problems` must hold.
    """
    steps_per_epoch = len(problems) // count
    assert steps_per_epoch > 0, (len(problems), count)
    epoch, place = divmod(step, steps_per_epoch)
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(
        len(problems)
    )
    return [problems[i] for i in order[place * count : (place + 1) * count]]


def draw_others(
    problems: Sequence[RlProblem], count: int, tried: Sequence[RlProblem], step: int, attempt: int, seed: int
) -> list[RlProblem]:
    """Up to `count` problems beside those that step `step` has tried, in an order of the step's and attempt's own.

    They are taken from the whole set, not from the next step's share: the step stays the whole data cursor.
    """
    known = {problem.id for problem in tried}
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, attempt])))
    rest = [problem for problem in problems if problem.id not in known]
    return [rest[i] for i in order.permutation(len(rest))[:count]]


def sample_seed(seed: int, step: int, place: int, sample: int) -> int:
    """The seed of one trajectory, from the run's seed, the step, the problem's place in the step and the sample."""
    return int(np.random.SeedSequence([seed, step, place, sample]).generate_state(1, np.uint64)[0])
