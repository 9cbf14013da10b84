"""Reads the problems to write traces for: the training problems, or the texts to rewrite.

No problem of an evaluation set is used. Among the training problems one is an error. In a public text source some are
expected, and their rows are dropped before anything is paid for them.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tasks.shared.contract.stage import StageContext
from tasks.shared.rows.ngrams import gram_owners, shared_gram
from tasks.shared.rows.raw import RawRows, file_rows, hub_rows
from tasks.shared.rows.tables import read_table
from tasks.shared.rows.values import answer_at, name_at, problem_at, text_at
from tasks.synthesize.config import TextSource
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.teachers.prompting import TraceRequest
from tasks.synthesize.traces import TrainingProblem

Context = StageContext[SynthesizeStage]
LEAK_WORDS = 8  # a text may share fewer words in a row with an evaluation problem (open-r1, rStar2)


def read_requests(context: Context) -> list[TraceRequest]:
    """Every trace that the recipe requests, in order. ValueError, one line, for a bad row or a leak."""
    settings = context.config.synthesize
    rewrite = settings.mode == "rewrite"
    texts = _texts_to_rewrite(context) if rewrite else [(problem, "") for problem in _problems(context)]
    return [
        TraceRequest(problem, index, text)
        for problem, text in texts[: settings.most_problems]
        for index in range(settings.traces_per_problem)
    ]


def evaluation_problems(context: Context) -> Iterator[tuple[str, str]]:
    """Id and text of every problem of the evaluation sets."""
    directory = context.input("evaluation_sets")
    for entry in json.loads((directory / "sets.json").read_text(encoding="utf-8")):
        for row in read_table(directory / f"{entry['name']}.parquet"):
            yield row["id"], row["problem"]


def _problems(context: Context) -> list[TrainingProblem]:
    """The training problems."""
    problems = [TrainingProblem(**row) for row in read_table(context.input("problems") / "train.parquet")]
    evaluation = {problem for _, problem in evaluation_problems(context)}
    shared = next((problem for problem in problems if problem.problem in evaluation), None)
    if shared is not None:
        raise ValueError(
            f"problem {shared.id} is to be trained on but is also in an evaluation set; "
            "take problems and evaluation_sets from one run of prepare"
        )
    return problems


def _texts_to_rewrite(context: Context) -> list[tuple[TrainingProblem, str]]:
    """Problems of the text source with their reasoning, each problem once for each text."""
    source = context.config.synthesize.source
    leaks = gram_owners(evaluation_problems(context), LEAK_WORDS)
    found: list[tuple[TrainingProblem, str]] = []
    num_leaks = 0
    for number, (place, row) in enumerate(_rows(context, source)):
        if len(found) == context.config.synthesize.most_problems:
            break
        problem, system = problem_at(row, source.problem_column, place, "synthesize.source.problem_column")
        reasoning = text_at(row, source.reasoning_column, place, "synthesize.source.reasoning_column")
        answer = answer_at(row, source.answer_column, place, "synthesize.source.answer_column")
        if shared_gram(problem, leaks, LEAK_WORDS):
            num_leaks += 1
            continue
        name, id_ = name_at(row, "source") or _name(source), f"{_name(source)}/{number}"
        found.append((TrainingProblem(id_, problem, answer, name, "", system), reasoning))
    context.log(f"texts to rewrite: {len(found)}; left out as evaluation problems: {num_leaks}")
    if not found:
        raise ValueError("synthesize.source: no text is left to rewrite; choose another source")
    return found


def _rows(context: Context, source: TextSource) -> RawRows:
    if source.source == "hub":
        return hub_rows("synthesize.source", source.id, source.revision, source.subset, source.split)
    if source.source == "file":
        return file_rows("synthesize.source", Path(source.path), source.split)
    path = context.input("source") / "train.parquet"  # traces of another run, in the columns of a text source
    rows = enumerate(read_table(path), start=1)
    return ((f"{path}: row {number}", row | {"reasoning": row["trace"]}) for number, row in rows)


def _name(source: TextSource) -> str:
    """The source's name in ids."""
    return {"hub": source.id, "file": Path(source.path).stem, "traces": source.run}[source.source]
