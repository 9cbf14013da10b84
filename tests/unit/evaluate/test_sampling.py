"""Void samples are repeated and never counted wrong; seeds belong to samples; problems are read as prepared.

Small fakes of `Sampler.take` replace engine and sandbox: the loop around it is under test.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.shared.estimates.accuracy import avg_at_k
from tasks.shared.evaluation.problems import EvaluationProblem, SampleRequest, read_problems, sample_requests
from tasks.shared.evaluation.sampling import graded, take_all
from tasks.shared.reporting.samples import Sample
from tasks.shared.reporting.summary import as_evaluation, summarize
from tasks.shared.traces.trajectory import FinishReason
from tests.unit.reporting.making import make_sample
from tests.unit.rl.test_experience import make_trajectory

PROBLEMS = [EvaluationProblem("held_out", f"p{number}", "six times seven?", "42") for number in range(4)]


class FlakySampler:
    """Right answers, from a sandbox that fails so many times for each of the given problems."""

    def __init__(self, failures: dict[str, int]) -> None:
        self.failures = dict(failures)
        self.asked: list[list[tuple[str, str, int]]] = []

    def take(self, requests: Sequence[SampleRequest]) -> Iterator[Sample]:
        """As `Sampler.take`."""
        self.asked.append([request.key for request in requests])
        for request in requests:
            fails = self.failures.get(request.problem.id, 0) > 0
            self.failures[request.problem.id] = self.failures.get(request.problem.id, 0) - 1
            finish = FinishReason.SANDBOX_FAILURE if fails else FinishReason.EOS
            yield make_sample(
                [("print(42)", "sandbox_failure" if fails else "ok", "42")],
                problem_id=request.problem.id,
                sample=request.sample,
                finish=finish,
            )


def test_a_void_sample_is_repeated_alone() -> None:
    """After one outage every sample is valid, and only the void one was taken twice."""
    sampler, kept = FlakySampler({"p2": 1}), list[Sample]()
    outages = take_all(sampler, list(sample_requests(PROBLEMS, 1, 0)), kept.append)
    assert outages == [] and all(sample.correct for sample in kept) and len(kept) == 4
    assert sampler.asked[1:] == [[("held_out", "p2", 0)]]


def test_a_sample_that_stays_void_is_in_no_estimate() -> None:
    """It is not wrong, and the accuracy of the others is unchanged."""
    sampler, kept = FlakySampler({"p2": 99}), list[Sample]()
    outages = take_all(sampler, list(sample_requests(PROBLEMS, 1, 0)), kept.append)
    assert [sample.key for sample in outages] == [("held_out", "p2", 0)] and len(sampler.asked) == 3
    assert not outages[0].correct and outages[0].reason == "void"
    assert avg_at_k(as_evaluation([*kept, *outages])).value == 1.0
    assert (summarize([*kept, *outages])["void"], summarize([*kept, *outages])["samples"]) == (1, 3)


@pytest.mark.parametrize("integer", [False, True])
def test_an_integer_set_takes_no_expression(integer: bool) -> None:
    """The value is right in both cases, but a set of integers requires the number itself."""
    problem = EvaluationProblem("aime", "p", "six times seven?", "42", "", integer)
    trajectory = make_trajectory("p", 0, "\\boxed{6 \\cdot 7}")
    assert graded(trajectory, problem, []).correct is not integer


def test_a_seed_belongs_to_its_sample() -> None:
    """Distinct for every sample, and independent of other samples."""
    many = {request.key: request.seed for request in sample_requests(PROBLEMS, 8, 5)}
    assert len(set(many.values())) == 32
    few = {request.key: request.seed for request in sample_requests(PROBLEMS[2:], 3, 5)}
    assert few.items() <= many.items()
    assert not set(many.values()) & {request.seed for request in sample_requests(PROBLEMS, 8, 6)}


def test_problems_are_read_in_the_order_of_the_sets(tmp_path: Path) -> None:
    """A set of another length than announced is an error that names it."""
    for name in ("b", "a"):
        rows = [
            {"id": f"{name}{i}", "problem": "?", "answer": "1", "source": name, "family": ""}
            for i in range(2)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    sets = [{"name": "b", "rows": 2, "answer": "integer"}, {"name": "a", "rows": 2, "answer": "expression"}]
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    problems = read_problems(tmp_path)
    assert [problem.id for problem in problems] == ["b0", "b1", "a0", "a1"]
    assert [problem.integer for problem in problems] == [True, True, False, False]
    (tmp_path / "sets.json").write_text(json.dumps([{"name": "a", "rows": 500, "answer": "integer"}]))
    with pytest.raises(ValueError, match=r"a\.parquet: 2 rows where sets\.json says 500"):
        read_problems(tmp_path)
