"""Checks the quality of one verified trace: code that matters, no program twice, length, script.

A judge model votes on the code of the traces that pass here (`judging.py`).
"""

import ast
import re
import unicodedata
from contextlib import suppress
from dataclasses import replace

from tasks.shared.traces.python_text import parsed
from tasks.synthesize.selection.code_work import code_work
from tasks.synthesize.selection.config import SelectionConfig
from tasks.synthesize.selection.own_text import OwnText
from tasks.synthesize.traces import Reason, Verdict, WrittenTrace

# scripts of the letters in Latin text and formulas
LATIN = ("LATIN", "GREEK", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER")
STATEMENT_CHARS = 40  # between the word `answer` and its value, at most


def judge_quality(written: WrittenTrace, verdict: Verdict, own: OwnText, config: SelectionConfig) -> Verdict:
    """The verdict after the first filter that the trace fails, with its scores."""
    latin = latin_share("".join(own.words))
    work = max(map(code_work, own.codes), default=None)
    verdict = replace(verdict, scores=replace(verdict.scores, code_work=work, latin_share=round(latin, 4)))
    reason, detail = _first_fault(written, verdict, own, config)
    return replace(verdict, reason=reason, detail=detail)


def _first_fault(
    written: WrittenTrace, verdict: Verdict, own: OwnText, config: SelectionConfig
) -> tuple[Reason, str]:
    scores, num_chars, answer = verdict.scores, len(verdict.trace), written.problem.answer
    if config.require_code and not own.codes:
        return Reason.NO_CODE, "no block runs before the answer"
    if config.require_code and states_answer(own.words[0], answer):
        return Reason.ANSWER_BEFORE_CODE, f"the answer {answer} is stated before the first block"
    if scores.code_work is not None and scores.code_work < config.min_code_work:
        return Reason.TRIVIAL_CODE, f"no block has more work than {scores.code_work}"
    if config.repeated_blocks == "reject" and len(set(map(_program, own.codes))) < len(own.codes):
        return Reason.REPEATED_BLOCK, "one program runs twice"
    if config.max_chars and num_chars > config.max_chars:
        return Reason.TOO_LONG, f"{num_chars} characters where {config.max_chars} are allowed"
    if scores.latin_share is not None and scores.latin_share < config.min_latin_share:
        return Reason.OTHER_SCRIPT, f"{scores.latin_share:.0%} of the letters are Latin"
    return Reason.ACCEPTED, ""


def states_answer(words: str, answer: str) -> bool:
    """Whether a text names its answer: 'the answer is 88', 'so the result = 88', a box."""
    value = re.escape(answer)
    named = rf"\b(?:answer|result|solution)\b[^.\n]{{0,{STATEMENT_CHARS}}}(?<![\w.]){value}(?![\w])"
    return re.search(rf"{named}|\\boxed\{{{value}\}}", words, re.IGNORECASE) is not None


def latin_share(text: str) -> float:
    """Latin letters, and the Greek ones of formulas, over all letters; 1 for a text without letters."""
    if text.isascii():
        return 1.0
    letters = [letter for letter in text if letter.isalpha()]
    other = sum(not unicodedata.name(letter, "").startswith(LATIN) for letter in letters)
    return 1 - other / len(letters) if letters else 1.0


def _program(code: str) -> str:
    """A form that two spellings of one program share: without comments and layout."""
    tree = parsed(code)
    with suppress(RecursionError):  # a sum of a thousand terms is a tree as deep
        return code.strip() if tree is None else ast.dump(tree)
    return code.strip()
