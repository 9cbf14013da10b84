"""Labelled traces, generated: good ones of many kinds, and the same with every fault that execution can detect.

Outputs are known by construction; no sandbox runs. A fault changes the draft of a trace (programs, outputs, answer) or
its written text; combined faults have one of each. The dialect is `retool`, stateless, with at most 4 calls.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.traces import Reason, TrainingProblem, WrittenTrace

MAX_CALLS = 4
DIALECT = DIALECTS["retool"]


@dataclass(frozen=True)
class Draft:
    """A trace before it is written as text."""

    blocks: tuple[tuple[str, str], ...]  # program and recorded output of each
    answer: str  # the one the trace gives
    reference: str


@dataclass(frozen=True)
class Labelled:
    """A trace and its faults."""

    written: WrittenTrace
    faults: tuple[str, ...]  # empty: good
    reasons: frozenset[Reason]  # verification may give any of these reasons


# --- good traces: each kind is a function of a random source


def power(rng: Random) -> Draft:
    """One block, one number."""
    a, b, m = rng.randint(12, 99), rng.randint(101, 999), rng.randint(201, 999)
    answer = str(pow(a, b, m))
    return Draft(((f"print(pow({a}, {b}, {m}))", answer),), answer, answer)


def table(rng: Random) -> Draft:
    """Several lines of output, and a second block that reads off the answer."""
    n, k = rng.randint(5, 9), rng.randint(11, 60)
    rows = "\n".join(f"{i} {i * i + k}" for i in range(n))
    total = str(sum(i * i + k for i in range(n)))
    first = f"for i in range({n}):\n    print(i, i * i + {k})"
    return Draft(((first, rows), (f"print(sum(i * i + {k} for i in range({n})))", total)), total, total)


def floats(rng: Random) -> Draft:
    """A float as Python prints it."""
    a = rng.randint(200, 900)
    value = math.sqrt(a) + 0.5
    answer = str(int(value))
    return Draft(((f"import math\nprint(math.sqrt({a}) + 0.5)", str(value)),), answer, answer)


def rounded_float(rng: Random) -> Draft:
    """A float recorded on another machine: the last digits differ, within the tolerance."""
    draft = floats(rng)
    code, output = draft.blocks[0]
    return replace(draft, blocks=((code, str(round(float(output), 9))),))


def correction(rng: Random) -> Draft:
    """A block that fails, with its error recorded, and its correction."""
    draft = power(rng)
    code = draft.blocks[0][0].replace("print", "prnt")
    failed = (code, "NameError: name 'prnt' is not defined")
    return replace(draft, blocks=(failed, *draft.blocks))


def half_way(rng: Random) -> Draft:
    """A block that prints before it fails, then one that does not fail."""
    draft, n = power(rng), rng.randint(10, 99)
    failed = (f"print({n})\nprint({n} // 0)", f"{n}\nZeroDivisionError: integer division or modulo by zero")
    return replace(draft, blocks=(failed, *draft.blocks))


def silent(rng: Random) -> Draft:
    """A block without output, and an output in another alphabet."""
    draft, n = power(rng), rng.randint(10, 99)
    return replace(draft, blocks=((f"x = {n}", ""), (f"print('α =', {n}, 'é')", f"α = {n} é"), *draft.blocks))


def algebra(rng: Random) -> Draft:
    """Sympy, and a list as output."""
    a, b = sorted(rng.sample(range(2, 40), 2))
    code = f"import sympy\nx = sympy.symbols('x')\nprint(sympy.solve((x - {a}) * (x - {b}), x))"
    return Draft(((code, f"[{a}, {b}]"),), str(a + b), str(a + b))


def by_hand(rng: Random) -> Draft:
    """Reasoning without code."""
    answer = str(rng.randint(0, 999))
    return Draft((), answer, answer)


GOOD = (power, table, floats, rounded_float, correction, half_way, silent, algebra, by_hand)


# --- faults of a draft: of the programs, of the recorded outputs, of the answer


def other(number: str, rng: Random) -> str:
    """Another integer."""
    return str((int(number) + rng.randint(1, 500)) % 1000)


def _last(draft: Draft, code: str | None = None, output: str | None = None) -> Draft:
    old_code, old_output = draft.blocks[-1]
    last = (old_code if code is None else code, old_output if output is None else output)
    return replace(draft, blocks=(*draft.blocks[:-1], last))


def forged_output(draft: Draft, rng: Random) -> Draft:
    """The last output is invented; the answer follows from it or is right."""
    output = draft.blocks[-1][1]
    forged = str(float(output) * 1.001) if "." in output else _with_other_number(output, rng)
    return _last(draft, output=forged)


def _with_other_number(output: str, rng: Random) -> str:
    head = output.rstrip("]").rstrip("0123456789")
    number = output[len(head) :].rstrip("]")
    return f"{head}{other(number, rng)}{']' if output.endswith(']') else ''}"


def added_line(draft: Draft, rng: Random) -> Draft:
    """A line that no program printed."""
    return _last(draft, output=f"{draft.blocks[-1][1]}\n{rng.randint(0, 999)}")


def lost_output(draft: Draft, rng: Random) -> Draft:
    """The output is left out."""
    return _last(draft, output="")


def hidden_failure(draft: Draft, rng: Random) -> Draft:
    """The program fails; the recorded output says that it ran."""
    code = draft.blocks[-1][0]
    return _last(
        draft, code=rng.choice((code[:-1], code.replace("print", "prnt"), f"import nothing\n{code}"))
    )


def hidden_exit(draft: Draft, rng: Random) -> Draft:
    """The program prints the recorded output and then fails."""
    return _last(draft, code=f"{draft.blocks[-1][0]}\nraise SystemExit(3)")


def invented_failure(draft: Draft, rng: Random) -> Draft:
    """The program runs; the recorded output says that it failed."""
    return _last(draft, output="ValueError: math domain error")


def lost_variable(draft: Draft, rng: Random) -> Draft:
    """The program needs a variable of an earlier block, but blocks share none."""
    code, output = draft.blocks[-1]
    lines = code.replace("print(", "kept = (", 1) if "for i in range" not in code.split("\n")[0] else code
    return replace(draft, blocks=(*draft.blocks[:-1], (lines, ""), ("print(kept)", output)))


def chance(draft: Draft, rng: Random) -> Draft:
    """The output is random."""
    return _last(draft, code="import random\nprint(random.random())", output=str(rng.random()))


def wrong_program(draft: Draft, rng: Random) -> Draft:
    """The program computes something else; output and answer follow it."""
    wrong = other(draft.reference, rng)
    return replace(_last(draft, code=f"print({wrong})", output=wrong), answer=wrong)


def wrong_answer(draft: Draft, rng: Random) -> Draft:
    """The answer is not the computed value."""
    return replace(draft, answer=other(draft.answer, rng))


def failed_end(draft: Draft, rng: Random) -> Draft:
    """The last block fails, as recorded; nothing supports the answer."""
    return _last(draft, code="print(1 // 0)", output="ZeroDivisionError: integer division or modulo by zero")


def many_calls(draft: Draft, rng: Random) -> Draft:
    """More blocks than are allowed."""
    return replace(draft, blocks=draft.blocks[-1:] * (MAX_CALLS + 1))


def endless(draft: Draft, rng: Random) -> Draft:
    """The program never ends; the recorded output says that it did."""
    return _last(draft, code=f"while True:\n    pass\n{draft.blocks[-1][0]}")


DRAFT_FAULTS: dict[Callable[[Draft, Random], Draft], Reason] = {
    forged_output: Reason.OUTPUT_DIFFERS,
    added_line: Reason.OUTPUT_DIFFERS,
    lost_output: Reason.OUTPUT_DIFFERS,
    hidden_failure: Reason.OUTPUT_DIFFERS,
    hidden_exit: Reason.OUTPUT_DIFFERS,
    invented_failure: Reason.OUTPUT_DIFFERS,
    lost_variable: Reason.OUTPUT_DIFFERS,
    chance: Reason.OUTPUT_DIFFERS,
    wrong_program: Reason.WRONG_ANSWER,
    wrong_answer: Reason.WRONG_ANSWER,
    failed_end: Reason.LAST_BLOCK_FAILED,
    many_calls: Reason.TOO_MANY_CALLS,
}
# verification repeats each, which takes its time limit again
ENDLESS = {endless: Reason.TIMED_OUT}
NEEDS_NO_CODE = (wrong_answer,)


# --- faults of the written text


def without(tag: str) -> Callable[[str, Random], str]:
    """Leave one tag out."""

    def fault(trace: str, rng: Random) -> str:
        places = [place for place in range(len(trace)) if trace.startswith(tag, place)]
        place = rng.choice(places)
        return trace[:place] + trace[place + len(tag) :]

    fault.__name__ = f"without {tag.strip()}"
    return fault


def output_without_block(trace: str, rng: Random) -> str:
    """Output without a block before it."""
    return DIALECT.feedback(str(rng.randint(0, 999))) + trace


def block_without_output(trace: str, rng: Random) -> str:
    """A block without output."""
    return DIALECT.write_call("print(1)") + "\n" + trace


def two_answers(trace: str, rng: Random) -> str:
    """A second box."""
    return trace + f"\nOr \\boxed{{{rng.randint(0, 999)}}}."


def no_answer(trace: str, rng: Random) -> str:
    """It ends before the answer."""
    return trace[: trace.index("<answer>")]


# unclosed output extends to the next output
TEXT_FAULTS: dict[Callable[[str, Random], str], frozenset[Reason]] = {
    fault: frozenset({Reason.BAD_FORMAT, Reason.NO_ANSWER, Reason.OUTPUT_DIFFERS})
    for fault in (
        *map(without, ("<code>", "```python\n", "\n```\n</code>", "</code>", "<interpreter>\n")),
        *map(without, ("\n</interpreter>", "<answer>", "</answer>", "\\boxed")),
        output_without_block,
        block_without_output,
        two_answers,
        no_answer,
    )
}


# --- the set


def write(draft: Draft) -> str:
    """The trace of a draft."""
    parts = [
        f"Step {number} asks for a program.\n{DIALECT.write_call(code)}{DIALECT.feedback(output)}"
        for number, (code, output) in enumerate(draft.blocks, start=1)
    ]
    return "".join([*parts, "This settles it.\n", DIALECT.write_answer(draft.answer)])


def labelled_set(seed: int = 0, num_good: int = 20, num_endless: int = 3) -> list[Labelled]:
    """Each kind of good trace `num_good` times, each fault on each kind that it fits, and pairs of faults."""
    rng = Random(seed)
    labelled = [_label(kind(rng), rng) for kind in GOOD for _ in range(num_good)]
    labelled += _single(rng)
    labelled += _pairs(rng)
    for _ in range(num_endless):
        labelled.append(_label(endless(power(rng), rng), rng, ("endless",), frozenset(ENDLESS.values())))
    return [
        replace(one, written=replace(one.written, id=f"{one.written.problem.id}-{number}/0"))
        for number, one in enumerate(labelled)
    ]


def _single(rng: Random) -> Iterator[Labelled]:
    for kind in GOOD:
        for fault, reason in DRAFT_FAULTS.items():
            if kind is not by_hand or fault in NEEDS_NO_CODE:
                yield _label(fault(kind(rng), rng), rng, (fault.__name__,), frozenset({reason}))
        for change, reasons in TEXT_FAULTS.items():
            if kind is not by_hand or "answer" in change.__name__:
                yield _label(kind(rng), rng, (change.__name__,), reasons, change)


def _pairs(rng: Random) -> Iterator[Labelled]:
    """A fault of the draft with a fault of the text, and with another fault of the draft."""
    for fault, reason in DRAFT_FAULTS.items():
        kind = rng.choice(GOOD[:-1])
        change, reasons = rng.choice(list(TEXT_FAULTS.items()))
        names = (fault.__name__, change.__name__)
        yield _label(fault(kind(rng), rng), rng, names, reasons | {reason}, change)
    for first in (hidden_exit, added_line, lost_output, many_calls, failed_end):
        for second in (wrong_answer, invented_failure, chance):
            reasons = frozenset({DRAFT_FAULTS[first], DRAFT_FAULTS[second]})
            draft = second(first(power(rng), rng), rng)
            yield _label(draft, rng, (first.__name__, second.__name__), reasons | {Reason.OUTPUT_DIFFERS})


def _label(
    draft: Draft,
    rng: Random,
    faults: tuple[str, ...] = (),
    reasons: frozenset[Reason] = frozenset({Reason.ACCEPTED}),
    change: Callable[[str, Random], str] | None = None,
) -> Labelled:
    problem = TrainingProblem("made", "What is asked for?", draft.reference, "made", "")
    trace = write(draft)
    return Labelled(WrittenTrace("made/0", problem, change(trace, rng) if change else trace), faults, reasons)
