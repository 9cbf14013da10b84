"""The pass rate of a given model on each training problem, from its rollouts or its evaluation.

Problems that it always or never solves teach it little (DemyAgent, rStar2; SimpleTIR keeps 0.1 to 0.9).
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tasks.shared.rows.tables import read_table
from tasks.shared.traces.trajectory import FinishReason
from tasks.synthesize.selection.config import SelectionConfig
from tasks.synthesize.traces import Reason, TrainingProblem

# a file of the artifact, and its column that names a problem
SOURCES = (("samples.parquet", "problem"), ("train.parquet", "problem_id"))


def read_pass_rates(directory: Path) -> dict[str, float]:
    """Share of right samples by problem text (an evaluation) or problem id (rollouts).

    Samples during which the sandbox failed do not count; a void turn is the model's error, so its sample counts.
    Raises ValueError for an artifact that holds neither.
    """
    for name, key in SOURCES:
        if (directory / name).is_file():
            outcomes: dict[str, list[bool]] = defaultdict(list)
            for row in read_table(directory / name):
                if row["finish"] != FinishReason.SANDBOX_FAILURE.value:
                    outcomes[row[key]].append(row["correct"])
            return {problem: sum(right) / len(right) for problem, right in outcomes.items()}
    raise ValueError(
        f"input pass_rates: {directory} has no {' or '.join(name for name, _ in SOURCES)}; "
        "give an evaluation of the training problems or the rollouts of a model"
    )


def rate_of(problem: TrainingProblem, rates: Mapping[str, float]) -> float | None:
    """The pass rate on a problem; None if the given model has no sample of it."""
    return rates.get(problem.id, rates.get(problem.problem))


def judge_difficulty(
    problem: TrainingProblem, rates: Mapping[str, float], config: SelectionConfig
) -> tuple[Reason, str, float | None]:
    """ACCEPTED or why not, a line on it, and the pass rate."""
    rate = rate_of(problem, rates)
    if rate is None:
        return Reason.UNRATED, "the given model has no sample of this problem", None
    if rate <= config.min_pass_rate:
        return Reason.TOO_HARD, f"pass rate {rate:.2f}", rate
    if rate >= config.max_pass_rate:
        return Reason.TOO_EASY, f"pass rate {rate:.2f}", rate
    return Reason.ACCEPTED, "", rate
