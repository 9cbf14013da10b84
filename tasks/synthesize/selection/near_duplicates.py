"""Finds near-duplicates by MinHash: the Jaccard similarity of two texts' shingles, estimated from signatures.

A signature holds, for each of 120 hash functions, the least value over the text's shingles of five tokens. The share of
equal places estimates the similarity with a standard error below 0.046. Two texts are compared if one of 20 bands of 6
places is equal (probability 0.998 at similarity 0.8, 0.014 at 0.3). Of similar texts the first is kept.
"""

import re
from collections import defaultdict
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

SHINGLE = 5
BANDS, ROWS = 20, 6
TOKEN = re.compile(r"\w+|[^\w\s]")
Signature = npt.NDArray[np.uint32]


# factors and offsets of multiply-shift hashing; fixed, so that equal texts have equal signatures
FACTORS, OFFSETS = np.random.default_rng(0).integers(0, 2**64, size=(2, BANDS * ROWS, 1), dtype=np.uint64)
FACTORS |= np.uint64(1)  # odd


def signature(text: str) -> Signature:
    """The MinHash signature of a text, (BANDS * ROWS,)."""
    tokens = TOKEN.findall(text.lower())
    starts = range(max(1, len(tokens) - SHINGLE + 1))
    shingles = {" ".join(tokens[start : start + SHINGLE]) for start in starts}
    digests = b"".join(blake2b(shingle.encode(), digest_size=8).digest() for shingle in shingles)
    values = np.frombuffer(digests, dtype=np.uint64)
    hashed = (FACTORS * values + OFFSETS) >> np.uint64(32)  # (BANDS * ROWS, shingles), modulo 2^64
    return hashed.min(axis=1).astype(np.uint32)


class NearDuplicates:
    """The texts kept so far, to find those that are similar to a new one."""

    def __init__(self, max_similarity: float) -> None:
        self._max_similarity = max_similarity
        self._kept: list[tuple[str, Signature]] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def add(self, name: str, text: str) -> tuple[str, float] | None:
        """Keep a text under its name, or return the name of a similar one that is kept, and the similarity."""
        new = signature(text)
        keys = [(band, new[band * ROWS : (band + 1) * ROWS].tobytes()) for band in range(BANDS)]
        for number in sorted({number for key in keys for number in self._buckets[key]}):
            other, old = self._kept[number]
            similarity = float(np.mean(old == new))
            if similarity >= self._max_similarity:
                return other, similarity
        for key in keys:
            self._buckets[key].append(len(self._kept))
        self._kept.append((name, new))
        return None
