"""Seeded generation of problems from the families; train and held-out parameters never meet.

`python -m data.problems 5` prints five problems of each world and split with their answers.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from data.families import HELD_OUT_FAMILIES, HELD_OUT_WORD_FAMILIES, TRAIN_FAMILIES, WORD_FAMILIES, Family


class Split(StrEnum):
    """Which part of the tiny world a problem belongs to."""

    TRAIN = "train"
    HELD_OUT = "held_out"
    HELD_OUT_FAMILY = "held_out_family"


# world -> the families to train on, and those held out whole
WORLDS = {
    "tiny": (TRAIN_FAMILIES, HELD_OUT_FAMILIES),
    "words": (WORD_FAMILIES, HELD_OUT_WORD_FAMILIES),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with its reference answer.

    Example: `Problem("power_mod-3f…", "What is 23^145 modulo 617?", 88, "power_mod", {"a": 23, ...}, 1)`
    """

    id: str
    problem: str  # the text a model is shown
    answer: int  # integer; 0..999 in the tiny world
    family: str  # name of the family, see `data.families`
    params: dict[str, int]
    phrasing: int  # index into the family's wordings


def generate(
    split: Split,
    num_problems: int,
    seed: int,
    families: Sequence[Family] | None = None,
    world: str = "tiny",
) -> list[Problem]:
    """Make `num_problems` different problems of a split; the families (by default the split's own) have equal shares.

    The same arguments give the same list. Parameters of `TRAIN` and `HELD_OUT` are disjoint whatever the seeds.

    Raises:
        ValueError: a family has fewer parameters than problems are asked for.
    """
    if families is None:
        families = WORLDS[world][split is Split.HELD_OUT_FAMILY]
    rng = random.Random(f"{split}:{seed}")
    seen: set[str] = set()
    problems: list[Problem] = []
    for index in range(num_problems):
        problems.append(_draw(families[index % len(families)], split, rng, seen))
    rng.shuffle(problems)
    return problems


def _draw(family: Family, split: Split, rng: random.Random, seen: set[str]) -> Problem:
    for _ in range(2000):
        params = family.sample(rng)
        digest = family.digest(params)
        in_split = split is Split.HELD_OUT_FAMILY or family.is_held_out(params) == (split is Split.HELD_OUT)
        if in_split and digest not in seen:
            seen.add(digest)
            phrasing = rng.randrange(len(family.phrasings))
            return Problem(
                id=f"{family.name}-{digest}",
                problem=family.phrasings[phrasing].format(**params),
                answer=family.solve(params),
                family=family.name,
                params=params,
                phrasing=phrasing,
            )
    raise ValueError(
        f"family {family.name}: no unused parameters left for split {split}; ask for fewer problems or widen its ranges"
    )


def _print_samples(argv: Sequence[str]) -> None:
    num_problems = int(argv[0]) if argv else 5
    for world in WORLDS:
        for split in Split:
            for problem in generate(split, num_problems, seed=0, world=world):
                sys.stdout.write(f"{world} {split.value:16} {problem.answer:6d}  {problem.problem}\n")


if __name__ == "__main__":
    _print_samples(sys.argv[1:])
