"""Checks raw rows of a problem set and turns them into `ProblemRow` records.

A bad row ends the stage with one line that names the file or set, the row, the key and the remedy: a problem without
its answer would cost reward in every later step.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.shared.rows.values import answer_at, id_at, name_at, problem_at

INTEGER = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?:[,.]|$))")
MAX_INTEGER = 999
MAX_DIGITS = 100  # Python refuses to read integers of thousands of digits


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """One problem as every later stage reads it."""

    id: str  # unique over all sets: "<set>/<id in the set>"
    problem: str
    answer: str  # reference answer as text: "70", or LaTeX where the set allows expressions
    source: str  # name of the problem set in the recipe
    family: str = ""  # family in the tiny world, "" elsewhere
    system: str = ""  # the system message before the conversation, "" in most sets


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of problem and answer in a raw row, and the form of an answer."""

    problem: str  # column names; a dot steps into nested values: "prompt.0.content"
    answer: str
    integer: bool  # whether answers must be integers 0 to 999
    strip_before: str = ""  # instructions that a publisher wrapped around the problem; see data/registry.toml
    strip_after: str = ""
    several: str = "refuse"  # the meaning of a list of answers: "refuse", or "set" (name all of them)


def check_rows(
    raw_rows: Iterable[tuple[str, Mapping[str, Any]]], columns: Columns, source: str
) -> tuple[list[ProblemRow], int]:
    """Turn raw rows into records; returns them in order, and the number of dropped repeats.

    `raw_rows`: pairs of place and row; the place ("aime.jsonl: row 3") begins an error message. `source`: the name of
    the problem set. Raises ValueError: a column is missing, a problem or answer is empty, an answer is not an integer
    from 0 to 999 where one is required, an id occurs twice, a problem occurs with two answers, or there are no rows.
    """
    rows: dict[str, ProblemRow] = {}
    ids: set[str] = set()
    num_repeats = 0
    for number, (place, raw) in enumerate(raw_rows):
        problem, system = problem_at(raw, columns.problem, place, "problem_column")
        problem = _stripped(problem, columns)
        answer = _answer(raw, columns, place)
        known = rows.get(problem)
        if known is not None:
            if known.answer != answer:
                raise ValueError(
                    f"{place}: key '{columns.answer}': answer {_shorten(answer)!r} to a problem that stands earlier "
                    f"(id {known.id}) with answer {_shorten(known.answer)!r}; keep one of the two rows"
                )
            num_repeats += 1
            continue
        row_id = f"{source}/{id_at(raw, place) or number}"
        if row_id in ids:
            raise ValueError(f"{place}: key 'id': {row_id!r} occurs twice; give every row an id of its own")
        ids.add(row_id)
        rows[problem] = ProblemRow(row_id, problem, answer, source, name_at(raw, "family"), system)
    if not rows:
        raise ValueError(f"problem set '{source}': no rows; check its path, split and limit")
    return list(rows.values()), num_repeats


def _answer(raw: Mapping[str, Any], columns: Columns, place: str) -> str:
    answer = answer_at(raw, columns.answer, place, "answer_column", columns.several)
    if not columns.integer:
        return answer
    whole = INTEGER.fullmatch(THOUSANDS.sub("", answer)) if len(answer) <= MAX_DIGITS else None
    if whole is None or not 0 <= int(whole.group(1)) <= MAX_INTEGER:
        raise ValueError(
            f"{place}: key '{columns.answer}': {_shorten(answer)!r} is not an integer from 0 to {MAX_INTEGER}; "
            "correct it or set answer = 'expression' for this problem set"
        )
    return whole.group(1)


def _shorten(text: str) -> str:
    """A text cut for a message of one line."""
    return text if len(text) <= MAX_DIGITS else f"{text[:MAX_DIGITS]}..."


def _stripped(problem: str, columns: Columns) -> str:
    if columns.strip_before:
        problem = problem.split(columns.strip_before, 1)[-1]
    if columns.strip_after:
        problem = problem.partition(columns.strip_after)[0]
    return problem.strip()
