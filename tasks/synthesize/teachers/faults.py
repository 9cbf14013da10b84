"""How the scripted teacher errs: pure functions of a text and a random source.

Each makes a trace that verification must reject, whatever the draw: the tests hold it to that.
"""

import random

from tasks.shared.traces.dialect import Dialect


def break_program(program: str, rng: random.Random) -> str:
    """A version of a program that does not run: the last bracket left out, or `print` misspelt."""
    assert program.endswith(")") and "print(" in program, program
    if rng.random() < 0.5:
        return program[:-1]
    return program.replace("print(", "prnt(")


def other_answer(answer: str, rng: random.Random) -> str:
    """An integer from 0 to 999 that is not `answer`."""
    draw = str(rng.randrange(999))
    return "999" if draw == answer else draw


def forge_output(stdout: str, answer: str, rng: random.Random) -> tuple[str, str]:
    """Replace what a program printed by an output that was never produced.

    Half of the forgers believe their own output, half give the right answer all the same.

    Returns:
        The answer that the trace will give, and the forged output.
    """
    real = stdout.strip()
    assert real, "a program of a family prints its result"
    forged = other_answer(real, rng)
    answer = forged if rng.random() < 0.5 else answer
    return answer, stdout.replace(real, forged)


def break_tags(trace: str, dialect: Dialect, rng: random.Random) -> str:
    """Leave out or damage one tag of a trace, so that it no longer follows its dialect."""
    damaged = []
    for tag in dialect.marks:
        start = trace.find(tag)
        if start >= 0:
            ways = dict.fromkeys(("", tag[:-1], tag.upper()))
            damaged += [trace[:start] + way + trace[start + len(tag) :] for way in ways if way != tag]
    return rng.choice([text for text in damaged if not dialect.is_followed_by(text)])
