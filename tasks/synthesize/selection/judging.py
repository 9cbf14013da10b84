"""Votes of a judge model on the code of a trace: is it new work, and does it matter? (OpenMathReasoning)

The stage asks a judge only about traces that passed the quality filters.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from tasks.synthesize.traces import Checked, Reason, TrainingProblem, Verdict

THREADS = 32  # they wait for the judge's endpoint, which limits the rate itself


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer of the judge."""

    novelty: bool  # the code finds something that the text did not already have
    significance: bool  # the solution would be harder without it


class Judge(Protocol):
    """A model that judges code in traces. Called from several threads."""

    def vote(self, problem: TrainingProblem, trace: str) -> Sequence[Vote]:
        """The votes on one trace; none if the judge gave no usable answer."""


def judge_code(checked: Sequence[Checked], judge: Judge, majority: float) -> list[Checked]:
    """Reject traces with less than `majority` of the votes for novelty or for significance."""

    def judged(entry: Checked) -> Checked:
        written, verdict = entry
        if not verdict.accepted or not verdict.block_status:
            return entry
        return written, _after_votes(verdict, judge.vote(written.problem, verdict.trace), majority)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(judged, checked))


def _after_votes(verdict: Verdict, votes: Sequence[Vote], majority: float) -> Verdict:
    """The verdict after the votes; without a usable vote the trace is rejected."""
    if not votes:
        return replace(verdict, reason=Reason.VOTED_OUT, detail="the judge gave no usable vote")
    novelty = sum(vote.novelty for vote in votes) / len(votes)
    significance = sum(vote.significance for vote in votes) / len(votes)
    scores = replace(verdict.scores, novelty=novelty, significance=significance)
    if min(novelty, significance) >= majority:
        return replace(verdict, scores=scores)
    detail = f"novel {novelty:.0%}, significant {significance:.0%} of {len(votes)} votes"
    return replace(verdict, reason=Reason.VOTED_OUT, detail=detail, scores=scores)
