"""The report stage on real artifacts: content, one file, warnings."""

import json
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.report.embedding import trace, trace_index
from tasks.report.inputs import read_inputs
from tasks.rl.rollouts import SCHEMA
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.learning.checkpoints import load_tokenizer
from tasks.shared.reporting.evaluated import write_evaluation
from tasks.shared.reporting.samples import SECONDS, SECONDS_FILE, Sample
from tasks.shared.reporting.summary import summarize
from tasks.shared.rows.tables import write_table
from tests.artifacts import publish
from tests.integration.evaluation_world import report_request, tiny_checkpoint
from tests.integration.stages import as_process, context_of, run_to_end
from tests.unit.reporting.making import make_evaluation


def publish_evaluation(store: Store, samples: list[Sample]) -> ArtifactRef:
    """An evaluation artifact of these samples."""

    def fill(directory: Path) -> None:
        sets = {
            name: summarize([s for s in samples if s.set == name])
            for name in dict.fromkeys(s.set for s in samples)
        }
        summary = {"sets": sets, "allow_unsafe": False}
        write_evaluation(directory, samples, summary, {"sampling_seconds": 1.0, "surroundings": {}})

    return publish(store, "evaluation", fill)


CODE = "<code>\n```python\nprint(6 * 7)\n```\n</code>"


def publish_rollouts(store: Store, accuracy: float, earlier: bool = False, ahead: int = 0) -> ArtifactRef:
    """Two steps of four trajectories, one of them void; half run code. `earlier`: the seconds stand in the calls."""
    problem = {
        "id": "tiny/p",
        "problem": "What is 6 times 7?",
        "answer": "42",
        "source": "tiny",
        "family": "sums",
    }
    columns = pa.schema([(name, pa.string()) for name in problem])
    problems = publish(
        store, "problems", lambda path: write_table(path / "train.parquet", [problem], columns)
    )
    checkpoint = publish(store, "checkpoint", tiny_checkpoint())
    tokenizer = load_tokenizer(store.fetch(checkpoint))
    rows = []
    for step in (1, 2):
        for number in range(4):
            correct = number < 4 * accuracy
            pieces = (
                [CODE, "\n<interpreter>\n42\n</interpreter>\n", "So 42."] if number % 2 else ["It is 42."]
            )
            ids = [tokenizer.encode(piece, add_special_tokens=False) for piece in pieces]
            call = {"code": "print(6 * 7)", "status": "ok", "observation": "42"}
            call |= {"turn_end": len(ids[0]), "feedback_end": len(ids[0] + ids[-2])} if number % 2 else {}
            sampled = [place != 1 for place, piece in enumerate(ids) for _ in piece]
            row = dict.fromkeys(SCHEMA.names) | {
                "round": 1,
                "step": step,
                "problem_id": "tiny/p",
                "sample": number,
            }
            row |= {
                "family": "sums",
                "text": "".join(pieces),
                "response_ids": [i for piece in ids for i in piece],
            }
            row |= {"sampled": sampled, "logprobs": [-0.5 * drawn for drawn in sampled], "finish": "eos"}
            row |= {
                "calls": [call] if number % 2 else [],
                "reward": 1.0 if correct else -1.0,
                "correct": correct,
            }
            rows.append(row | {"reason": "correct" if correct else "no_box"})
        rows[-1]["finish"] = "sandbox_failure"
    made_from = {"problems": problems, "checkpoint": checkpoint}

    def write(directory: Path) -> None:
        if earlier:
            for call in (call for row in rows for call in row["calls"]):
                call["seconds"] = 0.25
            pq.write_table(pa.Table.from_pylist(rows), directory / "train.parquet")
            return
        write_table(directory / "train.parquet", rows, SCHEMA)
        point = {"step": 2, "round": 1, "aime/accuracy": accuracy, "aime/low": 0.1, "aime/high": 0.9}
        (directory / "evaluation.jsonl").write_text(json.dumps(point) + "\n")
        (directory / SECONDS_FILE).parent.mkdir()
        if ahead:
            (directory / "metrics.jsonl").write_text(json.dumps({"step": ahead, "staleness/0": 4}))
            (directory / "circumstances/timing.jsonl").write_text("{}")
        seconds = [{"seconds": [0.25] * len(row["calls"])} for row in rows]
        write_table(directory / SECONDS_FILE, seconds, SECONDS)

    return publish(store, "rollouts", write, made_from)


def publish_sft(store: Store) -> ArtifactRef:
    """The part of an SFT checkpoint that a report reads."""
    lines = [json.dumps({"step": step, "loss": 3.0 / step, "grad_norm": 1.0}) for step in range(1, 20)]

    validation = json.dumps({"step": 5, "loss": 2.0})
    return publish(store, "checkpoint", {"metrics.jsonl": "\n".join(lines), "validation.jsonl": validation})


def publish_traces(store: Store) -> ArtifactRef:
    """The funnel of a synthesis and two rejected traces, one of which does not follow its dialect."""
    funnel = {
        "written": 100,
        "rejected": {"wrong_answer": 7},
        "accepted": 93,
        "accepted_with_code": 50,
        "steps": [{"step": "answer", "left": 93, "rejected": {"wrong_answer": 7}}],
        "examples": {"wrong_answer": [{"id": "tiny/a/0", "detail": "'<b>5', not '6'", "end": ""}]},
    }
    trace = f"Words.\n{CODE}\n<interpreter>\n41\n</interpreter>\n<answer>\n\\boxed{{41}}\n</answer>"
    row = {
        "problem_id": "tiny/p",
        "problem": "What is 6 times 7?",
        "answer": "42",
        "source": "tiny",
        "family": "sums",
    }
    row |= {
        "trace": trace,
        "block_status": ["ok"],
        "reason": "output_differs",
        "detail": "block 1\nprinted 42",
    }
    broken = row | {"trace": f"Words.\n{CODE}", "block_status": [], "reason": "format", "detail": ""}

    def fill(directory: Path) -> None:
        (directory / "funnel.json").write_text(json.dumps(funnel))
        pd.DataFrame([row, broken]).to_parquet(directory / "rejected.parquet")

    return publish(store, "traces", fill)


def test_a_whole_run(tmp_path: Path) -> None:
    """Base, SFT and RL with curves and funnel: one file without references outside, numbers equal to summary.json."""
    store = Store(str(tmp_path / "store"))
    evaluations = {
        name: make_evaluation(n, 40, 6, skill)
        for n, (name, skill) in enumerate({"base": 0.05, "sft": 0.3, "rl": 0.7}.items())
    }
    inputs = {
        f"evaluation_{name}": publish_evaluation(store, samples) for name, samples in evaluations.items()
    }
    inputs |= {"traces": publish_traces(store), "sft": publish_sft(store)}
    inputs |= {"rollouts_1": publish_rollouts(store, 0.25), "rollouts_2": publish_rollouts(store, 0.75)}
    request = report_request(tmp_path, inputs)
    result = as_process(request)
    directory = store.fetch(result.outputs["report"])
    html = (directory / "report.html").read_text()
    summary = json.loads((directory / "summary.json").read_text())
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", html)  # nothing is loaded
    difference = summary["sets"]["held_out"]["differences"]["rl-sft"]
    frame = pd.read_parquet(store.fetch(inputs["evaluation_rl"]) / "samples.parquet")
    valid = frame[frame.reason != "void"]
    assert summary["sets"]["held_out"]["checkpoints"]["rl"]["accuracy"] == pytest.approx(
        valid.groupby("problem_id").correct.mean().mean()
    )
    assert (
        difference["significant"] and result.metrics["held_out/rl-sft"] == difference["difference"]["value"]
    )
    assert f"{difference['difference']['value'] * 100:+.1f}" in html
    assert [step["step"] for step in summary["rl"]] == [1, 2, 3, 4]  # steps are numbered over all rounds
    assert [step["void"] for step in summary["rl"]] == [1, 1, 1, 1]
    assert summary["rl"][0]["behaviour"]["code_ratio"] == pytest.approx(1 / 3)
    assert summary["rl"][0]["behaviour"]["pass_ratio"] == 1.0
    assert summary["rl"][0]["accuracy"] == pytest.approx(1 / 3) and summary["rl"][2]["accuracy"] == 1.0
    for words in (
        "Gradient norm",
        "held-out problems",
        "Accuracy on aime",
        "Accuracy on training problems",
        "rejected: wrong answer",
        "&lt;b&gt;5",
        "WITHOUT",
    ):
        assert (words in html) == (words != "WITHOUT")


def test_warnings_of_zero_accuracy_and_unsafe_code(tmp_path: Path) -> None:
    """Both warnings are at the top."""
    store = Store(str(tmp_path / "store"))
    none_right = [make_evaluation(seed, 20, 3, -1.0) for seed in (0, 1)]
    inputs = {
        "evaluation_base": publish_evaluation(store, none_right[0]),
        "evaluation_sft": publish_evaluation(store, none_right[1]),
    }
    request = report_request(tmp_path, inputs, allow_unsafe=True)
    result = as_process(request)
    html = (store.fetch(result.outputs["report"]) / "report.html").read_text()
    assert "Accuracy on held_out is about zero" in html
    assert "ran WITHOUT isolation" in html.split('id="scores"')[0]


def test_a_report_needs_an_evaluation(tmp_path: Path) -> None:
    """One line that names what to give."""
    store = Store(str(tmp_path / "store"))
    request = report_request(tmp_path, {"traces": publish_traces(store)})
    events = run_to_end(Path(request.scratch), request, status=2)
    assert "give evaluation_base" in events[-1]["message"]


def test_rollouts_and_rejected_traces_are_in_the_viewer(tmp_path: Path) -> None:
    """With the reason and, for what was sampled, log-probs; on the problem of the rollouts of another round."""
    store = Store(str(tmp_path / "store"))
    inputs = {
        "evaluation_base": publish_evaluation(store, make_evaluation(1, 5, 2, 0.5)),
        "traces": publish_traces(store),
        "rollouts_1": publish_rollouts(store, 0.25),
        "rollouts_2": publish_rollouts(store, 0.75, earlier=True),
    }
    request = report_request(tmp_path, inputs)
    written = read_inputs(context_of(request)).written
    assert {name: len(samples) for name, samples in written.items()} == {
        "rejected traces": 2,
        "rollouts 1": 8,
        "rollouts 2": 8,
    }
    index = trace_index(written)
    assert len(index["problems"]) == 1  # one problem under all three: side by side
    assert index["reasons"][:2] == ["output_differs: block 1 printed 42", "format"]
    assert "no_box, step 2" in index["reasons"]
    rejected, broken = (trace(sample) for sample in written["rejected traces"])
    kinds = [segment[2] for segment in rejected["segments"]]
    assert kinds == [0, 1, 0, 2, 0] and [segment[2] for segment in broken["segments"]] == [0, 3, 0]
    assert rejected["lengths"] == [] and rejected["calls"] == [["ok", 0.0]]
    assert [trace(written[f"rollouts {n}"][1])["calls"] for n in (1, 2)] == [[["ok", 0.25]]] * 2
    sampled = trace(written["rollouts 1"][1])
    assert [segment[2] for segment in sampled["segments"]] == [0, 1, 0, 2, 0]
    assert sum(sampled["lengths"]) == len(sampled["text"]) and sampled["logprobs"][0] == -50


def test_asynchronous_steps_are_in_the_order_of_their_rounds(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    inputs = {"evaluation_base": publish_evaluation(store, make_evaluation(1, 2, 1, 0.5))}
    inputs |= {f"rollouts_{number}": publish_rollouts(store, 0.5, ahead=number) for number in (10, 9)}
    read = read_inputs(context_of(report_request(tmp_path, inputs)))
    assert [step["step"] for step in read.ahead] == [9, 10] and list(read.written) == [
        "rollouts 9",
        "rollouts 10",
    ]
