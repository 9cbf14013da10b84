"""The training problems with their prompts, and the order in which steps draw them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from tasks.rl.spec import RlStage
from tasks.shared.rows.tables import read_table
from tasks.shared.traces.dialect import dialect_of
from tasks.shared.traces.encoding import encode_prompt


@dataclass(frozen=True, slots=True)
class RlProblem:
    """One training problem, ready to be sampled."""

    id: str
    answer: str  # the reference
    family: str  # in the tiny world, else ""
    prompt_ids: tuple[int, ...]  # (P,)
    text: str = ""  # as in the set


def read_problems(
    directory: Path, tokenizer: PreTrainedTokenizerBase, config: RlStage
) -> tuple[list[RlProblem], int]:
    """The problems of `rl.problems`, or all, with a prompt that fits; and the number with one too long.

    ValueError if there is no problem, or no prompt fits `generation.max_prompt_tokens`.
    """
    sets, most = config.rl.problems, config.generation.max_prompt_tokens
    problems, num_too_long = [], 0
    rows = read_table(directory / "train.parquet")
    chosen = [row for row in rows if not sets or row["source"] in sets]
    if not chosen:
        there = ", ".join(sorted({row["source"] for row in rows}))
        raise ValueError(f"rl.problems: no problem is of {', '.join(sets)}; {directory} has {there}")
    dialect = dialect_of(config.traces, config.sandbox.preload)
    instructed, plain = config.traces.prompt == "instructed", config.traces.prompt == "plain"
    for row in chosen:
        system = row.get("system") or ""
        ids = encode_prompt(tokenizer, dialect, row["problem"], instructed, system, plain)
        if len(ids) > most:
            num_too_long += 1
        else:
            problems.append(RlProblem(row["id"], row["answer"], row["family"] or "", ids, row["problem"]))
    if not problems:
        raise ValueError(
            f"{directory}: no problem's prompt has at most generation.max_prompt_tokens = {most} tokens; raise it"
        )
    return problems, num_too_long


def require_problems(problems: Sequence[RlProblem], count: int) -> None:
    """ValueError if there are fewer problems than the `count` that a step draws."""
    if len(problems) < count:
        raise ValueError(f"rl.prompts_per_step = {count}, but there are {len(problems)} problems; lower it")


def draw_problems(problems: Sequence[RlProblem], count: int, step: int, seed: int) -> list[RlProblem]:
    """The `count` problems of step `step` (from 0, over all rounds): a new order every epoch, none twice in a step.

    Depends only on the arguments, so the step is the whole data cursor. The remainder of an epoch that does not fill a
    step is dropped; it differs between epochs. `require_problems` must have passed.
    """
    steps_per_epoch = len(problems) // count
    assert steps_per_epoch > 0, (len(problems), count)
    epoch, place = divmod(step, steps_per_epoch)
    order = _random(seed, epoch).permutation(len(problems))
    return [problems[i] for i in order[place * count : (place + 1) * count]]


def draw_others(
    problems: Sequence[RlProblem], count: int, tried: Sequence[RlProblem], step: int, attempt: int, seed: int
) -> list[RlProblem]:
    """Up to `count` problems that step `step` has not tried, in an order that depends on step and attempt.

    They are drawn from the whole set, not from the next step's share, so the step stays the whole data cursor.
    """
    known = {problem.id for problem in tried}
    rest = [problem for problem in problems if problem.id not in known]
    return [rest[i] for i in _random(seed, step, attempt).permutation(len(rest))[:count]]


def _random(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds)))


def sample_seed(seed: int, step: int, place: int, sample: int) -> int:
    """The seed of one trajectory, from the run's seed, the step, the problem's place in the step and the sample."""
    return int(np.random.SeedSequence([seed, step, place, sample]).generate_state(1, np.uint64)[0])
