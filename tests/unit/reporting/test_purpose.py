"""The code purpose classifier against 204 blocks labelled by hand, and its edges."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tasks.shared.reporting.purpose import Purpose, classify

BLOCKS = Path(__file__).with_name("purpose_blocks.txt")


def labelled() -> list[tuple[Purpose, str, str]]:
    """(label, text before, code) of every block."""
    found = []
    for part in re.split(r"(?m)^## ", BLOCKS.read_text(encoding="utf-8"))[1:]:
        head, code = part.split("\n", 1)
        label, before = head.split(" | ", 1)
        found.append((Purpose(label), before, code))
    return found


def test_agreement_with_the_labels() -> None:
    """At least 90 % overall, and no purpose is mostly missed or mostly wrong."""
    blocks = labelled()
    assert len(blocks) >= 200
    pairs = Counter((label, classify(code, before)) for label, before, code in blocks)
    agreed = sum(count for (label, found), count in pairs.items() if label is found)
    assert agreed / len(blocks) >= 0.90, sorted((a, b, n) for (a, b), n in pairs.items() if a is not b)
    for purpose in Purpose:
        labels = sum(count for (label, _), count in pairs.items() if label is purpose)
        claims = sum(count for (_, found), count in pairs.items() if found is purpose)
        assert pairs[purpose, purpose] >= 0.8 * labels and pairs[purpose, purpose] >= 0.8 * claims, purpose


@pytest.mark.parametrize("code", ["", "\x00", "(" * 5000, "x = " + "-" * 20000 + "1", "def f(:\n"])
def test_any_text_has_a_purpose(code: str) -> None:
    """Text that breaks a parser does not break the classifier."""
    assert classify(code) in (Purpose.EMPTY, Purpose.UNPARSABLE, Purpose.CALCULATION)


def test_only_the_last_words_before_count() -> None:
    """An earlier paragraph does not count."""
    assert classify("print(1)", "Let me check that.\n\nNow the sum.") is Purpose.CALCULATION
    assert (
        classify("print(1)", "Now the sum.\n\nLet me check that.\n<code>\n```python\n")
        is Purpose.VERIFICATION
    )
