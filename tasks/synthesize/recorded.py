"""Compares recorded interpreter output with real output, and finds texts that build on a false output.

Outputs agree if their texts are equal, except that numbers with a point or an exponent may differ by a relative
tolerance. A text contradicts the true output if it uses what only the false one shows: a number that neither the true
output nor the text before it gives (a rounded number counts as the number it rounds), or a whole line. It also does if
a truth value or the block's failure differs. In doubt a text is rejected: "step 2" after a false "2" builds on it.
"""

import math
import re
import unicodedata

import numpy as np

NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
CITED = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?")
TRUTH = re.compile(r"\b(?:true|false|yes|no)\b", re.IGNORECASE)
FAILED = re.compile(r"\b\w+(?:Error|Exception|Interrupt)\b")
ROUNDING_NOISE = 1e-15  # the largest result of arithmetic in another order that is exactly zero
SHORTEST_LINE = 4


def agree(recorded: str, real: str, float_tolerance: float) -> bool:
    """Whether a recorded output is the real one."""
    # some tokenizers normalise so
    recorded, real = (unicodedata.normalize("NFC", text) for text in (recorded, real))
    if recorded == real:
        return True
    if not float_tolerance or NUMBER.sub("0", recorded) != NUMBER.sub("0", real):
        return False
    pairs = zip(NUMBER.findall(recorded), NUMBER.findall(real), strict=True)
    return all(first == second or _close(first, second, float_tolerance) for first, second in pairs)


def _close(first: str, second: str, tolerance: float) -> bool:
    if first.lstrip("+-").isdigit() or second.lstrip("+-").isdigit():
        return False
    values = float(first), float(second)
    noise = ROUNDING_NOISE if 0.0 in values else 0.0  # two small numbers that differ are two numbers
    return math.isclose(*values, rel_tol=tolerance, abs_tol=noise)


def contradiction(recorded: str, real: str, before: str, after: str) -> str:
    """What the teacher's text `after` the block takes from the false output `recorded`; "" if nothing.

    `real`: the true output. `before`: the problem and the text up to the block, whose numbers may be used.
    """
    if bool(FAILED.search(recorded)) != bool(FAILED.search(real)):
        return "the block fails" if FAILED.search(real) else "the block does not fail"
    truths = [{word.lower() for word in TRUTH.findall(text)} for text in (recorded, real)]
    if truths[0] != truths[1]:
        return f"truth values {sorted(truths[0])} are {sorted(truths[1])}"
    withdrawn, given = _Numbers(recorded), _Numbers(f"{real}\n{before}")
    for cited in _Numbers(after).found:
        if withdrawn.hold(cited) and not given.hold(cited):
            return f"{cited} is used"
    lines = {line.strip() for line in recorded.splitlines()} - {line.strip() for line in real.splitlines()}
    for line in sorted(lines):
        if len(line) >= SHORTEST_LINE and re.search(r"[^\W\d]", line) and line in after:
            return f"{line!r} is used"
    return ""


class _Numbers:
    """The numbers of a text, without their signs. Arrays, because a page of output may meet a page of text."""

    def __init__(self, text: str) -> None:
        self.found = list(dict.fromkeys(number.replace(",", "") for number in CITED.findall(text)))
        self._whole = {number.lstrip("0") for number in self.found if number.isdigit()}
        self._values = np.array([float(number) for number in self.found])
        self._fractions = np.array([float(number) for number in self.found if not number.isdigit()])

    def hold(self, cited: str) -> bool:
        """Whether `cited` is one of them, or one of them rounded to the decimals that `cited` has."""
        if cited.isdigit() and cited.lstrip("0") in self._whole:
            return True
        others = self._fractions if cited.isdigit() else self._values
        decimals = len(cited.partition(".")[2]) if "e" not in cited.lower() else 0
        tolerance = 0.5000001 * 10.0**-decimals if decimals else ROUNDING_NOISE
        with np.errstate(invalid="ignore"):  # two numbers beyond floats are no number apart
            return bool((np.abs(others - float(cited)) <= tolerance).any())
