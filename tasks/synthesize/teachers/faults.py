"""The faults of the scripted teacher: pure functions of a text and a random source.

Each makes a trace that verification must reject, whatever the draw; tests check this.
"""

import random

from tasks.shared.traces.dialect import Dialect


def break_program(program: str, rng: random.Random) -> str:
    """A version of a program that fails: without the last bracket, or with `print` misspelt."""
    assert program.endswith(")") and "print(" in program, program
    if rng.random() < 0.5:
        return program[:-1]
    return program.replace("print(", "prnt(")


def other_answer(answer: str, rng: random.Random) -> str:
    """An integer from 0 to 999 that is not `answer`."""
    draw = str(rng.randrange(999))
    return "999" if draw == answer else draw


def forge_output(stdout: str, answer: str, rng: random.Random) -> tuple[str, str]:
    """The answer of a trace with a forged output, and that output.

    Half of the traces answer with the forged output, half give the right answer in spite of it.
    """
    real = stdout.strip()
    assert real, "a program of a family prints its result"
    forged = other_answer(real, rng)
    answer = forged if rng.random() < 0.5 else answer
    return answer, stdout.replace(real, forged)


def break_tags(trace: str, dialect: Dialect, rng: random.Random) -> str:
    """Remove or damage one tag of a trace, so that it no longer follows its dialect."""
    damaged = [
        trace.replace(tag, replacement, 1)
        for tag in dialect.marks
        for replacement in dict.fromkeys(("", tag[:-1], tag.upper()))
    ]
    return rng.choice([text for text in damaged if not dialect.is_followed_by(text)])
