"""Resample-on-correct (rStar2, arXiv 2508.20722): of twice the samples keep half, preferring clean code.

An outcome reward alone rewards a correct answer that was reached through failing code as much as a clean one. Choosing
among the correct samples only discourages such code without a penalty that could be gamed.
"""

from collections.abc import Sequence

import numpy as np

from tasks.shared.traces.trajectory import CodeCall

NO_CODE = 0.5  # the penalty of a correct answer without any code
FLOOR = 0.1  # added to a penalty before it is inverted; the paper does not give the weight of a penalty of 0


def code_penalty(calls: Sequence[CodeCall]) -> float:
    """Share of the blocks that did not run to their end; 0.5 if there are none."""
    if not calls:
        return NO_CODE
    return sum(not call.ran for call in calls) / len(calls)


def format_penalty(num_answers: int, num_turns: int) -> float:
    """rStar2's second penalty: 1 without an answer, else min(1, (answers - 1) / turns), which is 0 for one answer.

    Args:
        num_answers: whole answers in the dialect's form; 0 if one is broken.
        num_turns: turns of the model, those that ended in code included.
    """
    return min(1.0, (num_answers - 1) / num_turns) if num_answers else 1.0


def resample_on_correct(
    correct: np.ndarray,
    penalties: np.ndarray,
    valid: np.ndarray,
    num_kept: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """(N,) bool: the rows of one group that are kept, `num_kept` of the valid ones, or all if there are fewer.

    Correct and wrong answers keep their shares, to the nearest row, and at least one row each. Wrong ones are drawn
    uniformly; correct ones one after the other, with a probability proportional to 1 / (penalty + 0.1).

    Args:
        correct: (N,) bool.
        penalties: (N,) float, `code_penalty` of each row, plus `format_penalty` if the recipe asks for it.
        valid: (N,) bool: no outage.
    """
    assert correct.shape == penalties.shape == valid.shape and correct.ndim == 1
    right, wrong = np.flatnonzero(valid & correct), np.flatnonzero(valid & ~correct)
    total = len(right) + len(wrong)
    if total <= num_kept:
        return valid.copy()
    num_right = int(len(right) * num_kept / total + 0.5)
    if len(right) and len(wrong) and num_kept > 1:
        num_right = min(max(num_right, 1), num_kept - 1)
    keep = np.zeros_like(valid)
    if num_right:
        weights = 1.0 / (penalties[right] + FLOOR)
        keep[generator.choice(right, num_right, replace=False, p=weights / weights.sum())] = True
    if num_kept > num_right:
        keep[generator.choice(wrong, num_kept - num_right, replace=False)] = True
    return keep
