"""8-gram decontamination of traces: a teacher may quote an evaluation problem that it has by heart."""

from collections.abc import Iterable, Mapping

from tasks.shared.rows.ngrams import ngrams


def evaluation_grams(problems: Iterable[tuple[str, str]], n: int) -> dict[str, str]:
    """Each n-gram of the evaluation problems, given as (name, text), with the problem that has it first."""
    grams: dict[str, str] = {}
    for name, text in problems:
        for gram in ngrams(text, n):
            grams.setdefault(gram, name)
    return grams


def shared_gram(texts: Iterable[str], grams: Mapping[str, str], n: int) -> tuple[str, str] | None:
    """The first n-gram of any of the texts that an evaluation problem has, with that problem's name."""
    for text in texts:
        for gram in ngrams(text, n):
            if gram in grams:
                return gram, grams[gram]
    return None
