"""Normalised words and their n-grams, which decontamination of problems and traces compares (open-r1, rStar2).

Words are runs of letters or digits in lower case; numbers are kept.
"""

import re

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
