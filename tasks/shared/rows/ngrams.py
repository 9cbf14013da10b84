"""Normalised words and their n-grams: what decontamination of problems and of traces compare (open-r1, rStar2).

Words are runs of letters or of digits, lower case; numbers stay as they are.
"""

import re

WORD = re.compile(r"[^\W\d_]+|\d+")


def words(text: str) -> list[str]:
    """Normalised words of a text: `"Find 3^45 mod 7!"` gives `["find", "3", "45", "mod", "7"]`."""
    return WORD.findall(text.lower())


def ngrams(text: str, n: int) -> list[str]:
    """The n-grams of a text in order; a text of fewer than n words is one gram as a whole.

    Without the latter two equal short problems would pass as different.
    """
    tokens = words(text)
    if len(tokens) <= n:
        return [" ".join(tokens)] if tokens else []
    return [" ".join(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
