"""Normalised words and their n-grams, which decontamination of problems and traces compares (open-r1, rStar2).

Words are runs of letters or digits in lower case; numbers are kept.
"""

import re
from collections.abc import Container, Iterable
from typing import TypeVar

Owner = TypeVar("Owner")
WORD = re.compile(r"[^\W\d_]+|\d+")


def words(text: str) -> list[str]:
    """Normalised words of a text: `"Find 3^45 mod 7!"` gives `["find", "3", "45", "mod", "7"]`."""
    return WORD.findall(text.lower())


def ngrams(text: str, n: int) -> list[str]:
    """The n-grams of a text in order; a text of fewer than n words is one gram, so that equal short problems match."""
    tokens = words(text)
    if len(tokens) <= n:
        return [" ".join(tokens)] if tokens else []
    return [" ".join(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def gram_owners(texts: Iterable[tuple[Owner, str]], n: int) -> dict[str, Owner]:
    """Each n-gram of the texts with the first owner of a text that has it."""
    owners: dict[str, Owner] = {}
    for owner, text in texts:
        for gram in ngrams(text, n):
            owners.setdefault(gram, owner)
    return owners


def shared_gram(text: str, grams: Container[str], n: int) -> str | None:
    """The first n-gram of a text that is among `grams`; None if there is none."""
    return next((gram for gram in ngrams(text, n) if gram in grams), None)
