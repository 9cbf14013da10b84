"""Labelled traces for what execution cannot detect: selection's filters and the contradictions of mode `replace`.

Each fault has an obvious form and, in most cases, a sly form that a filter over text or syntax may miss; its figures
are printed, not asserted. All of these traces would pass verification.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from tasks.synthesize.traces import TrainingProblem, WrittenTrace
from tests.unit.synthesize.labelled import DIALECT

EVALUATION = (
    "Let N be the number of ways in which {a} identical lamps can be placed in {b} rooms so that no room is dark.",
    "Alice and Bob play a game with {a} stones; whoever takes the last of {b} piles pays for dinner in Rome.",
    "A convex polygon has {a} sides and {b} of its diagonals are drawn in red ink, none of which cross inside it.",
)
SUBJECTS = (
    "the squares",
    "all cubes",
    "these residues",
    "the divisors",
    "both digits",
    "odd terms",
    "the pairs",
)
VERBS = ("add up", "count", "go through", "list", "compare", "collect", "sort out")
MANNERS = ("one by one", "from the largest down", "without repetition", "in pairs", "modulo the given number")
CLAUSES = (
    "since a closed form is not in sight",
    "because the bound is small enough for it",
    "as the symmetry halves the work",
    "which a machine does faster than I do",
    "so that no case is forgotten",
    "though an argument by parity might do as well",
)
REASONING = "Working modulo {m}, the value must be {wrong} by Fermat, as one sees."
CHINESE = "我们先用程序把所有情况都数一遍，然后再检查结果是否正确。"


@dataclass(frozen=True)
class Draft:
    """A trace of one block before it is written as text."""

    words: str
    code: str
    output: str
    after: str
    answer: str


@dataclass(frozen=True)
class Case:
    """A trace, its fault ("" for none), and whether the fault has its sly form."""

    written: WrittenTrace
    fault: str
    sly: bool = False


def sentence(rng: Random) -> str:
    """A random sentence of reasoning."""
    return f"I {rng.choice(VERBS)} {rng.choice(SUBJECTS)} {rng.choice(MANNERS)}, {rng.choice(CLAUSES)}."


def plain(rng: Random) -> Draft:
    """A good trace."""
    a, n, m = rng.randint(2, 40), rng.randint(60, 400), rng.randint(101, 999)
    value = sum(k * k + a for k in range(n) if k % 3) % m
    code = f"total = 0\nfor k in range({n}):\n    if k % 3:\n        total += k * k + {a}\nprint(total % {m})"
    words = " ".join(sentence(rng) for _ in range(rng.randint(3, 6)))
    return Draft(words, code, str(value), sentence(rng), str(value))


def evaluation_problems(seed: int = 0) -> list[tuple[str, str]]:
    """Id and text of thirty evaluation problems."""
    rng = Random(f"evaluation {seed}")
    texts = [rng.choice(EVALUATION).format(a=rng.randint(5, 90), b=rng.randint(3, 30)) for _ in range(30)]
    return [(f"evaluation/{number}", text) for number, text in enumerate(texts)]


# --- a fault takes a draft, whether its form is sly, and a random source


def trivial(draft: Draft, sly: bool, rng: Random) -> Draft:
    """The program only prints a known value; sly: after a loop that does nothing."""
    printed = f"print({draft.answer})"
    return replace(draft, code=f"for _ in range(3):\n    pass\n{printed}" if sly else printed)


def early_answer(draft: Draft, sly: bool, rng: Random) -> Draft:
    """The answer stands before the code; sly: without the word."""
    claim = f"It must be {draft.answer}." if sly else f"The answer is {draft.answer}, let me check."
    return replace(draft, words=f"{draft.words} {claim}")


def contaminated(draft: Draft, sly: bool, rng: Random) -> Draft:
    """An evaluation problem is quoted; sly: in other words."""
    text = rng.choice(evaluation_problems())[1]
    words = text.split()
    if sly:
        words = [word for place, word in enumerate(words) if place % 5 != 3]
    return replace(draft, words=f"{draft.words} This is like: {' '.join(words)}")


def other_script(draft: Draft, sly: bool, rng: Random) -> Draft:
    """Another language; sly: one name in it."""
    return replace(draft, words=f"{draft.words} {CHINESE[:2] if sly else CHINESE}")


def wrong_reasoning(draft: Draft, sly: bool, rng: Random) -> Draft:
    """The text before the code contradicts the code; no filter detects either form."""
    claim = REASONING.format(m=rng.randint(101, 999), wrong=(int(draft.answer) + 1) % 1000)
    return replace(draft, words=f"{draft.words} {claim}")


FAULTS: dict[str, Callable[[Draft, bool, Random], Draft]] = {
    "trivial code": trivial,
    "answer before code": early_answer,
    "evaluation problem quoted": contaminated,
    "another script": other_script,
    "wrong reasoning": wrong_reasoning,
}


def write(draft: Draft, name: str, answer: str | None = None) -> WrittenTrace:
    """The trace of a draft."""
    block = DIALECT.write_call(draft.code) + DIALECT.feedback(draft.output)
    text = f"{draft.words}\n{block}{draft.after}\n{DIALECT.write_answer(answer or draft.answer)}"
    return WrittenTrace(
        f"{name}/0", TrainingProblem(name, f"What is asked in {name}?", draft.answer, "made", ""), text
    )


def selection_cases(seed: int = 0, num_good: int = 100, num_each: int = 20) -> list[Case]:
    """Good traces, each fault in both forms, and near-duplicates of good traces (sly: half of the words anew)."""
    rng = Random(seed)
    drafts = [plain(rng) for _ in range(num_good)]
    cases = [Case(write(draft, f"good-{number}"), "") for number, draft in enumerate(drafts)]
    for sly in (False, True):
        form = "sly" if sly else "plain"
        for fault, change in FAULTS.items():
            for number in range(num_each):
                written = write(change(plain(rng), sly, rng), f"{fault}-{form}-{number}")
                cases.append(Case(written, fault, sly))
        for number, draft in enumerate(drafts[:num_each]):
            words = f"{sentence(rng)} {sentence(rng)}" if sly else f"Well. {draft.words}"
            again = replace(draft, words=words, after=sentence(rng) if sly else draft.after)
            cases.append(Case(write(again, f"near-duplicate-{form}-{number}"), "near-duplicate", sly))
    return cases


def replace_cases(seed: int = 0, num_each: int = 40) -> list[Case]:
    """Traces whose recorded output is false: what follows builds on it (fault), or does not.

    Sly: what follows uses a value derived from the false one, which itself does not appear.
    """
    rng = Random(seed)
    cases = []
    for number in range(num_each):
        draft = plain(rng)
        false = int(draft.output) + rng.randint(1, 50)
        forged = replace(draft, output=str(false))
        harmless = replace(forged, after="The output settles it.")
        right = replace(forged, after=f"So the value is {draft.answer}.")
        used = replace(forged, after=f"The program says {false}.")
        derived = replace(forged, after=f"Twice this is {2 * false}.")
        for name, one, fault, sly in (
            ("harmless", harmless, "", False),
            ("right", right, "", False),
            ("used", used, "false output used", False),
            ("derived", derived, "false output used", True),
        ):
            cases.append(Case(write(one, f"{name}-{number}"), fault, sly))
    return cases
