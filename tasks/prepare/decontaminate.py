"""Removes training problems that share an n-gram of normalised words with any evaluation problem.

As in open-r1 and rStar2, with n = 8. In the tiny world training and held-out problems share their wordings, so each
wording puts a number into every window of eight words: two problems share an 8-gram only if they share its numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.prepare.rows import ProblemRow
from tasks.shared.rows.ngrams import gram_owners, shared_gram


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training problem that was removed, and why."""

    row: ProblemRow
    evaluation_id: str  # id and set of the evaluation problem with the same n-gram
    evaluation_source: str
    ngram: str  # the words that both have


def decontaminate(
    train: Sequence[ProblemRow], evaluation: Sequence[ProblemRow], n: int
) -> tuple[list[ProblemRow], list[Overlap]]:
    """Split training problems into those kept and those that share an n-gram with an evaluation problem."""
    owners = gram_owners(((row, row.problem) for row in evaluation), n)
    kept: list[ProblemRow] = []
    removed: list[Overlap] = []
    for row in train:
        shared = shared_gram(row.problem, owners, n)
        if shared is None:
            kept.append(row)
        else:
            removed.append(Overlap(row, owners[shared].id, owners[shared].source, shared))
    return kept, removed
