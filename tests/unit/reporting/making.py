"""Samples for tests: text of a real dialect with matching token ends and masks, and any outcomes."""

import random

from tasks.shared.reporting.samples import Sample
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.trajectory import CodeCall, FinishReason

RETOOL = DIALECTS["retool"]
WORDS = (
    *("first", "the", "number", "of", "ways", "is", "taken", "modulo", "prime", "so", "we", "count"),
    *("each", "digit", "sum", "and", "then", "check", "every", "residue"),
)


def make_sample(
    blocks: list[tuple[str, str, str]],
    answer: str = "42",
    predicted: str | None = "42",
    *,
    problem_id: str = "p0",
    sample: int = 0,
    finish: FinishReason = FinishReason.EOS,
    words: str = "Let me compute this.\n",
    set_name: str = "held_out",
    problem: str = "What is six times seven?",
) -> Sample:
    """A sample with (code, status, observation) blocks; one token a character, so positions are easy to follow."""
    text, sampled, calls = "", list[bool](), list[CodeCall]()
    for code, status, observation in blocks:
        turn = f"{words}<code>\n```python\n{code}\n```\n</code>"
        feedback = RETOOL.feedback(observation)
        text += turn
        sampled += [True] * len(turn)
        calls.append(CodeCall(code, status, observation, 0.004, len(text), len(text) + len(feedback)))
        text += feedback
        sampled += [False] * len(feedback)
    last = words if predicted is None else f"{words}<answer>\n\\boxed{{{predicted}}}\n</answer>"
    text += last
    sampled += [True] * len(last)
    noise = random.Random(text + str(sample))  # log-probs that do not compress
    outage, correct = finish is FinishReason.SANDBOX_FAILURE, predicted == answer
    reason = "void" if outage else "correct" if correct else "wrong" if predicted is not None else "no_box"
    return Sample(
        set=set_name,
        problem_id=problem_id,
        problem=problem,
        answer=answer,
        family="",
        sample=sample,
        text=text,
        response_ids=[ord(char) % 500 for char in text],
        sampled=sampled,
        logprobs=[-noise.random() * 3 if drawn else 0.0 for drawn in sampled],
        token_ends=list(range(1, len(text) + 1)),
        calls=calls,
        finish=finish,
        correct=correct and not outage,
        reason=reason,
        predicted=None if outage else predicted,
        num_tokens=len(text),
    )


def make_evaluation(
    seed: int, problems: int, samples: int, skill: float, set_name: str = "held_out", first: str = "p"
) -> list[Sample]:
    """An evaluation of varied samples; `skill` shifts the probability of a right answer."""
    rng = random.Random(seed)
    evaluation = []
    for problem in range(problems):
        difficulty = random.Random(f"{set_name}{problem}").random()
        for number in range(samples):
            right = rng.random() < min(1.0, max(0.0, skill + 0.8 * (0.5 - difficulty)))
            blocks = [(f"n = {problem}\nprint(n * 7 % 1000)  # once", "ok", str(problem * 7 % 1000))]
            if rng.random() < 0.3:
                blocks.insert(0, (f"print(undefined_{number})", "error", "NameError: name is not defined"))
            if rng.random() < 0.3:
                blocks = []
            evaluation.append(
                make_sample(
                    blocks,
                    answer=str(problem),
                    predicted=str(problem) if right else str(rng.randrange(1000, 2000)),
                    problem_id=f"{first}{problem:03d}",
                    sample=number,
                    set_name=set_name,
                    words=" ".join(rng.choices(WORDS, k=20)) + ".\n",
                    problem=f"Find the remainder number {problem} of the list, number {problem % 9} of its kind.",
                    finish=FinishReason.SANDBOX_FAILURE if rng.random() < 0.004 else FinishReason.EOS,
                )
            )
    return evaluation
