"""One family of competition-like problems: parameter ranges, wordings, a reference solver and programs.

A family is data plus two small functions. Wordings and programs are `str.format` templates over the
parameters; an answer is an integer, in the tiny world 0 to 999. `python -m data.problems 3` prints a few.
"""

import hashlib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Params = Mapping[str, int]
MAX_ANSWER = 999
HELD_OUT_ONE_IN = 5


def _phrasing_pattern(phrasing: str) -> str:
    """A regular expression with a group for each parameter; a second mention must agree with the first."""
    pattern = re.escape(phrasing)
    for name in dict.fromkeys(re.findall(r"\{(\w+)\}", phrasing)):
        first, *others = pattern.split(re.escape(f"{{{name}}}"))
        pattern = first + f"(?P<{name}>[0-9]+)" + f"(?P={name})".join(others)
    return pattern


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of problem; each of its problems is one choice of `params` and one of `phrasings`."""

    name: str
    # inclusive bounds of each parameter, in the order in which the wordings name them
    ranges: tuple[tuple[str, int, int], ...]
    # templates of the problem text; numbers stand at most six words apart (see tasks/prepare/decontaminate.py)
    phrasings: tuple[str, ...]
    programs: tuple[str, ...]  # templates of complete programs that print the answer and nothing else
    # templates of programs that run but have a careless mistake
    near_misses: tuple[str, ...]
    solve: Callable[[Params], int]  # reference answer, where possible computed unlike the programs
    # refuses parameters that make no sense or are too easy
    accept: Callable[[Params], bool] = lambda params: True
    max_answer: int = MAX_ANSWER  # largest answer
    # the parameters and every intermediate value that `reasonings` mention
    work: Callable[[Params], Params] = dict
    # templates of reasoning in text alone; none where a family cannot be worked out by hand
    reasonings: tuple[str, ...] = ()

    def sample(self, rng: random.Random) -> dict[str, int]:
        """Draw parameters until they are accepted and the answer lies in 0..max_answer."""
        while True:
            params = {name: rng.randint(low, high) for name, low, high in self.ranges}
            if self.accept(params) and 0 <= self.solve(params) <= self.max_answer:
                return params

    def read_params(self, problem: str) -> dict[str, int] | None:
        """The parameters of a problem in one of this family's wordings; None if it is in none of them."""
        for phrasing in self.phrasings:
            match = re.fullmatch(_phrasing_pattern(phrasing), problem)
            if match:
                return {name: int(value) for name, value in match.groupdict().items()}
        return None

    def is_held_out(self, params: Params) -> bool:
        """Whether these parameters belong to the held-out part; their hash alone decides.

        The split needs no list and no seed, so two sets generated apart can never overlap.
        """
        return int(self.digest(params), 16) % HELD_OUT_ONE_IN == 0

    def digest(self, params: Params) -> str:
        """Sixteen hex digits that name this family with these parameters."""
        values = ",".join(f"{name}={params[name]}" for name, _, _ in self.ranges)
        return hashlib.sha256(f"{self.name}:{values}".encode()).hexdigest()[:16]
