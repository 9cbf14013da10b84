"""The teacher's words: short sentences around code, text and answers, each in several versions.

They live beside the problems because two stages read them: `synthesize` writes traces with them and `prepare` trains
the tiny tokenizer on them. Kept short, so that a small model spends its steps on the numbers.
"""

import re

# before a code block
CODE_OPENINGS: tuple[str, ...] = (
    "I will compute this with code.",
    "Let me run a short program.",
    "A program settles this.",
    "I use Python for this.",
    "Let me calculate it in Python.",
)
# before a second program that checks the first
CHECK_OPENINGS: tuple[str, ...] = (
    "I check this in another way.",
    "Let me verify with a second program.",
)
# after a block that failed, before its correction
CORRECTION_OPENINGS: tuple[str, ...] = (
    "That failed. I correct the program.",
    "There is an error. I fix it.",
)
# between the last output and the answer
CODE_CLOSINGS: tuple[str, ...] = (
    "The program gives the answer.",
    "The output is the answer.",
    "This is the result.",
    "So we have the answer.",
)
# reasoning without code: an opening and a closing
TEXT_OPENINGS: tuple[str, ...] = (
    "I can reason this out directly.",
    "Let me think without code.",
    "By hand this is quick.",
    "No program is needed here.",
)
TEXT_CLOSINGS: tuple[str, ...] = (
    "Working through the cases gives the answer.",
    "Step by step the value follows.",
    "After simplifying, one value remains.",
    "Checking the terms leads to the result.",
)

NUMBER = re.compile(r"\d+")


def restate(problem: str) -> str:
    """The problem's numbers in their order, said at the start of a trace: 'Given 57, 49 and 98.'

    Naming what is given before reasoning about it also teaches a small model to copy numbers, which it learns late.
    """
    *first, last = NUMBER.findall(problem)
    return f"Given {', '.join(first)} and {last}." if first else f"Given {last}."
