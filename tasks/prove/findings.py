"""The result of a check: a row for each kind of evidence, and a difference for each item that does not hold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Kinds of differences. The first four can arise honestly on another machine, but still count as differences.
RUN_TO_RUN = "changes from run to run"  # the program printed different output when it ran again here
CLOCK = "reads the clock, chance or addresses"  # according to names in its source
LIMIT = "met a limit"  # of time or memory, on one side
ROUNDING = "a draw between two tokens"  # the log-probs before it agree
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
    """One item that does not hold."""

    where: str  # such as "demo/rl: held_out/p0/3, call 1"
    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of evidence that was checked."""

    what: str
    checked: int  # number of items
    differences: Sequence[Difference] = ()
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    @property
    def kinds(self) -> dict[str, int]:
        """Number of differences of each kind."""
        return Counter(difference.kind for difference in self.differences)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"holds": self.holds}


def short(text: object) -> str:
    """Return a text as one line of at most 60 characters."""
    line = repr(str(text))
    return line if len(line) <= 60 else f"{line[:57]}..."
