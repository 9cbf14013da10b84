"""Remove training problems that share an n-gram of normalised words with any evaluation problem.

In the tiny world train and held-out problems share their wordings, which is why wordings put a number into every
window of eight words: two problems share an 8-gram only where they share the numbers in it. As in open-r1 and rStar2,
with n = 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.prepare.rows import ProblemRow
from tasks.shared.rows.ngrams import ngrams


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training problem that was removed, and why."""

    row: ProblemRow
    evaluation_id: str  # id and set of the evaluation problem with the same n-gram
    evaluation_source: str
    ngram: str  # the words they share


def decontaminate(
    train: Sequence[ProblemRow], evaluation: Sequence[ProblemRow], n: int
) -> tuple[list[ProblemRow], list[Overlap]]:
    """Split training problems into those kept and those that share an n-gram with an evaluation problem.

    Args:
        train: training problems.
        evaluation: the problems of every evaluation set.
        n: words in a gram.
    """
    seen: dict[str, ProblemRow] = {}
    for row in evaluation:
        for gram in ngrams(row.problem, n):
            seen.setdefault(gram, row)
    kept: list[ProblemRow] = []
    removed: list[Overlap] = []
    for row in train:
        shared = next((gram for gram in ngrams(row.problem, n) if gram in seen), None)
        if shared is None:
            kept.append(row)
        else:
            removed.append(Overlap(row, seen[shared].id, seen[shared].source, shared))
    return kept, removed
