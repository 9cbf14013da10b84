"""The evaluation sets that `prepare` publishes, and the samples to take on them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.shared.rows.tables import read_table


@dataclass(frozen=True, slots=True)
class EvaluationProblem:
    """One evaluation problem."""

    set: str
    id: str
    problem: str
    answer: str
    family: str = ""
    integer: bool = False  # whether the answer must be an integer literal
    system: str = ""  # its own system message

    @property
    def name(self) -> str:
        """The problem's name among those of all sets."""
        return f"{self.set}/{self.id}"


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to be taken."""

    problem: EvaluationProblem
    sample: int
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """The key of the sample, as in the journal."""
        return (self.problem.set, self.problem.id, self.sample)


def read_problems(directory: Path) -> list[EvaluationProblem]:
    """Every problem of every set, in the order of `sets.json`. ValueError if a set has another number of rows."""
    problems = []
    for entry in json.loads((directory / "sets.json").read_text()):
        name = entry["name"]
        rows = read_table(directory / f"{name}.parquet")
        if len(rows) != entry["rows"]:
            raise ValueError(
                f"{name}.parquet: {len(rows)} rows where sets.json says {entry['rows']}; prepare it again"
            )
        for row in rows:
            optional = {key: row.get(key) or "" for key in ("family", "system")}
            texts = row["id"], row["problem"], row["answer"]
            problems.append(EvaluationProblem(name, *texts, integer=entry["answer"] == "integer", **optional))
    return problems


def sample_requests(
    problems: list[EvaluationProblem], samples_per_problem: int, seed: int
) -> Iterator[SampleRequest]:
    """Every sample, with a seed that depends on the run's seed and the sample's key alone."""
    for problem in problems:
        for sample in range(samples_per_problem):
            key = f"{seed}\0{problem.set}\0{problem.id}\0{sample}"
            digest = hashlib.sha256(key.encode()).digest()
            yield SampleRequest(problem, sample, int.from_bytes(digest[:8], "little") >> 1)
