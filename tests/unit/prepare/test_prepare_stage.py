"""The whole stage in this process: published, removed and refused problems."""

import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from tasks.prepare.config import DataConfig, ProblemSource
from tasks.prepare.spec import PrepareStage
from tasks.rl import problems as rl_problems
from tasks.rl.config import RlConfig
from tasks.rl.spec import RlStage
from tasks.sft.traces import read_training_set
from tasks.shared.artifacts import Store
from tasks.shared.config import GenerationConfig, ModelConfig, SandboxConfig, TinyModel, TracesConfig
from tasks.shared.contract.stage import StageResult
from tasks.shared.evaluation import problems as evaluate_problems
from tasks.shared.rows.tables import read_table
from tasks.shared.traces.dialect import DIALECTS
from tasks.synthesize.rows import trace_row
from tasks.synthesize.traces import Reason, TrainingProblem, Verdict, WrittenTrace
from tests.integration.stages import in_process, stage_request
from tests.unit.generation.tiny import tiny_tokenizer

RETOOL = DIALECTS["retool"]
ANSWER = RETOOL.write_answer("21")
ACCEPTED = Verdict(Reason.ACCEPTED, "", (), (), ANSWER)

MODEL = ModelConfig(
    source="tiny",
    dtype="float32",
    tiny=TinyModel(
        hidden_size=32, layers=1, heads=2, key_value_heads=1, intermediate_size=32, vocabulary=300
    ),
)


def prepare(
    tmp_path: Path, train: list[ProblemSource], evaluation: list[ProblemSource], seed: int = 0
) -> StageResult:
    config = PrepareStage(model=MODEL, data=DataConfig(train=tuple(train), evaluation=tuple(evaluation)))
    return in_process(stage_request(tmp_path, "prepare", config, seed=seed))


def fetched(tmp_path: Path, result: StageResult, name: str) -> Path:
    return Store(str(tmp_path / "store")).fetch(result.outputs[name])


def tiny(name: str, split: str = "train", limit: int = 40) -> ProblemSource:
    return ProblemSource(name=name, source="tiny", split=split, limit=limit)


def write_set(path: Path, *rows: dict[str, Any]) -> ProblemSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ProblemSource(name=path.stem, source="file", path=str(path))


def test_artifacts_open_in_pandas_and_datasets(tmp_path):
    result = prepare(
        tmp_path, [tiny("world")], [tiny("held_out", "held_out", 10), tiny("new", "held_out_family", 6)]
    )
    problems = fetched(tmp_path, result, "problems")
    frame = pandas.read_parquet(problems / "train.parquet")
    assert list(frame.columns) == ["id", "problem", "answer", "source", "family"]
    assert len(frame) + result.metrics["removed_problems"] == 40
    cache = str(tmp_path / "cache")
    opened = datasets.load_dataset(str(problems), split="train", cache_dir=cache)
    assert opened["problem"] == list(frame["problem"])
    sets = fetched(tmp_path, result, "evaluation_sets")
    assert json.loads((sets / "sets.json").read_text()) == [
        {"name": "held_out", "rows": 10, "answer": "integer"},
        {"name": "new", "rows": 6, "answer": "integer"},
    ]
    assert len(datasets.load_dataset(str(sets), "new", split="train", cache_dir=cache)) == 6
    assert (fetched(tmp_path, result, "checkpoint") / "model.safetensors").is_file()


def test_a_system_message_is_kept_in_every_sampled_prompt(tmp_path):
    """It is a column of its own. Decontamination compares problems without it."""
    system = "You are given one question of arithmetic; think about it and give the number alone, please."
    chat = [{"role": "system", "content": system}, {"role": "user", "content": "What is 3 * 7?"}]
    train = write_set(tmp_path / "own.jsonl", {"problem": chat, "answer": ["$21$"]})
    test = write_set(
        tmp_path / "test.jsonl",
        {"problem": [chat[0], {"role": "user", "content": "What is 8 * 8?"}], "answer": 64},
    )
    result = prepare(tmp_path, [train], [test])
    problems, sets = (fetched(tmp_path, result, name) for name in ("problems", "evaluation_sets"))
    tokenizer, traces = tiny_tokenizer(), TracesConfig(prompt="bare")
    config = RlStage(
        model=ModelConfig(source="tiny"),
        traces=traces,
        sandbox=SandboxConfig(),
        generation=GenerationConfig(),
        rl=RlConfig(),
    )
    (trained,), _ = rl_problems.read_problems(problems, tokenizer, config)
    assert tokenizer.decode(trained.prompt_ids) == (
        f"<|system|>\n{system}<|end|>\n<|user|>\nWhat is 3 * 7?<|end|>\n<|assistant|>\n"
    )
    (evaluated,) = evaluate_problems.read_problems(sets)
    assert (evaluated.system, evaluated.problem, evaluated.answer) == (system, "What is 8 * 8?", "64")
    (row,) = read_table(problems / "train.parquet")
    written = trace_row(
        (WrittenTrace("a", TrainingProblem(**row), ANSWER), ACCEPTED), RETOOL, instructed=False
    )
    pandas.DataFrame([{key: written[key] for key in ("id", "problem", "trace", "messages")}]).to_parquet(
        tmp_path / "train.parquet"
    )
    (sequence,) = read_training_set(tmp_path, traces, tokenizer, 10_000).sequences
    assert tuple(sequence.ids[: len(trained.prompt_ids)]) == trained.prompt_ids


def test_the_same_request_gives_the_same_digests(tmp_path):
    sources = [tiny("world")], [tiny("held_out", "held_out", 10)]
    first, again = (prepare(tmp_path / name, *sources) for name in ("a", "b"))
    other = prepare(tmp_path / "c", *sources, seed=1)
    for name in ("checkpoint", "problems", "evaluation_sets"):
        assert first.outputs[name].digest == again.outputs[name].digest != other.outputs[name].digest


def test_contaminated_and_repeated_problems_are_removed_and_counted(tmp_path):
    leaked = "Aya walks nine kilometres every single morning before her coffee. How long does it take her?"
    train = write_set(
        tmp_path / "own.jsonl",
        {"problem": leaked.upper() + " Answer in hours.", "answer": 4},
        {"problem": "What is 3 * 7?", "answer": 21},
        {"problem": "What is 3 * 7?", "answer": 21},
    )
    twice = write_set(tmp_path / "more.jsonl", {"problem": "What is 3 * 7?", "answer": 21})
    evaluation = write_set(tmp_path / "test.jsonl", {"id": "t1", "problem": leaked, "answer": 4})
    result = prepare(tmp_path, [train, twice], [evaluation])
    assert result.metrics["removed_problems"] == 1
    assert result.metrics["repeated_problems"] == 2
    problems = fetched(tmp_path, result, "problems")
    assert list(pandas.read_parquet(problems / "train.parquet")["problem"]) == ["What is 3 * 7?"]
    removed = pandas.read_parquet(problems / "removed.parquet").iloc[0]
    assert (removed["id"], removed["evaluation_id"]) == ("own/0", "test/t1")
    assert removed["ngram"] == "aya walks nine kilometres every single morning before"


def test_decontamination_removes_few_tiny_problems(tmp_path):
    result = prepare(tmp_path, [tiny("world", limit=2000)], [tiny("held_out", "held_out", 200)])
    assert result.metrics["removed_problems"] <= 0.03 * 2000


def test_a_training_set_that_is_all_contaminated_is_refused(tmp_path):
    rows = write_set(tmp_path / "own.jsonl", {"problem": "What is 3 * 7?", "answer": 21})
    test = write_set(tmp_path / "test.jsonl", {"problem": "what is 3*7", "answer": 21})
    with pytest.raises(
        ValueError, match=r"all 1 problems share 8 words with an evaluation problem; train on other"
    ):
        prepare(tmp_path, [rows], [test])
    assert not list((tmp_path / "store").rglob("manifest.json")), "nothing is published"


def test_a_bad_row_publishes_nothing(tmp_path):
    rows = write_set(tmp_path / "own.jsonl", {"problem": "What is 3 * 7?"})
    with pytest.raises(ValueError, match=r"own\.jsonl: row 1: key 'answer' is missing"):
        prepare(tmp_path, [rows], [tiny("held_out", "held_out", 5)])
    assert not list((tmp_path / "store").rglob("manifest.json"))
