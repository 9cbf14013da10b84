"""What a check has found: a row for each thing that was looked at, a difference for each that does not hold."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Kinds of differences. The first four can come of honest work on another machine, and are differences all the same.
RUN_TO_RUN = "changes from run to run"  # seen: run twice here, the program printed two things
CLOCK = "reads the clock, chance or addresses"  # by the names in its source
LIMIT = "met a limit"  # of time or memory, on one side
ROUNDING = "a draw between two tokens"  # log-probs agree up to it
OUTPUT = "other output"
RECORD = "not as the loop writes it"
GRADE = "other grade"
UNDECIDED = "grader out of time"
STATED = "other than stated"
CHANGED = "changed"
MISSING = "missing or too many"
SANDBOX = "the sandbox failed here"
MODEL = "other model or settings"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that does not hold."""

    where: str  # demo/rl: held_out/p0/3, call 1
    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was looked at."""

    what: str
    checked: int  # how many of it
    differences: Sequence[Difference] = ()
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    @property
    def kinds(self) -> dict[str, int]:
        """How many differences of which kind."""
        found: dict[str, int] = {}
        for difference in self.differences:
            found[difference.kind] = found.get(difference.kind, 0) + 1
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"holds": self.holds}


def short(text: object, most: int = 60) -> str:
    """A text in one line of at most `most` characters."""
    line = repr(str(text))
    return line if len(line) <= most else f"{line[: most - 3]}..."
