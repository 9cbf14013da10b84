"""The report stage on real artifacts: what it says, that it is one file, that it says the uncomfortable things."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from tasks.rl.rollouts import SCHEMA
from tasks.shared.artifacts import ArtifactRef, Store
from tasks.shared.reporting.samples import Sample, write_samples
from tasks.shared.reporting.summary import summarize
from tasks.shared.tables import write_table
from tests.integration.evaluation_world import publish, report_request
from tests.integration.test_evaluate_stage import finish, start
from tests.unit.reporting.making import make_evaluation


def publish_evaluation(store: Store, samples: list[Sample]) -> ArtifactRef:
    """An evaluation artifact of these samples."""

    def fill(directory: Path) -> None:
        write_samples(directory / "samples.parquet", samples)
        sets = {
            name: summarize([s for s in samples if s.set == name])
            for name in dict.fromkeys(s.set for s in samples)
        }
        summary = {"sets": sets, "sampling_seconds": 1.0, "allow_unsafe": False}
        (directory / "summary.json").write_text(json.dumps(summary))

    return publish(store, "evaluation", fill)


def publish_rollouts(store: Store, accuracy: float) -> ArtifactRef:
    """Two steps of four trajectories, one of them void."""
    rows = []
    for step in (1, 2):
        for number in range(4):
            correct = number < 4 * accuracy
            row = dict.fromkeys(SCHEMA.names)
            row |= {
                "round": 1,
                "step": step,
                "problem_id": "p",
                "sample": number,
                "finish": "eos",
                "calls": [],
            }
            row |= {"reward": 1.0 if correct else -1.0, "correct": correct, "response_ids": [1] * (10 * step)}
            rows.append(row)
        rows[-1]["finish"] = "sandbox_failure"
    return publish(
        store, "rollouts", lambda directory: write_table(directory / "train.parquet", rows, SCHEMA)
    )


def publish_sft(store: Store) -> ArtifactRef:
    """The part of an SFT checkpoint that a report reads."""
    lines = [json.dumps({"step": step, "loss": 3.0 / step, "grad_norm": 1.0}) for step in range(1, 20)]
    return publish(
        store, "checkpoint", lambda directory: (directory / "metrics.jsonl").write_text("\n".join(lines))
    )


def publish_traces(store: Store) -> ArtifactRef:
    """The funnel of a synthesis."""
    funnel = {"written": 100, "rejected": {"wrong_answer": 7}, "accepted": 93, "accepted_with_code": 50}
    return publish(
        store, "traces", lambda directory: (directory / "funnel.json").write_text(json.dumps(funnel))
    )


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
    result, _ = finish(start(request, "report"), request)
    directory = store.fetch(result.outputs["report"])
    html = (directory / "report.html").read_text()
    summary = json.loads((directory / "summary.json").read_text())
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", html)  # nothing is loaded from anywhere
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
    assert [step["step"] for step in summary["rl"]] == [1, 2, 3, 4]  # rounds are numbered through
    assert [step["void"] for step in summary["rl"]] == [1, 1, 1, 1]
    assert summary["rl"][0]["accuracy"] == pytest.approx(1 / 3) and summary["rl"][2]["accuracy"] == 1.0
    for words in ("Gradient norm", "Accuracy on training problems", "rejected: wrong answer", "WITHOUT"):
        assert (words in html) == (words != "WITHOUT")


def test_it_says_when_accuracy_is_about_zero_and_when_code_ran_unsafely(tmp_path: Path) -> None:
    """Plainly, at the top."""
    store = Store(str(tmp_path / "store"))
    none_right = [make_evaluation(seed, 20, 3, -1.0) for seed in (0, 1)]
    inputs = {
        "evaluation_base": publish_evaluation(store, none_right[0]),
        "evaluation_sft": publish_evaluation(store, none_right[1]),
    }
    request = report_request(tmp_path, inputs, allow_unsafe=True)
    result, _ = finish(start(request, "report"), request)
    html = (store.fetch(result.outputs["report"]) / "report.html").read_text()
    assert "Accuracy on held_out is about zero" in html
    assert "ran WITHOUT isolation" in html.split('id="scores"')[0]


def test_a_report_needs_an_evaluation(tmp_path: Path) -> None:
    """One line that names what to give."""
    store = Store(str(tmp_path / "store"))
    request = report_request(tmp_path, {"traces": publish_traces(store)})
    process = start(request, "report")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "give evaluation_base" in json.loads(output.splitlines()[-1])["message"]
