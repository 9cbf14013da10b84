"""The published dataset: it opens in pandas and datasets, spans match their text, seconds change no digest."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pandas
import pytest

from tasks.shared.artifacts import Store
from tasks.shared.config import SandboxConfig, TracesConfig
from tasks.shared.contract.stage import StageContext, StageRequest
from tasks.synthesize.config import SynthesizeConfig
from tasks.synthesize.publish import publish
from tasks.synthesize.spec import SynthesizeStage
from tasks.synthesize.traces import Checked, Reason, TrainingProblem, Verdict, WrittenTrace

CODE = "x = 2 + 3\nprint(x)"
OUTPUT = "\n<interpreter>\n5\n</interpreter>\n"
TRACE = f"I compute é.\n<code>\n```python\n{CODE}\n```\n</code>{OUTPUT}So.\n<answer>\n\\boxed{{5}}\n</answer>"


def entry(number: int, reason: Reason = Reason.ACCEPTED, seconds: float = 0.25) -> Checked:
    problem = TrainingProblem(f"tiny/{number}", f"What is {number}?", "5", "tiny", "sum")
    written = WrittenTrace(f"tiny/{number}/0", problem, TRACE, teacher="teacher-1", prompt_digest="ab" * 32)
    detail = "" if reason is Reason.ACCEPTED else "the rule"
    return written, Verdict(reason, detail, ("ok",), (seconds,), TRACE)


def published(directory: Path, checked: list[Checked]) -> tuple[Store, dict]:
    config = SynthesizeStage(
        traces=TracesConfig(prompt="bare"), sandbox=SandboxConfig(), synthesize=SynthesizeConfig()
    )
    request = StageRequest(
        stage="synthesize",
        run="test",
        config=config.model_dump(mode="json"),
        inputs={},
        seed=0,
        store=str(directory),
        scratch=str(directory),
    )
    store = Store(str(directory))
    return store, publish(StageContext(request, config, store, directory), checked).outputs


MIXED = [entry(0), *(entry(number, Reason.WRONG_ANSWER) for number in range(1, 8)), entry(8, Reason.SURPLUS)]


def test_pandas_and_datasets_open_it(tmp_path):
    store, outputs = published(tmp_path, MIXED)
    directory = store.fetch(outputs["traces"])
    frame = pandas.read_parquet(directory / "train.parquet")
    row = frame.iloc[0]
    assert (row.teacher, row.prompt_digest, row.source, row.problem_id) == (
        "teacher-1",
        "ab" * 32,
        "tiny",
        "tiny/0",
    )
    assert [message["role"] for message in row.messages] == ["user", "assistant"]
    assert row.messages[1]["content"] == row.trace == TRACE
    kinds = {span["kind"]: row.trace[span["start"] : span["end"]] for span in row.spans}
    assert kinds == {"code": CODE, "interpreter": OUTPUT}
    opened = datasets.load_dataset(str(directory), split="train", cache_dir=str(tmp_path / "cache"))
    assert opened[0]["spans"][1]["kind"] == "interpreter"
    rejected = datasets.load_dataset(
        str(directory), "rejected", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(opened) == 1 and len(rejected) == 8


def test_the_funnel_counts_by_step_and_keeps_five_examples(tmp_path):
    store, outputs = published(tmp_path, MIXED)
    directory = store.fetch(outputs["traces"])
    funnel = json.loads((directory / "funnel.json").read_text())
    assert (funnel["written"], funnel["accepted"], funnel["accepted_with_code"]) == (9, 1, 1)
    left = {row["step"]: row["left"] for row in funnel["steps"]}
    assert (left["output"], left["answer"], left["difficulty"], left["balance"]) == (9, 2, 2, 1)
    assert len(funnel["examples"]["wrong_answer"]) == 5 and len(funnel["examples"]["surplus"]) == 1
    card = (directory / "README.md").read_text()
    assert "1 of 9 traces written by teacher-1" in card and "wrong answer 7" in card


def test_seconds_are_published_and_change_no_digest(tmp_path):
    store, outputs = published(tmp_path / "a", [entry(0, seconds=0.25)])
    _, later = published(tmp_path / "b", [entry(0, seconds=7.5)])
    assert outputs["traces"].digest == later["traces"].digest
    seconds = pandas.read_parquet(store.fetch(outputs["traces"]) / "circumstances/seconds.parquet")
    assert seconds.to_dict("records") == [{"id": "tiny/0/0", "block": 0, "seconds": 0.25}]


def test_a_trace_that_does_not_follow_its_dialect_has_no_spans(tmp_path):
    written, verdict = entry(1, Reason.BAD_FORMAT)
    broken = (written, replace(verdict, trace=TRACE.replace("</code>", "")))
    store, outputs = published(tmp_path, [entry(0), broken])
    frame = pandas.read_parquet(store.fetch(outputs["traces"]) / "rejected.parquet")
    assert list(frame.spans[0]) == []


def test_a_teacher_without_accepted_traces_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"no trace of 1 was accepted, most often for \[\('wrong_answer', 1\)\]"
    ):
        published(tmp_path, [entry(1, Reason.WRONG_ANSWER)])
