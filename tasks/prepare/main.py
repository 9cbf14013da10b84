"""Stage `prepare`: publishes the base model, the training problems and the evaluation sets of a recipe.

Outputs: `checkpoint` (save_pretrained), `problems` (train.parquet; removed.parquet holds the problems that
decontamination removed), `evaluation_sets` (<set>.parquet and sets.json). Run by hand:
`python -m tasks.prepare.main request.json`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tasks.prepare.base_model import place_base_model
from tasks.prepare.decontaminate import Overlap, decontaminate
from tasks.prepare.problem_sets import ProblemSet, read_problem_set, rows_digest
from tasks.prepare.rows import ProblemRow
from tasks.prepare.spec import PREPARE, PrepareStage
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import StageContext, StageResult, Value, stage_main
from tasks.shared.rows.tables import write_card, write_table

Context = StageContext[PrepareStage]
PROBLEM_COLUMNS = ("id", "problem", "answer", "source", "family")
OVERLAP_COLUMNS = ("evaluation_id", "evaluation_source", "ngram")


def run(context: Context) -> StageResult:
    """Read every problem set, remove contaminated training problems, and publish three artifacts."""
    data, seed = context.config.data, context.request.seed
    evaluation = [read_problem_set(source, seed) for source in data.evaluation]
    train = [read_problem_set(source, seed) for source in data.train]
    for problem_set in (*train, *evaluation):
        repeats = f", {problem_set.num_repeats} repeats dropped" if problem_set.num_repeats else ""
        size, digest = len(problem_set.rows), rows_digest(problem_set.rows)
        context.log(f"problem set {problem_set.name}: {size} problems{repeats}, digest {digest}")
    context.progress(1, 3)

    train_rows, num_repeats = _merge(train)
    evaluation_rows = [row for problem_set in evaluation for row in problem_set.rows]
    kept, removed = decontaminate(train_rows, evaluation_rows, data.decontaminate_ngram)
    context.log(
        f"decontamination: removed {len(removed)} of {len(train_rows)} training problems that share "
        f"{data.decontaminate_ngram} words in a row with one of {len(evaluation_rows)} evaluation problems"
    )
    if not kept:
        raise ValueError(
            f"data.train: all {len(train_rows)} problems share {data.decontaminate_ngram} words with an evaluation "
            "problem; train on other problems or raise data.decontaminate_ngram"
        )
    context.progress(2, 3)

    metrics: dict[str, Value] = {
        "train_problems": len(kept),
        "removed_problems": len(removed),
        "repeated_problems": num_repeats,
        "evaluation_problems": len(evaluation_rows),
    }
    outputs = {
        "checkpoint": _publish_checkpoint(context, metrics),
        "problems": _publish_problems(context, kept, removed, metrics),
        "evaluation_sets": _publish_evaluation_sets(context, evaluation),
    }
    context.progress(3, 3)
    return StageResult(outputs=outputs, metrics=metrics)


def _merge(train: list[ProblemSet]) -> tuple[list[ProblemRow], int]:
    """The training sets as one list, and the number of repeats dropped within and between sets."""
    rows: dict[str, ProblemRow] = {}
    for problem_set in train:
        for row in problem_set.rows:
            first = rows.setdefault(row.problem, row)
            if first.answer != row.answer:
                raise ValueError(
                    f"problem set {problem_set.name}, {row.id}: the same problem as {first.id} with another answer "
                    f"({row.answer}, not {first.answer}); remove one"
                )
    num_between = sum(len(problem_set.rows) for problem_set in train) - len(rows)
    return list(rows.values()), num_between + sum(problem_set.num_repeats for problem_set in train)


def _publish_checkpoint(context: Context, metrics: dict[str, Value]) -> ArtifactRef:
    with context.output("checkpoint") as output:
        num_parameters = place_base_model(context.config.model, context.request.seed, output.directory)
        output.metrics["parameters"] = metrics["parameters"] = num_parameters
    context.log(f"base model: {num_parameters:,} parameters")
    return output.ref


def _publish_problems(
    context: Context, kept: list[ProblemRow], removed: list[Overlap], metrics: dict[str, Value]
) -> ArtifactRef:
    problems = [asdict(row) for row in kept]
    overlaps = [
        asdict(overlap.row) | {name: getattr(overlap, name) for name in OVERLAP_COLUMNS}
        for overlap in removed
    ]
    columns = _columns([*problems, *overlaps])
    with context.output("problems", dict(metrics)) as output:
        _write(output.directory / "train.parquet", problems, columns)
        _write(output.directory / "removed.parquet", overlaps, columns + OVERLAP_COLUMNS)
        tables = {"default": "train.parquet", "removed": "removed.parquet"}
        write_card(output.directory, tables, "Training problems; `removed` overlaps with an evaluation set.")
    return output.ref


def _publish_evaluation_sets(context: Context, evaluation: list[ProblemSet]) -> ArtifactRef:
    with context.output("evaluation_sets") as output:
        for problem_set in evaluation:
            rows = [asdict(row) for row in problem_set.rows]
            _write(output.directory / f"{problem_set.name}.parquet", rows, _columns(rows))
        sets = [
            {"name": problem_set.name, "rows": len(problem_set.rows), "answer": problem_set.answer_kind}
            for problem_set in evaluation
        ]
        (output.directory / "sets.json").write_text(json.dumps(sets, indent=1), encoding="utf-8")
        tables = {problem_set.name: f"{problem_set.name}.parquet" for problem_set in evaluation}
        write_card(output.directory, tables, "Evaluation problems, one table a set; never trained on.")
        output.metrics.update({problem_set.name: len(problem_set.rows) for problem_set in evaluation})
    return output.ref


def _columns(rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The columns of a table of problems, with system messages if a problem has one."""
    return (*PROBLEM_COLUMNS, "system") if any(row["system"] for row in rows) else PROBLEM_COLUMNS


def _write(path: Path, rows: Sequence[Mapping[str, str]], columns: tuple[str, ...]) -> None:
    """Write these columns of the rows, all of text."""
    import pyarrow

    schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
    write_table(path, [{name: row[name] for name in columns} for row in rows], schema)


if __name__ == "__main__":
    raise SystemExit(stage_main(PREPARE, run))
