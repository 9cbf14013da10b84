"""The evaluation sets as they come from `prepare`, and the samples that are asked of them."""

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
    integer: bool = False  # whether only an integer literal answers it
    system: str = ""  # its own system message


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to be taken."""

    problem: EvaluationProblem
    sample: int
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """As in the journal."""
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
        integer = entry["answer"] == "integer"
        problems += [
            EvaluationProblem(
                name,
                row["id"],
                row["problem"],
                row["answer"],
                row.get("family") or "",
                integer,
                row.get("system") or "",
            )
            for row in rows
        ]
    return problems


def sample_requests(
    problems: list[EvaluationProblem], samples_per_problem: int, seed: int
) -> Iterator[SampleRequest]:
    """Every sample with a seed of its own, from the run's seed and its key: the same whatever else is sampled."""
    for problem in problems:
        for sample in range(samples_per_problem):
            key = f"{seed}\0{problem.set}\0{problem.id}\0{sample}"
            digest = hashlib.sha256(key.encode()).digest()
            yield SampleRequest(problem, sample, int.from_bytes(digest[:8], "little") >> 1)
